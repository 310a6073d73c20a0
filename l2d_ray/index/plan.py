"""How an index is made: reused, extended or built, shard by shard, then swapped in whole. Knows no Ray; ``index.on_ray`` runs the shards.

    plan = plan_index(memory, 4, index_dir)
    summaries = [make_shard(plan, shard) for shard in range(4)]     # anywhere, in any order, again after a crash
    manifest = finish_index(plan, memory, summaries)

A plan's generation is named after everything that decides the result, so a run that was killed goes on with the shards it had sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal

from l2d_ray.errors import ArtefactError
from l2d_ray.index.build import IndexKind, ShardSummary, build_shard
from l2d_ray.index.extend import REBUILD_FRACTION, Versions, extend_shard
from l2d_ray.index.kinds import KindChoice, choose_kind
from l2d_ray.index.layout import Index, IndexManifest, generations, open_index, publish, remove_generations, shard_dir
from l2d_ray.index.sealed import read_summary
from l2d_ray.index.shard import SUMMARY, TOTAL, WITHIN_SCATTER, read_statistics
from l2d_ray.index.titles import EncodeTitles, TitledItems, by_title, write_titles
from l2d_ray.memory.commits import writing
from l2d_ray.memory.statistics import ItemStatistics, PooledStatistics
from l2d_ray.memory.table import Memory

IndexKindChoice = KindChoice | Literal["statistics"]
Action = Literal["built", "extended", "reused"]


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made.

    Attributes:
        device: where it will be searched, which decides the kind where that is ``auto``.
        is_extended: whether an older index may be extended; if not, one that holds dead entries is built anew too.
        rebuild_fraction: see ``extend_shard``.
        num_previous: generations before this one that stay, for readers that have opened them and for going back.
        has_pairs: whether item pairs are counted, for the paired decoder.
    """

    kind: IndexKindChoice = "auto"
    device: str = "cpu"
    is_extended: bool = True
    rebuild_fraction: float = REBUILD_FRACTION
    num_previous: int = 1
    has_pairs: bool = True


DEFAULTS: Final = IndexOptions()


@dataclass(frozen=True)
class IndexPlan:
    """What is to be done, as plain values that travel to other processes.

    Attributes:
        reason: why the index is built and not extended; empty where it is.
        base: the index that is there, where it is extended or reused.
    """

    action: Action
    reason: str
    memory_uri: str
    memory_version: int
    index_dir: Path
    generation: str
    kind: IndexKind
    num_shards: int
    options: IndexOptions
    base: Index | None

    def shard_dir(self, shard: int) -> Path:
        return shard_dir(self.index_dir / self.generation, shard)


def plan_index(memory: Memory, num_shards: int, index_dir: Path, *, options: IndexOptions = DEFAULTS) -> IndexPlan:
    """Reuse the index of this version; extend that of an older one where it has the same shards and kind; else build."""
    kind, base = _kind(memory, num_shards, options), _readable(index_dir)
    action, reason = _decide(base, memory, num_shards, kind, options)
    base = None if action == "built" else base
    parts = (
        memory.fingerprint,
        memory.version,
        memory.digest,
        kind,
        num_shards,
        options.rebuild_fraction,
        options.has_pairs,
        base and base.manifest.generation,
    )
    generation = f"v{memory.version}-{blake2b(repr(parts).encode(), digest_size=6).hexdigest()}"
    if base is not None and action == "reused":
        generation = base.manifest.generation
    return IndexPlan(action, reason, memory.uri, memory.version, index_dir, generation, kind, num_shards, options, base)


def why_not_extended(manifest: IndexManifest, memory: Memory, num_shards: int, kind: IndexKind) -> str | None:
    """One sentence on why an index cannot become that of a memory version by extension; None where it can."""
    if manifest.fingerprint != memory.fingerprint:
        return f"the index was made by the model {manifest.fingerprint}, the memory by {memory.fingerprint}"
    if manifest.dim != memory.dim:
        return f"the vectors of the index are {manifest.dim} wide, those of the memory {memory.dim}"
    if (manifest.num_shards, manifest.kind) != (num_shards, kind):
        return f"the index has {manifest.num_shards} shards of kind {manifest.kind}, wanted are {num_shards} of kind {kind}"
    if manifest.memory_version > memory.version:
        return f"the index is of memory version {manifest.memory_version}, newer than version {memory.version}"
    try:
        older = Memory.open(memory.uri, version=manifest.memory_version)
    except ArtefactError:
        return f"the memory no longer has version {manifest.memory_version}, which the index was made from"
    if older.digest != int(manifest.digest, 16):
        return f"version {manifest.memory_version} of the memory holds other rows than the index was made from"
    return None


def make_shard(plan: IndexPlan, shard: int) -> ShardSummary:
    """Make one shard of a plan, unless it is there. ArtefactError where its base cannot be extended, StorageError where a disk is full."""
    memory, folder = Memory.open(plan.memory_uri, version=plan.memory_version), plan.shard_dir(shard)
    with writing(str(plan.index_dir)):
        if plan.base is None:
            return build_shard(memory, shard, plan.num_shards, folder, kind=plan.kind, has_pairs=plan.options.has_pairs)
        reason = why_not_extended(plan.base.manifest, memory, plan.num_shards, plan.kind)
        if reason is not None:
            raise ArtefactError(f"The index at {plan.index_dir} cannot be extended: {reason}; build it with index.extend=false.")
        older = Memory.open(plan.memory_uri, version=plan.base.manifest.memory_version)
        versions = Versions(memory, older, shard, plan.num_shards)
        old_folder, options = plan.base.shard_dir(shard), plan.options
        return extend_shard(versions, old_folder, folder, rebuild_fraction=options.rebuild_fraction, has_pairs=options.has_pairs)


def finish_index(
    plan: IndexPlan, memory: Memory, summaries: Sequence[ShardSummary], *, encode_titles: EncodeTitles | None = None
) -> IndexManifest:
    """Swap in the finished shards, in order, and delete what no reader can want any more.

    Args:
        encode_titles: with the memory's model; without it the index has no states of titles.

    Raises ArtefactError where the shards together are not the memory version.
    """
    memory.check_digest(sum(s.digest for s in summaries) % 2**64, sum(s.num_entries for s in summaries))
    sealed = [read_summary(plan.shard_dir(shard) / SUMMARY) for shard in range(plan.num_shards)]
    sums = ([shard.array(name) for shard in sealed] for name in (WITHIN_SCATTER, TOTAL))
    num_entries, num_items = sum(s.num_entries for s in summaries), sum(s.num_items for s in summaries)
    pooled = PooledStatistics.from_sums(*sums, num_entries=num_entries, num_items=num_items)
    columns = {field.name: tuple(getattr(s, field.name) for s in summaries) for field in fields(ShardSummary) if field.name != "digest"}
    manifest = IndexManifest(
        memory_version=memory.version,
        fingerprint=memory.fingerprint,
        dim=memory.dim,
        kind=plan.kind,
        num_shards=plan.num_shards,
        generation=plan.generation,
        digest=f"{memory.digest:016x}",
        half_life_s=memory.half_life_s,
        reference_time=memory.reference_time,
        has_titles=encode_titles is not None,
        **columns,
    )
    previous = [name for name in generations(plan.index_dir) if name != plan.generation]
    with writing(str(plan.index_dir)):
        titles = [] if encode_titles is None else _write_titles(plan, memory, [read_statistics(shard) for shard in sealed], encode_titles)
        publish(plan.index_dir, manifest, catalogue=memory.catalogue, pooled=pooled, titles=titles)
    remove_generations(plan.index_dir, keep={manifest.generation, *previous[::-1][: plan.options.num_previous]})
    return manifest


def _write_titles(plan: IndexPlan, memory: Memory, statistics: Sequence[ItemStatistics], encode: EncodeTitles) -> list[str]:
    """Titles of the base index, which has the same shards, are not encoded again."""
    catalogue = plan.base and plan.base.catalogue()

    def known(shard: int) -> TitledItems:
        titles = plan.base and plan.base.titles(shard)
        return by_title(titles, catalogue) if titles and catalogue else {}

    return write_titles(plan.index_dir / plan.generation, memory, statistics, encode, known=known)


def _kind(memory: Memory, num_shards: int, options: IndexOptions) -> IndexKind:
    if options.kind == "statistics":
        return "statistics"
    return choose_kind(-(-len(memory) // num_shards), memory.dim, device=options.device, wanted=options.kind)


def _decide(base: Index | None, memory: Memory, num_shards: int, kind: IndexKind, options: IndexOptions) -> tuple[Action, str]:
    """What to do, and where that is to build, why."""
    if base is None:
        return "built", "there is no index that this release reads"
    reason = why_not_extended(base.manifest, memory, num_shards, kind)
    if reason is not None:
        return "built", reason
    is_of_version = base.manifest.memory_version == memory.version and base.manifest.has_pairs == options.has_pairs
    if is_of_version and (options.is_extended or not any(base.manifest.num_dead)):
        return "reused", ""
    if not options.is_extended:
        return "built", "extension is switched off"
    return "extended", ""


def _readable(index_dir: Path) -> Index | None:
    """The index that is there; None also where it is damaged or of another release, since it is about to be replaced."""
    try:
        return open_index(index_dir)
    except ArtefactError:
        return None
