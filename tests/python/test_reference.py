"""The reference itself: against onnx's for the standard part, against small sums by hand for ours."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference.ops.op_attention import _compute_attention

from flashonnx.reference import flash_attention
from tests.cases.nodes import ACCEPTED, NodeCase
from tests.op.ort.node_models import case_feeds

OURS = {"sinks", "alibi_slopes", "mean_without_keys"}


def is_standard(case: NodeCase) -> bool:
    """Whether onnx's reference takes the case: no tensors or attributes of ours, and not what it cannot do.

    It fails on empty Q, K or V, and takes a last dimension of 1 for a mask that is too short, and pads it.
    """
    empty = any(0 in case.inputs[name][1] for name in "QKV")
    mask_length = case.inputs.get("attn_mask", ("", [0]))[1][-1]
    return not OURS & {*case.inputs, *case.attributes} and not empty and mask_length != 1


STANDARD = [case for case in ACCEPTED if is_standard(case)]


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize("case", STANDARD, ids=str)
def test_standard_part_equals_onnxs_reference(case: NodeCase, mode: int) -> None:
    wide = {n: a.astype(float) if a.dtype.kind in "fV" else a for n, a in case_feeds(case).items()}
    attributes = {**case.attributes, "qk_matmul_output_mode": mode}
    attributes.pop("softmax_precision", None)  # of no effect in float64, and a cast to float32 in onnx's
    if mode == 0:
        attributes.pop(
            "softcap", None
        )  # its text and its function body give raw scores here, its reference capped ones
    ours = flash_attention(**wide, **attributes)
    theirs = _compute_attention(**wide, **{"softcap": 0.0, **attributes})
    for name, want in zip(("Y", "present_key", "present_value", "qk_matmul_output"), theirs, strict=True):
        np.testing.assert_allclose(ours[name], want, rtol=1e-12, atol=1e-12, err_msg=name)


def one_row(**inputs: object) -> dict[str, np.ndarray]:
    """One query of 0 against four keys: every score is what bias and ALiBi make of it. Values are 1, 2, 3, 4."""
    zeros = np.zeros((1, 1, 1, 1))
    return flash_attention(zeros, np.zeros((1, 1, 4, 1)), np.arange(1.0, 5.0).reshape(1, 1, 4, 1), **inputs)


def test_lse_is_the_log_of_the_sum() -> None:
    assert one_row()["lse"].item() == pytest.approx(np.log(4), abs=1e-6)


def test_sink_takes_its_part_of_the_denominator() -> None:
    outputs = one_row(sinks=np.array([np.log(4.0)], np.float32))
    assert outputs["Y"].item() == pytest.approx(10 / 8)
    assert outputs["lse"].item() == pytest.approx(np.log(8), abs=1e-6)


def test_alibi_weighs_keys_by_distance() -> None:
    weights = np.exp(-0.5 * np.arange(4))
    expected = (weights * np.arange(1, 5)).sum() / weights.sum()
    assert one_row(alibi_slopes=np.array([0.5], np.float32))["Y"].item() == pytest.approx(expected)


def test_row_without_keys_is_zero_and_its_lse_minus_infinity() -> None:
    outputs = one_row(attn_mask=np.zeros((1, 4), bool), sinks=np.zeros(1, np.float32))
    assert outputs["Y"].item() == 0
    assert outputs["lse"].item() == -np.inf


def test_row_without_keys_may_be_the_mean_of_v() -> None:
    outputs = one_row(attn_mask=np.zeros((1, 4), bool), mean_without_keys=1)
    assert outputs["Y"].item() == 2.5
    assert outputs["lse"].item() == -np.inf


def test_mean_of_v_leaves_padding_out() -> None:
    window = {"left_window_size": 0, "attn_mask": np.array([[True, False, True, True]])}
    outputs = one_row(nonpad_kv_seqlen=np.array([2]), mean_without_keys=1, **window)
    assert outputs["Y"].item() == 1.5
    assert one_row(nonpad_kv_seqlen=np.array([0]), mean_without_keys=1)["Y"].item() == 0
