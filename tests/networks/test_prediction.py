"""Pooling of features in each number format."""

import pytest
import torch

from course_lib.networks import pooled


@pytest.mark.parametrize(
    "dtype, wanted", [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32),
                      (torch.float64, torch.float64)],
)  # fmt: skip
def test_features_are_pooled_in_float32_or_float64(dtype, wanted):
    """The mean of 1 and 1.0078125 needs more digits than half precision has."""
    features = torch.tensor([1.0, 1.0078125], dtype=dtype).view(1, 1, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = pooled(features)
    assert h.dtype == wanted and h.shape == (1, 1) and h.item() == (1.0 + features[0, 0, 0, 1].item()) / 2
    assert h.item() == 1.00390625
