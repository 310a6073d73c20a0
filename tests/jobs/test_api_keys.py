"""jobs.api_keys: a key that it makes opens the service, one that it revokes does not, and none is ever listed with its secret."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import HTTPException

from jobs import api_keys
from l2d_ray.config import RunConfig, parse_config
from l2d_ray.errors import ConfigError
from l2d_ray.serve.access import AccessControl
from l2d_ray.store.open import open_store

ROOT = Path(__file__).parents[2]


def settings(run_dir: Path, **keys) -> RunConfig:
    return parse_config({"run_dir": str(run_dir), "keys": keys})


def test_a_key_lives_from_its_making_to_its_revocation(tmp_path):
    config = settings(tmp_path, create="shop", scopes=["read", "write"], requests_per_s=2, burst=3, expires_days=1)
    made = api_keys.main(config)
    [told] = made["keys"]
    assert (told["name"], told["scopes"], told["requests_per_s"], told["burst"]) == ("shop", ["read", "write"], 2.0, 3)
    assert told["created_at"] < told["expires_at"]
    assert told["revoked_at"] is None
    with open_store(config.state_url) as store:
        assert asyncio.run(AccessControl(store).admit(made["key"], "write")).key_id == told["key_id"]
    listed = api_keys.main(settings(tmp_path))
    assert listed == {"job": "api_keys", "keys": [told]}
    assert made["key"].split("_", 2)[2] not in json.dumps(listed)
    [revoked] = api_keys.main(settings(tmp_path, revoke=told["key_id"]))["keys"]
    assert revoked["revoked_at"] is not None
    with open_store(config.state_url) as store:
        with pytest.raises(HTTPException, match="401"):
            asyncio.run(AccessControl(store).admit(made["key"], "write"))
        assert [entry.action for entry in store.audit_entries(limit=9)] == ["revoke_key", "add_key"]


def test_a_key_that_is_not_there_cannot_be_revoked(tmp_path):
    with pytest.raises(ConfigError, match="no API key 'nothing'"):
        api_keys.main(settings(tmp_path, revoke="nothing"))


def test_the_state_may_be_elsewhere_and_a_folder_may_have_any_name(tmp_path):
    (tmp_path / "a b%20c").mkdir()
    config = settings(tmp_path / "a b%20c")
    api_keys.main(config)
    assert (tmp_path / "a b%20c" / "state.db").is_file()
    elsewhere = parse_config({"run_dir": str(tmp_path), "serve": {"state_url": f"sqlite://{tmp_path}/other.db"}})
    api_keys.main(elsewhere)
    assert (tmp_path / "other.db").is_file()


def test_the_command_line_prints_one_json_line_and_refuses_unknown_scopes(tmp_path):
    command = [sys.executable, "-m", "jobs.api_keys", f"run_dir={tmp_path}", "keys.create=web shop"]
    done = subprocess.run([*command, "keys.scopes=[read]"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["key"].startswith("l2d_")
    refused = subprocess.run([*command, "keys.scopes=[root]"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "keys.scopes.0" in refused.stderr
