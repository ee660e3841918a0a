# make build   .venv with flashonnx and everything that the tests and the demo need, the library compiled
# make test    all tests that need no GPU; each CUDA kernel is compiled once, TensorRT's plugin is tested without them
# make test-tensorrt  all CUDA kernels compiled, the library and the plugin tested with them, still without a GPU: minutes
# make demo    a real model from PyTorch to ONNX Runtime, with a report in demo/
# make zoo     every model of tests/zoo exported, fused and compared, and docs/zoo.md; takes hours, goes on where it was
# make lint    ruff, clang-format, mypy
# make sanitize  the C++ tests and the ONNX Runtime tests under AddressSanitizer and UndefinedBehaviorSanitizer

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/release
SANITIZED := build/sanitize
CUDA_BUILD := build/cuda
NVCC := $(CUDA_BUILD)/nvcc
CUDA_INCLUDE = $(abspath $(dir $(shell cat $(NVCC)))../include)
TENSORRT_ALSO := 11.0;11.4;rtx-1.7

SHELL := bash
.SHELLFLAGS := -e -o pipefail -c

export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: build test test-cpp test-python test-cuda test-tensorrt demo zoo lint format sanitize clean
.DEFAULT_GOAL := build

# The library and the C++ tests share a build folder, so that nothing is compiled twice. No build isolation: CMake and
# Ninja must be the same ones in later runs.
INSTALL := $(BIN)/python -m pip install --quiet --no-build-isolation \
	--config-settings=build-dir=$(BUILD) --config-settings=build.targets=flashonnx_libraries \
	--config-settings=cmake.define.FLASHONNX_TESTS=ON

build: $(VENV)/.dependencies
	@echo "== compiling and installing flashonnx"
	@$(INSTALL) --no-deps --editable . || { echo "error: the build of flashonnx failed; its output is above." >&2; exit 1; }
	@$(BIN)/python -c "import flashonnx; print('flashonnx', flashonnx.__version__, flashonnx.get_library_path())"

$(VENV)/.dependencies: pyproject.toml | $(VENV)/bin/pip
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
		{ echo "error: flashonnx needs a C++17 compiler: install g++ or clang++." >&2; exit 1; }
	@echo "== installing dependencies into $(VENV) (PyTorch is large: a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet "scikit-build-core>=0.11" "cmake>=3.24" ninja
	@$(BIN)/python cmake/requirements.py pyproject.toml test > $(VENV)/requirements.txt
	@$(BIN)/python -m pip install --requirement $(VENV)/requirements.txt | \
		{ grep -v "^Requirement already satisfied" || true; }
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
		{ echo "error: flashonnx needs Python 3.10 or later; set PYTHON=/path/to/python3." >&2; exit 1; }
	@echo "== making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "error: $(PYTHON) cannot make virtual environments: install its venv module (python3-venv)." >&2; exit 1; }

test: test-cpp test-python test-cuda

# The TensorRT plugin is built too, without kernels: TensorRT parses and builds engines with it, and runs none. Each
# version of the headers gives a library of its own.
test-cpp: build $(NVCC)
	@echo "== compiling the C++ tests and the TensorRT plugin"
	@cmake -S . -B $(BUILD) -DFLASHONNX_TENSORRT=ON "-DFLASHONNX_TENSORRT_ALSO=$(TENSORRT_ALSO)" \
		-DFLASHONNX_CUDA_INCLUDE="$(CUDA_INCLUDE)" >/dev/null
	@cmake --build $(BUILD)
	@ctest --test-dir $(BUILD) --output-on-failure

test-python: build
	@FLASHONNX_PLUGIN=$(CURDIR)/$(BUILD)/plugin/libflashonnx_trt.so $(BIN)/python -m pytest -n $(JOBS) -m "not gpu"
	@for version in $(subst ;, ,$(TENSORRT_ALSO)); do echo "== the plugin, built with TensorRT's headers of $$version"; \
		FLASHONNX_PLUGIN=$(CURDIR)/$(BUILD)/plugin/libflashonnx_trt_$$version.so \
		$(BIN)/python -m pytest -q -m "not gpu" tests/plugin/test_parse.py; done

# Whether the kernels compile: each source once. All of them take minutes: test-tensorrt.
test-cuda: $(CUDA_BUILD)/build.ninja
	@echo "== compiling each CUDA kernel once"
	@cmake --build $(CUDA_BUILD) --target flashonnx_cuda_each

# Everything as it is installed on a machine with CUDA: library, plugin and the C++ example, all kernels included.
test-tensorrt: $(CUDA_BUILD)/build.ninja
	@echo "== compiling all CUDA kernels, the library and the TensorRT plugin"
	@cmake --build $(CUDA_BUILD) --target flashonnx_libraries flashonnx_cuda_test plugin_test
	@ctest --test-dir $(CUDA_BUILD)/tests/op/cuda --output-on-failure
	@ctest --test-dir $(CUDA_BUILD)/tests/plugin --output-on-failure
	@CUDACXX="$$(cat $(NVCC))" FLASHONNX_LIBRARY=$(CURDIR)/$(CUDA_BUILD)/op/libflashonnx.so \
		FLASHONNX_PLUGIN=$(CURDIR)/$(CUDA_BUILD)/plugin/libflashonnx_trt.so \
		$(BIN)/python -m pytest -n $(JOBS) -m "not gpu" tests/plugin tests/op/ort tests/examples

$(CUDA_BUILD)/build.ninja: build $(NVCC)
	@CUDACXX="$$(cat $(NVCC))" cmake -S . -B $(CUDA_BUILD) -G Ninja -DFLASHONNX_TESTS=ON \
		-DFLASHONNX_ORT_INCLUDE="$$(cmake/find_ort_headers.py --cache $(BUILD)/onnxruntime_headers)" >/dev/null

# A file that says where a CUDA compiler is, and with it CUDA's headers: the machine's, or one that is installed into an
# environment of its own, because PyTorch's holds CUDA packages of other versions.
$(NVCC): pyproject.toml | $(VENV)/bin/pip
	@mkdir -p $(CUDA_BUILD)
	@cmake/find_nvcc.py > $@.new 2>/dev/null || { \
		echo "== installing a CUDA compiler into $(CUDA_BUILD)/venv"; \
		test -x $(CUDA_BUILD)/venv/bin/pip || $(PYTHON) -m venv $(CUDA_BUILD)/venv; \
		cmake/requirements.py pyproject.toml cuda-build | grep ^nvidia- > $(CUDA_BUILD)/requirements.txt; \
		$(CUDA_BUILD)/venv/bin/pip install --quiet --requirement $(CUDA_BUILD)/requirements.txt; \
		$(CUDA_BUILD)/venv/bin/python cmake/find_nvcc.py > $@.new; }
	@mv $@.new $@

demo: build
	@$(BIN)/python -m flashonnx.demo

zoo: build
	@$(BIN)/python -m benchmarks.zoo --jobs $(JOBS) $(ZOO)

lint: $(VENV)/.dependencies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror
	@$(BIN)/mypy

format: $(VENV)/.dependencies
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

sanitize: build
	@echo "== compiling with sanitizers"
	@cmake -S . -B $(SANITIZED) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFLASHONNX_SANITIZE=ON -DFLASHONNX_TESTS=ON \
		-DFLASHONNX_ORT_INCLUDE="$$(cmake/find_ort_headers.py --cache $(BUILD)/onnxruntime_headers)"
	@cmake --build $(SANITIZED)
	@ctest --test-dir $(SANITIZED) --output-on-failure
	@echo "== ONNX Runtime on the sanitized library"
	@tests/sanitized_python.sh $(SANITIZED)/op/libflashonnx.so -m pytest --capture=no tests/op/ort

clean:
	rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
