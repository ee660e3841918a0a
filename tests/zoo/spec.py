"""What a model of the zoo is: how to build it, what to feed it, which of its dimensions are free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

Inputs = dict[str, torch.Tensor]
Dynamic = dict[int, str]

BATCH: Dynamic = {0: "batch"}
BATCH_AND_LENGTH: Dynamic = {0: "batch", 1: "length"}


def same_for_all(dims: Dynamic) -> Callable[[str], Dynamic]:
    return lambda name: dims


_ALWAYS_BATCH_AND_LENGTH = same_for_all(BATCH_AND_LENGTH)


@dataclass(frozen=True)
class Spec:
    """One model.

    build(implementation): the module, which takes the inputs by position in their order. inputs(batch, length): tensors
    by name. dynamic(name): the free dimensions of that input. implementations: transformers' attention
    implementations that it has; ("torch",) for a plain module. lengths: the one it is exported at, and another.
    unfusable: what about its attention the op cannot express; empty if every site should fuse.
    """

    name: str
    build: Callable[[str], nn.Module]
    inputs: Callable[[int, int], Inputs]
    dynamic: Callable[[str], Dynamic] = _ALWAYS_BATCH_AND_LENGTH
    implementations: tuple[str, ...] = ("sdpa", "eager")
    lengths: tuple[int, int] = (12, 9)
    unfusable: str = ""

    def __str__(self) -> str:
        return self.name


class Positional(nn.Module):
    """A model that takes keywords as one that takes its inputs by position, and returns what `pick` takes from it."""

    def __init__(self, model: nn.Module, names: list[str], call: Callable[[nn.Module, Inputs], object]):
        super().__init__()
        self.model, self.names, self.call = model, names, call

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.call(self.model, dict(zip(self.names, inputs, strict=True)))


def with_random_weights(module: nn.Module) -> nn.Module:
    """Weights large enough that attention is far from uniform, the same every time."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.2, generator=generator)
    return module.eval()


def token_ids(batch: int, length: int, vocabulary: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * batch + length)
    return torch.randint(3, vocabulary, (batch, length), generator=generator)


def right_padding(batch: int, length: int, padded: int = 3) -> torch.Tensor:
    """attention_mask with the last entry's last keys off."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - padded :] = 0
    return mask


def text(batch: int, length: int) -> Inputs:
    return {"input_ids": token_ids(batch, length), "attention_mask": right_padding(batch, length)}


def image(size: int) -> Callable[[int, int], Inputs]:
    def inputs(batch: int, length: int) -> Inputs:
        generator = torch.Generator().manual_seed(batch)
        return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}

    return inputs
