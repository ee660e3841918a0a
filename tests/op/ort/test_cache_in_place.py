"""Decoding with caches of a fixed length that nothing copies: ONNX TensorScatter writes the new rows in place, and the
op reads as many keys as nonpad_kv_seqlen says."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from flashonnx import contract
from flashonnx.reference import flash_attention
from tests.op.ort.node_models import session

BATCH, HEADS, GROUP, LENGTH, SIZE = 2, 2, 4, 64, 32
CACHE = (BATCH, HEADS, LENGTH, SIZE)


def decoder() -> onnx.ModelProto:
    """A step: the rows of K and V go to each batch entry's own place, and the queries see all rows up to it."""
    rows, lengths = [BATCH, HEADS, "rows", SIZE], [BATCH]
    shapes = {"Q": [BATCH, HEADS * GROUP, "rows", SIZE], "K": rows, "V": rows, "k_cache": CACHE, "v_cache": CACHE}
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    integers = [helper.make_tensor_value_info(name, TensorProto.INT64, lengths) for name in ("places", "lengths")]
    outputs = {"Y": shapes["Q"], "k_present": CACHE, "v_present": CACHE}
    nodes = [
        helper.make_node("TensorScatter", ["k_cache", "K", "places"], ["k_present"]),
        helper.make_node("TensorScatter", ["v_cache", "V", "places"], ["v_present"]),
        helper.make_node(
            contract.OP_TYPE,
            ["Q", "k_present", "v_present", "", "", "", "lengths"],
            ["Y"],
            domain=contract.DOMAIN,
            is_causal=1,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        floats + integers,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid(contract.DOMAIN, contract.SINCE_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def test_caches_that_are_input_and_output_are_written_in_place() -> None:
    runner = session(decoder())
    rng = np.random.default_rng(0)
    caches = {name: ort.OrtValue.ortvalue_from_numpy(np.zeros(CACHE, np.float32)) for name in "kv"}
    expected = {name: np.zeros(CACHE, np.float32) for name in "kv"}
    lengths = np.zeros(BATCH, np.int64)
    for rows in (20, 1, 1, 3):  # a prompt, then steps of decoding
        new = {name: rng.standard_normal((BATCH, HEADS, rows, SIZE), dtype=np.float32) for name in "KV"}
        q = rng.standard_normal((BATCH, HEADS * GROUP, rows, SIZE), dtype=np.float32)
        places = lengths + (lengths == 0) * np.array([0, 7])  # the second prompt begins elsewhere
        lengths = places + rows
        for b, place in enumerate(places):
            for name in "kv":
                expected[name][b, :, place : place + rows] = new[name.upper()][b]
        binding = runner.io_binding()
        for name, array in {"Q": q, **new, "places": places, "lengths": lengths}.items():
            binding.bind_cpu_input(name, array)
        for name, cache in caches.items():
            binding.bind_ortvalue_input(f"{name}_cache", cache)
        binding.bind_output("Y")
        for name, cache in caches.items():
            binding.bind_ortvalue_output(f"{name}_present", cache)
        runner.run_with_iobinding(binding)
        y, *presents = binding.get_outputs()
        truth = flash_attention(q, expected["k"], expected["v"], nonpad_kv_seqlen=lengths, is_causal=1)["Y"]
        assert np.abs(y.numpy() - truth).max() < 2e-6
        for present, (name, cache) in zip(presents, caches.items(), strict=True):
            assert present.data_ptr() == cache.data_ptr()
            assert np.array_equal(cache.numpy(), expected[name])
