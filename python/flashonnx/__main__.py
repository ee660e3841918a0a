"""`python -m flashonnx` is the command `flashonnx`."""

from flashonnx.cli import main

main()
