"""The page of `flashonnx explain --html`, and the command's own words."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from flashonnx.cli import app
from flashonnx.report.heat_map import heat_map_svg

SVG = "{http://www.w3.org/2000/svg}"
_VOID = {"meta", "br", "link", "img", "hr"}


class Structure(HTMLParser):
    """Fails if an element is not closed where it has to be."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def two_sites(attention_files, tmp_path):
    """One that is fused, and one whose softmax is over the wrong axis."""
    first, second = (onnx.load(attention_files["unfused"]) for _ in range(2))
    second = onnx.compose.add_prefix(second, "other/")
    for node in second.graph.node:
        if node.op_type == "Softmax":
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("axis", 2))
    onnx.save(onnx.compose.merge_models(first, second, io_map=[]), tmp_path / "two.onnx")
    return tmp_path / "two.onnx"


def test_the_page_shows_every_site_with_its_nodes(run, two_sites, tmp_path):
    result = run("explain", two_sites, "--html", tmp_path / "page.html", "--json", tmp_path / "sites.json")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    assert not re.search(r"(src|href)=\"|@import|url\(", page)  # nothing is fetched
    sections = re.findall(r'<details class="site".*?</details>', page, re.DOTALL)
    sites = json.loads((tmp_path / "sites.json").read_text())["sites"]
    assert len(sections) == len(sites) == 2
    for section, site in zip(sections, sites, strict=True):
        assert site["name"] in section
        drawings = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", section, re.DOTALL)]
        titles = {title.text for svg in drawings for title in svg.iter(f"{SVG}title")}
        assert any("(Softmax)" in title for title in titles)
        assert any("(MatMul)" in title for title in titles)
        assert ("FlashAttention" in section) == site["fused"]
        assert site["fused"] == (len(drawings) == 3)  # before, after and the causal mask; or before only
    assert "axis 2" in sections[1]


def test_the_command_tells_the_mask_what_is_absorbed_and_the_kernel(run, attention_files):
    result = run("explain", attention_files["unfused"])
    assert result.exit_code == 0
    for words in ("causal", "absorbs", "2 MatMul", "runs on CPU"):
        assert words in result.stdout


@pytest.mark.parametrize("device", ["9.0", "cuda"])
def test_kernels_of_a_gpu(run, attention_files, device):
    result = run("explain", attention_files["unfused"], "--device", device, "--json", "-")
    assert result.exit_code == 0, result.output
    (site,) = json.loads(result.stdout)["sites"]
    assert site["kernel"]
    assert not site["kernel"].startswith("CPU")


def test_a_device_that_there_is_not(run, attention_files):
    result = run("explain", attention_files["unfused"], "--device", "tpu")
    assert result.exit_code == 2
    assert "cpu, cuda, or a compute capability" in result.stderr


def test_a_page_that_cannot_be_written_is_told_before_any_work(run, attention_files, tmp_path):
    result = run("explain", attention_files["unfused"], "--html", tmp_path / "no" / "page.html")
    assert result.exit_code == 2
    assert "no such folder" in result.stderr


def test_a_picture_of_a_mask_tells_keys_that_count_from_others():
    added = np.where(np.tri(3, 4, dtype=bool), 0.0, -np.inf)
    root = ElementTree.fromstring(heat_map_svg(added, "causal"))
    kinds = [square.get("class") for square in root.iter(f"{SVG}rect")]
    assert [kind == "kept" for kind in kinds] == list(np.isfinite(added).reshape(-1))
    bias = ElementTree.fromstring(heat_map_svg(np.array([[0.0, -1.0, -2.0]]), "bias"))
    assert [square.get("fill-opacity") for square in bias.iter(f"{SVG}rect")] == ["1.00", "0.62", "0.25"]
