"""The job as a person runs it: exit codes, the last line, and a message without a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]


def _job(*arguments):
    return subprocess.run([sys.executable, "-m", "jobs.prepare_data", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_job_prints_the_card_and_one_json_line(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\na,Alpha\nb,Beta\n")
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"u{n % 2},{'ab'[n % 3 % 2]},{n}\n" for n in range(24)))
    source = ["data.source=table", f"data.interactions={tmp_path}/i.csv", f"data.items={tmp_path}/items.csv", "data.name=toy"]
    result = _job(f"run_dir={tmp_path}/run", *source, "data.min_rating=null", "ray.num_cpus=3")
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["num_users"], last["num_items"], last["num_interactions"]) == (2, 2, 24)
    assert "Data set toy" in result.stderr
    assert Path(last["data_dir"], "card.json").is_file()


def test_a_wrong_setting_is_one_message_and_exit_code_2():
    result = _job("data.k_cor=5")
    assert result.returncode == 2
    assert "data.k_cor" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_absent_cluster_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # tests before this one may have left their cluster for those after it
    with pytest.raises(ConfigError, match=r"'127\.0\.0\.1:1' cannot be joined"), connect("127.0.0.1:1", 3):
        pass


def test_any_of_our_errors_becomes_exit_code_2(capsys):
    def main(config):
        raise DataError("Nothing is there; give a file.")

    with pytest.raises(SystemExit) as stopped:
        run(main, argv=[])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: Nothing is there; give a file.\n"


def test_the_result_is_the_last_line(capsys):
    run(lambda config: {"seed": config.seed}, argv=["seed=3"])
    assert capsys.readouterr().out == '{"seed": 3}\n'
