"""What was written to the state comes into memory and index, once, also where a round is cut off anywhere and made again."""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.decode.decoder import load_latent_decoder
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.index.layout import generations, load_catalogue, load_shards, open_index, read_manifest
from l2d_ray.memory.table import Memory
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import load_checkpoint
from l2d_ray.serve.upkeep import TextEncoder, Upkeep, Writing
from l2d_ray.store.interface import StateStore
from l2d_ray.store.open import open_store
from l2d_ray.store.records import Author, CatalogueEdit, Interaction

AUTHOR = Author(None, "test")


class CutOffError(Exception):
    """Stands for SIGKILL."""


def cut_off(*arguments: object, **named: object) -> None:
    raise CutOffError


@dataclass(frozen=True)
class Kept:
    """A run with its state, and what keeps them together."""

    memory_uri: str
    index_dir: Path
    store: StateStore
    upkeep: Upkeep

    @property
    def memory(self) -> Memory:
        return Memory.open(self.memory_uri)

    def entries(self) -> Counter[tuple[str, str]]:
        """(user, target) of every live row."""
        pairs: Counter[tuple[str, str]] = Counter()
        for batch in self.memory.scan():
            pairs.update(zip(batch.user_ids.to_pylist(), batch.item_ids.to_pylist(), strict=True))
        return pairs


@pytest.fixture
def kept(tiny_run, tmp_path: Path):
    for name in ("memory", "index"):
        shutil.copytree(tiny_run.index_dir.parent / name, tmp_path / name)
    language_model = load_checkpoint(tiny_run.checkpoint_dir, device="cpu")
    encoder = Encoder(language_model.model)
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        upkeep = Upkeep(
            store,
            str(tmp_path / "memory"),
            tmp_path / "index",
            writing=Writing(language_model.tokenizer, language_model.prompts, language_model.settings.max_title_tokens),
            encoder=TextEncoder(encoder.encode_windows, encoder.encode),
            num_previous=2,
        )
        yield Kept(str(tmp_path / "memory"), tmp_path / "index", store, upkeep)


def interactions(user_id: str, *items: int, first: int = 1000) -> list[Interaction]:
    return [Interaction(f"{user_id}-{first + n}", user_id, f"item-{item:02d}", first + n) for n, item in enumerate(items)]


def test_nothing_pending_is_nothing_to_do(kept: Kept):
    before = kept.memory.version
    assert kept.upkeep.round() is None
    assert kept.memory.version == before == read_manifest(kept.index_dir).memory_version
    assert sum(map(len, kept.store.histories([f"u{number}" for number in range(20)]).values())) > 20


def test_interactions_come_into_memory_and_index_as_if_built_from_them(kept: Kept, tiny_run):
    kept.store.add_interactions([*interactions("ann", 3, 4, 5), *interactions("bob", 7, 8)], AUTHOR)
    before = len(kept.memory)
    version = kept.upkeep.round()
    assert version == kept.memory.version == read_manifest(kept.index_dir).memory_version
    assert kept.store.backlog().num_interactions == 0
    added = {pair: count for pair, count in kept.entries().items() if pair[0] in ("ann", "bob")}
    assert added == {("ann", "item-04"): 1, ("ann", "item-05"): 1, ("bob", "item-08"): 1}
    assert len(kept.memory) == before + 3
    decoder = load_latent_decoder(tiny_run.checkpoint_dir, kept.index_dir, DecoderSettings())
    state = decoder.encode([[3, 4]])
    rows = [row for batch in kept.memory.scan() for row in zip(batch.user_ids.to_pylist(), batch.vectors, strict=True) if row[0] == "ann"]
    assert min(float(np.abs(vector - state[0]).max()) for _, vector in rows) < 2e-3
    kept.store.add_interactions(interactions("ann", 9, first=2000), AUTHOR)
    kept.upkeep.round()
    assert kept.entries()["ann", "item-09"] == 1
    assert len(kept.memory) == before + 4


def test_edits_change_the_catalogue_and_deleted_items_are_no_longer_found(kept: Kept):
    edits = [
        CatalogueEdit("put", "item-new", "A New Film (2001)", {"year": 2001}),
        CatalogueEdit("patch", "item-03", None, {"year": 1}),
        CatalogueEdit("delete", "item-04"),
        CatalogueEdit("delete", "item-unknown"),
    ]
    kept.store.edit_items(edits, AUTHOR)
    kept.store.add_interactions([*interactions("ann", 3), Interaction("e", "ann", "item-new", 1001)], AUTHOR)
    assert kept.entries().total() == 400
    kept.upkeep.round()
    catalogue = load_catalogue(kept.index_dir)
    assert catalogue.titles[catalogue.item_id_to_index["item-new"]] == "A New Film (2001)"
    assert catalogue.attributes[catalogue.item_id_to_index["item-03"]]["year"] == 1
    assert kept.entries()["ann", "item-new"] == 1
    assert not any(item == "item-04" for _, item in kept.entries())
    assert kept.store.backlog().num_edits == 0
    kept.store.edit_items([CatalogueEdit("put", "item-04", "Back Again")], AUTHOR)
    kept.upkeep.round()
    assert "item-04" not in kept.memory.retired_item_ids


def test_a_forgotten_user_is_in_no_file_any_more(kept: Kept, monkeypatch: pytest.MonkeyPatch):
    kept.store.add_interactions(interactions("secretive", 3, 4, 5), AUTHOR)
    kept.upkeep.round()
    assert any(user == "secretive" for user, _ in kept.entries())
    kept.store.forget_user("secretive", AUTHOR)
    with monkeypatch.context() as patch:
        patch.setattr(kept.upkeep, "_forget_old_versions", cut_off)
        with pytest.raises(CutOffError):
            kept.upkeep.round()
    assert kept.upkeep.round() is None
    assert not any(user == "secretive" for user, _ in kept.entries())
    assert kept.store.forgotten_users() == []
    assert len(generations(kept.index_dir)) == 1
    folders = (Path(kept.memory_uri), kept.index_dir)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if b"secretive" in path.read_bytes()] == []


def test_item_pairs_follow_what_users_take_and_are_forgotten_with_them(kept: Kept):
    def pairs() -> list[np.ndarray]:
        return [getattr(shard.pairs, name) for shard in load_shards(kept.index_dir) for name in ("starts", "places", "similarities")]

    def similarity(source: str, target: str) -> float:
        items, found = load_catalogue(kept.index_dir).item_id_to_index, 0.0
        for shard in load_shards(kept.index_dir):
            rows = slice(*shard.pairs.starts[items[source] : items[source] + 2])
            found += shard.pairs.similarities[rows][shard.statistics.item_indexes[shard.pairs.places[rows]] == items[target]].sum()
        return found

    kept.upkeep.round()
    before, likeness = pairs(), similarity("item-03", "item-04")
    for user in ("ann", "bob", "cid"):
        kept.store.add_interactions(interactions(user, 3, 4), AUTHOR)
    kept.upkeep.round()
    assert similarity("item-03", "item-04") > likeness + 0.03
    for user in ("ann", "bob", "cid"):
        kept.store.forget_user(user, AUTHOR)
    kept.upkeep.round()
    for found, expected in zip(pairs(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("point", ["mark_in_memory", "_into_index"])
def test_a_round_that_was_cut_off_is_made_again_and_doubles_nothing(kept: Kept, point: str, monkeypatch: pytest.MonkeyPatch):
    kept.store.add_interactions([*interactions("ann", 3, 4, 5), *interactions("bob", 7, 8)], AUTHOR)
    with monkeypatch.context() as patch:
        patch.setattr(kept.upkeep if point == "_into_index" else kept.store, point, cut_off)
        with pytest.raises(CutOffError):
            kept.upkeep.round()
    kept.store.add_interactions(interactions("bob", 9, first=2000), AUTHOR)
    kept.upkeep.round()
    added = {pair: count for pair, count in kept.entries().items() if pair[0] in ("ann", "bob")}
    assert added == {("ann", "item-04"): 1, ("ann", "item-05"): 1, ("bob", "item-08"): 1, ("bob", "item-09"): 1}
    assert open_index(kept.index_dir).manifest.memory_version == kept.memory.version
    assert kept.upkeep.round() is None
