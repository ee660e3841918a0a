"""KV caches around a site: new keys and values appended to past ones become the op's past and present."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from flashonnx.fusion.attention import Attention, Cache
from flashonnx.fusion.axes import Atom, Axis, resolve, size_of
from flashonnx.fusion.facts import Facts, data_consumers
from flashonnx.fusion.operand import Place, walk_operand


@dataclass(frozen=True)
class _Appended:
    """Concat(past, new) along the keys of a tensor (batch, kv_heads, key, feature)."""

    past: ir.Value
    new: ir.Value
    whole: Place
    kv_heads: Axis


def with_cache(attention: Attention, facts: Facts) -> Attention:
    """The attention over past and new keys apart, if K and V are put together from both right before it."""
    if attention.cache is not None or attention.nonpad_kv_seqlen is not None:
        return attention
    key = _appended(attention.k, attention.feature, attention, facts)
    value = _appended(attention.v, attention.v_feature, attention, facts)
    if key is None or value is None or key.kv_heads != value.kv_heads:
        return attention
    rows = size_of(resolve(attention.rows), facts.count)
    lengths = [facts.sizes(appended.new)[2] for appended in (key, value)]
    if lengths != [rows, rows]:  # the op counts its queries from the first new key
        return attention
    new_keys = () if set(rows) == {1} else (Atom(rows),)
    cache = Cache(key.past, value.past, _if_wanted(key.whole.value), _if_wanted(value.whole.value), key.kv_heads)
    return replace(
        attention,
        k=_places(key, new_keys, facts, scalable=True),
        v=_places(value, new_keys, facts, scalable=False),
        new_keys=new_keys,
        cache=cache,
        absorbed=(*attention.absorbed, *_up_to(key, attention.k), *_up_to(value, attention.v)),
    )


def _up_to(appended: _Appended, places: tuple[Place, ...]) -> list[ir.Node]:
    """The nodes from the attention to the Concat."""
    inner = places[: places.index(appended.whole) + 1]
    return [node for place in inner if (node := place.value.producer()) is not None]


def _appended(places: tuple[Place, ...], feature: Axis, attention: Attention, facts: Facts) -> _Appended | None:
    batch, heads, _, keys = attention.mask_axes()
    for place in places:
        node = place.value.producer()
        if node is None or node.op_type != "Concat" or len(node.inputs) != 2 or place.view.rank != 4:
            continue
        kv_heads = place.view.axes[1]
        if place.view.axes != (batch, kv_heads, keys, resolve(feature)) or heads[: len(kv_heads)] != kv_heads:
            continue
        past, new = node.inputs
        is_along_keys = node.attributes.get_int("axis") % 4 == 2
        is_of_ops_type = facts.dtype(place.value) == facts.dtype(attention.y[0].value)
        if is_along_keys and is_of_ops_type and past is not None and new is not None:
            return _Appended(past, new, place, kv_heads)
    return None


def _places(appended: _Appended, new_keys: Axis, facts: Facts, *, scalable: bool) -> tuple[Place, ...]:
    view = appended.whole.view.replace(2, new_keys)
    places = walk_operand(appended.new, view, facts, scalable=scalable)
    return tuple(replace(place, scale=place.scale * appended.whole.scale) for place in places[: _unscaled(places)])


def _unscaled(places: tuple[Place, ...]) -> int:
    """How many places have the new keys as they are: a factor of theirs alone cannot go into the op's scale."""
    return sum(place.scale == 1.0 for place in places)


def _if_wanted(whole: ir.Value) -> ir.Value | None:
    """The grown cache, if more than this attention reads it."""
    return whole if whole.is_graph_output() or len(data_consumers(whole)) > 1 else None
