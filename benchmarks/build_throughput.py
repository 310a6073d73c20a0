"""Speed of the memory build, as ratios in one run: prompt formats against plain Hugging Face loops, the whole job against its encoder.

    python -m benchmarks.build_throughput [--small] [--only formats|job]

Formats: interleaved, medians of the rounds, one torch thread, the transformer's body alone on every side. CPU seconds stand beside the
seconds of the clock, since a neighbour on the machine disturbs them less. A plain loop takes one prompt a sample in arrival order, in
padded batches of 32:

    sequence            windows of the sequence format (l2d_ray.model.encoder)
    same-text           plain; each prompt is the sample's history as its window shows it: gives the states of ``sequence``
    last-10             plain; each prompt is cut to the last 10 titles: other states for less work
    instruction         prompts of the instruction format, the instruction read once, packed by length
    instruction-packed  the same without sharing the instruction
    instruction-plain   plain

Job: ``build_memory`` on a local Ray cluster, its steady rate (start-up and the first part excluded), against ``encode_windows`` over
the same parts prepared beforehand, all with one thread a worker; 1 and 2 workers. On two cores the second worker's core is also the
one that writes, commits and runs Ray, so that two workers cannot reach twice the rate of one. The bare loop runs before and after each
pair of jobs, ratios are taken round by round, and the machine's load is noted: the job needs the machine to itself to say anything.

Data: MovieLens-100K's training samples; the model is a mini with random weights (speed does not depend on them).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.encoder import LAST, draw_users, mean_length, plain_loop
from benchmarks.result import arguments, print_result, target
from jobs import prepare_data
from jobs.train import base_model
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, iter_sequences, part_paths, read_part
from l2d_ray.memory.on_ray import build_memory
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel, save_checkpoint
from l2d_ray.model.on_ray import EncoderSpec
from l2d_ray.schema import TRAIN
from l2d_ray.text.harvest import Harvest, harvest
from l2d_ray.text.prompts import TokenIds, tokenize_titles

USERS_PER_PART = 32
"""Small, since the first part alone is excluded as start-up: what other workers did of theirs by then flatters two workers by a part."""
MAX_BATCH_TOKENS = 8192
NUM_LOGICAL_CPUS = 4

OPPONENTS = (
    ("sequence", "same-text"),
    ("sequence", "last-10"),
    ("instruction", "instruction-packed"),
    ("instruction", "instruction-plain"),
)

States = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """A model of one prompt format with its tokenised catalogue."""

    language_model: LanguageModel
    item_id_to_title: dict[str, TokenIds]

    def harvest(self, users: Iterable[UserSequence]) -> Harvest:
        return harvest(users, TRAIN, item_id_to_title=self.item_id_to_title, prompts=self.language_model.prompts)

    def encoder(self) -> Encoder:
        prefix = self.language_model.prompts.shared_prefix
        return Encoder(self.language_model.model, max_batch_tokens=MAX_BATCH_TOKENS, shared_prefix=prefix)


@dataclass(frozen=True)
class Timed:
    """What a side gave in its last round, and its medians over the rounds, in seconds and in CPU seconds of this process."""

    states: States
    wall_s: float
    cpu_s: float

    def speedup_over(self, other: Timed) -> dict[str, float]:
        return {"wall": round(other.wall_s / self.wall_s, 2), "cpu": round(other.cpu_s / self.cpu_s, 2)}

    def difference(self, other: Timed) -> float:
        return float(np.abs(self.states - other.states).max())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=("formats", "job"), help="measure one half; the other's targets are then not measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    num_rounds = 1 if options.small else 3
    figures: dict[str, Any] = {"small": options.small, "data": "ml-100k", "load_average_before": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder:
        run_dir = options.run_dir or Path(folder)
        settings = {name: make_setting(run_dir, name) for name in ("sequence", "instruction")}
        sequences = list(iter_sequences(config_of(run_dir, "sequence").data_dir))
        histories = [p for user in sequences for p in user.target_positions(TRAIN)]
        figures["mean_history_of_the_data"] = round(float(np.mean(histories)), 1)
        if options.only != "job":
            users = draw_users(sequences, 6 if options.small else 20)
            figures["formats"] = compare_formats(settings, users, num_rounds=num_rounds)
        if options.only != "formats":
            figures["job"] = compare_job(settings["sequence"], run_dir, num_rounds=num_rounds)
    print_result("build_throughput", figures | {"load_average_after": os.getloadavg()}, targets_of(figures))


def targets_of(figures: dict[str, Any]) -> dict[str, Any]:
    """The targets beside what was measured; None for a half that was left out."""
    formats, job = figures.get("formats"), figures.get("job")
    speedup = {name: ratio["wall"] for name, ratio in formats["speedup"].items()} if formats else {}
    ratios = job["ratios"] if job else {}
    difference = max(formats["largest_state_difference"].values()) if formats else None
    return {
        "sequence format over the plain way (same text)": target(speedup.get("sequence / same-text"), 8.0),
        "sequence format over the plain way (last 10 titles)": target(speedup.get("sequence / last-10"), 8.0),
        "instruction format over the plain way": target(speedup.get("instruction / instruction-plain"), 1.5),
        "states equal": target(difference, 1e-4, at_most=True),
        "whole job over the bare encoder loop": target(ratios.get("job / bare"), 0.9),
        "two workers over one": target(ratios.get("2 workers / 1 worker"), 1.6),
    }


def config_of(run_dir: Path, prompt_format: str) -> RunConfig:
    sections = {"data": {"users_per_part": USERS_PER_PART}, "model": {"name": "mini", "prompt_format": prompt_format}}
    return RunConfig.model_validate({"run_dir": run_dir, "device": "cpu", **sections})


def make_setting(run_dir: Path, prompt_format: str) -> Setting:
    config = config_of(run_dir, prompt_format)
    if not config.data_dir.is_dir():
        prepare_data.main(config)
    catalogue = Catalogue.read(config.data_dir / "items.parquet")
    language_model = base_model(config, catalogue, "cpu")
    titles = tokenize_titles(language_model.tokenizer, catalogue.titles, config.model.max_title_tokens)
    return Setting(language_model, dict(zip(catalogue.item_ids, titles, strict=True)))


def compare_formats(settings: dict[str, Setting], users: list[UserSequence], *, num_rounds: int) -> dict[str, Any]:
    """Figures of both formats on the users' training samples."""
    texts = texts_of(settings, users)
    timed = run_rounds(format_sides(settings, texts), num_rounds)
    speedup = {f"{ours} / {theirs}": timed[ours].speedup_over(timed[theirs]) for ours, theirs in OPPONENTS}
    differences = {f"{ours} / {theirs}": timed[ours].difference(timed[theirs]) for ours, theirs in OPPONENTS if theirs != "last-10"}
    num_samples = len(texts["instruction"])
    return {
        "num_samples": num_samples,
        "mean_history": round(float(np.mean([p for user in users for p in user.target_positions(TRAIN)])), 1),
        "mean_tokens": {name: round(mean_length(texts[name]), 1) for name in ("same-text", "last-10", "instruction")},
        "instruction_tokens": len(settings["instruction"].language_model.prompts.shared_prefix),
        "samples_per_s": {name: round(num_samples / side.wall_s, 1) for name, side in timed.items()},
        "samples_per_cpu_s": {name: round(num_samples / side.cpu_s, 1) for name, side in timed.items()},
        "speedup": speedup,
        "largest_state_difference": differences,
    }


def texts_of(settings: dict[str, Setting], users: list[UserSequence]) -> dict[str, list[Any]]:
    """What each side reads: windows of the sequence format, else one prompt a sample; samples in arrival order."""
    sequence, instruction = settings["sequence"], settings["instruction"]
    histories = [[sequence.item_id_to_title[i] for i in user.item_ids[:p]] for user in users for p in user.target_positions(TRAIN)]
    prompts = sequence.language_model.prompts
    return {
        "sequence": sequence.harvest(users).windows,
        "same-text": [prompts.prompt(history) for history in histories],
        "last-10": [prompts.prompt(history[-LAST:]) for history in histories],
        "instruction": [w.token_ids for w in instruction.harvest(users).windows],
    }


def format_sides(settings: dict[str, Setting], texts: dict[str, list[Any]]) -> dict[str, Callable[[], States]]:
    sequence, shared = settings["sequence"].encoder(), settings["instruction"].encoder()
    packed = Encoder(settings["instruction"].language_model.model, max_batch_tokens=MAX_BATCH_TOKENS)
    return {
        "sequence": lambda: sequence.encode_windows(texts["sequence"]),
        "same-text": lambda: plain_loop(sequence.body, texts["same-text"]),
        "last-10": lambda: plain_loop(sequence.body, texts["last-10"]),
        "instruction": lambda: shared.encode(texts["instruction"]),
        "instruction-packed": lambda: packed.encode(texts["instruction"]),
        "instruction-plain": lambda: plain_loop(packed.body, texts["instruction"]),
    }


def compare_job(setting: Setting, run_dir: Path, *, num_rounds: int) -> dict[str, Any]:
    """Figures of the whole job; every build goes into a fresh memory."""
    data_dir, checkpoint_dir, encoder, builds = run_dir / "data", run_dir / "checkpoint", setting.encoder(), count()
    save_checkpoint(setting.language_model, checkpoint_dir)
    parts = [setting.harvest(read_part(path)).windows for path in part_paths(data_dir)]
    num_entries = sum(len(w.state_indexes) for windows in parts for w in windows)
    spec = EncoderSpec(str(checkpoint_dir), "cpu", MAX_BATCH_TOKENS, num_threads=1)

    def bare() -> float:
        started = time.perf_counter()
        for windows in parts:
            encoder.encode_windows(windows)
        return num_entries / (time.perf_counter() - started)

    def job(num_workers: int) -> float:
        uri = str(run_dir / f"memory-{next(builds)}")
        return build_memory(data_dir, uri, spec=spec, num_workers=num_workers).entries_per_s

    with connect(None, NUM_LOGICAL_CPUS):
        bares, ones, twos = [bare()], [], []
        for _ in range(num_rounds):
            ones.append(job(1))
            twos.append(job(2))
            bares.append(bare())
    beside = [(before + after) / 2 for before, after in pairwise(bares)]
    return {
        "num_entries": num_entries,
        "num_parts": len(parts),
        "threads_per_worker": 1,
        "entries_per_s": {"bare": rounded(bares), "1 worker": rounded(ones), "2 workers": rounded(twos)},
        "ratios": {
            "job / bare": round(median(one / bare_rate for one, bare_rate in zip(ones, beside, strict=True)), 3),
            "2 workers / 1 worker": round(median(two / one for one, two in zip(ones, twos, strict=True)), 2),
        },
    }


def rounded(rates: list[float]) -> list[float]:
    return [round(rate, 1) for rate in rates]


def run_rounds(sides: dict[str, Callable[[], States]], num_rounds: int) -> dict[str, Timed]:
    """All sides in turn, again and again."""
    states: dict[str, States] = {}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(num_rounds):
        for name, encode in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            states[name] = encode()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: Timed(states[name], *(median(column) for column in zip(*seconds[name], strict=True))) for name in sides}


if __name__ == "__main__":
    main()
