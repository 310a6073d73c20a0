"""What holds for every test: torch keeps to one thread, since threads that wait for each other on busy cores slow a tiny model down."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def single_torch_thread() -> None:
    torch.set_num_threads(1)
