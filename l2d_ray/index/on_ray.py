"""Makes the shards of an index as parallel Ray tasks, one a shard; sealed shards of an interrupted run are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayTaskError
from tqdm import tqdm

from l2d_ray.errors import L2DError
from l2d_ray.index.build import ShardSummary
from l2d_ray.index.layout import IndexManifest, only_builder
from l2d_ray.index.plan import DEFAULTS, Action, IndexOptions, IndexPlan, finish_index, make_shard, plan_index
from l2d_ray.index.titles import EncodeTitles
from l2d_ray.memory.table import Memory


@dataclass(frozen=True)
class IndexBuild:
    """What one call of ``build_index`` did, and why it built where it did not extend."""

    manifest: IndexManifest
    action: Action
    reason: str


def build_index(
    memory: Memory,
    num_shards: int,
    index_dir: Path,
    *,
    options: IndexOptions = DEFAULTS,
    encode_titles: EncodeTitles | None = None,
) -> IndexBuild:
    """Bring the index to the memory's open version; ConflictError where another process does that just now.

    Args:
        encode_titles: with the memory's model; without it a new index has no states of titles, so none of items without entries.
    """
    plan = plan_index(memory, num_shards, index_dir, options=options)
    if plan.base is not None and plan.action == "reused":
        return IndexBuild(plan.base.manifest, plan.action, plan.reason)
    with only_builder(index_dir):
        plan = plan_index(memory, num_shards, index_dir, options=options)  # another one may just have ended
        if plan.base is not None and plan.action == "reused":
            return IndexBuild(plan.base.manifest, plan.action, plan.reason)
        manifest = finish_index(plan, memory, _make_shards(plan), encode_titles=encode_titles)
    return IndexBuild(manifest, plan.action, plan.reason)


def _make_shards(plan: IndexPlan) -> list[ShardSummary]:
    task = ray.remote(make_shard)
    pending = {task.remote(plan, shard): shard for shard in range(plan.num_shards)}
    summaries: dict[int, ShardSummary] = {}
    with tqdm(total=plan.num_shards, desc="index shards", unit="shard") as progress:
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            summaries[pending.pop(done)] = _result(done)
            progress.set_postfix(entries=sum(summary.num_entries for summary in summaries.values()))
            progress.update()
    return [summaries[shard] for shard in range(plan.num_shards)]


def _result(task: ray.ObjectRef) -> ShardSummary:
    """What a task gave; its L2DError is raised as itself."""
    try:
        summary: ShardSummary = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, L2DError):
            raise error.cause from None
        raise
    return summary
