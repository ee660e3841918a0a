"""The C interface from Python: the shared node cases, strides, messages."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from flashonnx import contract, native
from flashonnx.reference import flash_attention
from tests.cases.nodes import ACCEPTED, REFUSED, REFUSED_VALUES, SYMBOLIC, Dim, NodeCase
from tests.op.ort.node_models import ELEMENT_TYPES, case_feeds

FIRST_SYMBOL = native.UNKNOWN_DIM - 1


def tensors(case: NodeCase, symbols: list[str]) -> dict[str, native.NativeTensor]:
    return {
        name: native.NativeTensor(0, ELEMENT_TYPES[dtype], [number(dim, symbols) for dim in shape])
        for name, (dtype, shape) in case.inputs.items()
    }


def number(dim: Dim, symbols: list[str]) -> int:
    if isinstance(dim, str):
        if dim not in symbols:
            symbols.append(dim)
        return FIRST_SYMBOL - symbols.index(dim)
    return native.UNKNOWN_DIM if dim is None else dim


@pytest.mark.parametrize("case", ACCEPTED + SYMBOLIC, ids=str)
def test_output_shapes(case: NodeCase) -> None:
    symbols: list[str] = []
    inputs = tensors(case, symbols)
    for name, shape in case.shapes.items():
        expected = tuple(number(dim, symbols) for dim in shape)
        assert native.output_shape(inputs, name, case.attributes, case.outputs) == expected


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_accepted_node_runs(case: NodeCase) -> None:
    feeds = case_feeds(case)
    outputs = native.run_arrays(feeds, case.attributes, case.outputs)
    expected = flash_attention(**feeds, **case.attributes)
    atol = {"float": 2e-6, "float16": 2e-3, "bfloat16": 2e-2, "double": 1e-6}[case.inputs["Q"][0]]
    for name, array in outputs.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(array.astype(float), expected[name].astype(float), rtol=0, atol=atol)


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_refused_node_is_a_value_error(case: NodeCase) -> None:
    with pytest.raises(ValueError, match="FlashAttention: ") as failure:
        native.check(tensors(case, []), case.attributes, case.outputs)
    assert case.error in str(failure.value)


@pytest.mark.parametrize("case", REFUSED_VALUES, ids=str)
def test_refused_values_are_a_value_error(case: NodeCase) -> None:
    with pytest.raises(ValueError, match="FlashAttention: ") as failure:
        native.run_arrays(case_feeds(case), case.attributes)
    assert case.error in str(failure.value)


def test_names_beyond_the_contract_are_refused() -> None:
    q = native.NativeTensor(0, ELEMENT_TYPES["float"], (1, 1, 1, 1))
    with pytest.raises(ValueError, match="no input 'query'; allowed: Q, K, V"):
        native.check({"query": q})
    with pytest.raises(ValueError, match="causal"):
        native.check({"Q": q, "K": q, "V": q}, {"causal": 1})


def test_strided_inputs_are_read_in_place() -> None:
    rng = np.random.default_rng(0)
    packed = rng.standard_normal((2, 7, 3, 4, 16)).astype(np.float32)  # batch, row, Q K V, head, size
    views = {name: np.moveaxis(packed[:, :, i], 2, 1) for i, name in enumerate("QKV")}
    y = np.empty((2, 4, 7, 16), np.float32)
    inputs = {
        name: native.NativeTensor(
            view.ctypes.data, ELEMENT_TYPES["float"], view.shape, [stride // view.itemsize for stride in view.strides]
        )
        for name, view in views.items()
    }
    native.run(inputs, {"Y": native.from_array(y)}, {"is_causal": 1})
    np.testing.assert_allclose(y, flash_attention(**views, is_causal=1)["Y"], rtol=0, atol=2e-6)


def test_thread_counts_agree_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal((1, 3, 200, 40)).astype(np.float32) for name in "QKV"}
    results = {native.run_arrays(inputs, num_threads=n)["Y"].tobytes() for n in (0, 1, 2, 5)}
    assert len(results) == 1


def test_plan_names_the_kernel_and_the_reason() -> None:
    shape = native.NativeTensor(0, ELEMENT_TYPES["double"], (1, 1, 4, 8))
    assert "naive" in native.plan({"Q": shape, "K": shape, "V": shape})


def test_plan_for_a_gpu_that_is_elsewhere() -> None:
    shape = native.NativeTensor(0, ELEMENT_TYPES["float16"], (2, 8, 1024, 128))
    inputs = {"Q": shape, "K": shape, "V": shape}
    plans = {
        text: native.plan(inputs, cuda=native.Cuda(compute_capability=native.parse_compute_capability(text)))
        for text in ("8.0", "9.0", "12.0")
    }
    assert {text: plan.split(",")[0] for text, plan in plans.items()} == {"8.0": "sm80", "9.0": "sm90", "12.0": "sm80"}
    with pytest.raises(native.UnavailableError, match=r"no GPU of compute capability 7\.5 is known; allowed: 8\.0, "):
        native.plan(inputs, cuda=native.Cuda(compute_capability=75))


@pytest.mark.parametrize("text", ["", "9", "90", "9.a", "9.10", "-8.0"])
def test_what_is_no_compute_capability(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no compute capability such as 9\.0"):
        native.parse_compute_capability(text)


def test_build_info_lists_the_kernels_that_run_here() -> None:
    info = native.build_info()
    assert info["cpu_kernel"] in info["cpu_kernels_supported"]
    assert set(info["cpu_kernels_supported"]) <= set(info["cpu_kernels"])


def test_multiply_adds_are_counted() -> None:
    done = native.multiply_add(1, num_threads=2)
    assert done > 1
    assert native.multiply_add(done + 1) == 2 * done
    with pytest.raises(ValueError, match="flops is -1; allowed"):
        native.multiply_add(-1)


def test_element_types_are_onnxs() -> None:
    assert native.element_type(np.dtype(ml_dtypes.bfloat16)) == ELEMENT_TYPES["bfloat16"]
    with pytest.raises(ValueError, match="no ONNX tensors"):
        native.element_type(np.dtype("datetime64[s]"))


def test_output_types_are_the_contracts() -> None:
    outputs = native.run_arrays(case_feeds(ACCEPTED[0]), {}, [tensor.name for tensor in contract.OUTPUTS])
    assert {name: array.shape for name, array in outputs.items()} == {
        name: array.shape for name, array in flash_attention(**case_feeds(ACCEPTED[0])).items()
    }


def test_strides_go_with_the_shape() -> None:
    tensor = native.NativeTensor(0, ELEMENT_TYPES["float"], (2, 4, 9, 16), (1,))
    with pytest.raises(ValueError, match="one a dimension"):
        native.check({"Q": tensor, "K": tensor, "V": tensor})
