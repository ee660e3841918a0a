"""What the masks of one attention mean: each term as band, padding or bias, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from flashonnx.fusion.band import UNBOUNDED, Band
from flashonnx.fusion.scores import MaskTerm

# An exclusion at or below this drowns every fp32 score: a row with no other key becomes exactly uniform.
DROWNS = -1e30


@dataclass(frozen=True)
class Padding:
    """Keys that a batch entry may attend: where value, over batch and keys, is nonzero (inverted: is zero)."""

    value: ir.Value
    inverted: bool


@dataclass(frozen=True)
class Term:
    """A MaskTerm understood as band and padding, which together allow exactly what it allows; else `whole`.

    fill: what excludes a key, -inf or a number. is_bias: it adds other numbers than 0 and one fill. is_moderate: all
    that it adds is of the size of scores, at all sizes and for all data, so that no key is excluded.
    """

    source: MaskTerm
    fill: float = -np.inf
    band: Band = UNBOUNDED
    padding: Padding | None = None
    whole: bool = False
    is_bias: bool = False
    is_moderate: bool = False

    @property
    def is_added(self) -> bool:
        """Whether the op is given the file's own numbers to add, whatever they are."""
        return self.whole and self.source.kind == "add"

    @property
    def finite(self) -> bool:
        """Whether a known number excludes keys, so that it decides a row that has no others."""
        return not self.is_added and bool(np.isfinite(self.fill))

    @property
    def replaces(self) -> bool:
        return self.source.replaces

    @property
    def is_masking(self) -> bool:
        """Whether something of it is for the op's attn_mask; a band alone is not."""
        return self.whole or self.padding is not None

    def kept_whole(self) -> Term:
        return replace(self, band=UNBOUNDED, padding=None, whole=True)


@dataclass(frozen=True)
class Meaning:
    """All masks of one attention together, the one nearest to the softmax first.

    mean_without_keys: a row without any allowed key is the mean of V over all keys, not 0.
    alibi_slopes: one for each head, or none at all; see alibi.py. widened: half precision cannot say it, float32 can.
    """

    terms: tuple[Term, ...] = ()
    band: Band = UNBOUNDED
    mean_without_keys: bool = False
    alibi_slopes: tuple[float, ...] = ()
    widened: bool = False

    @property
    def is_bool(self) -> bool:
        """Whether the op's attn_mask says which keys are allowed; else it is added to the scores."""
        masking = [term for term in self.terms if term.is_masking]
        return not any(term.finite or term.is_added for term in masking)

    @property
    def rounding(self) -> float:
        """What fp32 loses of scores to which a moderate finite number such as -10000 is added."""
        fills = [-term.fill for term in self.terms if term.fill > DROWNS and not term.replaces]
        return max(fills, default=0.0) * float(np.finfo(np.float32).eps)

    def describe(self) -> str:
        words = [self.band.describe()] if self.band.bounded else []
        words += ["ALiBi"] if self.alibi_slopes else []
        if any(term.padding for term in self.terms):
            words.append("padding")
        words += sorted({"bias" if term.is_bias else "mask" for term in self.terms if term.whole})
        return " + ".join(words) or "none"


def joined(terms: list[Term], own: Band, *, mean_without_keys: bool = False, widened: bool = False) -> Meaning:
    """Bands become the op's attributes, as far as they count from the same end. own: the node's own band.

    mean_without_keys, widened: see Meaning. With the former all terms may exclude keys outright.
    """
    band = own
    kept = [replace(term, fill=-np.inf) if mean_without_keys and term.finite else term for term in terms]
    for position, term in enumerate(kept):
        both = band.intersect(term.band)
        if both is None:
            kept[position] = term.kept_whole()
        else:
            band = both
    return Meaning(tuple(kept), band, mean_without_keys, widened=widened)
