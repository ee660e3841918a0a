"""Deep stacks of exported decoder blocks, of any number of nodes and bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_HEAD_SIZE, _GROUP = 64, 4
NODES_PER_BLOCK = 61
_BYTES_PER_GIB = 1 << 30


class DecoderStack:
    """Blocks as PyTorch's exporter writes Llama's at opset 18: RMSNorm, rotary embedding, grouped heads, a causal mask
    with padding, and a gated MLP. Weights go to the external file as they are made.
    """

    def __init__(self, hidden: int, path: Path):
        assert hidden % (_HEAD_SIZE * _GROUP) == 0
        self.hidden, self.heads = hidden, hidden // _HEAD_SIZE
        self.path = path
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.inner = 0  # names of values that nobody sees
        self.random = np.random.default_rng(0).standard_normal(4 * hidden * hidden).astype(np.float32) * hidden**-0.5

    def write(self, nodes: int, gibibytes: float) -> None:
        """About that many nodes; the MLP is as wide as makes about that much weight."""
        blocks = max(1, round(nodes / NODES_PER_BLOCK))
        attention = 2 * self.hidden**2 * (1 + 1 / _GROUP)
        wide = (gibibytes * _BYTES_PER_GIB / 4 / blocks - attention) / (3 * self.hidden)
        with open(f"{self.path}.data", "wb") as self.data:
            self._constants()
            self._mask()
            value = "embedded"
            for _ in range(blocks):
                value = self._block(value, max(int(wide), 1))
        graph = helper.make_graph(
            self.nodes,
            "stack",
            [
                helper.make_tensor_value_info("embedded", TensorProto.FLOAT, ["batch", "length", self.hidden]),
                helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "length"]),
            ],
            [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", "length", self.hidden])],
            self.weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), self.path)

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        self.inner += 1
        name = f"v{self.inner}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"node_{op_type}_{self.inner}", **attributes))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        """A tensor of random numbers in the external file."""
        self.inner += 1
        size = int(np.prod(shape))
        tensor = TensorProto(name=f"w{self.inner}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": f"{self.path.name}.data", "offset": self.data.tell(), "length": 4 * size}
        for key, entry in entries.items():
            tensor.external_data.add(key=key, value=str(entry))
        for start in range(0, size, self.random.size):
            self.data.write(self.random[: size - start].tobytes())
        self.weights.append(tensor)
        return tensor.name

    def _constants(self) -> None:
        kv = self.heads // _GROUP
        ints = {
            "q_shape": [0, 0, self.heads, _HEAD_SIZE],
            "kv_shape": [0, 0, kv, _HEAD_SIZE],
            "grouped": [1, 1, _GROUP, 1, 1],
            "ungrouped": [0, self.heads, -1, _HEAD_SIZE],
            "y_shape": [0, 0, self.hidden],
            "zero": [0],
            "one": [1],
            "two": [2],
            "half": [_HEAD_SIZE // 2],
            "full": [_HEAD_SIZE],
            "last": [-1],
        }
        for name, numbers in ints.items():
            self.constant(name, np.asarray(numbers, np.int64))
        self.constant("scalar_zero", np.asarray(0, np.int64))
        self.constant("scalar_one", np.asarray(1, np.int64))
        self.constant("epsilon", np.asarray(1e-6, np.float32))
        self.constant("square", np.asarray(2, np.float32))
        self.constant("unit", np.asarray(1, np.float32))
        self.constant("scale", np.asarray(_HEAD_SIZE**-0.25, np.float32))
        self.constant("lowest", np.asarray(np.finfo(np.float32).min, np.float32))
        self.constant("nothing", np.asarray(0, np.float32))
        frequencies = 10000.0 ** -(np.arange(0, _HEAD_SIZE, 2) / _HEAD_SIZE)
        self.constant("frequencies", frequencies.astype(np.float32)[None])

    def _mask(self) -> None:
        length = self.op("Squeeze", self.op("Shape", "attention_mask", start=1, end=2))
        positions = self.op("Range", "scalar_zero", length, "scalar_one")
        rows = self.op("Unsqueeze", positions, "one")
        causal = self.op("LessOrEqual", positions, rows)
        kept = self.op("Cast", "attention_mask", to=TensorProto.BOOL)
        padding = self.op("Unsqueeze", self.op("Unsqueeze", kept, "one"), "two")
        self.mask = self.op("Where", self.op("And", causal, padding), "nothing", "lowest")
        angles = self.op("Mul", self.op("Cast", rows, to=TensorProto.FLOAT), "frequencies")
        angles = self.op("Concat", angles, angles, axis=-1)
        self.cosine, self.sine = self.op("Cos", angles), self.op("Sin", angles)

    def _block(self, value: str, wide: int) -> str:
        normal = self._norm(value)
        q = self._heads(normal, self.heads, "q_shape")
        k, v = (self._heads(normal, self.heads // _GROUP, "kv_shape") for _ in range(2))
        k, v = self._repeated(self._rotated(k)), self._repeated(v)
        q = self.op("Mul", self._rotated(q), "scale")
        k = self.op("Mul", self.op("Transpose", k, perm=[0, 1, 3, 2]), "scale")
        scores = self.op("Add", self.op("MatMul", q, k), self.mask)
        y = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), "y_shape")
        value = self.op("Add", value, self.op("MatMul", y, self.weight(self.hidden, self.hidden)))
        normal = self._norm(value)
        gate = self.op("MatMul", normal, self.weight(self.hidden, wide))
        gate = self.op("Mul", gate, self.op("Sigmoid", gate))
        up = self.op("MatMul", normal, self.weight(self.hidden, wide))
        down = self.op("MatMul", self.op("Mul", gate, up), self.weight(wide, self.hidden))
        return self.op("Add", value, down)

    def _norm(self, value: str) -> str:
        mean = self.op("ReduceMean", self.op("Pow", value, "square"), "last")
        root = self.op("Sqrt", self.op("Add", mean, "epsilon"))
        return self.op("Mul", self.weight(self.hidden), self.op("Mul", value, self.op("Div", "unit", root)))

    def _heads(self, value: str, heads: int, shape: str) -> str:
        value = self.op("MatMul", value, self.weight(self.hidden, heads * _HEAD_SIZE))
        return self.op("Transpose", self.op("Reshape", value, shape), perm=[0, 2, 1, 3])

    def _rotated(self, value: str) -> str:
        first = self.op("Slice", value, "zero", "half", "last")
        second = self.op("Neg", self.op("Slice", value, "half", "full", "last"))
        turned = self.op("Concat", second, first, axis=-1)
        return self.op("Add", self.op("Mul", value, self.cosine), self.op("Mul", turned, self.sine))

    def _repeated(self, value: str) -> str:
        return self.op("Reshape", self.op("Expand", self.op("Unsqueeze", value, "two"), "grouped"), "ungrouped")
