"""Folders that are whole or refused: a summary, written last, holds the size and hash of every file and a checksum of itself.

The summary of an index names its shards' summaries, theirs the summaries of their segments: a file that was changed, cut or taken from
another index is found from the top, whichever it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.errors import ArtefactError
from l2d_ray.schema import FORMAT_VERSION

REMEDY: Final = "delete the index and run jobs.build_index again"

Identity = list[object]
"""Size in bytes and hash of a file."""


@dataclass(frozen=True)
class Summary:
    """A summary that was read: what it says, and the identity of every file, by name relative to its folder."""

    path: Path
    fields: Mapping[str, Any]
    files: Mapping[str, Identity]

    def verified(self, name: str) -> Path:
        """Path of a file whose content is what the summary says; ArtefactError names the file that is missing or differs."""
        path = self.path.parent / name
        try:
            is_same = identity(path) == self.files.get(name)
        except OSError:
            is_same = False
        if not is_same:
            raise ArtefactError(f"{path} is missing, truncated or changed since it was built; {REMEDY}.")
        return path

    def array(self, name: str, *, in_memory: bool = True) -> NDArray[Any]:
        """A verified array, memory-mapped where it need not be in memory."""
        return load_array(self.verified(name), in_memory=in_memory)


def seal(path: Path, fields: Mapping[str, Any], files: Iterable[str]) -> None:
    """Write a summary: the fields (plain JSON values) and the identity of the files, whose names are relative to its folder."""
    identities = {name: identity(path.parent / name) for name in files}
    content = {"format_version": FORMAT_VERSION, **fields, "files": identities}
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content | {"checksum": _checksum(content)}, indent=2) + "\n")
    partial.replace(path)


def read_summary(path: Path) -> Summary:
    """A summary; ArtefactError where it is absent, of another format version, or differs from its own checksum."""
    try:
        content = json.loads(path.read_bytes())
        version, checksum = content.pop("format_version"), content.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ArtefactError(f"{path} is missing or damaged, so what is in its folder is not whole; {REMEDY}.") from None
    if version != FORMAT_VERSION:
        raise ArtefactError(f"{path} has format version {version}, this release reads {FORMAT_VERSION}; {REMEDY}.")
    if checksum != _checksum({"format_version": version, **content}):
        raise ArtefactError(f"{path} is damaged: its content differs from its checksum; {REMEDY}.")
    files = content.pop("files")
    return Summary(path, content, files)


def identity(path: Path) -> Identity:
    """Size and hash of a file; OSError where there is none."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
    return [path.stat().st_size, digest.hexdigest()]


def load_array(path: Path, *, in_memory: bool) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode=None if in_memory else "r", allow_pickle=False)
    return array


def _checksum(content: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
