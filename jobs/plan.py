"""Answers, before anything is bought: what N entries take on disk and in memory, how long they build, how fast they are searched.

    python -m jobs.plan plan.num_entries=1000000000 plan.num_items=10000000 plan.dim=2048 plan.num_parameters=1.2e9 plan.num_gpus=8
    python -m jobs.plan --config jobs/configs/quickstart.yaml      # a memory that is there, by its own figures

Sizes and times follow from constants that benchmarks.plan measured (l2d_ray/plan.py has the formulas). Settings that are left open are
taken from the run's memory and index where they are there: then the largest shard's true share is used too. docs/at_scale.md reads a plan.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open

from jobs.cli import run
from l2d_ray.config import RunConfig
from l2d_ray.errors import ArtefactError, ConfigError
from l2d_ray.index.layout import read_manifest
from l2d_ray.memory.overview import overview
from l2d_ray.memory.table import Memory, exists
from l2d_ray.plan import Constants, Plan, Workload, plan


def main(config: RunConfig) -> dict[str, Any]:
    workload = workload_of(config)
    found = plan(workload, Constants.load())
    print(format_plan(workload, found), file=sys.stderr)
    figures = {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(found).items()}
    return {"job": "plan", "workload": asdict(workload), **figures}


def workload_of(config: RunConfig) -> Workload:
    """The settings, and for what they leave open the run's memory and index; ConfigError names what is known from neither."""
    known = config.plan.model_dump(exclude_none=True)
    of_run = {"num_shards": config.index.num_shards} | _of_index(config) | _of_memory(config, known) | _of_model(config)
    known = of_run | known
    missing = [name for name in ("num_entries", "num_items", "dim", "num_parameters") if name not in known]
    if missing:
        raise ConfigError(f"There is no memory at {config.memory_uri} to take them from, so give plan.{', plan.'.join(missing)}.")
    return Workload(**known)


def _of_memory(config: RunConfig, known: dict[str, Any]) -> dict[str, Any]:
    if {"num_entries", "num_items", "dim"} <= known.keys() or not exists(config.memory_uri):
        return {}
    memory = Memory.open(config.memory_uri)
    return {"num_entries": len(memory), "num_items": overview(memory).num_items_with_entries, "dim": memory.dim}


def _of_model(config: RunConfig) -> dict[str, Any]:
    if not config.checkpoint_dir.is_dir():
        return {}
    return {"num_parameters": sum(_body_parameters(path) for path in config.checkpoint_dir.glob("*.safetensors"))}


def _body_parameters(path: Path) -> int:
    """Numbers in a file of weights that a forward pass of the body multiplies with: all but the embeddings and the vocabulary's head."""
    with safe_open(path, framework="numpy") as weights:
        names = [name for name in weights.keys() if "embed_tokens" not in name and "lm_head" not in name]  # noqa: SIM118
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


def _of_index(config: RunConfig) -> dict[str, Any]:
    try:
        manifest = read_manifest(config.index_dir)
    except ArtefactError:
        return {}
    return {"num_shards": manifest.num_shards, "kind": manifest.kind, "largest_share": manifest.largest_share}


def format_plan(workload: Workload, found: Plan) -> str:
    """The plan as lines for people."""
    w, p = workload, found
    encoders = f"{w.num_gpus} GPUs at {w.gpu_utilization:.0%} of {w.gpu_flops / 1e12:.0f} TFLOP/s" if w.num_gpus else f"{w.num_cores} cores"
    lines = [
        f"{w.num_entries:,} entries of {w.num_items:,} items, {w.dim} wide, in {w.num_shards} shards, {w.kind}",
        f"  memory on storage        {_size(p.memory_disk_bytes)}",
        f"  index on disk            {_size(p.index_disk_bytes)}, largest shard {_size(p.shard_disk_bytes)}",
        f"  a shard holds in memory  {_size(p.shard_statistics_memory_bytes)} for items (all that global and whitened need)",
        f"                           {_size(p.shard_pairs_memory_bytes)} for item pairs at most (paired)",
        f"                           {_size(p.shard_entries_memory_bytes)} for entries ({p.memory_share_of_float16:.1%} of their vectors)",
        f"  encoding                 {_hours(p.encode_hours)} on {encoders}, {w.tokens_per_entry:g} tokens an entry",
        f"  writing, index           {_hours(p.write_hours)} and {_hours(p.index_hours)} on {w.num_cores} cores",
        f"  counting item pairs      {_hours(p.pairs_hours)} for every version of the index (index.pairs)",
        f"  bytes a query            {p.top_k_bytes_per_query:,} (global, whitened, paired)",
    ]
    if p.local_queries_per_s is not None and p.local_bytes_per_query is not None:
        lines[-1] += f", {p.local_bytes_per_query:,} (local, {w.num_neighbors} neighbours)"
        lines.append(f"  local queries a second   {p.local_queries_per_s:,.1f} with one replica a shard of {w.cores_per_shard} cores")
    return "\n".join(lines)


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"


if __name__ == "__main__":
    run(main, __doc__)
