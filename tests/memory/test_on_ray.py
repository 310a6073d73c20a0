"""The memory build on a real Ray cluster: each sample once, whatever was killed; and indexes of any number of shards over it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from l2d_ray.data.sequences import UserSequence, write_part
from l2d_ray.decode.decoder import load_latent_decoder
from l2d_ray.decode.settings import DECODERS, DecoderSettings
from l2d_ray.errors import ArtefactError, DataError
from l2d_ray.index.layout import load_covariance, read_manifest
from l2d_ray.index.on_ray import build_index
from l2d_ray.memory.on_ray import build_memory
from l2d_ray.memory.table import Memory, vectors_of
from l2d_ray.model.loading import load_checkpoint, save_checkpoint
from l2d_ray.model.on_ray import EncoderSpec
from l2d_ray.schema import TEST, TRAIN, VALID
from tests.toys import NUM_ITEMS, encode_in_process, tiny_model, write_toy_data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILL_TIMEOUT_S = 180


@pytest.fixture(scope="module", autouse=True)
def ray_cluster():
    ray.init(num_cpus=4, include_dashboard=False, logging_level="WARNING")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(tiny_model(), folder)
    return folder


@pytest.fixture
def spec(checkpoint_dir: Path) -> EncoderSpec:
    return EncoderSpec(str(checkpoint_dir), "cpu", 256)


def stored_rows(memory: Memory) -> dict[int, np.ndarray]:
    """sample_id -> vector; fails where a sample_id stands twice."""
    found: dict[int, np.ndarray] = {}
    for batch in memory.scan(["sample_id", "vector"]):
        for sample_id, vector in zip(batch["sample_id"].to_pylist(), vectors_of(batch), strict=True):
            assert sample_id not in found
            found[sample_id] = vector
    return found


def expected_rows(checkpoint_dir: Path, data_dir: Path) -> dict[int, np.ndarray]:
    targets, vectors = encode_in_process(load_checkpoint(checkpoint_dir), data_dir)
    return {target.sample_id: vector for target, vector in zip(targets, vectors, strict=True)}


def check_memory(memory: Memory, checkpoint_dir: Path, data_dir: Path) -> None:
    """The training samples, each once, with the vectors of an encoder in this process."""
    found, expected = stored_rows(memory), expected_rows(checkpoint_dir, data_dir)
    assert len(expected) > 40
    assert found.keys() == expected.keys()
    for sample_id, vector in expected.items():
        np.testing.assert_allclose(found[sample_id].astype(np.float32), vector, rtol=2e-3, atol=2e-3)
    held_out = {t.sample_id for split in (VALID, TEST) for t in encode_in_process(load_checkpoint(checkpoint_dir), data_dir, split)[0]}
    assert held_out
    assert not held_out & found.keys()


def test_a_build_holds_every_training_sample_once_and_again_does_nothing(tmp_path, checkpoint_dir, spec):
    paths = write_toy_data(tmp_path / "data")
    uri = str(tmp_path / "memory")
    built = build_memory(tmp_path / "data", uri, spec=spec, num_workers=2)
    memory = Memory.open(uri, fingerprint=load_checkpoint(checkpoint_dir).fingerprint)
    check_memory(memory, checkpoint_dir, tmp_path / "data")
    assert (built.num_parts, built.num_parts_reused) == (len(paths), 0) == (4, 0)
    assert built.num_entries == built.num_entries_encoded == len(memory)
    assert sorted(entry.message for entry in memory.history()) == sorted(["create", *(f"build {path.stem}" for path in paths)])

    again = build_memory(tmp_path / "data", uri, spec=spec, num_workers=2)
    assert (again.version, again.num_entries) == (built.version, built.num_entries)
    assert (again.num_entries_encoded, again.num_parts_reused) == (0, 4)


def test_a_build_encodes_only_the_missing_parts(tmp_path, checkpoint_dir, spec, monkeypatch):
    """A build that stopped half-way, made by hiding parts from the first call; so the data must seem the same to both."""
    monkeypatch.setattr("l2d_ray.memory.on_ray.hash_of_data", lambda data_dir: "the same")
    paths = write_toy_data(tmp_path / "data")
    aside = [path.rename(tmp_path / path.name) for path in paths[1:3]]
    first = build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=spec, num_workers=1)
    for path in aside:
        path.rename(tmp_path / "data" / "sequences" / path.name)
    second = build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=spec, num_workers=1)
    assert (second.num_parts, second.num_parts_reused) == (4, 2)
    assert 0 < second.num_entries_encoded == second.num_entries - first.num_entries
    check_memory(Memory.open(str(tmp_path / "memory")), checkpoint_dir, tmp_path / "data")


def test_other_data_are_refused(tmp_path, spec):
    """Else parts whose first sample is there already would be skipped, though the rest of them differs."""
    write_toy_data(tmp_path / "data", num_users=6)
    build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=spec, num_workers=1)
    write_toy_data(tmp_path / "other", num_users=12, users_per_part=12)
    with pytest.raises(ArtefactError, match=r"was built from the data [0-9a-f]{16}, the data here is [0-9a-f]{16}"):
        build_memory(tmp_path / "other", str(tmp_path / "memory"), spec=spec, num_workers=1)


def test_a_killed_driver_loses_nothing_and_doubles_nothing(tmp_path, checkpoint_dir, spec):
    write_toy_data(tmp_path / "run" / "data", num_users=200, users_per_part=1)
    (tmp_path / "run" / "checkpoint").symlink_to(checkpoint_dir)
    uri = str(tmp_path / "run" / "memory")
    address = f"ray.address={ray.get_runtime_context().gcs_address}"
    command = [sys.executable, "-m", "jobs.build_memory", f"run_dir={tmp_path / 'run'}", "device=cpu", address]
    with (tmp_path / "driver.log").open("w") as log:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + KILL_TIMEOUT_S
            while not any((Path(uri) / "entries.lance" / "data").glob("*.lance")):
                assert driver.poll() is None, (tmp_path / "driver.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "driver.log").read_text()
                time.sleep(0.01)
            while len(Memory.open(uri)) == 0:
                assert time.monotonic() < deadline
        finally:
            driver.kill()
        assert driver.wait() == -signal.SIGKILL
    num_committed = len(stored_rows(Memory.open(uri)))
    summary = build_memory(tmp_path / "run" / "data", uri, spec=spec, num_workers=1)
    assert 0 < num_committed < summary.num_entries
    assert summary.num_entries_encoded <= summary.num_entries - num_committed
    assert 0 < summary.num_parts_reused < summary.num_parts == 200
    check_memory(Memory.open(uri), checkpoint_dir, tmp_path / "run" / "data")


def test_another_checkpoint_is_refused(tmp_path, checkpoint_dir, spec):
    write_toy_data(tmp_path / "data", num_users=6)
    build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=spec, num_workers=1)
    other = save_checkpoint(tiny_model(seed=1), tmp_path / "other")
    mine = load_checkpoint(checkpoint_dir).fingerprint
    with pytest.raises(ArtefactError, match=f"made by the model {mine}, the model here is {other.fingerprint}"):
        build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=EncoderSpec(str(tmp_path / "other"), "cpu", 256), num_workers=1)


def test_what_goes_wrong_in_an_actor_arrives_as_its_sentence(tmp_path):
    write_toy_data(tmp_path / "data", num_users=6)
    broken = tiny_model()
    broken.model.model.norm.weight.data.fill_(float("nan"))
    save_checkpoint(broken, tmp_path / "broken")
    with pytest.raises(ArtefactError, match="NaN or infinite hidden states"):
        build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=EncoderSpec(str(tmp_path / "broken"), "cpu", 256), num_workers=1)
    assert len(Memory.open(str(tmp_path / "memory"))) == 0


def test_data_without_training_samples_is_refused(tmp_path, spec):
    (path,) = write_toy_data(tmp_path / "data", num_users=1)
    write_part(path, [UserSequence("loner", ("item-00",), (1,), (TRAIN,))])
    with pytest.raises(DataError, match="No user has two training interactions"):
        build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=spec, num_workers=1)


def test_two_shards_and_three_recommend_the_same(tmp_path, checkpoint_dir, spec):
    write_toy_data(tmp_path / "data")
    build_memory(tmp_path / "data", str(tmp_path / "memory"), spec=spec, num_workers=1)
    memory = Memory.open(str(tmp_path / "memory"))
    index_dir, histories = tmp_path / "index", [[i, (i + 1) % NUM_ITEMS] for i in range(NUM_ITEMS)]
    answers, covariances = [], []
    for num_shards in (2, 3):
        manifest = build_index(memory, num_shards, index_dir).manifest
        assert read_manifest(index_dir, fingerprint=memory.fingerprint) == manifest
        assert (manifest.num_shards, sum(manifest.num_entries), manifest.memory_version) == (num_shards, len(memory), memory.version)
        assert len(list((index_dir / manifest.generation).glob("shard-*"))) == num_shards
        decoder = load_latent_decoder(checkpoint_dir, index_dir, DecoderSettings(num_neighbors=20))
        answers.append({name: decoder.recommend(histories, 5, decoder=name).ids for name in DECODERS})
        covariances.append(load_covariance(index_dir))
    assert {name: ids.shape for name, ids in answers[0].items()} == dict.fromkeys(DECODERS, (NUM_ITEMS, 5))
    for name in DECODERS:
        np.testing.assert_array_equal(answers[0][name], answers[1][name])
    np.testing.assert_allclose(covariances[0], covariances[1], rtol=1e-9, atol=1e-12)
    assert [path.name for path in tmp_path.glob("index*")] == ["index"]
