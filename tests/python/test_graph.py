"""Graphs drawn in layers."""

import itertools
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashonnx.report.graph import Node, graph_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(labels, arrows):
    """The boxes' (left, top, right, bottom), and the paths."""
    nodes = [Node(label, "(2, 3)", f"the {label}", "node") for label in labels]
    root = ElementTree.fromstring(graph_svg(nodes, arrows, "a graph"))
    boxes = []
    for rect in root.iter(f"{SVG}rect"):
        left, top, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        boxes.append((left, top, left + width, top + height))
    return root, boxes


acyclic = st.integers(1, 14).flatmap(
    lambda count: st.tuples(
        st.lists(st.text("ab", min_size=1, max_size=40), min_size=count, max_size=count),
        st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] < pair[1])),
    )
)


@given(acyclic)
def test_boxes_do_not_overlap_and_arrows_point_down(graph):
    labels, arrows = graph
    root, boxes = drawn(labels, arrows)
    assert len(boxes) == len(labels)
    assert len(list(root.iter(f"{SVG}path"))) == len(arrows)
    _, _, width, height = map(float, root.get("viewBox").split())
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width + 1
        assert 0 <= top < bottom <= height + 1
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for source, target in arrows:
        assert boxes[source][3] < boxes[target][1]


def test_long_names_are_shortened_and_told_whole_on_pointing():
    name = "/model/layers.11/self_attn/Softmax_output_0 <&>"
    root, _ = drawn([name], [])
    (label, _) = (text.text for text in root.iter(f"{SVG}text"))
    assert len(label) <= 30
    assert "…" in label
    assert any(f"the {name}" in title.text for title in root.iter(f"{SVG}title"))


def test_a_cycle_is_refused():
    with pytest.raises(ValueError, match="cycle"):
        drawn(["a", "b"], [(0, 1), (1, 0)])
