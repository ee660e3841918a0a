"""Comparison of an ONNX file with the model it was made from: see `flashonnx.validate`."""

from flashonnx.validation.core import validate
from flashonnx.validation.inputs import InputError
from flashonnx.validation.result import ValidationResult
from flashonnx.validation.runners import RunError

__all__ = ["InputError", "RunError", "ValidationResult", "validate"]
