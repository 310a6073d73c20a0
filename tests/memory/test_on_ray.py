"""The memory build on a real Ray cluster: each sample once, what is missing and no more; and indexes of any number of shards over it.

What is killed is in test_crashes.py.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.data.sequences import UserSequence, part_number, part_paths, write_part
from l2d_ray.decode.decoder import load_latent_decoder
from l2d_ray.decode.settings import DECODERS, DecoderSettings
from l2d_ray.errors import ArtefactError, DataError
from l2d_ray.index.layout import load_pooled, read_manifest
from l2d_ray.index.on_ray import build_index
from l2d_ray.memory.on_ray import BuildSummary, build_memory, hash_of_data
from l2d_ray.memory.sequences import load_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import forget_users
from l2d_ray.model.loading import load_checkpoint, save_checkpoint
from l2d_ray.model.on_ray import EncoderSpec
from l2d_ray.schema import TRAIN
from tests.memory.built import check_memory
from tests.toys import NUM_ITEMS, tiny_model, write_toy_data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(tiny_model(), folder)
    return folder


@pytest.fixture(scope="module")
def spec(checkpoint_dir: Path) -> EncoderSpec:
    return EncoderSpec(str(checkpoint_dir), "cpu", 256)


@dataclass(frozen=True)
class Built:
    """A finished build of the toy data."""

    folder: Path
    summary: BuildSummary

    @property
    def memory(self) -> Memory:
        return Memory.open(str(self.folder / "memory"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, spec) -> Built:
    folder = tmp_path_factory.mktemp("whole")
    write_toy_data(folder / "data")
    return Built(folder, build_memory(folder / "data", str(folder / "memory"), spec=spec, num_workers=2, data_name="toy"))


def test_a_build_holds_every_training_sample_once_and_again_does_nothing(whole: Built, checkpoint_dir, spec):
    paths, built = part_paths(whole.folder / "data"), whole.summary
    memory = Memory.open(whole.memory.uri, fingerprint=load_checkpoint(checkpoint_dir).fingerprint)
    check_memory(memory, checkpoint_dir, whole.folder / "data")
    assert (built.num_parts, built.num_parts_reused) == (len(paths), 0) == (4, 0)
    assert built.num_entries == built.num_entries_encoded == len(memory)
    assert sorted(entry.state.message for entry in memory.history()) == sorted(["create", *(f"build {path.stem}" for path in paths)])
    assert sorted(memory.state.parts) == [part_number(path) for path in paths]
    assert min(built.startup_s, built.work_s, built.entries_per_s) > 0

    again = build_memory(whole.folder / "data", memory.uri, spec=spec, num_workers=2)
    assert (again.version, again.num_entries) == (built.version, built.num_entries)
    assert (again.num_entries_encoded, again.num_parts_reused) == (0, 4)


def test_a_memory_says_who_built_it_from_what_and_how_long(whole: Built):
    memory, record = whole.memory, whole.memory.state.build
    data_hash = hash_of_data(whole.folder / "data")
    assert (record.data_name, record.data_hash, record.num_parts, record.num_workers) == ("toy", data_hash, 4, 2)
    assert record.data_hash == memory.metadata.data_hash
    assert "@" in record.built_by
    assert record.started_at < record.finished_at
    assert record.seconds > 0
    seconds = [entry.state.build.seconds for entry in memory.history() if entry.state.build]
    assert len(seconds) == 4
    assert seconds == sorted(seconds)


@pytest.fixture(scope="module")
def half_built(tmp_path_factory, spec) -> Path:
    """Folder of a build that stopped after parts 0 and 3 of four, made by hiding the others from it."""
    folder = tmp_path_factory.mktemp("half")
    paths = write_toy_data(folder / "data")
    data_hash = hash_of_data(folder / "data")
    aside = [path.rename(folder / path.name) for path in paths[1:3]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("l2d_ray.memory.on_ray.hash_of_data", lambda data_dir: data_hash)
        build_memory(folder / "data", str(folder / "memory"), spec=spec, num_workers=1)
    for path in aside:
        path.rename(folder / "data" / "sequences" / path.name)
    return folder


@pytest.fixture
def half(half_built: Path, tmp_path: Path) -> Memory:
    """A copy of that build's memory, beside its data."""
    shutil.copytree(half_built, tmp_path, dirs_exist_ok=True)
    return Memory.open(str(tmp_path / "memory"))


def test_a_build_encodes_only_the_missing_parts(half: Memory, tmp_path, checkpoint_dir, spec):
    assert sorted(half.state.parts) == [0, 3]
    summary = build_memory(tmp_path / "data", half.uri, spec=spec, num_workers=1)
    assert (summary.num_parts, summary.num_parts_reused) == (4, 2)
    assert 0 < summary.num_entries_encoded == summary.num_entries - len(half)
    memory = Memory.open(half.uri)
    check_memory(memory, checkpoint_dir, tmp_path / "data")
    assert memory.state.build.seconds > half.state.build.seconds
    assert memory.state.build.started_at == half.state.build.started_at


def test_a_build_that_goes_on_does_not_bring_a_forgotten_user_back(half: Memory, tmp_path, spec):
    """Parts are known by name, not by the samples that are there."""
    everyone = {user for batch in half.scan(with_vectors=False) for user in batch.user_ids.to_pylist()}
    kept = forget_users(half, ["user-000"])
    assert len(kept) < len(half)
    build_memory(tmp_path / "data", half.uri, spec=spec, num_workers=1)
    again = build_memory(tmp_path / "data", half.uri, spec=spec, num_workers=1)
    assert again.num_entries_encoded == 0
    memory = Memory.open(half.uri)
    users = {user for batch in memory.scan() for user in batch.user_ids.to_pylist()}
    assert "user-000" in everyone
    assert "user-000" not in users | load_sequences(memory.uri, memory.state.sequences).keys()
    assert everyone - users == {"user-000"}
    assert len(users) > len(everyone)


def test_other_data_are_refused(whole: Built, tmp_path, spec):
    """Else parts whose first sample is there already would be skipped, though the rest of them differs."""
    write_toy_data(tmp_path / "other", num_users=12, users_per_part=12)
    with pytest.raises(ArtefactError, match=r"was built from the data [0-9a-f]{16}, the data here is [0-9a-f]{16}"):
        build_memory(tmp_path / "other", whole.memory.uri, spec=spec, num_workers=1)


def test_another_checkpoint_is_refused(whole: Built, tmp_path, checkpoint_dir):
    other = save_checkpoint(tiny_model(seed=1), tmp_path / "other")
    mine = load_checkpoint(checkpoint_dir).fingerprint
    with pytest.raises(ArtefactError, match=f"made by the model {mine}, the model here is {other.fingerprint}"):
        build_memory(whole.folder / "data", whole.memory.uri, spec=EncoderSpec(str(tmp_path / "other"), "cpu", 256), num_workers=1)


def test_what_goes_wrong_in_an_actor_arrives_as_its_sentence(tmp_path):
    write_toy_data(tmp_path / "data", num_users=6)
    broken = tiny_model()
    broken.model.model.norm.weight.data.fill_(float("nan"))
    save_checkpoint(broken, tmp_path / "broken")
    with pytest.raises(ArtefactError, match="NaN or infinite"):
        build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=EncoderSpec(str(tmp_path / "broken"), "cpu", 256), num_workers=1)
    assert len(Memory.open(str(tmp_path / "memory"))) == 0


def test_data_without_training_samples_is_refused(tmp_path, spec):
    (path,) = write_toy_data(tmp_path / "data", num_users=1)
    write_part(path, [UserSequence("loner", ("item-00",), (1,), (TRAIN,))])
    with pytest.raises(DataError, match="No user has two training interactions"):
        build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=spec, num_workers=1)


def test_two_shards_and_three_recommend_the_same(whole: Built, tmp_path, checkpoint_dir):
    memory = whole.memory
    index_dir, histories = tmp_path / "index", [[i, (i + 1) % NUM_ITEMS] for i in range(NUM_ITEMS)]
    answers, covariances = [], []
    for num_shards in (2, 3):
        manifest = build_index(memory, num_shards, index_dir).manifest
        assert read_manifest(index_dir, fingerprint=memory.fingerprint) == manifest
        assert (manifest.num_shards, sum(manifest.num_entries), manifest.memory_version) == (num_shards, len(memory), memory.version)
        assert len(list((index_dir / manifest.generation).glob("shard-*"))) == num_shards
        decoder = load_latent_decoder(checkpoint_dir, index_dir, DecoderSettings(num_neighbors=20))
        answers.append({name: decoder.recommend(histories, 5, decoder=name).ids for name in DECODERS})
        covariances.append(load_pooled(index_dir).within_covariance)
    assert {name: ids.shape for name, ids in answers[0].items()} == dict.fromkeys(DECODERS, (NUM_ITEMS, 5))
    for name in DECODERS:
        np.testing.assert_array_equal(answers[0][name], answers[1][name])
    np.testing.assert_allclose(covariances[0], covariances[1], rtol=1e-9, atol=1e-12)
    assert [path.name for path in tmp_path.glob("index*")] == ["index"]
