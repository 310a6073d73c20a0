"""What holds for every test.

torch keeps to one thread, since threads that wait for each other on busy cores slow a tiny model down; and hypothesis does not take a busy
machine for a fault of a test.
"""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def single_torch_thread() -> None:
    torch.set_num_threads(1)
