"""`explain`: what fuse would do, seen site by site: drawings, the mask's picture, and which kernel would run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import onnx_ir as ir

from flashonnx import contract, native
from flashonnx.fusion import model_io
from flashonnx.fusion.attention import Attention
from flashonnx.fusion.axes import resolve, size_of
from flashonnx.fusion.band import Band
from flashonnx.fusion.drawing import Drawing, draw_after, draw_before, draw_refused
from flashonnx.fusion.evaluate import Trace
from flashonnx.fusion.facts import Facts, Refusal
from flashonnx.fusion.fuse import ModelLike, Pass, Progress, say_nothing
from flashonnx.fusion.lower import Lowered
from flashonnx.fusion.model_io import ModelError
from flashonnx.fusion.patterns import PATTERNS, patterns
from flashonnx.fusion.report import FuseReport, Site
from flashonnx.fusion.sizes import dim_names, free_dimensions, trace_at
from flashonnx.fusion.tensor_type import SizeError
from flashonnx.runtime import get_library_path

# How often each of these makes a picture: with every token there, and with padding on the right.
_PICTURED = {"ones": "no padding", "right": "padding on the right"}
_ALWAYS = "whatever is padding"


@dataclass
class SitePicture:
    """What there is to see of one site.

    before, after: its subgraph, empty if the model as a whole is not understood; `after` is None where it is left
    alone. masks: by what was fed, (rows, keys) of numbers added to the scores of one batch entry and head, -inf where a
    key is excluded; empty if nothing is masked or the numbers depend on activations.
    """

    site: Site
    before: Drawing
    after: Drawing | None = None
    masks: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Explanation(FuseReport):
    """A FuseReport with pictures. free_dimensions: the names of those whose sizes decide which kernel runs."""

    free_dimensions: list[str] = field(default_factory=list)
    pictures: list[SitePicture] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As FuseReport's, with the free dimensions, without the pictures."""
        plain = FuseReport(**{entry.name: getattr(self, entry.name) for entry in fields(FuseReport)})
        return {**plain.to_json(), "free_dimensions": self.free_dimensions}


def explain(
    model_or_path: ModelLike,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    cuda: native.Cuda | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """What fuse would do, without verifying or writing anything.

    shapes, dims: shapes of inputs and sizes of free dimensions, by name; with them each site says which kernel would
    run. cuda: on that GPU, which may be elsewhere; None is this CPU. progress: as for fuse.

    Raises ModelError if the model cannot be read, or does not work at these sizes.
    """
    say = progress or say_nothing
    say(0, 0, "reading the model")
    model = model_io.load(model_or_path)
    watcher = _Watcher()
    work = Pass(model, verify=False, watcher=watcher)
    report = work.run(say)
    free = free_dimensions(model.graph)
    pictures = [watcher.pictures.get(id(site)) or SitePicture(site, Drawing()) for site in report.sites]
    explanation = Explanation(report.sites, report.not_attention, free_dimensions=free, pictures=pictures)
    sizes = _complete(_bound(shapes or {}, model.graph) | dict(dims or {}), free)
    if watcher.found:
        say(report.total, report.total, "evaluating the masks")
        _picture_masks(watcher, list(model.graph.inputs), work.facts.traces[0])
        work.finish()
        if sizes is not None:
            say(report.total, report.total, "choosing kernels")
            _plan(watcher, model, sizes, cuda)
    return explanation


@dataclass
class _Fused:
    """A fused site: its picture, the op's node, and how many queries and keys there are in the first trace."""

    picture: SitePicture
    node: ir.Node
    rows: int
    keys: int


class _Watcher:
    """Keeps a picture of every site that is looked at, and the fused ones' nodes."""

    def __init__(self) -> None:
        self.pictures: dict[int, SitePicture] = {}
        self.found: list[_Fused] = []

    def fused(self, site: Site, attention: Attention, lowered: Lowered, facts: Facts) -> None:
        picture = SitePicture(site, draw_before(attention, lowered, facts), draw_after(lowered, facts))
        self.pictures[id(site)] = picture
        rows, keys = (size_of(resolve(axis), facts.count)[0] for axis in (attention.rows, attention.keys))
        self.found.append(_Fused(picture, lowered.node, rows, keys))

    def refused(self, site: Site, anchor: ir.Node, refusal: Refusal, facts: Facts) -> None:
        self.pictures[id(site)] = SitePicture(site, draw_refused(anchor, refusal, facts))


def _bound(shapes: Mapping[str, Sequence[int]], graph: ir.Graph) -> dict[str, int]:
    """Sizes of the free dimensions that inputs of these shapes have. Raises ModelError if a shape does not fit."""
    inputs = {str(value.name): value for value in graph.inputs if value.shape is not None}
    dims: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise ModelError(f"the model has no input {name} with a known rank; its inputs: {', '.join(inputs)}")
        declared = dim_names(inputs[name])
        fixed = [
            dim if isinstance(dim, int) else dims.setdefault(dim, size)
            for dim, size in zip(declared, shape, strict=False)
        ]
        if len(shape) != len(declared) or fixed != list(shape):
            raise ModelError(f"shape {tuple(shape)} of {name} does not fit ({', '.join(map(str, declared))})")
    return dims


def _complete(dims: Mapping[str, int], free: list[str]) -> Mapping[str, int] | None:
    """The sizes, if all are given; None if none is. Raises ModelError if some are missing or belong to no dimension."""
    names = ", ".join(free) or "none"
    for name, size in dims.items():
        if name not in free:
            raise ModelError(f"the model has no free dimension {name}; its free dimensions: {names}")
        if size < 1:
            raise ModelError(f"dimension {name} is {size}; at least 1 is allowed")
    missing = [name for name in free if name not in dims]
    if dims and missing:
        raise ModelError(f"no size is given for dimension {missing[0]}; the model's free dimensions: {names}")
    return None if missing else dims


def _plan(watcher: _Watcher, model: ir.Model, sizes: Mapping[str, int], cuda: native.Cuda | None) -> None:
    """Fills in which kernel would run at these sizes."""
    try:
        get_library_path()
        trace = trace_at(model, sizes)
    except FileNotFoundError as error:
        for found in watcher.found:
            found.picture.site.kernel = f"not known: {error}"
        return
    except SizeError as error:
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ModelError(f"the model does not work at {given}: {error}") from error
    for found in watcher.found:
        found.picture.site.kernel = _kernel(found.node, trace, cuda)


def _kernel(node: ir.Node, trace: Trace, cuda: native.Cuda | None) -> str:
    inputs = {}
    for tensor, value in zip(contract.INPUTS, node.inputs, strict=False):
        if value is None:
            continue
        known = trace.types.get(value)
        if known is None:
            return f"not known: the shape of {tensor.name} follows from data"
        inputs[tensor.name] = native.NativeTensor(0, int(known.dtype), known.shape)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    outputs = [tensor.name for tensor, value in zip(contract.OUTPUTS, node.outputs, strict=False) if value.name]
    try:
        return native.plan(inputs, attributes, outputs, cuda=cuda)
    except native.UnavailableError as error:
        return f"none: {error}"


def _picture_masks(watcher: _Watcher, inputs: list[ir.Value], trace: Trace) -> None:
    """Evaluates what the op is given, at the first of the pass's sizes."""
    fed = dict(zip(PATTERNS, map(trace.with_feeds, patterns(inputs, trace)), strict=False))
    for found in watcher.found:
        pictured = {label: _added(found, fed[pattern]) for pattern, label in _PICTURED.items() if pattern in fed}
        masks = {label: array for label, array in pictured.items() if array is not None}
        if any(array.any() for array in masks.values()):
            first, *others = masks.values()
            is_fixed = all(np.array_equal(first, other) for other in others)
            found.picture.masks = {_ALWAYS: first} if is_fixed else masks


def _added(found: _Fused, trace: Trace) -> np.ndarray | None:
    """What the op adds to the scores of the first batch entry and head, (rows, keys); None if that is not known."""
    given = {tensor.name: value for tensor, value in zip(contract.INPUTS, found.node.inputs, strict=False) if value}
    attributes = {name: attribute.value for name, attribute in found.node.attributes.items()}
    from_end = "past_key" in given or "nonpad_kv_seqlen" in given
    right = 0 if attributes.get("is_causal") else attributes.get("right_window_size", -1)
    band = Band(attributes.get("left_window_size", -1), right, from_end)
    added = np.where(band.allowed(found.rows, found.keys), 0.0, -np.inf)
    mask = given.get("attn_mask")
    if mask is None:
        return added
    data = trace.data(mask)
    if data is None:
        return None
    plane = data.reshape((1, 1, *data.shape)[-4:])[0, 0].astype(np.float64 if data.dtype != bool else bool)
    numbers = plane if plane.dtype != bool else np.where(plane, 0.0, -np.inf)
    short = np.full((*numbers.shape[:-1], found.keys - numbers.shape[-1]), -np.inf)
    return added + (np.concatenate([numbers, short], axis=-1) if numbers.shape[-1] > 1 else numbers)
