"""flashonnx.export: attention stays one op from PyTorch to the node, and the file computes what the module does."""

import onnx
import pytest
import torch

import flashonnx
from flashonnx import contract
from flashonnx.exporter import translation_table

sdpa = torch.nn.functional.scaled_dot_product_attention
BATCH, LENGTH = torch.export.Dim("batch"), torch.export.Dim("length")


class Attention(torch.nn.Module):
    """Self-attention of (B, S, heads * 16) in the layout that models have, by the attention given."""

    def __init__(self, attention, heads=4, kv_heads=4):
        super().__init__()
        self.attention, self.heads, self.kv_heads = attention, heads, kv_heads
        self.project = torch.nn.Linear(64, (heads + 2 * kv_heads) * 16)

    def forward(self, x, *mask):
        sizes = [self.heads * 16, self.kv_heads * 16, self.kv_heads * 16]
        q, k, v = (t.unflatten(-1, (-1, 16)).transpose(1, 2) for t in self.project(x).split(sizes, dim=-1))
        return self.attention(q, k, v, *mask).transpose(1, 2).flatten(2)


def attention_nodes(path):
    return [node for node in onnx.load(path).graph.node if node.op_type == contract.OP_TYPE]


def op_types(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def assert_same(module, path, *args):
    """At the sizes of `args`, which need not be those of the export."""
    expected = module(*args)
    session = flashonnx.session(path, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    (actual,) = session.run(None, {name: arg.numpy() for name, arg in zip(names, args, strict=True)})
    torch.testing.assert_close(torch.from_numpy(actual), expected, atol=2e-6, rtol=1e-5)


X = torch.randn(2, 10, 64, generator=torch.Generator().manual_seed(0))
LONGER = torch.randn(3, 17, 64, generator=torch.Generator().manual_seed(1))
DYNAMIC = {0: BATCH, 1: LENGTH}


@pytest.mark.parametrize("opset_version", [None, 18, 23])
def test_one_node_without_transposes(tmp_path, opset_version):
    module = Attention(sdpa).eval()
    path = tmp_path / "out.onnx"
    result = flashonnx.export(module, (X,), path, dynamic_shapes=(DYNAMIC,), opset_version=opset_version)
    assert (result.report.fused, result.report.total) == (1, 1)
    assert op_types(path).count(contract.OP_TYPE) == 1
    assert "Transpose" not in op_types(path)
    assert "Softmax" not in op_types(path)
    assert_same(module, path, X)
    assert_same(module, path, LONGER)


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ({}, {}),
        ({"is_causal": True}, {"is_causal": 1}),
        ({"scale": 0.25}, {"scale": 0.25}),
        ({"enable_gqa": True}, {}),
        ({"is_causal": True, "scale": 0.5, "enable_gqa": True}, {"is_causal": 1, "scale": 0.5}),
    ],
)
def test_arguments_become_attributes(tmp_path, options, attributes):
    kv_heads = 2 if "enable_gqa" in options else 4
    module = Attention(lambda q, k, v: sdpa(q, k, v, **options), kv_heads=kv_heads).eval()
    path = tmp_path / "out.onnx"
    flashonnx.export(module, (X,), path, dynamic_shapes=(DYNAMIC,))
    (node,) = attention_nodes(path)
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert (found["q_num_heads"], found["kv_num_heads"]) == (4, kv_heads)
    assert found.get("is_causal", 0) == attributes.get("is_causal", 0)
    assert found.get("scale", 0.25) == pytest.approx(attributes.get("scale", 0.25))
    assert_same(module, path, LONGER)


def test_causal_attention_carries_no_mask(tmp_path):
    module = Attention(lambda q, k, v: sdpa(q, k, v, is_causal=True)).eval()
    path = tmp_path / "out.onnx"
    flashonnx.export(module, (X,), path, dynamic_shapes=(DYNAMIC,))
    (node,) = attention_nodes(path)
    assert len(node.input) == 3
    assert not {"Trilu", "Where", "Expand", "Range"} & set(op_types(path))


def test_causal_attention_of_other_keys_is_aligned_at_the_first(tmp_path):
    """PyTorch lets query i see keys 0..i also where there are more keys than queries."""

    class Cross(torch.nn.Module):
        def forward(self, q, k, v):
            return sdpa(q, k, v, is_causal=True)

    args = (torch.randn(1, 2, 5, 16), torch.randn(1, 2, 9, 16), torch.randn(1, 2, 9, 16))
    path = tmp_path / "out.onnx"
    flashonnx.export(Cross().eval(), args, path)
    assert len(attention_nodes(path)) == 1
    assert_same(Cross(), path, *args)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("bool", (2, 1, 10, 10)), ("bool", (2, 1, 1, 10)), ("float", (2, 4, 10, 10)), ("float", (10, 10))],
)
def test_masks(tmp_path, kind, shape):
    module = Attention(sdpa).eval()
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    mask = noise > -0.5 if kind == "bool" else noise
    path = tmp_path / "out.onnx"
    flashonnx.export(module, (X, mask), path)
    assert len(attention_nodes(path)) == 1
    assert "Softmax" not in op_types(path)
    assert_same(module, path, X, mask)


def test_a_fully_masked_row_is_zero_as_in_pytorch(tmp_path):
    module = Attention(sdpa).eval()
    mask = torch.ones(2, 1, 10, 10, dtype=torch.bool)
    path = tmp_path / "out.onnx"
    flashonnx.export(module, (X, mask), path)
    mask[1, :, 3] = False
    assert (module(X, mask)[1, 3] == 0).all()
    assert_same(module, path, X, mask)


def test_rank_three(tmp_path):
    class Single(torch.nn.Module):
        def forward(self, q, k, v, mask):
            return sdpa(q, k, v, mask)

    args = (*(torch.randn(3, 7, 16) for _ in range(3)), torch.rand(3, 7, 7) > 0.2)
    path = tmp_path / "out.onnx"
    flashonnx.export(Single().eval(), args, path)
    assert len(attention_nodes(path)) == 1
    assert_same(Single(), path, *args)


def test_our_own_op(tmp_path):
    def attention(q, k, v):
        return torch.ops.flashonnx.flash_attention(q, k, v, is_causal=True, softcap=20.0, left_window_size=3)

    with torch.no_grad():
        module = Attention(attention, kv_heads=2).eval()
        path = tmp_path / "out.onnx"
        flashonnx.export(module, (X,), path, dynamic_shapes=(DYNAMIC,))
        (node,) = attention_nodes(path)
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert (found["is_causal"], found["softcap"], found["left_window_size"]) == (1, 20.0, 3)
        assert "right_window_size" not in found or found["right_window_size"] == -1
        assert_same(module, path, LONGER)


def test_attention_spelled_out_is_fused_too(tmp_path):
    def eager(q, k, v):
        return torch.softmax(q @ k.transpose(-2, -1) / 4, dim=-1) @ v

    module = Attention(eager).eval()
    path = tmp_path / "out.onnx"
    result = flashonnx.export(module, (X,), path, dynamic_shapes=(DYNAMIC,))
    assert (result.report.fused, result.report.total) == (1, 1)
    assert_same(module, path, LONGER)


def test_dropout_is_that_of_inference(tmp_path):
    """torch.onnx.export writes ONNX's Dropout, which does nothing outside of training."""

    class Training(torch.nn.Module):
        def forward(self, q, k, v):
            return sdpa(q, k, v, dropout_p=0.5)

    class Inference(torch.nn.Module):
        def forward(self, q, k, v):
            return sdpa(q, k, v)

    args = tuple(torch.randn(1, 2, 5, 16) for _ in range(3))
    path = tmp_path / "out.onnx"
    flashonnx.export(Training().eval(), args, path)
    assert len(attention_nodes(path)) == 1
    assert_same(Inference(), path, *args)


def test_portable_file_runs_without_the_library(tmp_path):
    import onnxruntime

    module = Attention(lambda q, k, v: sdpa(q, k, v, is_causal=True)).eval()
    path = tmp_path / "out.onnx"
    flashonnx.export(module, (X,), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    torch.testing.assert_close(torch.from_numpy(actual), module(X), atol=2e-6, rtol=1e-5)
    flashonnx.export(module, (X,), path, portable=False)
    assert not onnx.load(path).functions


def test_fusing_again_changes_nothing(tmp_path):
    module = Attention(sdpa).eval()
    path = tmp_path / "out.onnx"
    flashonnx.export(module, (X,), path, dynamic_shapes=(DYNAMIC,))
    again = flashonnx.fuse(path, tmp_path / "again.onnx")
    assert (again.report.fused, again.report.total) == (1, 1)
    assert op_types(tmp_path / "again.onnx") == op_types(path)
    assert_same(module, tmp_path / "again.onnx", LONGER)


def test_a_failed_export_leaves_no_file_and_the_old_one_alone(tmp_path):
    class Unexportable(torch.nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    path = tmp_path / "out.onnx"
    with pytest.raises(torch.onnx.OnnxExporterError):
        flashonnx.export(Unexportable().eval(), (X,), path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with pytest.raises(torch.onnx.OnnxExporterError):
        flashonnx.export(Unexportable().eval(), (X,), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        flashonnx.export(Attention(sdpa).eval(), (X,), tmp_path / "no" / "out.onnx")


def test_table_serves_plain_torch_export(tmp_path):
    module = Attention(sdpa).eval()
    program = torch.onnx.export(module, (X,), dynamo=True, verbose=False, custom_translation_table=translation_table())
    program.save(tmp_path / "out.onnx")
    assert len(attention_nodes(tmp_path / "out.onnx")) == 1
    assert_same(module, tmp_path / "out.onnx", X)
