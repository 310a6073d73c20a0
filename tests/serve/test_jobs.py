"""`python -m jobs.serve` and `python -m jobs.recommend`, as a person runs them."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import serve as serve_job
from jobs.cli import run
from l2d_ray.index.layout import open_index
from l2d_ray.memory.table import Memory
from tests.clusters import unused_port

ROOT = Path(__file__).parents[2]
OPEN = "serve.access_control=false"


@pytest.fixture(scope="module")
def run_dir(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole-run")
    shutil.copytree(tiny_run.checkpoint_dir, folder / "checkpoint")
    shutil.copytree(tiny_run.index_dir, folder / "index")
    fingerprint = json.loads((folder / "checkpoint" / "l2d.json").read_text())["fingerprint"]
    Memory.create(str(folder / "memory"), fingerprint=fingerprint, dim=32, catalogue=tiny_run.catalogue)
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return unused_port()


def run_job(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What jobs.serve says on stderr before it exits with 2."""
    with pytest.raises(SystemExit) as stopped:
        run(serve_job.main, argv=arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def server(run_dir: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """jobs.serve, once it has said that it serves; stopped if the test did not."""
    command = [sys.executable, "-m", "jobs.serve", f"run_dir={run_dir}", "device=cpu", "ray.num_cpus=3", OPEN, f"serve.port={port}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = next((line for line in process.stdout if line.startswith("Serving ")), "")
        try:
            assert f"http://127.0.0.1:{port}" in said
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


@pytest.mark.slow
def test_serve_answers_recommend_and_stops_cleanly(
    tiny_run, run_dir: Path, port: int, server: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
):
    titles = [tiny_run.catalogue.titles[index] for index in (4, 9)]
    asked = run_job("jobs.recommend", "|".join(titles), "--k", "3", "--url", f"http://127.0.0.1:{port}")
    assert asked.returncode == 0, asked.stderr
    listed = [line for line in asked.stdout.splitlines() if line.lstrip()[:2] in ("1.", "2.", "3.")]
    expected = [tiny_run.catalogue.titles[tiny_run.catalogue.item_id_to_index[i]] for i in tiny_run.expected_ids([4, 9], 3)]
    assert [line.split(". ", 1)[1].rsplit("  ", 1)[0].strip() for line in listed] == expected
    assert "set serve.port" in refusal(capsys, f"run_dir={run_dir}", OPEN, f"serve.port={port}")
    server.send_signal(signal.SIGTERM)
    rest, _ = server.communicate(timeout=60)
    assert server.returncode == 0
    assert json.loads(rest.splitlines()[-1])["job"] == "serve"


def test_recommend_without_a_service_says_so_in_one_sentence():
    asked = run_job("jobs.recommend", "Heat (1995)", "--url", "http://127.0.0.1:1")
    assert asked.returncode == 2
    assert asked.stderr.count("\n") == 1
    assert "make serve" in asked.stderr


def test_serve_of_a_damaged_or_missing_run_says_so_in_one_sentence(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "run jobs.build_index first" in refusal(capsys, f"run_dir={tmp_path}")
    shutil.copytree(run_dir, tmp_path / "damaged")
    (vectors,) = open_index(tmp_path / "damaged" / "index").shard_dir(1).glob("segment-*/vectors.npy")
    vectors.write_bytes(vectors.read_bytes()[:-1])
    damaged = refusal(capsys, f"run_dir={tmp_path / 'damaged'}")
    assert damaged.count("\n") == 1
    assert "vectors.npy is missing, truncated or changed" in damaged
