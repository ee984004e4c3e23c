"""One thread: the networks are small, and the runs share their machine."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Bounds of small tensors are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
