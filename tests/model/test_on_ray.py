"""Actors that encode parts: the same states as in one process, storage and model at work together, errors as themselves, long users."""

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, part_paths, write_part
from l2d_ray.errors import ArtefactError
from l2d_ray.model import on_ray
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import load_checkpoint, save_checkpoint
from l2d_ray.model.on_ray import EncoderSpec, PartEncoder, encode_parts, shared_threads, title_encoder
from l2d_ray.schema import TRAIN
from l2d_ray.text.prompts import PromptSettings, tokenize_titles
from tests.toys import NUM_ITEMS, encode_in_process, tiny_model, toy_catalogue, write_toy_data

PATIENCE_S = 60
INSTRUCTION = PromptSettings(prompt_format="instruction", window_items=6, min_history=2, history_length=3, max_title_tokens=12)
WIDE = PromptSettings(prompt_format="sequence", window_items=50, min_history=10, history_length=3, max_title_tokens=12)
MAX_BATCH_TOKENS = 512


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(tiny_model(), folder)
    return folder


@pytest.fixture
def data_dir(tmp_path) -> Path:
    write_toy_data(tmp_path / "data")
    return tmp_path / "data"


def spec_of(checkpoint_dir: Path) -> EncoderSpec:
    return EncoderSpec(str(checkpoint_dir), "cpu", MAX_BATCH_TOKENS, num_threads=1)


def keep(path: Path, targets, vectors) -> dict:
    return {"sample_ids": [t.sample_id for t in targets], "vectors": vectors.tolist()}


def refuse_second(path: Path, targets, vectors) -> dict:
    if path.stem.endswith("1"):
        raise ArtefactError("The storage refused part 1.")
    return {"num_entries": len(targets)}


def call(encoder: PartEncoder, path: Path) -> dict:
    return {name: value for name, (value,) in encoder({"path": [str(path)]}).items()}


def test_the_sink_of_one_part_runs_while_the_next_is_encoded(checkpoint_dir, data_dir):
    """Each sink waits until the other part has been encoded: one that held up the encoder would wait for ever."""
    both_encoded = threading.Barrier(2, timeout=PATIENCE_S)

    def wait_for_the_other(path, targets, vectors):
        both_encoded.wait()
        return {"num_entries": len(targets)}

    encoder = PartEncoder(spec_of(checkpoint_dir), toy_catalogue(), TRAIN, wait_for_the_other)
    rows: list[dict] = []
    threads = [threading.Thread(target=lambda p=path: rows.append(call(encoder, p))) for path in part_paths(data_dir)[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(rows) == 2
    assert all(row["num_entries"] > 0 for row in rows)


def test_one_thread_encodes_at_a_time(checkpoint_dir, data_dir, monkeypatch):
    at_work, most = 0, 0
    encode_windows = Encoder.encode_windows

    def counted(self, windows):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        states = encode_windows(self, windows)
        at_work -= 1
        return states

    monkeypatch.setattr(Encoder, "encode_windows", counted)
    encoder = PartEncoder(spec_of(checkpoint_dir), toy_catalogue(), TRAIN, keep)
    threads = [threading.Thread(target=call, args=(encoder, path)) for path in part_paths(data_dir)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(threads) == 4
    assert most == 1


@pytest.mark.parametrize("settings", [None, INSTRUCTION], ids=["sequence", "instruction"])
def test_a_part_encoded_by_an_actor_equals_one_process(tmp_path, data_dir, settings):
    save_checkpoint(tiny_model() if settings is None else tiny_model(settings=settings), tmp_path / "checkpoint")
    encoder = PartEncoder(spec_of(tmp_path / "checkpoint"), toy_catalogue(), TRAIN, keep)
    rows = [call(encoder, path) for path in part_paths(data_dir)]
    targets, vectors = encode_in_process(load_checkpoint(tmp_path / "checkpoint"), data_dir)
    assert [i for row in rows for i in row["sample_ids"]] == [t.sample_id for t in targets]
    np.testing.assert_allclose(np.concatenate([row["vectors"] for row in rows]), vectors, rtol=0, atol=1e-4)


def test_an_error_of_the_sink_is_the_parts_row(checkpoint_dir, data_dir):
    encoder = PartEncoder(spec_of(checkpoint_dir), toy_catalogue(), TRAIN, refuse_second)
    rows = [call(encoder, path) for path in part_paths(data_dir)]
    assert [isinstance(row.get("error"), ArtefactError) for row in rows] == [False, True, False, False]


@pytest.mark.slow
def test_a_user_of_25_000_interactions_takes_the_memory_of_the_answer(tmp_path):
    """Nothing grows beside what comes out: neither a pass nor what stands in the way to it; and an empty title is a title."""
    num_items, catalogue = 25_000, Catalogue.from_rows((f"item-{i:02d}", "" if i == 3 else f"T{i}", {}) for i in range(NUM_ITEMS))
    save_checkpoint(tiny_model(settings=WIDE), tmp_path / "checkpoint")
    item_ids = tuple(catalogue.item_ids[i % NUM_ITEMS] for i in range(num_items))
    user = UserSequence("u", item_ids, tuple(range(num_items)), (TRAIN,) * num_items)
    write_part(tmp_path / "part-00000.parquet", [user])
    sizes = []

    def measure(path, targets, vectors):
        sizes.append((len(targets), vectors.nbytes, tracemalloc.get_traced_memory()[1]))
        return {}

    encoder = PartEncoder(spec_of(tmp_path / "checkpoint"), catalogue, TRAIN, measure)
    passes = []
    encoder._encoder.body.register_forward_pre_hook(
        lambda module, args, inputs: passes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    tracemalloc.start()
    row = call(encoder, tmp_path / "part-00000.parquet")
    tracemalloc.stop()
    assert "error" not in row
    ((num_targets, answer_bytes, peak_bytes),) = sizes
    assert num_targets == num_items - 1
    assert answer_bytes == num_targets * 32 * 4
    assert len(passes) > 125
    assert max(passes) <= MAX_BATCH_TOKENS
    assert peak_bytes - answer_bytes < 1_200 * num_targets


@pytest.mark.parametrize(
    ("cores", "num_actors", "threads"),
    [([8], 1, 8), ([8], 2, 4), ([8], 3, 2), ([2], 5, 1), ([8, 8], 2, 8), ([8, 8], 3, 4), ([4, 64], 2, 4), ([], 1, 1)],
)
def test_threads_share_a_nodes_cores(cores, num_actors, threads):
    assert shared_threads(cores, num_actors) == threads


@pytest.mark.slow
def test_parts_on_ray_equal_one_process(ray_cluster, checkpoint_dir, data_dir):
    paths = [str(path) for path in part_paths(data_dir)]
    spec = EncoderSpec(str(checkpoint_dir), "cpu", 256)
    rows = list(encode_parts(paths, TRAIN, spec=spec, catalogue=toy_catalogue(), sink=keep, num_workers=2))
    assert sorted(row["path"] for row in rows) == paths
    rows.sort(key=lambda row: row["path"])
    targets, vectors = encode_in_process(load_checkpoint(checkpoint_dir), data_dir)
    assert [i for row in rows for i in row["sample_ids"]] == [t.sample_id for t in targets]
    np.testing.assert_allclose(np.concatenate([np.array(row["vectors"]) for row in rows]), vectors, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_titles_are_encoded_in_tasks_as_requests_of_one_item(ray_cluster, checkpoint_dir, monkeypatch):
    monkeypatch.setattr(on_ray, "TITLES_PER_TASK", 11)
    titles = [*toy_catalogue().titles, "Something Else Entirely"]
    model = load_checkpoint(checkpoint_dir)
    prompts = [model.prompts.prompt([title]) for title in tokenize_titles(model.tokenizer, titles, model.settings.max_title_tokens)]
    found = title_encoder(spec_of(checkpoint_dir))(titles)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, Encoder(model.model).encode(prompts), rtol=2e-3, atol=2e-3)
