"""Conversion of float32 models to 16 bits: what changes, what stays, and that ONNX Runtime computes nearly the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from flashonnx.engine import EngineError
from flashonnx.engine.precision import convert, least_precision

F32, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
LOWEST = np.finfo(np.float32).min


def build(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], outputs: dict[str, int]) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", F32, ["n", 8])],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("flashonnx", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def types(model: ir.Model) -> dict[str, int]:
    """Element type of every value, by onnx's own inference; it raises where types do not fit."""
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), check_type=True, strict_mode=True).graph
    values = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    return values | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def mlp() -> ir.Model:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
        helper.make_node("ReduceMean", ["hidden", "axes"], ["mean"]),
        helper.make_node("Sub", ["hidden", "mean"], ["centred"]),
        helper.make_node("Erf", ["centred"], ["y"]),
    ]
    weights = {"w": rng.standard_normal((8, 8)).astype(np.float32), "axes": np.array([-1], np.int64)}
    return build(nodes, weights, {"y": F32})


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", F16), ("bf16", BF16)])
def test_sums_stay_and_the_rest_changes(precision: str, dtype: int) -> None:
    model = mlp()
    convert(model, precision)
    found = types(model)
    assert found["hidden"] == found["centred"] == found["w"] == dtype
    assert found["mean"] == F32
    assert found["y"] == F32
    assert least_precision(model) == precision


def test_result_is_that_of_the_original_to_16_bits() -> None:
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    expected = run(mlp(), x)
    model = mlp()
    convert(model, "fp16")
    actual = run(model, x)
    assert actual.dtype == np.float32
    assert 0 < np.abs(actual - expected).max() < 2e-2


def test_between_sums_and_powers_all_stays() -> None:
    """The root mean square of a norm: its square is beyond float16, and 16 bits of an epsilon are few."""
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["mean"]),
        helper.make_node("Add", ["mean", "epsilon"], ["sum"]),
        helper.make_node("Sqrt", ["sum"], ["root"]),
        helper.make_node("Mul", ["root", "gain"], ["scaled"]),
        helper.make_node("Div", ["x", "scaled"], ["y"]),
    ]
    weights = {"two": np.float32(2), "axes": np.array([-1]), "epsilon": np.float32(1e-6), "gain": np.float32(3)}
    model = build(nodes, weights, {"y": F32})
    expected = run(build(nodes, weights, {"y": F32}), x := np.full((2, 8), 1000, np.float32))
    convert(model, "fp16")
    found = types(model)
    assert found["sum"] == found["epsilon"] == F32
    assert found["scaled"] == F16  # the last of them is read by what is not delicate
    np.testing.assert_allclose(run(model, x), expected, rtol=2e-3)


def test_a_number_that_is_made_for_a_sum_stays() -> None:
    """A length of more than 65504."""
    nodes = [
        helper.make_node("Cast", ["length"], ["number"], to=F32),
        helper.make_node("Reciprocal", ["number"], ["weight"]),
        helper.make_node("Mul", ["x", "weight"], ["y"]),
    ]
    model = build(nodes, {"length": np.array([100_000])}, {"y": F32})
    convert(model, "fp16")
    assert types(model)["number"] == F32
    np.testing.assert_allclose(run(model, np.full((1, 8), 1e4, np.float32)), 0.1, rtol=1e-2)


def test_gelu_by_tanh_is_in_16_bits_throughout() -> None:
    """Also where the cube is infinite."""
    nodes = [
        helper.make_node("Pow", ["x", "three"], ["cube"]),
        helper.make_node("Mul", ["cube", "small"], ["scaled"]),
        helper.make_node("Add", ["x", "scaled"], ["sum"]),
        helper.make_node("Mul", ["sum", "root"], ["angle"]),
        helper.make_node("Tanh", ["angle"], ["tanh"]),
        helper.make_node("Add", ["tanh", "one"], ["gate"]),
        helper.make_node("Mul", ["x", "gate"], ["y"]),
    ]
    constants = {"three": 3, "small": 0.044715, "root": 0.79788456, "one": 1}
    weights = {name: np.float32(number) for name, number in constants.items()}
    x = np.array([[-1000, -60, -1, -0.1, 0.1, 1, 60, 1000]], np.float32)
    expected = run(build(nodes, weights, {"y": F32}), x)
    model = build(nodes, weights, {"y": F32})
    convert(model, "fp16")
    found = types(model)
    assert {found[name] for name in ("cube", "scaled", "sum", "angle", "tanh", "gate")} == {F16}
    np.testing.assert_allclose(run(model, x), expected, rtol=2e-3, atol=1e-3)


def test_what_leads_to_an_integer_stays() -> None:
    """A position in a table: 2049 is no float16."""
    nodes = [
        helper.make_node("Cast", ["position"], ["number"], to=F32),
        helper.make_node("Mul", ["number", "one"], ["same"]),
        helper.make_node("Cast", ["same"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["row"]),
        helper.make_node("Add", ["x", "row"], ["y"]),
    ]
    table = np.arange(2 * 2050, dtype=np.float32).reshape(2050, 2) % 1024
    weights = {"position": np.array([[2049]]), "one": np.float32(1), "table": table.repeat(4, axis=1)}
    model = build(nodes, weights, {"y": F32})
    expected = run(build(nodes, weights, {"y": F32}), x := np.zeros((1, 8), np.float32))
    convert(model, "fp16")
    found = types(model)
    assert found["same"] == F32
    assert found["row"] == F16
    np.testing.assert_array_equal(run(model, x), expected)


def test_what_leads_to_a_sine_stays() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "frequency"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["sine"]),
        helper.make_node("Mul", ["x", "sine"], ["y"]),
    ]
    model = build(nodes, {"frequency": np.ones(8, np.float32)}, {"y": F32})
    convert(model, "fp16")
    found = types(model)
    assert (found["frequency"], found["angle"], found["sine"]) == (F32, F32, F32)
    x = np.full((1, 8), 2047.3, np.float32)
    np.testing.assert_allclose(run(model, x), x * np.sin(x), rtol=2e-3)


def test_a_weight_of_both_kinds_is_kept_twice() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["product"]),
        helper.make_node("Pow", ["product", "w"], ["y"]),
    ]
    model = build(nodes, {"w": np.full(8, 2.0, np.float32)}, {"y": F32})
    convert(model, "bf16")
    assert sorted(tensor.data_type for tensor in ir.to_proto(model).graph.initializer) == sorted([F32, BF16])
    types(model)


@pytest.mark.parametrize(("precision", "largest"), [("fp16", 65504.0), ("bf16", 3.3895313892515355e38)])
def test_masks_lowest_number_stays_finite(precision: str, largest: float) -> None:
    model = build(
        [helper.make_node("Add", ["x", "mask"], ["y"])], {"mask": np.array([LOWEST, -np.inf], np.float32)}, {"y": F32}
    )
    convert(model, precision)
    (mask,) = (value.const_value.numpy() for value in model.graph.initializers.values())
    assert mask.astype(np.float64).tolist() == [-largest, -np.inf]


def test_casts_and_constants_follow() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["back"], to=F32),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["back", "two"], ["y"]),
    ]
    model = build(nodes, {}, {"y": F32})
    convert(model, "fp16")
    found = types(model)
    assert found["back"] == found["two"] == F16
    x = np.array([[1.7] * 8], np.float32)
    assert run(model, x).tolist() == [[2.0] * 8]


def test_tensors_that_are_float_by_contract_stay() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["q"]),
        helper.make_node("FlashAttention", ["q", "q", "q", "", "", "", "", "sinks"], ["y"], domain="flashonnx"),
    ]
    weights = {"shape": np.array([1, 2, -1, 4], np.int64), "sinks": np.zeros(2, np.float32)}
    model = build(nodes, weights, {"y": F32})
    convert(model, "fp16")
    found = types(model)
    assert (found["q"], found["sinks"]) == (F16, F32)


def test_float32_is_left_alone() -> None:
    model = mlp()
    before = ir.to_proto(model).SerializeToString()
    convert(model, "fp32")
    assert ir.to_proto(model).SerializeToString() == before
    assert least_precision(model) == "fp32"


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(EngineError, match="precision 'int8' is not one of fp32, fp16, bf16"):
        convert(mlp(), "int8")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "branch", [], [helper.make_tensor_value_info("z", F32, None)]
    )
    node = helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=branch, else_branch=branch)
    model = build([node], {"flag": np.array(True)}, {"y": F32})
    with pytest.raises(EngineError, match=r"'choice' \(If\) holds a graph"):
        convert(model, "fp16")
