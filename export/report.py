"""What the pass found: one Site for each attention in the model, fused or left alone, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Site:
    """One attention of the model.

    name: the Softmax or attention node that it was found at.
    fused: whether the fused model computes it with FlashAttention.
    form: what was found, such as "softmax, rank 4, causal + padding"; as much of it as was understood where not fused.
    reason: why it was left alone, naming node and op; empty if fused.
    mask: the mask's meaning ("none", "causal", "causal + padding", "bias", …).
    absorbed: nodes that the fused op replaced, by op type.
    max_abs_diff: largest absolute difference between the site before and after, on random inputs; None if not verified.
    kernel: which kernel would run, and why; only `explain` is asked that.
    """

    name: str
    fused: bool = False
    form: str = ""
    reason: str = ""
    mask: str = ""
    absorbed: dict[str, int] = field(default_factory=dict)
    max_abs_diff: float | None = None
    kernel: str = ""


@dataclass
class FuseReport:
    """Every attention site of one model, in graph order.

    not_attention: Softmax nodes that no two products of activations surround, such as a classifier's or a router's.
    verification: how the whole model was compared before and after; empty if it was not.
    """

    sites: list[Site] = field(default_factory=list)
    not_attention: list[str] = field(default_factory=list)
    verification: str = ""

    @property
    def total(self) -> int:
        return len(self.sites)

    @property
    def fused(self) -> int:
        return sum(site.fused for site in self.sites)

    def take_back(self, reason: str) -> None:
        """Every fused site as left alone after all."""
        for site in self.sites:
            if site.fused:
                site.fused, site.reason = False, reason

    def to_json(self) -> dict[str, Any]:
        """A plain dict for json.dump: {"total", "fused", "sites": [{"name", "fused", "form", "reason", …}], …}."""
        return {"total": self.total, "fused": self.fused, **asdict(self)}
