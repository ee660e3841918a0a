"""flashonnx.validate on small models: what passes, what fails, and what is said."""

import json
from html.parser import HTMLParser

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import flashonnx
from flashonnx.validation import InputError, RunError, core, oracle


def save(
    path, nodes, *, inputs=("x",), outputs=("y",), dtype=TensorProto.FLOAT, out_dtype=None, constants=(), dims=("n", 8)
):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, dtype, ("n", 8)) for name in inputs],
        [helper.make_tensor_value_info(name, out_dtype or dtype, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def scaled(path, factor, **options):
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    return save(path, nodes, constants={"factor": np.array(factor, np.float32)}, **options)


class CausalAttention(torch.nn.Module):
    def forward(self, q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def test_fused_file_passes_against_the_unfused_one(attention_files):
    result = flashonnx.validate(attention_files["unfused"], attention_files["fused"])
    assert result.passed
    assert not result.notes
    (output,) = result.outputs
    assert "float64" in output.verdict.rule
    (measurement,) = output.measurements
    assert measurement.shape == (2, 4, 48, 32)
    assert 0 < measurement.error.max_abs < 2e-6
    assert 0 < measurement.reference_error.max_abs < 2e-6


def test_fused_file_passes_against_pytorch(attention_files):
    result = flashonnx.validate(CausalAttention(), attention_files["fused"])
    assert result.passed
    assert result.reference == "CausalAttention (PyTorch)"


def test_a_lost_mask_fails(attention_files):
    result = flashonnx.validate(attention_files["unmasked"], attention_files["fused"])
    assert not result.passed
    assert result.outputs[0].distance.max_abs > 0.1
    assert "over the limit" in result.outputs[0].verdict.reason


def test_sites_are_compared(attention_files):
    result = flashonnx.validate(attention_files["unfused"], attention_files["fused"], sites=True)
    assert result.passed
    assert [site.name for site in result.sites] == ["y"]
    assert not flashonnx.validate(attention_files["unmasked"], attention_files["fused"], sites=True).passed


def test_sites_need_an_onnx_reference(attention_files):
    with pytest.raises(ValueError, match="sites can only be compared"):
        flashonnx.validate(CausalAttention(), attention_files["fused"], sites=True)


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.0 + 2**-22, False)])
def test_the_oracle_sees_two_ulps(tmp_path, factor, passed):
    reference = scaled(tmp_path / "a.onnx", 3.0)
    model = scaled(tmp_path / "b.onnx", 3.0 * factor)
    assert flashonnx.validate(reference, model).passed is passed
    assert flashonnx.validate(reference, model, oracle=False).passed


def test_given_tolerance_replaces_the_rule(tmp_path):
    reference, model = scaled(tmp_path / "a.onnx", 1.0), scaled(tmp_path / "b.onnx", 1.01)
    assert not flashonnx.validate(reference, model).passed
    assert flashonnx.validate(reference, model, rtol=0.011).passed
    assert not flashonnx.validate(reference, model, rtol=0.009).passed


def test_nan_on_one_side_fails_and_on_both_passes(tmp_path):
    logarithm = save(tmp_path / "log.onnx", [helper.make_node("Log", ["x"], ["y"])])
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Log", ["a"], ["y"])]
    other = save(tmp_path / "abs.onnx", nodes)
    assert flashonnx.validate(logarithm, logarithm).passed  # of negative numbers too
    result = flashonnx.validate(logarithm, other)
    assert not result.passed
    assert "NaN or infinite on one side only" in result.outputs[0].verdict.reason


def test_float16_overflow_of_both_passes(tmp_path):
    big = np.array(60000, np.float16)
    nodes = [helper.make_node("Mul", ["x", "big"], ["y"])]
    path = save(tmp_path / "a.onnx", nodes, dtype=TensorProto.FLOAT16, constants={"big": big})
    x = np.array([[2.0, 1.0, 0.5, 0, 0, 0, 0, 0]], np.float16)
    result = flashonnx.validate(path, path, inputs=[{"x": x}])
    assert result.passed
    assert result.outputs[0].measurements[0].reference_error.nonfinite_mismatches == 1


def test_missing_output_shape_and_dtype_are_failures(tmp_path):
    reference = scaled(tmp_path / "a.onnx", 1.0)
    named = save(tmp_path / "b.onnx", [helper.make_node("Identity", ["x"], ["z"])], outputs=("z",))
    shaped = save(tmp_path / "c.onnx", [helper.make_node("Transpose", ["x"], ["y"])])
    cast = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)]
    typed = save(tmp_path / "d.onnx", cast, out_dtype=TensorProto.DOUBLE)
    for model, message in (
        (named, "the reference has no output 'z'; it has y"),
        (shaped, r"output 'y' has shape (8, 2), the reference's has (2, 8)"),
        (typed, "output 'y' is float64, the reference's is float32"),
    ):
        result = flashonnx.validate(reference, model)
        assert not result.passed
        assert result.failures == [f"generated: {message}"]


def test_integers_must_be_equal(tmp_path):
    def rounded(path, offset):
        nodes = [
            helper.make_node("Add", ["x", "c"], ["s"]),
            helper.make_node("Cast", ["s"], ["y"], to=TensorProto.INT64),
        ]
        return save(path, nodes, out_dtype=TensorProto.INT64, constants={"c": np.array(offset, np.float32)})

    assert flashonnx.validate(rounded(tmp_path / "a.onnx", 0.5), rounded(tmp_path / "b.onnx", 0.5)).passed
    result = flashonnx.validate(rounded(tmp_path / "a.onnx", 0.5), rounded(tmp_path / "b.onnx", 1.5))
    assert (result.passed, result.outputs[0].verdict.rule) == (False, "equal")


def test_a_model_that_does_not_run_is_a_failure_that_quotes_the_runtime(tmp_path):
    reference = scaled(tmp_path / "a.onnx", 1.0)
    shape = {"shape": np.array([3, 5], np.int64)}
    broken = save(tmp_path / "b.onnx", [helper.make_node("Reshape", ["x", "shape"], ["y"])], constants=shape)
    result = flashonnx.validate(reference, broken)
    assert not result.passed
    assert "b.onnx" in result.failures[0]
    assert "Reshape" in result.failures[0]


def test_several_input_sets_are_judged_together_and_listed_apart(tmp_path):
    path = scaled(tmp_path / "a.onnx", 3.0)
    rng = np.random.default_rng(0)
    sets = [{"x": rng.standard_normal((rows, 8)).astype(np.float32)} for rows in (1, 5)]
    np.savez(tmp_path / "x.npz", **sets[1])
    result = flashonnx.validate(path, path, inputs=[sets[0], tmp_path / "x.npz"])
    assert result.passed
    assert [m.input_set for m in result.outputs[0].measurements] == ["given 1", "x.npz"]
    assert result.outputs[0].distance.elements == 48


def test_bfloat16_model(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    path = save(tmp_path / "a.onnx", nodes, dtype=TensorProto.BFLOAT16, out_dtype=TensorProto.FLOAT)
    x = np.ones((2, 8), ml_dtypes.bfloat16)
    assert flashonnx.validate(path, path, inputs=[{"x": x}]).passed


def test_op_outside_onnx_has_no_oracle_and_says_so(tmp_path):
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft")
    path = save(tmp_path / "a.onnx", [node])
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    result = flashonnx.validate(path, path)
    assert result.passed
    assert "no float64 oracle" in result.notes[0]
    assert "magnitude" in result.outputs[0].verdict.rule


def test_pytorch_results_by_name_and_by_position(tmp_path):
    path = save(
        tmp_path / "a.onnx",
        [helper.make_node("Neg", ["x"], ["first"]), helper.make_node("Abs", ["x"], ["second"])],
        outputs=("first", "second"),
    )
    assert flashonnx.validate(lambda x: {"second": x.abs(), "first": -x}, path).passed
    assert flashonnx.validate(lambda anything: (-anything, None, [anything.abs()]), path).passed
    assert not flashonnx.validate(lambda x: (x.abs(), -x), path).passed
    result = flashonnx.validate(lambda x: -x, path)
    assert "returned 1 tensors; the file has 2 outputs" in result.failures[0]
    result = flashonnx.validate(lambda x, missing: x, path)
    assert "missing 1 required positional argument" in result.failures[0]


def test_inputs_and_devices_that_do_not_fit(attention_files, tmp_path):
    fused = attention_files["fused"]
    with pytest.raises(InputError, match="unknown x"):
        flashonnx.validate(fused, fused, inputs=[{"x": np.zeros(1)}])
    with pytest.raises(ValueError, match="'tpu' is not 'cpu' or 'cuda'"):
        flashonnx.validate(fused, fused, device="tpu")


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x07" + b"x" * 10])
def test_files_that_are_no_models(attention_files, tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"bad\.onnx"):
        flashonnx.validate(attention_files["fused"], path)
    with pytest.raises(RunError, match=r"bad\.onnx"):
        flashonnx.validate(path, attention_files["fused"])


def test_missing_file(attention_files, tmp_path):
    with pytest.raises(FileNotFoundError):
        flashonnx.validate(attention_files["fused"], tmp_path / "no.onnx")


def test_external_data_is_found_beside_the_file(tmp_path):
    weights = np.random.default_rng(0).standard_normal((8, 300)).astype(np.float32)
    path = save(tmp_path / "a.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], constants={"w": weights})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    result = flashonnx.validate(path, path)
    assert result.passed
    assert not result.notes


def test_progress_is_told(attention_files):
    lines = []
    flashonnx.validate(attention_files["unfused"], attention_files["fused"], progress=lines.append)
    assert lines[-1] == "generated: float64"


def test_widened_model_computes_in_float64(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["third"], value_float=1 / 3),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "third"], ["scaled"]),
        helper.make_node("Add", ["scaled", "zeros"], ["sum"]),
        helper.make_node("Erf", ["sum"], ["y"]),
    ]
    path = save(tmp_path / "a.onnx", nodes, constants={"shape": np.array([8], np.int64)})
    x = np.full((1, 8), 0.7, np.float32)
    y = oracle.OnnxOracle(path).run({"x": x})["y"]
    assert y.dtype == np.float64
    expected = torch.erf(torch.from_numpy(x).double() * float(np.float32(1 / 3))).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-15)


class _Tags(HTMLParser):
    """Collects tags, links out of the page, and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href") and value[:1] != "#"]

    def handle_data(self, data):
        self.text += data


def test_json_and_html(attention_files, tmp_path):
    result = flashonnx.validate(attention_files["unfused"], attention_files["fused"], sites=True)
    result.save_json(tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["passed"] is True
    assert data["outputs"][0]["name"] == "y"
    assert data["outputs"][0]["measurements"][0]["error"]["max_abs"] > 0
    result.save_html(tmp_path / "r.html")
    page = _Tags()
    page.feed((tmp_path / "r.html").read_text())
    assert "svg" in page.tags
    assert "Validation: passed" in page.text
    assert "Attention sites" in page.text
    assert page.links == []
    assert "script" not in page.tags


def test_html_of_a_failure_escapes_names(tmp_path):
    result = core.ValidationResult("a", "<script>alert(1)</script>", failures=["bad < worse"])
    result.save_html(tmp_path / "r.html")
    page = _Tags()
    page.feed((tmp_path / "r.html").read_text())
    assert "script" not in page.tags
    assert "bad < worse" in page.text
    assert "Validation: FAILED" in page.text


@pytest.mark.parametrize(("shape", "axis"), [((1, 5), 1), ((4, 3), 1), ((2, 7), 0), ((2, 5), -1)])
def test_gather_elements_of_longer_data(tmp_path, shape, axis):
    index = np.random.default_rng(0).integers(0, 2, shape)
    node = helper.make_node("GatherElements", ["x", "index"], ["y"], axis=axis)
    path = save(tmp_path / "a.onnx", [node], constants={"index": index})
    result = flashonnx.validate(path, path, inputs=[{"x": np.random.default_rng(1).random((4, 8), np.float32)}])
    assert result.passed
    assert not result.notes


def test_normalization_has_an_oracle(tmp_path):
    constants = {"scale": np.full(8, 2.0, np.float32)}
    node = helper.make_node("LayerNormalization", ["x", "scale"], ["y"], axis=-1)
    path = save(tmp_path / "a.onnx", [node], constants=constants)
    result = flashonnx.validate(path, path)
    assert result.passed
    assert not result.notes
