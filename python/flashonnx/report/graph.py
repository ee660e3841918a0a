"""A directed graph as SVG: layers from top to bottom, as Sugiyama, Tagawa and Toda (1981) draw them.

Boxes go below all that they depend on; an arrow that spans several layers gets a place in each, so that it runs beside
the boxes; barycentres order the layers, and least squares under a minimum distance place the boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_CHARACTER = 6.7  # width of one, in the page's monospace font of 11 px
_LABEL = 30  # characters shown of a longer text
_HEIGHT, _LAYER, _GAP, _MARGIN = 36.0, 62.0, 14.0, 8.0
_SWEEPS = 24


@dataclass(frozen=True)
class Node:
    """A box: two lines of text, the whole of it on pointing, and a CSS class of the page's."""

    label: str
    detail: str
    title: str
    kind: str

    @property
    def width(self) -> float:
        return 16 + _CHARACTER * max(len(_shortened(self.label)), len(_shortened(self.detail)), 6)


def graph_svg(nodes: Sequence[Node], arrows: Iterable[tuple[int, int]], title: str) -> str:
    """The drawing, as wide as it needs to be. Raises ValueError if the arrows make a cycle."""
    arrows = sorted(set(arrows))
    layer = _layers(len(nodes), arrows)
    routes, layer = _routes(arrows, layer)
    widths = [node.width for node in nodes] + [0.0] * (len(layer) - len(nodes))
    links = [pair for route in routes for pair in itertools.pairwise(route)]
    order = _ordered(layer, links)
    centers = _placed(order, widths, links)
    width = max((x + w / 2 for x, w in zip(centers, widths, strict=True)), default=0.0) + _MARGIN
    height = len(order) * _LAYER - (_LAYER - _HEIGHT) + 2 * _MARGIN
    points = [(x, _MARGIN + _LAYER * row) for x, row in zip(centers, layer, strict=True)]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" role="img" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="width: {width:.0f}px; max-width: 100%">',
        f"<title>{escape(title)}</title>",
        *(_arrow([points[number] for number in route]) for route in routes),
        *(_box(node, *points[number]) for number, node in enumerate(nodes)),
        "</svg>",
    ]
    return "\n".join(lines)


def _layers(count: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    """One below the lowest predecessor; what has none stands right above its first successor."""
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in arrows:
        before[target].append(source)
        after[source].append(target)
    layer = [0] * count
    waiting = [len(sources) for sources in before]
    ready = [number for number in range(count) if not waiting[number]]
    for number in ready:
        for target in after[number]:
            layer[target] = max(layer[target], layer[number] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if len(ready) < count:
        raise ValueError("the arrows make a cycle")
    return [
        min(layer[target] for target in after[number]) - 1 if after[number] and not before[number] else layer[number]
        for number in range(count)
    ]


def _routes(arrows: Sequence[tuple[int, int]], layer: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Each arrow as a chain through all layers between; the points in between are numbered after the nodes."""
    layers = list(layer)
    routes = []
    for source, target in arrows:
        between = range(layer[source] + 1, layer[target])
        routes.append([source, *range(len(layers), len(layers) + len(between)), target])
        layers.extend(between)
    return routes, layers


def _neighbours(count: int, links: Iterable[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for source, target in links:
        above[target].append(source)
        below[source].append(target)
    return above, below


def _ordered(layer: Sequence[int], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The numbers of each layer from left to right, with few crossings."""
    rows: list[list[int]] = [[] for _ in range(max(layer, default=-1) + 1)]
    for number, index in enumerate(layer):
        rows[index].append(number)
    above, below = _neighbours(len(layer), links)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for row in rows if down else rows[::-1]:
            place = {number: index for other in rows for index, number in enumerate(other)}
            row.sort(key=lambda number: _mean([place[other] for other in neighbours[number]], place[number]))
    return rows


def _mean(numbers: Sequence[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise


def _placed(rows: Sequence[Sequence[int]], widths: Sequence[float], links: Sequence[tuple[int, int]]) -> list[float]:
    """The centre of each, as near to the middle of its neighbours as the row allows."""
    centers = [0.0] * len(widths)
    above, below = _neighbours(len(widths), links)
    for row in rows:
        _spread(row, [0.0] * len(row), widths, centers)
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [
                _mean([centers[other] for other in (*above[number], *below[number])], centers[number]) for number in row
            ]
            _spread(row, wanted, widths, centers)
    left = min((x - w / 2 for x, w in zip(centers, widths, strict=True)), default=0.0) - _MARGIN
    return [x - left for x in centers]


def _spread(row: Sequence[int], wanted: Sequence[float], widths: Sequence[float], centers: list[float]) -> None:
    """Least squares under the order and the gaps: with the gaps taken out, an isotonic regression by pooling."""
    offsets = [0.0]
    for first, second in itertools.pairwise(row):
        offsets.append(offsets[-1] + (widths[first] + widths[second]) / 2 + _GAP)
    pools: list[tuple[float, int]] = []  # mean, how many
    for target, offset in zip(wanted, offsets, strict=True):
        mean, count = target - offset, 1
        while pools and pools[-1][0] > mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    for number, mean, offset in zip(row, means, offsets, strict=True):
        centers[number] = mean + offset


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    """A smooth line from the foot of the first box to the head of the last."""
    x, y = points[0][0], points[0][1] + _HEIGHT
    path = [f"M{x:.1f} {y:.1f}"]
    for target_x, target_y in points[1:]:
        bend = (target_y - y) / 2
        path.append(f"C{x:.1f} {y + bend:.1f} {target_x:.1f} {target_y - bend:.1f} {target_x:.1f} {target_y:.1f}")
        x, y = target_x, target_y
        if (target_x, target_y) != points[-1]:
            y += _HEIGHT
            path.append(f"V{y:.1f}")
    head = f"M{x - 3:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 3:.1f} {y - 6:.1f}"
    return f'<path class="arrow" d="{"".join(path)}{head}"/>'


def _box(node: Node, center: float, top: float) -> str:
    left = center - node.width / 2
    middle = top + _HEIGHT / 2
    texts = [(node.label, "label", middle + (-3 if node.detail else 4))]
    texts += [(node.detail, "detail", middle + 12)] if node.detail else []
    spans = "".join(
        f'<text class="{name}" x="{center:.1f}" y="{y:.1f}">{escape(_shortened(text))}</text>'
        for text, name, y in texts
    )
    return (
        f'<g class="box {escape(node.kind)}"><title>{escape(_whole(node))}</title>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{node.width:.1f}" height="{_HEIGHT:.0f}" rx="5"/>{spans}</g>'
    )


def _whole(node: Node) -> str:
    return f"{node.title}\n{node.detail}" if node.detail else node.title


def _shortened(text: str) -> str:
    """Long names keep their end, which tells layers' values apart."""
    return text if len(text) <= _LABEL else f"{text[: _LABEL // 3]}…{text[-(_LABEL - _LABEL // 3 - 1) :]}"
