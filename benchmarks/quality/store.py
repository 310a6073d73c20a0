"""What a run has finished, so that it can be interrupted: one file a result, each with the key of what it was made from.

    NAME.json      a record           NAME.npz     arrays (the targets' ranks of a row)
    NAME.pickle    a fitted system, which only this benchmark's own runs write and read

A result whose key differs (other model, settings or grid) is made anew. Files appear whole or not at all.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Store:
    """Results below ``folder``; ``base`` is whatever all of them depend on."""

    def __init__(self, folder: Path, base: Any) -> None:
        self.folder, self._base = folder, base
        folder.mkdir(parents=True, exist_ok=True)

    def record(self, name: str, depends: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record of that name, made where it is not there or was made from something else."""
        found = self.read_record(name, depends)
        return self.write_record(name, depends, make()) if found is None else found

    def read_record(self, name: str, depends: Any) -> dict[str, Any] | None:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        content = json.loads(path.read_text())
        found: dict[str, Any] = content["result"]
        return found if content["key"] == self._key(name, depends) else None

    def write_record(self, name: str, depends: Any, result: dict[str, Any]) -> dict[str, Any]:
        """Returns what a later call reads: floats rounded to six digits after the point."""
        shortened: dict[str, Any] = rounded(result)
        text = json.dumps({"key": self._key(name, depends), "result": shortened}, indent=1) + "\n"
        self._write(self.folder / f"{name}.json", text.encode())
        return shortened

    def fitted(self, name: str, depends: Any, make: Callable[[], Any]) -> Any:
        """Like ``record``, for Python objects."""
        path, key = self.folder / f"{name}.pickle", self._key(name, depends)
        if path.is_file():
            stored_key, found = pickle.loads(path.read_bytes())
            if stored_key == key:
                return found
        made = make()
        self._write(path, pickle.dumps((key, made)))
        return made

    def read_arrays(self, name: str, depends: Any) -> dict[str, NDArray[np.int64]] | None:
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as content:
            if str(content["key"]) != self._key(name, depends):
                return None
            return {array: content[array] for array in content.files if array != "key"}

    def write_arrays(self, name: str, depends: Any, arrays: Mapping[str, NDArray[np.int64]]) -> None:
        partial = self.folder / f"{name}.partial.npz"
        np.savez(partial, key=np.array(self._key(name, depends)), **dict(arrays))  # type: ignore[arg-type]
        partial.rename(self.folder / f"{name}.npz")

    def _key(self, name: str, depends: Any) -> str:
        return blake2b(json.dumps([self._base, name, depends], sort_keys=True, default=repr).encode(), digest_size=8).hexdigest()

    def _write(self, path: Path, content: bytes) -> None:
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(content)
        partial.rename(path)


def rounded(value: Any) -> Any:
    """The same, every float with six digits after the point."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    return value
