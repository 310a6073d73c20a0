"""The settings of a run: defaults, one message for all mistakes, and the ways to give them."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from l2d_ray.config import DataConfig, RunConfig, TrainConfig, load_config, parse_config
from l2d_ray.errors import ConfigError


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: {tmp_path}/results\ntrain: {{num_epochs: 3}}\nmodel: {{name: smollm2}}\n")
    return path


def all_fields(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    found = {}
    for name, field in model.model_fields.items():
        found[prefix + name] = field
        if isinstance(field.default, BaseModel):
            found |= all_fields(type(field.default), f"{prefix}{name}.")
    return found


def test_defaults_are_valid_and_every_field_says_what_it_is():
    config = parse_config({})
    assert config == RunConfig().model_copy(update={"run_dir": config.run_dir})
    fields = all_fields(RunConfig)
    assert len(fields) > 50
    for name, field in fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().seed = 1


def test_places_of_results_follow_the_run_directory(tmp_path):
    config = parse_config({"run_dir": str(tmp_path)})
    assert (config.data_dir, config.checkpoint_dir, config.index_dir) == (tmp_path / "data", tmp_path / "checkpoint", tmp_path / "index")
    assert config.evaluation_dir == tmp_path / "evaluation"
    assert config.memory_uri == str(tmp_path / "memory")
    assert parse_config({"memory": {"uri": "s3://bucket/memory"}}).memory_uri == "s3://bucket/memory"


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_config({"sede": 1, "data": {"k_cor": 3, "k_core": -1}, "index": {"num_shards": 0}, "device": "tpu"})
    message = str(caught.value)
    assert message.startswith("These settings cannot be used")
    lines = message.splitlines()[1:]
    assert sorted(line.split(":")[0].strip() for line in lines) == ["data.k_cor", "data.k_core", "device", "index.num_shards", "sede"]
    assert any("-1" in line for line in lines)


def test_a_file_and_overrides(config_file, tmp_path):
    config = load_config(["--config", str(config_file), "train.num_epochs=5", "data.min_rating=null", "index.num_shards=7"])
    assert config.run_dir == tmp_path / "results"
    assert config.model.name == "smollm2"
    assert isinstance(config.train, TrainConfig)
    assert config.train.num_epochs == 5
    assert (config.data.min_rating, config.index.num_shards) == (None, 7)
    assert config.data.k_core == RunConfig().data.k_core


def test_a_list_and_an_empty_file(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    config = load_config(["--config", str(tmp_path / "empty.yaml"), "decoder.num_neighbors=[5, 10]"])
    assert config.decoder.num_neighbors == (5, 10)


@pytest.mark.parametrize("text", ["none", '"none"'])
def test_no_training(text):
    assert load_config([f"train={text}"]).train == "none"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "absent.yaml"], r"There is no configuration file at absent\.yaml"),
        (["train.num_epochs"], "'train.num_epochs' is not of the form key=value"),
        (["=3"], "'=3' is not of the form key=value"),
        (["train=none", "train.num_epochs=3"], "'train.num_epochs' cannot be set: 'train' is 'none'"),
        (["train.num_epochs=many"], r"train\.TrainConfig\.num_epochs|train\.num_epochs"),
        (["train.rate=1"], r"train\.\S*rate"),
        (["model.mini.width=3"], r"model\.mini\.width"),
    ],
)
def test_what_cannot_be_used_is_refused(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_config(argv)


@pytest.mark.parametrize(("content", "message"), [("- a\n- b\n", "holds a list, wanted a mapping"), ("a: [1", "is not valid YAML")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content, message):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(["--config", str(tmp_path / "bad.yaml")])


def test_an_override_that_is_not_yaml_is_refused():
    with pytest.raises(ConfigError, match=r"data\.name"):
        load_config(["data.name=[unclosed"])


def test_a_relative_run_directory_becomes_absolute_but_not_inside_a_submitted_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert parse_config({"run_dir": "runs/x"}).run_dir == tmp_path / "runs" / "x"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match="run_dir is 'runs/x', a path inside the submitted copy"):
        parse_config({"run_dir": "runs/x"})
    assert parse_config({"run_dir": str(tmp_path)}).run_dir == tmp_path


@pytest.mark.parametrize("settings", [{"least_items": 10}, {"least_items": 10, "start_time": 1, "k_core": 0}])
def test_a_time_window_that_cannot_widen_is_refused(settings):
    with pytest.raises(ValidationError, match=r"least_items \(10\) moves start_time"):
        DataConfig.model_validate(settings)
    with pytest.raises(ValidationError, match="less than 100000000000"):
        DataConfig.model_validate({"start_time": 1_506_816_000_000})


def test_windows_that_cannot_move_on_are_refused():
    with pytest.raises(ConfigError, match=r"model"):
        parse_config({"model": {"window_items": 8, "min_history": 8}})
    assert parse_config({"model": {"window_items": 8, "min_history": 7}}).model.min_history == 7


def test_titles_are_left_out_of_sequences_alone():
    with pytest.raises(ConfigError, match=r"title_dropout \(0.2\) needs model.prompt_format sequence, which is instruction"):
        parse_config({"train": {"title_dropout": 0.2}, "model": {"prompt_format": "instruction"}})
    assert parse_config({"train": "none", "model": {"prompt_format": "instruction"}}).train == "none"
    assert parse_config({"train": {"title_dropout": 0.2}}).model.prompt_format == "sequence"
