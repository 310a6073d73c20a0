"""What is loaded by name, once for all threads that ask: a shard's searchers, one for each generation of the index."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Loaded(Generic[Value]):
    """At most ``max_values`` values, the least lately used dropped first. Values that are there are got while another one loads.

    Args:
        load: makes a value from its name, on a thread of its own; what it raises whoever waits gets, and the next ``get`` tries again.
    """

    def __init__(self, load: Callable[[str], Value], max_values: int) -> None:
        self._load = load
        self._max_values = max_values
        self._values: OrderedDict[str, Future[Value]] = OrderedDict()
        self._lock = Lock()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")

    def get(self, name: str) -> Value:
        """The value, once it is loaded."""
        with self._lock:
            value = self._values.get(name)
            if value is None or (value.done() and value.exception() is not None):
                value = self._values[name] = self._loader.submit(self._load, name)
            self._values.move_to_end(name)
            while len(self._values) > self._max_values:
                self._values.popitem(last=False)
        return value.result()
