"""Inputs generated for a model, made from shapes, or read from a file."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flashonnx.validation import inputs
from flashonnx.validation.inputs import InputError

VOCABULARY = 30
POSITIONS = 40


@pytest.fixture
def text_model():
    """Token and position embeddings, added where a mask says so: only what inputs are generated from."""
    table = numpy_helper.from_array(np.zeros((VOCABULARY, 4), np.float32), "words")
    positions = numpy_helper.from_array(np.zeros((POSITIONS, 4), np.float32), "positions")
    dims = ["batch", "sequence"]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input_ids"], ["wide_ids"], to=TensorProto.INT64),
            helper.make_node("Gather", ["words", "wide_ids"], ["word"]),
            helper.make_node("Gather", ["positions", "position_ids"], ["position"]),
            helper.make_node("Add", ["word", "position"], ["sum"]),
            helper.make_node("Add", ["sum", "extra"], ["y"]),
        ],
        "text",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT32, dims),
            helper.make_tensor_value_info("position_ids", TensorProto.INT64, dims),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, dims),
            helper.make_tensor_value_info("extra", TensorProto.FLOAT, ["batch", "sequence", 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 4])],
        [table, positions],
    )
    return helper.make_model(graph)


def mask_model(dtype, dims):
    value = helper.make_tensor_value_info("attention_mask", dtype, dims)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["attention_mask"], ["y"])],
        "mask",
        [value],
        [helper.make_tensor_value_info("y", dtype, dims)],
    )
    return helper.make_model(graph)


def test_ids_stay_within_the_table_that_they_index(text_model):
    specs = {spec.name: spec for spec in inputs.input_specs(text_model)}
    assert specs["input_ids"].limit == VOCABULARY
    assert specs["position_ids"].limit == POSITIONS
    arrays = inputs.generate(list(specs.values()), shapes={"input_ids": (50, 20)})[0].arrays
    assert arrays["input_ids"].min() >= 0
    assert VOCABULARY // 2 < arrays["input_ids"].max() < VOCABULARY
    np.testing.assert_array_equal(arrays["position_ids"][3], np.arange(20))


def test_one_set_per_padding_and_equal_otherwise(text_model):
    sets = inputs.generate(inputs.input_specs(text_model), dims={"batch": 3, "sequence": 8})
    assert [s.name for s in sets] == ["padding: none", "padding: right", "padding: left"]
    none, right, left = (s.arrays["attention_mask"] for s in sets)
    assert none.all()
    np.testing.assert_array_equal(right.sum(axis=1), [8, 6, 4])
    np.testing.assert_array_equal(left, right[:, ::-1])
    assert (np.diff(right, axis=1) <= 0).all()
    for name in ("input_ids", "extra"):
        np.testing.assert_array_equal(sets[0].arrays[name], sets[2].arrays[name])


def test_types_and_shapes_are_the_models(text_model):
    for spec, array in zip(
        inputs.input_specs(text_model),
        inputs.generate(inputs.input_specs(text_model), shapes={"input_ids": (5, 7)})[0].arrays.values(),
        strict=True,
    ):
        assert array.dtype == spec.dtype
        assert array.shape == (5, 7, 4)[: len(spec.dims)]


def test_same_seed_same_arrays(text_model):
    specs = inputs.input_specs(text_model)
    first, again, other = (inputs.generate(specs, seed=seed)[0].arrays["extra"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("dtype", "kept", "dropped"),
    [
        (TensorProto.BOOL, True, False),
        (TensorProto.INT64, 1, 0),
        (TensorProto.FLOAT, 0.0, np.finfo(np.float32).min),
        (TensorProto.BFLOAT16, 0.0, float(ml_dtypes.finfo(ml_dtypes.bfloat16).min)),
    ],
)
def test_masks_of_rank_four(dtype, kept, dropped):
    specs = inputs.input_specs(mask_model(dtype, [2, 1, "q", "k"]))
    right = inputs.generate(specs, dims={"q": 3, "k": 8})[1].arrays["attention_mask"]
    assert right.shape == (2, 1, 3, 8)
    assert (right[0] == kept).all()
    assert (right[1, :, :, :6] == kept).all()
    assert (right[1, :, :, 6:] == dropped).all()


def test_initializers_listed_as_inputs_are_not_asked_for(text_model):
    text_model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.FLOAT, [VOCABULARY, 4]))
    assert "words" not in [spec.name for spec in inputs.input_specs(text_model)]


def test_input_that_is_no_tensor():
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    graph = helper.make_graph([], "sequence", [sequence], [])
    with pytest.raises(InputError, match="'s' is not a tensor"):
        inputs.input_specs(helper.make_model(graph))


@pytest.mark.parametrize(
    ("shapes", "dims", "message"),
    [
        ({"ids": (1, 2)}, {}, "no input 'ids'"),
        ({}, {"heads": 2}, "no dynamic dimension 'heads'; the model has batch, sequence"),
        ({"input_ids": (1, 2, 3)}, {}, "another rank"),
        ({"extra": (1, 2, 5)}, {}, "contradicts"),
        ({"input_ids": (1, 2), "extra": (1, 3, 4)}, {}, "sequence is 3 here and 2 elsewhere"),
        ({"input_ids": (1, 2)}, {"batch": 4}, "batch is 1 here and 4 elsewhere"),
    ],
)
def test_sizes_that_contradict_the_model(text_model, shapes, dims, message):
    with pytest.raises(InputError, match=message):
        inputs.generate(inputs.input_specs(text_model), shapes=shapes, dims=dims)


def test_parsed_shapes_and_dims():
    assert inputs.parse_shape("input_ids=2x128") == ("input_ids", (2, 128))
    assert inputs.parse_shape("a=b=3") == ("a=b", (3,))
    assert inputs.parse_shape("scalar=") == ("scalar", ())
    assert inputs.parse_dim("sequence=128") == ("sequence", 128)


@pytest.mark.parametrize("text", ["ids", "=2x3", "ids=2xx3", "ids=-1", "ids=2x-3", "ids=a"])
def test_shapes_that_are_none(text):
    with pytest.raises(InputError, match="is not a shape such as"):
        inputs.parse_shape(text)


def test_dims_take_one_size():
    with pytest.raises(InputError, match="is not a size"):
        inputs.parse_dim("sequence=2x3")


def arrays_for(specs):
    return inputs.generate(specs)[0].arrays


def test_npz_round_trip(text_model, tmp_path):
    specs = inputs.input_specs(text_model)
    expected = arrays_for(specs)
    np.savez(tmp_path / "in.npz", **expected)
    loaded = inputs.load_npz(tmp_path / "in.npz", specs)
    assert loaded.name == "in.npz"
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)


def test_npz_keeps_bfloat16(tmp_path):
    specs = inputs.input_specs(mask_model(TensorProto.BFLOAT16, [2, 1, 1, 4]))
    expected = arrays_for(specs)["attention_mask"]
    np.savez(tmp_path / "in.npz", attention_mask=expected)
    loaded = inputs.load_npz(tmp_path / "in.npz", specs).arrays["attention_mask"]
    assert loaded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(loaded, expected)


def test_npy_is_no_npz(text_model, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"in.npy: not a readable .npz file"):
        inputs.load_npz(tmp_path / "in.npy", inputs.input_specs(text_model))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"no zip at all"])
def test_npz_that_is_none(text_model, tmp_path, content):
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"in.npz: not a readable .npz file"):
        inputs.load_npz(path, inputs.input_specs(text_model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("extra"), "no array for extra"),
        (lambda a: a.update(other=a["extra"]), "unknown other"),
        (lambda a: a.update(extra=a["extra"].astype(np.float64)), "'extra' is float64; the model takes extra: float32"),
        (lambda a: a.update(extra=a["extra"][0]), r"'extra' has shape \(24, 4\)"),
        (lambda a: a.update(extra=a["extra"][..., :3]), r"'extra' has shape \(2, 24, 3\)"),
    ],
)
def test_arrays_that_do_not_fit(text_model, change, message):
    specs = inputs.input_specs(text_model)
    arrays = dict(arrays_for(specs))
    change(arrays)
    with pytest.raises(InputError, match=message):
        inputs.check_arrays(arrays, specs)


def test_generated_model_inputs_run(text_model):
    session = onnx.reference.ReferenceEvaluator(text_model)
    (y,) = session.run(None, arrays_for(inputs.input_specs(text_model)))
    assert y.shape == (2, 24, 4)
