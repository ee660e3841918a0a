"""Benchmarks of the op against its peers: see `flashonnx.bench.core.bench`."""
