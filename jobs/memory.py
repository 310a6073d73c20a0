"""Shows a memory: its versions, what it holds, how much storage it takes; and rolls it back.

    python -m jobs.memory --config jobs/configs/quickstart.yaml
    python -m jobs.memory --config jobs/configs/quickstart.yaml update.roll_back_to=7

Rolling back makes a new version that equals the earlier one, so it can be undone like any other change. The service's state, where there is
one (RUN_DIR/state.db, or serve.state_url), is told: what the versions between had of it waits to enter the memory again, so that users who
were forgotten meanwhile are forgotten again. All rows' keys are read and compared with their checksums. Prints a table of versions, then
the figures as one JSON line.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from jobs.cli import run
from l2d_ray.config import RunConfig
from l2d_ray.memory.overview import format_history, overview
from l2d_ray.memory.table import Memory
from l2d_ray.store.open import is_store, open_store


def main(config: RunConfig) -> dict[str, Any]:
    memory = Memory.open(config.memory_uri)
    if config.update.roll_back_to is not None:
        memory = memory.roll_back(config.update.roll_back_to)
        if is_store(config.state_url):
            with open_store(config.state_url) as store:
                store.mark_rolled_back(config.update.roll_back_to)
    history = memory.history()
    print(format_history(history), file=sys.stderr)
    versions = [{"version": e.version, "kind": e.state.kind, "message": e.state.message, "at": e.state.created_at} for e in history]
    return {
        "job": "memory",
        "memory_uri": config.memory_uri,
        "version": memory.version,
        **asdict(memory.metadata),
        **asdict(overview(memory)),
        "build": memory.state.build and asdict(memory.state.build),
        "versions": versions,
    }


if __name__ == "__main__":
    run(main, __doc__)
