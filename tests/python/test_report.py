"""Figures and pages."""

import re
import xml.etree.ElementTree as ElementTree

import jinja2
import numpy as np
import pytest

from flashonnx.report import Series, error_histogram, line_plot, render_page

SERIES = [Series("ours", [128, 256], [1.0, 2.0]), Series("theirs & others", [128, 256], [3.0, 4.0], dashed=True)]


def texts(svg):
    return [element.text.strip() for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_line_plot_is_svg_with_its_labels():
    found = texts(line_plot("Time", SERIES, x_label="length", y_label="ms"))
    assert {"Time", "length", "ms", "ours", "theirs & others", "128", "256"} <= set(found)


def test_the_same_data_give_the_same_bytes():
    first, second = (line_plot("Time", SERIES, x_label="length", y_label="ms") for _ in range(2))
    assert first == second


def test_standalone_figure_is_a_file_of_its_own():
    svg = line_plot("Time", SERIES, x_label="length", y_label="ms", standalone=True)
    assert svg.startswith("<?xml")
    ElementTree.fromstring(svg)


def test_two_figures_on_a_page_share_no_identifiers():
    def referenced(svg):
        return set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))

    one = line_plot("One", SERIES, x_label="length", y_label="ms")
    two = line_plot("Two", SERIES, x_label="length", y_label="ms")
    assert referenced(one)
    assert not referenced(one) & referenced(two)


def test_histogram_cuts_empty_ends():
    edges = np.arange(-10.0, 2.5, 0.5)
    counts = np.zeros(len(edges) - 1, int)
    counts[8:11] = [3, 20, 5]  # 1e-6 to 10^-4.5
    found = texts(error_histogram("errors", edges, [counts], ["model"]))
    assert "1e-6" in found
    assert "1e-9" not in found
    assert "1e1" not in found


def test_templates_refuse_missing_values():
    with pytest.raises(jinja2.UndefinedError):
        render_page("bench.html.j2", figures=[])
