"""Shapes that an engine is built for."""

from __future__ import annotations

import numpy as np
import pytest

from flashonnx.engine import EngineError
from flashonnx.engine.profile import BATCH, LENGTH, Range, make_profile
from flashonnx.validation.inputs import InputSpec

INT64 = np.dtype(np.int64)
IDS = InputSpec("input_ids", INT64, ("batch", "length"))
MASK = InputSpec("attention_mask", INT64, ("batch", "length"))
IMAGE = InputSpec("image", np.dtype(np.float32), (1, 3, 224, 224))


def test_static_inputs_need_none() -> None:
    assert make_profile([IMAGE]) == {}


def test_defaults_tell_batches_from_lengths() -> None:
    wanted = Range(*(tuple(sizes) for sizes in zip(BATCH, LENGTH, strict=True)))
    assert make_profile([IDS, IMAGE]) == {"input_ids": wanted}


def test_a_shape_binds_what_inputs_share() -> None:
    profile = make_profile([IDS, MASK], ({}, {"input_ids": (2, 40)}, {"input_ids": (4, 64)}))
    assert profile["attention_mask"] == profile["input_ids"] == Range((1, 1), (2, 40), (4, 64))


def test_unnamed_dimensions_are_not_shared() -> None:
    a, b = (InputSpec(name, INT64, ("?", 4)) for name in "ab")
    profile = make_profile([a, b], ({}, {}, {"a": (3, 4)}))
    assert (profile["a"].max, profile["b"].max) == ((3, 4), (BATCH[2], 4))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (({"input_ids": (1, 900)}, {}, {}), Range((1, 900), (1, 900), (8, 900))),
        (({}, {"input_ids": (1, 900)}, {}), Range((1, 1), (1, 900), (8, 900))),
        (({}, {}, {"input_ids": (1, 7)}), Range((1, 1), (1, 7), (1, 7))),
    ],
)
def test_what_is_given_moves_the_defaults(given: tuple, wanted: Range) -> None:
    assert make_profile([IDS], given)["input_ids"] == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (({"ids": (1, 2)}, {}, {}), "no input 'ids'; the model takes input_ids"),
        (({"input_ids": (1, 2, 3)}, {}, {}), "has another rank"),
        (({"image": (2, 3, 224, 224)}, {}, {}), "contradicts image"),
        (({"input_ids": (2, 8), "attention_mask": (3, 8)}, {}, {}), "least batch is 3 in 'attention_mask' and 2"),
        (({"input_ids": (4, 8)}, {}, {"input_ids": (2, 8)}), "allowed: least <= usual <= largest"),
    ],
)
def test_contradictions_are_named(given: tuple, message: str) -> None:
    with pytest.raises(EngineError, match=message.replace("(", r"\(")):
        make_profile([IDS, MASK, IMAGE], given)
