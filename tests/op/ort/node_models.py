"""Models of one FlashAttention node, and running them in ONNX Runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

import flashonnx
from flashonnx import contract, native
from tests.cases.nodes import Dim, NodeCase

ELEMENT_TYPES = {
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "double": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
DTYPES = {name: helper.tensor_dtype_to_np_dtype(element) for name, element in ELEMENT_TYPES.items()}
NODE_NAME = "the_node"


def _names(tensors: Sequence[contract.Tensor], present: Sequence[str]) -> list[str]:
    """Names by index, "" for absent tensors, none after the last present one."""
    names = [tensor.name if tensor.name in present else "" for tensor in tensors]
    while names and not names[-1]:
        names.pop()
    return names


def node_model(
    inputs: Mapping[str, tuple[str, Sequence[Dim] | None]],
    attributes: Mapping[str, object] | None = None,
    outputs: Sequence[str] = ("Y",),
) -> onnx.ModelProto:
    """A model of the node alone; `inputs` gives element types and shapes, outputs have no shape of their own."""
    node = helper.make_node(
        contract.OP_TYPE,
        _names(contract.INPUTS, list(inputs)),
        _names(contract.OUTPUTS, outputs),
        name=NODE_NAME,
        domain=contract.DOMAIN,
        **(attributes or {}),
    )
    t_type = ELEMENT_TYPES[next(iter(inputs.values()))[0]]
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT if name == "lse" else t_type, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(contract.DOMAIN, contract.SINCE_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def case_model(case: NodeCase, *, dynamic: bool = False) -> onnx.ModelProto:
    """The model of a shared case; if dynamic, no dimension is known before the model runs."""
    inputs = dict(case.inputs)
    if dynamic:
        inputs = {
            name: (dtype, [f"{name}_{axis}" for axis in range(len(shape))]) for name, (dtype, shape) in inputs.items()
        }
    return node_model(inputs, case.attributes, case.outputs)


def case_feeds(case: NodeCase, seed: int = 0) -> dict[str, np.ndarray]:
    """Random data for a case's inputs."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, (dtype, shape) in case.inputs.items():
        if name in case.values:
            feeds[name] = np.array(case.values[name], DTYPES[dtype])
        elif dtype == "bool":
            feeds[name] = rng.random(shape) < 0.7
        elif dtype == "int64":
            feeds[name] = np.zeros(shape, np.int64)
        else:
            feeds[name] = rng.standard_normal(shape).astype(DTYPES[dtype])
    return feeds


def session(model: onnx.ModelProto, **options: int) -> ort.InferenceSession:
    """A CPU session; `options` are attributes of SessionOptions."""
    chosen = ort.SessionOptions()
    chosen.log_severity_level = 4  # the errors that tests provoke are read from the exception
    for name, value in options.items():
        setattr(chosen, name, value)
    return flashonnx.session(model.SerializeToString(), ["CPUExecutionProvider"], sess_options=chosen)


def run(session: ort.InferenceSession, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a session on arrays, bfloat16 ones too, which ONNX Runtime neither takes from NumPy nor gives to it."""
    values = {name: _to_ort(array) for name, array in feeds.items()}
    names = [output.name for output in session.get_outputs()]
    results = session.run_with_ort_values(names, values)
    return {name: _from_ort(value) for name, value in zip(names, results, strict=True)}


def _to_ort(array: np.ndarray) -> ort.OrtValue:
    if array.dtype == ml_dtypes.bfloat16:
        bits = np.ascontiguousarray(array).view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, native.element_type(array.dtype))
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _from_ort(value: ort.OrtValue) -> np.ndarray:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    shape = value.shape()
    data = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape)))
    return np.frombuffer(data, ml_dtypes.bfloat16).reshape(shape)
