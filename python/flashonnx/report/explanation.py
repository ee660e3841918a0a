"""The HTML page of an explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashonnx.report.graph import Node, graph_svg
from flashonnx.report.heat_map import heat_map_svg
from flashonnx.report.page import render_page

if TYPE_CHECKING:
    from flashonnx.fusion.drawing import Drawing
    from flashonnx.fusion.explain import Explanation, SitePicture


def render(explanation: Explanation, model: str, sizes: str) -> str:
    """The page's text. sizes: for which the kernels are, in words; empty if none were given."""
    sites = [_site(picture) for picture in explanation.pictures]
    return render_page("explanation.html.j2", explanation=explanation, model=model, sizes=sizes, sites=sites)


def _site(picture: SitePicture) -> dict[str, object]:
    """What the template shows of one site."""
    name = picture.site.name
    return {
        "site": picture.site,
        "before": _graph(picture.before, f"{name} in the file"),
        "after": _graph(picture.after, f"{name} fused"),
        "masks": {label: heat_map_svg(added, f"{name}, {label}") for label, added in picture.masks.items()},
    }


def _graph(drawing: Drawing | None, title: str) -> str:
    """Empty if there is nothing to draw."""
    if drawing is None or not drawing.boxes:
        return ""
    nodes = [Node(box.label, box.detail, box.title, box.kind) for box in drawing.boxes]
    return graph_svg(nodes, drawing.arrows, title)
