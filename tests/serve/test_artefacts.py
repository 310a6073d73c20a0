"""What is served is checked before anything is deployed, and again by every part that is loaded later."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.decode.paired import recent_items
from l2d_ray.decode.search import SearchRequest, search_shards
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.errors import ArtefactError
from l2d_ray.index.layout import MANIFEST, open_index, remove_generations
from l2d_ray.index.sealed import read_summary, seal
from l2d_ray.index.shard import SUMMARY
from l2d_ray.memory.files import write_text
from l2d_ray.memory.table import Memory
from l2d_ray.model.loading import METADATA, read_metadata
from l2d_ray.serve.artefacts import ServedArtefacts
from tests.serve.conftest import NUM_SHARDS
from tests.toys import build_toy_index


@pytest.fixture
def copies(tiny_run, tmp_path: Path) -> tuple[Path, Path]:
    """Checkpoint and index, free to be damaged."""
    folders = tmp_path / "checkpoint", tmp_path / "index"
    for source, copy in zip((tiny_run.checkpoint_dir, tiny_run.index_dir), folders, strict=True):
        shutil.copytree(source, copy)
    return folders


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_mismatch_names_both_fingerprints(tiny_run, other_checkpoint: Path):
    here, there = (read_metadata(folder)["fingerprint"] for folder in (tiny_run.checkpoint_dir, other_checkpoint))
    assert here != there
    with pytest.raises(ArtefactError, match=f"{here}.*{there}"):
        ServedArtefacts.pin(other_checkpoint, tiny_run.index_dir)


def test_missing_folders_are_named(copies, tmp_path: Path):
    checkpoint_dir, index_dir = copies
    with pytest.raises(ArtefactError, match=r"nowhere.*run jobs.train"):
        ServedArtefacts.pin(tmp_path / "nowhere", index_dir)
    with pytest.raises(ArtefactError, match=r"nowhere.*run jobs.build_index"):
        ServedArtefacts.pin(checkpoint_dir, tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match=r"no memory at .*nowhere"):
        ServedArtefacts.pin(checkpoint_dir, index_dir, memory_uri=str(tmp_path / "nowhere"))


def test_changed_weights_are_refused(copies):
    checkpoint_dir, index_dir = copies
    weights = checkpoint_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtefactError, match="changed or damaged"):
        ServedArtefacts.pin(checkpoint_dir, index_dir)


@pytest.mark.parametrize("fields", [{"prompts": {}}, {"dim": "wide"}])
def test_damaged_metadata_are_refused(copies, fields):
    checkpoint_dir, index_dir = copies
    edit(checkpoint_dir / METADATA, **fields)
    with pytest.raises(ArtefactError, match="damaged"):
        ServedArtefacts.pin(checkpoint_dir, index_dir)


def test_an_index_of_another_width_and_a_half_built_shard_are_refused(copies):
    checkpoint_dir, index_dir = copies
    (open_index(index_dir).shard_dir(1) / SUMMARY).unlink()
    with pytest.raises(ArtefactError, match="shard-00001 is missing or half-built"):
        ServedArtefacts.pin(checkpoint_dir, index_dir)
    summary = read_summary(index_dir / MANIFEST)
    files = [name for name in summary.files if (index_dir / name).is_file()]
    seal(index_dir / MANIFEST, dict(summary.fields) | {"dim": 64}, files)
    with pytest.raises(ArtefactError, match="64 wide"):
        ServedArtefacts.pin(checkpoint_dir, index_dir)


def test_parts_loaded_after_a_swap_are_of_the_pinned_index(copies, tiny_run):
    """A replica that starts late must not mix two memory versions: it gets its own one, or none."""
    checkpoint_dir, index_dir = copies
    pinned = ServedArtefacts.pin(checkpoint_dir, index_dir)
    memory = Memory.open(str(tiny_run.index_dir.parent / "memory"))
    newer = build_toy_index(memory, index_dir, NUM_SHARDS + 1)
    assert newer.generation != pinned.manifest.generation
    assert len(pinned.load_searcher(0, device="cpu").shard) == pinned.manifest.num_entries[0] != newer.num_entries[0]
    remove_generations(index_dir, keep={newer.generation})
    for load in (pinned.load_logic, partial(pinned.load_searcher, 0, device="cpu")):
        with pytest.raises(ArtefactError, match=f"{pinned.manifest.generation}, since newer ones were built; deploy again"):
            load()


def test_another_model_after_the_pin_is_refused(copies, other_checkpoint: Path):
    checkpoint_dir, index_dir = copies
    pinned = ServedArtefacts.pin(checkpoint_dir, index_dir)
    shutil.rmtree(checkpoint_dir)
    shutil.copytree(other_checkpoint, checkpoint_dir)
    with pytest.raises(ArtefactError, match="deploy again"):
        pinned.load_encoder(device="cpu", max_batch_tokens=512)


def test_tuned_settings_come_from_the_memory(tiny_run, artefacts: ServedArtefacts, tmp_path: Path):
    uri = str(tmp_path / "memory")
    Memory.create(uri, fingerprint=artefacts.manifest.fingerprint, dim=32, catalogue=tiny_run.catalogue)
    assert ServedArtefacts.pin(tiny_run.checkpoint_dir, tiny_run.index_dir, memory_uri=uri).settings == DecoderSettings()
    tuned = DecoderSettings("local", 50, 0.1, 2.0)
    write_text(uri, "decoder.json", tuned.to_json())
    assert ServedArtefacts.pin(tiny_run.checkpoint_dir, tiny_run.index_dir, memory_uri=uri).settings == tuned
    linear = ServedArtefacts.pin(tiny_run.checkpoint_dir, tiny_run.index_dir, memory_uri=uri, decoders=("whitened", "global"))
    assert linear.settings == replace(tuned, decoder="whitened")


def test_without_local_no_file_of_an_entry_is_opened(copies, tiny_run):
    checkpoint_dir, index_dir = copies
    pinned = ServedArtefacts.pin(checkpoint_dir, index_dir, decoders=("global", "whitened", "paired"))
    segments = list(index_dir.glob("*/shard-*/segment-*"))
    assert segments
    for path in segments:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    searchers = [pinned.load_searcher(shard, device="cpu") for shard in range(NUM_SHARDS)]
    for decoder in pinned.decoders:
        query, nothing = np.ones((1, 32), dtype=np.float32), np.zeros(0, dtype=np.int64)
        request = SearchRequest(query, decoder, 5, 10, (nothing,), (None,), (recent_items([3, 9]),))
        expected = tiny_run.oracle.search(request.queries, 5, histories=[[3, 9]], decoder=decoder)
        np.testing.assert_array_equal(search_shards(searchers, request).ids, expected.ids)
    assert [searcher.holdings().has_entries for searcher in searchers] == [False] * NUM_SHARDS


def test_an_index_of_statistics_alone_is_refused_where_local_is_to_be_served(copies, tiny_run):
    checkpoint_dir, index_dir = copies
    build_toy_index(Memory.open(str(tiny_run.index_dir.parent / "memory")), index_dir, NUM_SHARDS, kind="statistics")
    with pytest.raises(ArtefactError, match=r"item statistics alone, but the decoder local needs entries; .*\[global, whitened, paired\]"):
        ServedArtefacts.pin(checkpoint_dir, index_dir)
    pinned = ServedArtefacts.pin(checkpoint_dir, index_dir, decoders=("whitened",))
    assert not pinned.load_searcher(0, device="cpu").shard.has_entries


def test_an_index_without_pairs_is_refused_where_paired_is_to_be_served(copies, tiny_run):
    checkpoint_dir, index_dir = copies
    build_toy_index(Memory.open(str(tiny_run.index_dir.parent / "memory")), index_dir, NUM_SHARDS, has_pairs=False)
    with pytest.raises(ArtefactError, match=r"holds no item pairs, but the decoder paired needs them; .*index\.pairs"):
        ServedArtefacts.pin(checkpoint_dir, index_dir)
    pinned = ServedArtefacts.pin(checkpoint_dir, index_dir, decoders=("local", "whitened"))
    assert pinned.load_searcher(0, device="cpu").shard.pairs is None


def test_pairs_are_loaded_for_the_paired_decoder_alone(copies):
    checkpoint_dir, index_dir = copies
    for decoders in (("global", "paired"), ("whitened",)):
        shard = ServedArtefacts.pin(checkpoint_dir, index_dir, decoders=decoders).load_searcher(0, device="cpu").shard
        assert (shard.pairs is not None and len(shard.pairs) > 0) == ("paired" in decoders)
