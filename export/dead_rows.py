"""Rows without any allowed key: what the file makes of them, and how the op is made to say the same.

Where keys are excluded by a finite number, a row that loses them all is still the softmax of something: of the scores
as they were (x - 1e4), or of equal numbers (a Where, or -3.4e38, which drowns x), which gives the mean of V. The op
gives 0 where its mask is bool, or a band, and with mean_without_keys that mean. Such rows may come up at sizes and with
data that nobody has looked at: all here follows from how the masks are put together, nothing from samples.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.band import Band
from flashonnx.fusion.facts import Refusal
from flashonnx.fusion.mask_terms import DROWNS, Meaning, Term, joined

# Logits that are apart by more than this have weights of 1 and 0 beside each other: exp(-100) of fp32 is 0.
_APART = 100.0


@dataclass(frozen=True)
class Surroundings:
    """Of the attention: the band that its node has by itself, its type, and whether queries may outnumber keys."""

    own: Band
    dtype: ir.DataType
    more_rows: bool


def with_dead_rows(terms: list[Term], around: Surroundings) -> Meaning:
    """The cheapest way under which a row without any key comes out as in the file. Raises Refusal if there is none."""
    if not _may_exist(terms, around):
        return joined(terms, around.own)
    if _are_mean(terms, around):
        return joined(terms, around.own, mean_without_keys=True)
    numbers = _as_numbers(terms, around.dtype)
    if numbers is not None:
        widened = around.dtype == ir.DataType.FLOAT16 and _is_lost_beside_numbers(numbers)
        return joined(numbers, around.own, widened=widened)
    raise Refusal("a row without any allowed key would not come out as in the file")


def _may_exist(terms: list[Term], around: Surroundings) -> bool:
    """Whether there may be such rows, and it matters: a number decides them, not infinity.

    Bands that count from the same end leave every query the key at its own position, if there is one.
    """
    numbers = [term for term in terms if term.finite]
    if not numbers:
        return False
    if any(term.is_masking and not (term.is_added and term.is_moderate) for term in terms):
        return True
    bands = [band for band in (around.own, *(term.band for term in terms)) if band.bounded]
    if len({band.from_end for band in bands}) > 1:
        return True
    return around.more_rows and any(term.band.can_miss_all_keys for term in numbers)


def _are_mean(terms: list[Term], around: Surroundings) -> bool:
    """Whether the file gives all keys the same weight in such rows: the same number is in place of every score.

    What is added to scores further in is lost there; it must not exclude keys by itself.
    """
    masks = [term for term in terms if not (term.is_added and term.is_moderate)]
    if around.own.bounded or not all(term.finite for term in masks):
        return False
    if len(terms) == 1 and terms[0].fill <= DROWNS:
        return True
    replaces_last = terms[: len(masks)] == masks
    return replaces_last and all(term.replaces for term in masks) and len({term.fill for term in masks}) == 1


def _as_numbers(terms: list[Term], dtype: ir.DataType) -> list[Term] | None:
    """Masks that, added to the scores in the file's order, weigh the keys of such rows as the file does; None: none do.

    What the op adds leaves of a score what its size leaves; where the file replaces the score, nothing may be left.
    """
    replacing = [position for position, term in enumerate(terms) if term.finite and term.replaces]
    kept = [
        term.kept_whole()
        if term.band.bounded and (term.finite or any(outer < position for outer in replacing))
        else term
        for position, term in enumerate(terms)
    ]
    if not replacing:
        return kept
    if dtype == ir.DataType.FLOAT16:
        return None  # its lowest number is too near
    if all(terms[position].fill <= DROWNS for position in replacing):
        return kept
    for position, term in enumerate(terms):
        is_lost = term.is_added and term.is_moderate and position > max(replacing)
        if not is_lost and (term.is_added or (term.finite and not term.replaces)):
            return None  # it tells apart what the file puts in place of scores
    return _lowered_fills(kept)


def _is_lost_beside_numbers(terms: list[Term]) -> bool:
    """Whether one attn_mask of half precision would round a bias away where a number such as -65504 is added to it."""
    excludes = any(term.is_masking and not term.is_bias and np.isfinite(term.fill) for term in terms)
    return excludes and any(term.is_bias for term in terms)


def _lowered_fills(terms: list[Term]) -> list[Term] | None:
    """The same order of fills, all of them numbers beside which a score is lost."""
    fills = sorted({term.fill for term in terms if term.finite}, reverse=True)
    if any(higher - lower < _APART for higher, lower in itertools.pairwise(fills)):
        return None
    lowered = {fill: DROWNS * (rank + 1) for rank, fill in enumerate(fills)}
    return [replace(term, fill=lowered[term.fill]) if term.finite else term for term in terms]
