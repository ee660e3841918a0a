"""The pass itself: find the attention, understand it, lower it, verify it, and say what happened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from flashonnx import contract
from flashonnx.fusion import model_io
from flashonnx.fusion.alibi import AlibiReader
from flashonnx.fusion.anchors import Read, anchors, is_attention
from flashonnx.fusion.attention import Attention
from flashonnx.fusion.cache import with_cache
from flashonnx.fusion.contrib_types import import_contrib
from flashonnx.fusion.emit import Emitter
from flashonnx.fusion.facts import Facts, Refusal, node_name
from flashonnx.fusion.layouts import replaced_nodes
from flashonnx.fusion.lower import Lowered, lower
from flashonnx.fusion.mask import MaskReader
from flashonnx.fusion.model_io import ModelError
from flashonnx.fusion.portable import Form, add_portable_functions, remove_portable_functions
from flashonnx.fusion.report import FuseReport, Site
from flashonnx.fusion.rows_first import with_rows_first
from flashonnx.fusion.sizes import trace_model
from flashonnx.fusion.tensor_type import SizeError
from flashonnx.fusion.verify import Verifier
from flashonnx.fusion.verify_model import verify_model

# The oldest operator set whose Softmax, Squeeze and ReduceSum mean what the pass reads and writes.
_OLDEST_OPSET = 13

ModelLike = onnx.ModelProto | ir.Model | str | os.PathLike[str]
Progress = Callable[[int, int, str], None]


@dataclass
class FuseResult:
    """The fused model and what was done to it."""

    ir_model: ir.Model
    report: FuseReport

    @property
    def model(self) -> onnx.ModelProto:
        """The model as protobuf. Raises ModelError if it is too large for that; save it instead."""
        return model_io.to_proto(self.ir_model)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model, whole or not at all."""
        model_io.save(self.ir_model, path)


class NotAllFused(ModelError):  # noqa: N818 - says what is the case
    """With require_all: some site was left alone. `report` says which and why."""

    def __init__(self, report: FuseReport):
        self.report = report
        left = [site for site in report.sites if not site.fused]
        super().__init__(
            f"{len(left)} of {report.total} attention sites were not fused; the first, {left[0].name}: {left[0].reason}"
        )


def fuse(
    model_or_path: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    verify: bool = True,
    portable: bool = True,
    require_all: bool = False,
    progress: Progress | None = None,
) -> FuseResult:
    """Rewrites every attention of the model that is understood to FlashAttention.

    The argument is not changed. With `output` the result is written there, whole or not at all.

    verify: compare each site and then the model, before and after, on random inputs, and leave alone what differs.
    portable: put the op's definition by standard operators into the model, so that it also runs where the library is
    not loaded. progress(done, total, step) is called before each step, such as a site's name, with how many sites of
    how many are done.

    Raises ModelError if the model cannot be read or the result not be written, and, with require_all, NotAllFused if a
    site is left alone; nothing is written then.
    """
    say = progress or say_nothing
    say(0, 0, "reading the model")
    model = model_io.load(model_or_path)
    original = model_io.copy(model) if verify else model
    work = Pass(model, verify)
    report = work.run(say)
    if require_all and report.fused < report.total:
        raise NotAllFused(report)
    say(report.total, report.total, "removing what is no longer used")
    work.finish()
    if verify and work.forms:
        say(report.total, report.total, "comparing the models")
        try:
            report.verification = work.verify_model(original)
        except Refusal as refusal:
            report.take_back(str(refusal))
            model = original
            if require_all:
                raise NotAllFused(report) from refusal
    if not portable:
        remove_portable_functions(model)
    result = FuseResult(model, report)
    if output is not None:
        say(report.total, report.total, "writing the model")
        result.save(output)
    return result


def say_nothing(done: int, total: int, step: str) -> None:
    """For callers that want no progress."""


class Watcher(Protocol):
    """Looks on while the graph still has both: what a site was, and what it is to become."""

    def fused(self, site: Site, attention: Attention, lowered: Lowered, facts: Facts) -> None: ...
    def refused(self, site: Site, anchor: ir.Node, refusal: Refusal, facts: Facts) -> None: ...


@dataclass
class Pass:
    """One run over one model. watcher: told of every site as it is fused or refused.

    forms: of the fused nodes. mask_inputs: those of the model's inputs that their masks and lengths depend on.
    """

    model: ir.Model
    verify: bool
    watcher: Watcher | None = None
    forms: dict[ir.Node, Form] = field(default_factory=dict)
    mask_inputs: set[ir.Value] = field(default_factory=set)

    def run(self, say: Progress) -> FuseReport:
        graph = self.model.graph
        found = list(anchors(graph))
        say(0, len(found), "trying sizes")
        report = FuseReport()
        if not found:
            return report
        import_contrib(graph)
        opset = graph.opset_imports.get("", 1)
        if opset < _OLDEST_OPSET:
            reason = f"the model's operators are those of opset {opset}; convert it to {_OLDEST_OPSET} or later"
            report.sites = [Site(node_name(node), reason=reason) for node, _ in found]
            return report
        try:
            facts = Facts(trace_model(self.model))
        except SizeError as error:
            reason = f"the model does not work at any sizes that were tried: {error}"
            report.sites = [Site(node_name(node), reason=reason) for node, _ in found]
            return report
        self.facts, self.emitter = facts, Emitter(graph, facts)
        self.masks = AlibiReader(facts, MaskReader(facts))
        self.verifier = Verifier(graph, facts, self.model.ir_version) if self.verify else None
        for done, (node, read) in enumerate(found):
            name = node_name(node)
            say(done, len(found), name)
            if is_attention(node, facts):
                report.sites.append(self._site(node, read))
            else:
                report.not_attention.append(name)
        return report

    def _site(self, node: ir.Node, read: Read) -> Site:
        site = Site(node_name(node))
        try:
            attention = with_rows_first(with_cache(read(node, self.emitter), self.facts), self.emitter)
            site.form = attention.form
            meaning = self.masks.read(attention)
            site.mask = meaning.describe()
            lowered = lower(attention, meaning, self.emitter)
            if self.verifier is not None:
                site.max_abs_diff = self.verifier.verify(attention, meaning, lowered)
        except Refusal as refusal:
            site.reason = str(refusal)
            if self.watcher is not None:
                self.watcher.refused(site, node, refusal, self.facts)
            return site
        site.fused = True
        site.form = f"{attention.form}, rank {lowered.form.rank}"
        site.absorbed = dict(Counter(node.op_type for node in replaced_nodes(attention, lowered.layout)))
        if self.watcher is not None:
            self.watcher.fused(site, attention, lowered, self.facts)
        self.mask_inputs.update(attention.mask_inputs())
        self._replace(lowered)
        return site

    def _replace(self, lowered: Lowered) -> None:
        grows_cache = len(lowered.replaced) > 1
        upstream = _upstream(lowered.node) if grows_cache else set()
        for old, new in lowered.replaced:
            # The value keeps its name, so that a user, and `flashonnx validate --sites`, finds it in the fused file.
            old.name, new.name = f"{old.name}_unfused", old.name
            if old.is_graph_output():
                new.shape, new.type = old.shape, old.type
            # What the op itself depends on, such as a mask of the size of the grown cache, goes on reading the old one.
            kept = [use for use in old.uses() if use.node in upstream]
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            for use in kept:
                use.node.replace_input_with(use.idx, old)
        self.forms[lowered.node] = lowered.form

    def finish(self) -> None:
        """Removes what nothing uses any more, and declares the op."""
        graph = self.model.graph
        RemoveUnusedNodesPass()(self.model)
        if self.forms:
            graph.opset_imports[contract.DOMAIN] = contract.SINCE_VERSION
            add_portable_functions(self.model, self.forms)
            graph.sort()

    def verify_model(self, original: ir.Model) -> str:
        """Compares the finished model with the original; says how. Raises Refusal if they differ."""
        if model_io.is_large(original):
            return "not compared: the weights are too large to load twice; every site was compared by itself"
        return verify_model(original, self.model, self.facts, self.mask_inputs)


def _upstream(node: ir.Node) -> set[ir.Node]:
    """The nodes that the node depends on."""
    found: set[ir.Node] = set()
    pending = [node]
    while pending:
        new = [source for source in pending.pop().predecessors() if source not in found]
        found.update(new)
        pending.extend(new)
    return found
