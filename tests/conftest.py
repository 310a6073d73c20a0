"""What holds for every test.

torch keeps to one thread, since threads that wait for each other on busy cores slow a tiny model down; Ray's workers run beside the tests
as equals, where Ray would have them stand back (niceness 15) until no test polls; and hypothesis does not take a busy machine for a fault
of a test.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ.setdefault("RAY_worker_niceness", "0")
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def single_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ray_cluster() -> None:
    """A local cluster of four CPUs. It stays for the next file that wants one, with its workers and all that they have imported."""
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=512 << 20, logging_level="WARNING")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker is left alone with one at the end; backwards, since training takes longest."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    numbers = {path: number for number, path in enumerate(sorted({item.path for item in items}, reverse=True))}
    items.sort(key=lambda item: (item.path not in slow, numbers[item.path]))
