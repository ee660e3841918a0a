"""A tensor's type at given sizes, and what it means that sizes do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

Shape = tuple[int, ...]


class SizeError(Exception):
    """The graph does not work at these sizes: two shapes do not fit, or an index is out of range."""


@dataclass(frozen=True)
class Type:
    dtype: ir.DataType
    shape: Shape


def broadcast(node: ir.Node, shapes: Sequence[Shape]) -> Shape:
    """Raises SizeError, naming the node's operator, if the shapes do not broadcast."""
    try:
        return tuple(int(dim) for dim in np.broadcast_shapes(*shapes))
    except (ValueError, RuntimeError) as error:  # the latter for more axes than NumPy has
        raise SizeError(f"{node.op_type}: shapes {shapes} do not broadcast") from error
