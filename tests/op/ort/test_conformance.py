"""onnx's own node cases of Attention, the node's domain and type changed to ours, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from flashonnx import contract
from tests.op.ort.node_models import run, session

NUM_CASES = 93  # of onnx 1.23.2, without those that spell the op out in standard ones


# rtol, atol. onnx's own runner allows bfloat16 two units in the last place (2**-6): its reference rounds the scores and
# the probabilities to bfloat16 too, and a single unit is already eight times 1e-3.
TOLERANCES = {
    np.dtype(np.float32): (1e-3, 1e-5),
    np.dtype(np.float16): (1e-3, 1e-3),
    np.dtype(ml_dtypes.bfloat16): (2**-6, 1e-3),
}


def attention_cases() -> list[TestCase]:
    cases = load_model_tests(kind="node")
    return [c for c in cases if c.name.startswith("test_attention_") and not c.name.endswith("_expanded")]


def as_flash_attention(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (node,) = changed.graph.node
    node.domain, node.op_type = contract.DOMAIN, contract.OP_TYPE
    changed.opset_import.append(helper.make_opsetid(contract.DOMAIN, contract.SINCE_VERSION))
    return changed


CASES = attention_cases()


def test_there_are_as_many_cases_as_onnx_has() -> None:
    assert len(CASES) >= NUM_CASES


def check_case(case: TestCase, make_session: Callable[[onnx.ModelProto], ort.InferenceSession]) -> None:
    """Runs all data of one of onnx's cases, as our op, in a session made by `make_session`."""
    model = as_flash_attention(case.model)
    runner = make_session(model)
    names = [value.name for value in model.graph.input]
    for inputs, expected in case.data_sets:
        outputs = run(runner, dict(zip(names, inputs, strict=True)))
        for value, want in zip(model.graph.output, expected, strict=True):
            have = outputs[value.name]
            assert have.dtype == want.dtype
            rtol, atol = TOLERANCES[want.dtype]
            np.testing.assert_allclose(have.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_node_case(case: TestCase) -> None:
    check_case(case, session)
