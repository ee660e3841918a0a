"""Figures as SVG text that can stand inside an HTML page or, with `standalone`, in a file of its own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MultipleLocator, NullLocator

# Okabe and Ito's palette, told apart by colour-blind readers too; ours is always the first.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Series:
    """A named line of (x, y) points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


def line_plot(
    title: str, series: Sequence[Series], *, x_label: str, y_label: str, log_y: bool = True, standalone: bool = False
) -> str:
    """Lines over a base-2 logarithmic x axis whose ticks are the points themselves."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure, axes = _figure(title, (6.4, 4.0))
        for index, line in enumerate(series):
            style = "--" if line.dashed else "-"
            color = COLORS[index % len(COLORS)]
            axes.plot(line.x, line.y, style, marker="o", markersize=4, label=line.label, color=color)
        axes.set_xscale("log", base=2)
        ticks = sorted({x for line in series for x in line.x})
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(frameon=False, fontsize=10)
        return _svg(figure, standalone)


def error_histogram(title: str, edges: np.ndarray, counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Outlines of counts over log10 |difference|; empty bins at either end are cut off."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure, axes = _figure(title, (6.4, 3.2))
        for index, (count, label) in enumerate(zip(counts, labels, strict=True)):
            color = COLORS[index % len(COLORS)]
            axes.stairs(count, edges, label=label, color=color, fill=False, linewidth=1.8)
        used = np.flatnonzero(np.sum(counts, axis=0)) if counts else np.array([], dtype=int)
        if used.size:
            axes.set_xlim(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(edges) - 1)])
        axes.xaxis.set_major_locator(MultipleLocator(1))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"1e{x:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
        axes.set_xlabel("absolute difference")
        axes.set_ylabel("elements")
        axes.legend(frameon=False, fontsize=10, loc="upper left")
        return _svg(figure, standalone=False)


def ratio_bars(title: str, labels: Sequence[str], groups: dict[str, Sequence[float | None]], *, x_label: str) -> str:
    """Horizontal bars, one group a label, with a line at 1; None leaves a gap."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure, axes = _figure(title, (6.4, 1.1 + 0.22 * len(labels) * max(len(groups), 1)))
        height = 0.8 / max(len(groups), 1)
        for index, (name, values) in enumerate(groups.items()):
            positions = np.arange(len(labels)) + (index - (len(groups) - 1) / 2) * height
            lengths = [0.0 if value is None else value for value in values]
            axes.barh(positions, lengths, height * 0.9, label=name, color=COLORS[index % len(COLORS)])
        axes.axvline(1.0, color="#333333", linewidth=1)
        axes.set_yticks(np.arange(len(labels)), labels)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(x_label)
        if len(groups) > 1:
            axes.legend(frameon=False, fontsize=10, loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure, standalone=False)


def _figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12)
    return figure, axes


def _svg(figure: Figure, standalone: bool) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA, bbox_inches="tight")
    text = buffer.getvalue()
    return text if standalone else text[text.index("<svg") :]
