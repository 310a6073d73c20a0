"""Flipped bytes and truncations in every kind of the memory's files: refused with the file's name, or without effect on any reader."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.memory.damage import KINDS, Damage

ROOT = Path(__file__).parents[2]
NUM_DAMAGES = 204
TIMEOUT_S = 500


@pytest.mark.slow
def test_damage_at_two_hundred_random_places_is_refused_naming_the_file_or_changes_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.memory.damage", str(tmp_path / "memory"), str(NUM_DAMAGES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]}: {done.stderr[-2000:]}"
    damages, answers = [Damage(**line) for line in lines[::2]], lines[1::2]
    assert len(damages) == len(answers) == NUM_DAMAGES
    wrong = [(damage, answer) for damage, answer in zip(damages, answers, strict=True) if answer not in ("refused", "the same")]
    assert wrong == []
    refused = Counter(kind_of(damage) for damage, answer in zip(damages, answers, strict=True) if answer == "refused")
    assert {kind for kind in KINDS if refused[kind] < NUM_DAMAGES // len(KINDS) // 2} <= {"_transactions"}  # manifests hold them too


def kind_of(damage: Damage) -> str:
    path = Path(damage.path)
    return path.name if path.name in KINDS else path.parent.name
