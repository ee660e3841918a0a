"""Files that are damaged or were never sound: a clear error or a sound result, never a crash, never half a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashonnx.fusion import ModelError, fuse
from tests.export.forms import attention, complete
from tests.export.graphs import Graph

Damage = Callable[[onnx.GraphProto], None]


def masked(graph: Graph, scores: str) -> str:
    keep = graph.input("keep", np.int64, ("batch", "rows"), integers=(0, 1))
    keep = graph.unsqueeze(graph.cast(keep, np.bool_), 1, 2)
    return graph.op("Where", keep, graph.op("Clip", scores), graph.constant(-np.inf, np.float32))


MODEL = complete(attention(on_scores=masked))


def node(graph: onnx.GraphProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == op_type)


def drop_input(graph: onnx.GraphProto) -> None:
    del node(graph, "MatMul").input[1:]


def dangling_input(graph: onnx.GraphProto) -> None:
    node(graph, "Softmax").input[0] = "nowhere"


def cycle(graph: onnx.GraphProto) -> None:
    node(graph, "MatMul").input[0] = node(graph, "Softmax").output[0]


def duplicate_name(graph: onnx.GraphProto) -> None:
    node(graph, "Softmax").output[0] = node(graph, "MatMul").output[0]


def wrong_attribute(graph: onnx.GraphProto) -> None:
    node(graph, "Softmax").attribute[0].CopyFrom(onnx.helper.make_attribute("axis", "last"))


def short_weight(graph: onnx.GraphProto) -> None:
    graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-1]


def wrong_weight_type(graph: onnx.GraphProto) -> None:
    graph.initializer[0].data_type = onnx.TensorProto.FLOAT


def no_output(graph: onnx.GraphProto) -> None:
    graph.output[0].name = "nowhere"


def broken_name(graph: onnx.GraphProto) -> None:
    node(graph, "Softmax").attribute.append(onnx.helper.make_attribute("note", b"\xff\xfe"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_input, "input size 1 not in range"),
        (dangling_input, "reads 'nowhere'"),
        (cycle, "cycle"),
        (duplicate_name, ""),
        (wrong_attribute, "axis"),
        (short_weight, "weight constant_.* is broken"),
        (wrong_weight_type, "weight constant_.* is broken"),
        (no_output, "output 'nowhere' is not computed"),
        (broken_name, "can't decode"),
    ],
)
def test_damage(damage: Damage, words: str, tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(MODEL.SerializeToString())
    damage(model.graph)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=f"model.onnx.*{words}"):
        fuse(tmp_path / "model.onnx", tmp_path / "fused.onnx")
    assert not (tmp_path / "fused.onnx").exists()


def cast_to_no_type(graph: onnx.GraphProto) -> None:
    node(graph, "Cast").attribute[0].i = 1 << 40


def untyped_input(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.elem_type = 0


def axis_out_of_range(graph: onnx.GraphProto) -> None:
    weight, index = graph.initializer[0].name, graph.initializer[1].name
    graph.node.append(onnx.helper.make_node("Gather", [weight, index], ["gathered"], axis=7))


@pytest.mark.parametrize("damage", [cast_to_no_type, untyped_input, axis_out_of_range])
def test_nonsense_that_only_running_would_show(damage: Damage) -> None:
    model = onnx.ModelProto.FromString(MODEL.SerializeToString())
    damage(model.graph)
    report = fuse(model).report
    assert not report.fused
    assert all(site.reason for site in report.sites)


@pytest.mark.parametrize("field", ["type", "shape"])
def test_an_input_that_the_attention_does_not_read_may_be_of_no_known_shape(field: str) -> None:
    model = onnx.ModelProto.FromString(MODEL.SerializeToString())
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [2]))
    (model.graph.input[-1] if field == "type" else model.graph.input[-1].type.tensor_type).ClearField(field)
    assert fuse(model).report.fused == 1


OPERATORS = ["Add", "Attention", "Cast", "Clip", "Concat", "Constant", "Gather", "Identity", "If", "Loop", "MatMul"]
OPERATORS += ["Max", "Nope", "Reshape", "Softmax", "Split", "Sub", "Transpose", "Where"]
NUMBERS = st.sampled_from([-7, -1, 0, 1, 2, 7, 99, 1 << 40])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The model with one to three things changed, as bytes."""
    model = onnx.ModelProto.FromString(MODEL.SerializeToString())
    for _ in range(draw(st.integers(1, 3))):
        draw(st.sampled_from(_CHANGES))(draw, model)
    content = model.SerializeToString()
    if draw(st.integers(0, 3)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    for position in draw(st.lists(st.integers(0, max(len(content) - 1, 0)), max_size=3)) if content else []:
        content = content[:position] + bytes([draw(st.integers(0, 255))]) + content[position + 1 :]
    return content


def _any_node(draw: st.DrawFn, model: onnx.ModelProto) -> onnx.NodeProto:
    return draw(st.sampled_from(list(model.graph.node)))


def _remove(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    if len(model.graph.node) > 1:
        model.graph.node.remove(_any_node(draw, model))


def _rewire(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    target, source = _any_node(draw, model), _any_node(draw, model)
    if target.input:
        target.input[draw(st.integers(0, len(target.input) - 1))] = draw(st.sampled_from(["", source.output[0]]))


def _rename(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    _any_node(draw, model).output[0] = _any_node(draw, model).output[0]


def _operator(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    _any_node(draw, model).op_type = draw(st.sampled_from(OPERATORS))


def _arity(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    changed = _any_node(draw, model)
    if draw(st.booleans()):
        changed.input.append(_any_node(draw, model).output[0])
    elif changed.input:
        del changed.input[-1]


def _attributes(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    for attribute in _any_node(draw, model).attribute:
        attribute.i = draw(NUMBERS)
        attribute.ints[:] = [draw(NUMBERS) for _ in attribute.ints]
        if draw(st.booleans()):
            attribute.type = draw(st.integers(1, 11))


def _weight(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    tensor = draw(st.sampled_from(list(model.graph.initializer)))
    tensor.data_type = draw(st.integers(0, 24))
    tensor.raw_data = tensor.raw_data[: draw(st.integers(0, len(tensor.raw_data)))]


def _input(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    tensor = draw(st.sampled_from(list(model.graph.input))).type.tensor_type
    if draw(st.booleans()):
        tensor.elem_type = draw(st.integers(0, 24))
    elif draw(st.booleans()) or not tensor.shape.dim:
        tensor.ClearField("shape")
    else:
        draw(st.sampled_from(list(tensor.shape.dim))).dim_value = draw(NUMBERS)


def _opset(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    model.opset_import[0].version = draw(st.sampled_from([0, 1, 6, 9, 11, 12, 24, 99]))


_CHANGES = [_remove, _rewire, _rename, _operator, _arity, _attributes, _weight, _input, _opset]


@settings(max_examples=150)
@given(content=damaged(), verify=st.booleans())
def test_any_damage(tmp_path_factory: pytest.TempPathFactory, content: bytes, verify: bool) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "model.onnx").write_bytes(content)
    target = folder / "fused.onnx"
    try:
        fuse(folder / "model.onnx", target, verify=verify)
    except ModelError:
        assert not target.exists()
    else:
        onnx.load(target)
    assert {path.name for path in folder.iterdir()} <= {"model.onnx", "fused.onnx"}
