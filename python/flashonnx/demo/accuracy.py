"""How far the ONNX files are from PyTorch on real sentences, and whether that changes which sentences are near."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashonnx.demo import minilm
from flashonnx.demo.models import TORCH, Run
from flashonnx.validation.compare import Difference, difference, worst

# Places of the ranking that are compared; further down, sentences have nothing to do with each other.
NEAREST = 5
_BATCH = 8

# What is measured: embeddings of tokens and of padding apart, because nothing reads the latter and they are
# ill-conditioned; PyTorch's own are several 1e-5 from float64 where its tokens are within 1e-5.
TOKENS, PADDING, SENTENCE = MEASURED = ("token_embeddings", "token_embeddings at padding", "sentence_embedding")


@dataclass
class Accuracy:
    """Differences from PyTorch in float32 and in float64, by contestant and output."""

    versus_torch: dict[str, dict[str, Difference]] = field(default_factory=dict)
    versus_float64: dict[str, dict[str, Difference]] = field(default_factory=dict)
    cosine_min: dict[str, float] = field(default_factory=dict)  # of sentence embeddings with PyTorch's
    rankings_equal: dict[str, bool] = field(default_factory=dict)

    def max_abs(self, name: str, measured: Sequence[str] = (TOKENS, SENTENCE)) -> float:
        """Largest absolute difference from PyTorch's, of tokens and sentences if not asked otherwise."""
        return max(self.versus_torch[name][each].max_abs for each in measured)


def measure(
    torch: Run,
    float64: Run,
    others: Mapping[str, Run],
    shapes: Sequence[tuple[int, int]],
    tokenizer: Any,
    say: Callable[[str], None],
) -> Accuracy:
    """Compares on batches of texts, (batch, sequence length) each, and ranks the demo's sentences."""
    found: dict[str, list[dict[str, Difference]]] = {name: [] for name in others}
    exact: dict[str, list[dict[str, Difference]]] = {name: [] for name in (TORCH, *others)}
    for batch, length in shapes:
        say(f"batch {batch}, length {length}")
        arrays = minilm.encode(tokenizer, minilm.batch_of_texts(batch, length), length)
        mask = arrays["attention_mask"]
        truth, reference = float64(arrays), torch(arrays)
        exact[TORCH].append(differences(reference, truth, mask))
        for name, run in others.items():
            outputs = run(arrays)
            found[name].append(differences(outputs, reference, mask))
            exact[name].append(differences(outputs, truth, mask))
    say("ranking sentences")
    result = Accuracy(
        {name: _worst(differences) for name, differences in found.items()},
        {name: _worst(differences) for name, differences in exact.items()},
    )
    expected = embed(torch, tokenizer)
    for name, run in others.items():
        embeddings = embed(run, tokenizer)
        result.cosine_min[name] = float((embeddings * expected).sum(axis=1).min())
        result.rankings_equal[name] = bool(np.array_equal(nearest(embeddings), nearest(expected)))
    return result


def embed(run: Run, tokenizer: Any) -> np.ndarray:
    """(sentences, 384) in float64, of length 1; sentences go in batches, so that most of them are padded."""
    texts = minilm.sentences()
    parts = [
        run(minilm.encode(tokenizer, texts[start : start + _BATCH]))["sentence_embedding"]
        for start in range(0, len(texts), _BATCH)
    ]
    embeddings = np.concatenate(parts).astype(np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def nearest(embeddings: np.ndarray) -> np.ndarray:
    """(sentences, NEAREST) indices of the most similar other sentences, the most similar first."""
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :NEAREST]


def differences(
    outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], attention_mask: np.ndarray
) -> dict[str, Difference]:
    """Of each in MEASURED. attention_mask: (batch, length), 0 at padding."""
    tokens, expected_tokens = outputs["token_embeddings"], expected["token_embeddings"]
    is_token = attention_mask.astype(bool)
    return {
        TOKENS: difference(tokens[is_token], expected_tokens[is_token]),
        PADDING: difference(tokens[~is_token], expected_tokens[~is_token]),
        SENTENCE: difference(outputs["sentence_embedding"], expected["sentence_embedding"]),
    }


def _worst(differences: Sequence[Mapping[str, Difference]]) -> dict[str, Difference]:
    return {name: worst([each[name] for each in differences]) for name in MEASURED}
