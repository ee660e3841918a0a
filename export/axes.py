"""What each axis of a tensor means: a product of atoms.

An Atom is an index that cannot be told apart further (batch, head, row, key, feature …); an axis is a product of them,
outermost first. Reshape splits and merges axes, Transpose moves them; atoms keep their identity through both, so the
roles found at the softmax can be read off Q, K, V, the masks and the output however they are laid out. Sizes are kept
at several traces at once (see sizes.py): two sizes are equal if they are in every trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Size = tuple[int, ...]  # one number for each trace


class AxesError(Exception):
    """A layout that does not come apart into whole atoms."""


@dataclass(eq=False)
class Atom:
    """An index of `size`. Once split it stands for its parts; `fixed` is an index that a slice has pinned."""

    size: Size
    parts: tuple[Atom, ...] = ()
    fixed: int | None = None

    def resolve(self) -> tuple[Atom, ...]:
        if not self.parts:
            return (self,)
        return tuple(atom for part in self.parts for atom in part.resolve())

    def split(self, outer: Size) -> tuple[Atom, Atom]:
        """Splits into an outer part of that size and the rest."""
        assert not self.parts
        first, second = Atom(outer), Atom(tuple(whole // part for whole, part in zip(self.size, outer, strict=True)))
        self.parts = (first, second)
        return first, second

    def is_constant(self) -> bool:
        return len(set(self.size)) == 1


Axis = tuple[Atom, ...]


def resolve(axis: Iterable[Atom]) -> Axis:
    return tuple(atom for part in axis for atom in part.resolve())


def size_of(axis: Iterable[Atom], traces: int) -> Size:
    total = [1] * traces
    for atom in axis:
        total = [product * size for product, size in zip(total, atom.size, strict=True)]
    return tuple(total)


@dataclass(eq=False)
class View:
    """How a tensor's axes are made of atoms; an axis of no atoms has size 1."""

    _axes: tuple[Axis, ...]
    traces: int = field(default=0)

    @staticmethod
    def fresh(sizes: Sequence[Size]) -> View:
        """A view of new atoms, one for each axis that is longer than 1."""
        traces = len(sizes[0]) if sizes else 0
        return View(tuple(() if set(size) == {1} else (Atom(size),) for size in sizes), traces)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(resolve(axis) for axis in self._axes)

    @property
    def rank(self) -> int:
        return len(self._axes)

    def atoms(self) -> Axis:
        return tuple(atom for axis in self.axes for atom in axis)

    def sizes(self) -> tuple[Size, ...]:
        return tuple(size_of(axis, self.traces) for axis in self.axes)

    def with_axes(self, axes: Iterable[Axis]) -> View:
        return View(tuple(axes), self.traces)

    def transpose(self, permutation: Sequence[int]) -> View:
        axes = self.axes
        return self.with_axes(axes[source] for source in permutation)

    def untranspose(self, permutation: Sequence[int]) -> View:
        """The view before a Transpose whose result this is."""
        axes = self.axes
        before: list[Axis] = [()] * len(axes)
        for position, source in enumerate(permutation):
            before[source] = axes[position]
        return self.with_axes(before)

    def reshape(self, sizes: Sequence[Size]) -> View:
        """The same elements in order as axes of other sizes; splits atoms where a new axis ends inside one."""
        remaining = list(reversed(self.atoms()))
        axes = tuple(_take(remaining, size) for size in sizes)
        if remaining:
            raise AxesError("the shapes hold different numbers of elements")
        return self.with_axes(axes)

    def replace(self, axis: int, atoms: Axis) -> View:
        axes = list(self.axes)
        axes[axis] = atoms
        return self.with_axes(axes)


def _take(remaining: list[Atom], size: Size) -> Axis:
    """Atoms from the end of `remaining` (the outermost) whose product is `size`."""
    taken: list[Atom] = []
    need = size
    while set(need) != {1}:
        if not remaining:
            raise AxesError("an axis is longer than what is left")
        atom = remaining.pop()
        if all(whole % part == 0 for whole, part in zip(need, atom.size, strict=True)):
            taken.append(atom)
            need = tuple(whole // part for whole, part in zip(need, atom.size, strict=True))
        elif all(whole % part == 0 for whole, part in zip(atom.size, need, strict=True)) and atom.fixed is None:
            outer, inner = atom.split(need)
            taken.append(outer)
            remaining.append(inner)
            break
        else:
            raise AxesError("an axis takes part of one index and part of another")
    return tuple(taken)
