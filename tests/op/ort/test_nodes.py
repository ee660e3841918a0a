"""The shared node cases through ONNX Runtime: accepted ones have the right shapes and values, refused ones say why."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flashonnx.reference import flash_attention
from tests.cases.nodes import ACCEPTED, REFUSED, REFUSED_VALUES, SYMBOLIC, NodeCase
from tests.op.ort.node_models import NODE_NAME, case_feeds, case_model, node_model, run, session

# Largest error of an output against float64, for values of about 1: a few units in the last place.
ATOL = {"float": 2e-6, "float16": 2e-3, "bfloat16": 2e-2, "double": 1e-12}

# ONNX Runtime refuses this one itself, before it asks us.
MISSING_INPUT = next(case for case in REFUSED if case.name == "missing_value")
REFUSED_HERE = [case for case in REFUSED if case is not MISSING_INPUT]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_accepted_node_computes_what_the_reference_does(case: NodeCase, dynamic: bool) -> None:
    feeds = case_feeds(case)
    outputs = run(session(case_model(case, dynamic=dynamic)), feeds)
    expected = flash_attention(**feeds, **case.attributes)
    assert {name: list(array.shape) for name, array in outputs.items()} == case.shapes
    for name, array in outputs.items():
        assert array.dtype == expected[name].dtype
        atol = ATOL["float"] if name == "lse" else ATOL[case.inputs["Q"][0]]
        np.testing.assert_allclose(array.astype(float), expected[name].astype(float), rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_known_shapes_are_inferred(case: NodeCase) -> None:
    inferred = {output.name: output.shape for output in session(case_model(case)).get_outputs()}
    assert inferred == case.shapes


@pytest.mark.parametrize("case", SYMBOLIC, ids=str)
def test_symbolic_dimensions_keep_their_names(case: NodeCase) -> None:
    for output in session(case_model(case)).get_outputs():
        named_before = {dim for _, shape in case.inputs.values() for dim in shape if isinstance(dim, str)}
        for have, want in zip(output.shape, case.shapes[output.name], strict=True):
            if want is None:  # unknown: neither a number nor a name that means something else
                assert isinstance(have, str)
                assert have not in named_before
            else:
                assert have == want


@pytest.mark.parametrize("case", REFUSED_HERE, ids=str)
def test_refused_node_fails_the_session(case: NodeCase) -> None:
    with pytest.raises(Exception, match="FlashAttention") as failure:
        session(case_model(case))
    assert case.error in str(failure.value)
    assert NODE_NAME in str(failure.value)
    assert_process_is_well()


@pytest.mark.parametrize("case", REFUSED_HERE, ids=str)
def test_refused_node_of_unknown_shapes_fails_by_the_run(case: NodeCase) -> None:
    with pytest.raises(Exception, match="FlashAttention") as failure:
        run(session(case_model(case, dynamic=True)), case_feeds(case))
    # Ranks and dtypes are known when the session is made, and its message then shows "?" for dimensions.
    assert without_shapes(case.error) in without_shapes(str(failure.value))
    assert_process_is_well()


@pytest.mark.parametrize("case", REFUSED_VALUES, ids=str)
def test_refused_values_fail_the_run(case: NodeCase) -> None:
    runner = session(case_model(case))
    with pytest.raises(Exception, match="FlashAttention") as failure:
        run(runner, case_feeds(case))
    assert case.error in str(failure.value)
    good = {**case_feeds(case), "nonpad_kv_seqlen": np.array([1, 5])}
    assert np.isfinite(run(runner, good)["Y"]).all(), "the session must outlive a refused run"


def without_shapes(message: str) -> str:
    return re.sub(r"\([\d?, ]+\)", "(...)", message)


def assert_process_is_well() -> None:
    case = ACCEPTED[0]
    assert np.isfinite(run(session(case_model(case)), case_feeds(case))["Y"]).all()


def test_missing_required_input_fails_the_session() -> None:
    with pytest.raises(Exception, match="FlashAttention"):
        session(case_model(MISSING_INPUT))
    assert_process_is_well()


@pytest.mark.parametrize("last_input", ["attn_mask", "nonpad_kv_seqlen", "sinks"])
def test_inputs_of_unknown_rank_are_taken(last_input: str) -> None:
    dtype = {"attn_mask": "bool", "nonpad_kv_seqlen": "int64", "sinks": "float"}[last_input]
    inputs = dict.fromkeys("QKV", ("float16", None)) | {last_input: (dtype, None)}
    runner = session(node_model(inputs, outputs=["Y", "lse"]))
    assert [output.type for output in runner.get_outputs()] == ["tensor(float16)", "tensor(float)"]
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, 3, 4, 8)).astype(np.float16) for name in "QKV"}
    feeds[last_input] = {
        "attn_mask": np.ones((4, 4), bool),
        "nonpad_kv_seqlen": np.array([4, 2]),
        "sinks": np.zeros(3, np.float32),
    }[last_input]
    expected = flash_attention(**feeds)
    np.testing.assert_allclose(run(runner, feeds)["Y"], expected["Y"], rtol=0, atol=ATOL["float16"])


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("is_causal", 1.0, "an int"),
        ("scale", 1, "a float"),
        ("softcap", "high", "a float"),
        ("scale", [1.0], "a float"),
    ],
)
def test_attribute_of_another_type_fails_the_session(name: str, value: object, allowed: str) -> None:
    model = node_model(ACCEPTED[0].inputs, {name: value})
    with pytest.raises(Exception, match=f"attribute '{name}' is of another type; allowed: {allowed}"):
        session(model)
