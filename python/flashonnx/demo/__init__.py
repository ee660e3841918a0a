"""The project on a real model: all-MiniLM-L6-v2 exported, fused, compared with PyTorch and timed.

`python -m flashonnx.demo` runs all of it; `flashonnx.demo.core.run` is where to start reading.
"""
