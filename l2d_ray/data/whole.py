"""A folder of results appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l2d_ray.errors import ArtefactError


@contextmanager
def whole_folder(destination: Path, *, marker: str) -> Iterator[Path]:
    """An empty folder beside ``destination`` that takes its place when the block ends well, and vanishes when it does not.

    An earlier result, told by its file ``marker``, is replaced; any other folder with content is refused with ArtefactError, untouched.
    """
    if destination.is_dir() and any(destination.iterdir()) and not (destination / marker).is_file():
        raise ArtefactError(f"{destination} holds other files than this job's results (no {marker}); choose another run_dir or empty it.")
    partial = destination.with_name(f".{destination.name}.partial")
    replaced = destination.with_name(f".{destination.name}.replaced")
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if destination.exists():
            destination.rename(replaced)
        partial.rename(destination)
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
