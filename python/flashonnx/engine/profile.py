"""Optimization profiles: the least, the usual and the largest shape of each input with dynamic dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flashonnx.engine.tensorrt import EngineError
from flashonnx.validation.inputs import InputSpec, is_batch

Shape = tuple[int, ...]
Shapes = Mapping[str, Sequence[int]]

# Sizes (least, usual, largest) of dimensions for which the caller gives none.
BATCH = (1, 1, 8)
LENGTH = (1, 128, 512)
_NAMES = ("least", "usual", "largest")


@dataclass(frozen=True)
class Range:
    """The shapes of one input that an engine accepts; `opt` is what it is tuned for."""

    min: Shape
    opt: Shape
    max: Shape

    def __str__(self) -> str:
        return " .. ".join("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))


def make_profile(specs: Sequence[InputSpec], given: tuple[Shapes, Shapes, Shapes] = ({}, {}, {})) -> dict[str, Range]:
    """The ranges of all inputs that have dynamic dimensions.

    Args:
        specs: the model's inputs.
        given: least, usual and largest shapes by input name. They bind the dimensions' symbols, so that inputs which
            share a symbol need be given once. A size that is given at some place only holds where it must: a usual size
            is kept between the least and the largest.

    Raises:
        EngineError: an input is unknown, or a shape contradicts the model or another shape.
    """
    _check_names(specs, given)
    sizes: dict[str, list[int | None]] = {}
    for place in range(3):
        for spec in specs:
            _bind(spec, given[place].get(spec.name), place, sizes)
    return {
        spec.name: Range(
            *(tuple(_size(spec, axis, place, sizes) for axis in range(len(spec.dims))) for place in range(3))
        )
        for spec in specs
        if any(isinstance(dim, str) for dim in spec.dims)
    }


def _check_names(specs: Sequence[InputSpec], given: tuple[Shapes, ...]) -> None:
    known = {spec.name for spec in specs}
    for shapes in given:
        for name in shapes:
            if name not in known:
                raise EngineError(f"no input {name!r}; the model takes {', '.join(map(str, specs))}")


def _key(spec: InputSpec, axis: int) -> str:
    """What inputs share a dimension by: its symbol, or for an unnamed one its place."""
    dim = spec.dims[axis]
    return dim if isinstance(dim, str) and dim != "?" else f"{spec.name}[{axis}]"


def _bind(spec: InputSpec, shape: Sequence[int] | None, place: int, sizes: dict[str, list[int | None]]) -> None:
    if shape is None:
        return
    if len(shape) != len(spec.dims):
        raise EngineError(f"the {_NAMES[place]} shape {tuple(shape)} has another rank than {spec}")
    for axis, (dim, size) in enumerate(zip(spec.dims, shape, strict=True)):
        if isinstance(dim, int):
            if dim != size:
                raise EngineError(f"the {_NAMES[place]} shape {tuple(shape)} contradicts {spec}")
            continue
        bound = sizes.setdefault(_key(spec, axis), [None, None, None])
        if bound[place] not in (None, size):
            raise EngineError(f"the {_NAMES[place]} {dim} is {size} in {spec.name!r} and {bound[place]} elsewhere")
        bound[place] = size


def _size(spec: InputSpec, axis: int, place: int, sizes: Mapping[str, list[int | None]]) -> int:
    dim = spec.dims[axis]
    if isinstance(dim, int):
        return dim
    key = _key(spec, axis)
    return _resolve(key, sizes.get(key, [None, None, None]), BATCH if is_batch(dim, axis) else LENGTH)[place]


def _resolve(key: str, given: Sequence[int | None], defaults: tuple[int, int, int]) -> tuple[int, int, int]:
    known = [size for size in given if size is not None]
    least = given[0] if given[0] is not None else min([defaults[0], *known])
    largest = given[2] if given[2] is not None else max([defaults[2], *known])
    usual = given[1] if given[1] is not None else min(max(defaults[1], least), largest)
    if not least <= usual <= largest:
        raise EngineError(f"sizes of {key} are {least}, {usual}, {largest}; allowed: least <= usual <= largest")
    return least, usual, largest
