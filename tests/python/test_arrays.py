"""NumPy arrays through ONNX Runtime's and PyTorch's tensors and back."""

import ml_dtypes
import numpy as np
import pytest

from flashonnx import arrays

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.bool_]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0, 3)])
def test_round_trips(dtype, shape):
    array = np.asarray(np.random.default_rng(0).standard_normal(shape) * 3, dtype)
    for back in (arrays.from_ort(arrays.to_ort(array)), arrays.from_torch(arrays.to_torch(array))):
        assert back.shape == shape
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


def test_a_tensor_does_not_share_the_arrays_memory():
    array = np.ones(3, np.float32)
    tensor = arrays.to_torch(array)
    tensor += 1
    np.testing.assert_array_equal(array, 1)


def test_noncontiguous_bfloat16():
    array = np.arange(12, dtype=np.float32).astype(ml_dtypes.bfloat16).reshape(3, 4).T
    np.testing.assert_array_equal(arrays.from_ort(arrays.to_ort(array)), array)
    np.testing.assert_array_equal(arrays.from_torch(arrays.to_torch(array)), array)
