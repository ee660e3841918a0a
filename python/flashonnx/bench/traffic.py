"""Bytes that attention moves between slow and fast memory, computed by simulating the loops on a cache.

Nothing here is measured by hardware counters, which virtual machines seldom have: the tiles that each algorithm
touches, in its order, go through a fully associative, write-back LRU cache. One head on one core. The result can be
held against the paper (Dao et al. 2022, theorem 2): Theta(N d + N^2) for standard attention, Theta(N^2 d^2 / M) for
FlashAttention with M elements of fast memory.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_TILE = 64  # rows of Q, K, V and O that are moved together
_DEFAULT_CACHE_BYTES = 512 << 10


@dataclass(frozen=True)
class Traffic:
    """Bytes read from and written to slow memory by both algorithms, for one length."""

    length: int
    standard: int
    flash: int


class LruCache:
    """Counts the bytes that cross the border of a cache of `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self.traffic = 0
        self._capacity = capacity
        self._used = 0
        self._lines: OrderedDict[Hashable, tuple[int, bool]] = OrderedDict()

    def read(self, tile: Hashable, size: int) -> None:
        """Brings the tile in, unless it is there."""
        if tile not in self._lines:
            self.traffic += size
        self._touch(tile, size, dirty=False)

    def write(self, tile: Hashable, size: int) -> None:
        """Overwrites the tile; it goes back to slow memory when it is evicted."""
        self._touch(tile, size, dirty=True)

    def flush(self) -> None:
        """Writes back what is still dirty."""
        self.traffic += sum(size for size, dirty in self._lines.values() if dirty)
        self._lines.clear()
        self._used = 0

    def _touch(self, tile: Hashable, size: int, *, dirty: bool) -> None:
        if tile in self._lines:
            old_size, old_dirty = self._lines.pop(tile)
            self._used -= old_size
            dirty = dirty or old_dirty
        self._lines[tile] = (size, dirty)
        self._used += size
        while self._used > self._capacity and len(self._lines) > 1:
            _, (evicted, was_dirty) = self._lines.popitem(last=False)
            self._used -= evicted
            self.traffic += evicted if was_dirty else 0


def standard_attention(cache: LruCache, tiles: int, vector_tile: int, score_tile: int) -> None:
    """S = Q K^T, P = softmax(S) in place, O = P V: three passes over an N x N matrix (the paper's algorithm 0)."""
    for i in range(tiles):
        for j in range(tiles):
            cache.read(("q", i), vector_tile)
            cache.read(("k", j), vector_tile)
            cache.write(("s", i, j), score_tile)
    for i in range(tiles):
        for j in range(tiles):  # a row's maximum and sum need the whole row
            cache.read(("s", i, j), score_tile)
        for j in range(tiles):
            cache.read(("s", i, j), score_tile)
            cache.write(("s", i, j), score_tile)
    for i in range(tiles):
        for j in range(tiles):
            cache.read(("s", i, j), score_tile)
            cache.read(("v", j), vector_tile)
        cache.write(("o", i), vector_tile)


def flash_attention(cache: LruCache, tiles: int, vector_tile: int, rows: int) -> None:
    """`rows` tiles of queries at a time over all keys; scores never leave the core (the paper's algorithm 1)."""
    for start in range(0, tiles, rows):
        block = range(start, min(start + rows, tiles))
        for j in range(tiles):
            cache.read(("k", j), vector_tile)
            cache.read(("v", j), vector_tile)
            for i in block:
                cache.read(("q", i), vector_tile)
                cache.write(("o", i), vector_tile)


def simulate(length: int, head_size: int, *, itemsize: int = 4, cache_bytes: int | None = None) -> Traffic:
    """Both algorithms on (length, head_size) Q, K and V; query blocks fill half of the cache, as the paper has them."""
    capacity = cache_bytes or l2_cache_bytes()
    tiles = -(-length // _TILE)
    vector_tile = _TILE * head_size * itemsize
    score_tile = _TILE * _TILE * itemsize
    rows = max(1, capacity // (4 * vector_tile))
    return Traffic(
        length,
        standard=_count(capacity, lambda cache: standard_attention(cache, tiles, vector_tile, score_tile)),
        flash=_count(capacity, lambda cache: flash_attention(cache, tiles, vector_tile, rows)),
    )


def l2_cache_bytes() -> int:
    """Of one core, as the system tells; 512 KiB if it does not."""
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or _DEFAULT_CACHE_BYTES
    except (ValueError, OSError):
        return _DEFAULT_CACHE_BYTES


def _count(capacity: int, algorithm: Callable[[LruCache], None]) -> int:
    cache = LruCache(capacity)
    algorithm(cache)
    cache.flush()
    return cache.traffic
