"""jobs.serve, killed with everything that it started while interactions are sent: what it had acknowledged is in the memory once.

Part ``kills`` of benchmarks.serve_faults. Between kills a service runs for a seeded time, long enough for some rounds of its updater to be
under way; the last one is left to finish. An interaction counts as acknowledged once its 200 was read.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.faults import kill_tree
from benchmarks.serving import ServedRun, wait_until_ready
from l2d_ray.memory.sequences import load_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.store.open import open_store

LONGEST_S, SETTLE_S = 8.0, 180.0
NUM_USERS: Final = 5
ROOT: Final = Path(__file__).parents[1]


@dataclass
class Sent:
    """Events by number, and those that were acknowledged."""

    acknowledged: set[int] = field(default_factory=set)
    next_number: int = 0


def kills(run: ServedRun, *, num_kills: int, port: int) -> dict[str, Any]:
    folder = run.run_dir / "kills"
    shutil.rmtree(folder, ignore_errors=True)
    for source, name in ((run.checkpoint_dir, "checkpoint"), (run.run_dir / "memory", "memory"), (run.index_dir(2), "index")):
        shutil.copytree(source, folder / name)
    rng, sent = np.random.default_rng(0), Sent()
    for number in range(num_kills + 1):
        is_last = number == num_kills
        service = start(folder, port)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}")
            send(sent, f"http://127.0.0.1:{port}", duration_s=2.0 if is_last else float(rng.uniform(0.5, LONGEST_S)))
            if is_last:
                settle(f"http://127.0.0.1:{port}")
        finally:
            kill_tree(service.pid)
            service.wait()
    return compare(folder, sent) | {"kills": num_kills}


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    settings = [f"run_dir={folder}", "device=cpu", "ray.num_cpus=4", "serve.access_control=false", f"serve.port={port}"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "jobs.serve", *settings], cwd=ROOT, stdout=log, stderr=log)


def send(sent: Sent, url: str, *, duration_s: float) -> None:
    """Interactions one after another; what is not acknowledged is sent again with the same event_id, as a client would."""
    until = time.monotonic() + duration_s
    with httpx.Client(base_url=url, timeout=10) as http:
        while time.monotonic() < until:
            number = sent.next_number
            try:
                response = http.post("/v1/interactions", json={"events": [event(number)]})
            except httpx.TransportError:
                continue
            if response.status_code == 200:
                sent.acknowledged.add(number)
                sent.next_number += 1


def event(number: int) -> dict[str, Any]:
    user_id, item_id = f"killed-{number % NUM_USERS}", f"item-{number % 300:06d}"
    return {"event_id": f"e{number}", "user_id": user_id, "item_id": item_id, "timestamp": 2_000_000 + number}


def settle(url: str) -> None:
    """Return once nothing waits for the memory."""
    started = time.monotonic()
    while time.monotonic() < started + SETTLE_S:
        backlog = httpx.get(f"{url}/v1/status", timeout=30).json().get("backlog") or {}
        if backlog.get("num_interactions") == 0:
            return
        time.sleep(0.5)


def compare(folder: Path, sent: Sent) -> dict[str, Any]:
    """Acknowledged interactions that state or memory lack, and those that one of them holds twice."""
    users = [f"killed-{number}" for number in range(NUM_USERS)]
    wanted = Counter((event(n)["user_id"], event(n)["item_id"], event(n)["timestamp"]) for n in sent.acknowledged)
    with open_store(f"sqlite://{folder}/state.db") as store:
        histories = store.histories(users, limit=1_000_000)
    stored = Counter((i.user_id, i.item_id, i.timestamp) for history in histories.values() for i in history)
    memory = Memory.open(str(folder / "memory"))
    sequences = load_sequences(memory.uri, memory.state.sequences, users).values()
    learnt = Counter((s.user_id, item, at) for s in sequences for item, at in zip(s.item_ids, s.timestamps, strict=True))
    samples = Counter(sample_id for batch in memory.scan() for sample_id in batch.sample_ids.tolist())
    targets = {target.sample_id for sequence in sequences for target in sequence.targets_from(1)}
    lost = (wanted - stored).total() + (wanted - learnt).total() + len(targets - samples.keys())
    doubled = sum(counts.total() - len(counts) for counts in (stored, learnt, samples))
    return {"acknowledged": len(sent.acknowledged), "lost": lost, "doubled": doubled, "memory_version": memory.version}
