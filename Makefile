# make build   .venv with flashonnx and everything that the tests and the demo need, the library compiled
# make test    all tests that need no GPU
# make test-tensorrt  the plugin, compiled and tested without a GPU by TensorRT-RTX; takes minutes, wants no installed CUDA
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

SHELL := bash
.SHELLFLAGS := -e -o pipefail -c

export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: build test test-cpp test-python test-tensorrt demo zoo lint format sanitize clean
.DEFAULT_GOAL := build

# The library and the C++ tests share a build folder, so that nothing is compiled twice. No build isolation: CMake and
# Ninja must be the same ones in later runs.
INSTALL := $(BIN)/python -m pip install --quiet --no-build-isolation \
	--config-settings=build-dir=$(BUILD) --config-settings=build.targets=flashonnx \
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

test: test-cpp test-python

test-cpp: build
	@echo "== compiling the C++ tests"
	@cmake --build $(BUILD)
	@ctest --test-dir $(BUILD) --output-on-failure

test-python: build
	@$(BIN)/python -m pytest -n $(JOBS) -m "not gpu"

# Kernels included: the plugin is tested as it is installed. The compiler has an environment of its own, because
# PyTorch's holds CUDA packages of other versions.
test-tensorrt: build
	@echo "== installing TensorRT-RTX into $(VENV), and a CUDA compiler into $(CUDA_BUILD)/venv"
	@$(BIN)/python -m pip install --quiet "$$(cmake/requirements.py pyproject.toml tensorrt-rtx | tail -1)"
	@test -x $(CUDA_BUILD)/venv/bin/pip || $(PYTHON) -m venv $(CUDA_BUILD)/venv
	@cmake/requirements.py pyproject.toml cuda-build | grep ^nvidia- > $(CUDA_BUILD)/requirements.txt
	@$(CUDA_BUILD)/venv/bin/pip install --quiet --requirement $(CUDA_BUILD)/requirements.txt
	@echo "== compiling the CUDA kernels and the TensorRT plugin"
	@CUDACXX="$$($(CUDA_BUILD)/venv/bin/python cmake/find_nvcc.py)" \
		cmake -S . -B $(CUDA_BUILD) -G Ninja -DFLASHONNX_TESTS=ON \
		-DFLASHONNX_ORT_INCLUDE="$$(cmake/find_ort_headers.py --cache $(BUILD)/onnxruntime_headers)" >/dev/null
	@cmake --build $(CUDA_BUILD) --target flashonnx_trt plugin_test
	@ctest --test-dir $(CUDA_BUILD)/tests/plugin --output-on-failure
	@FLASHONNX_PLUGIN=$(CUDA_BUILD)/plugin/libflashonnx_trt.so $(BIN)/python -m pytest -m "not gpu" tests/plugin

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
