"""One file of settings drives a whole run: ``RunConfig``, frozen, with a section a stage.

YAML holds only what differs from the defaults below. The command line is ``--config FILE key=value ...`` with dotted keys
(``train.num_epochs=3``); values are YAML. Unknown keys are errors, and all mistakes are reported at once.
Only jobs, benchmarks and the files that place work on Ray see these objects: below them functions take plain values.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from l2d_ray.errors import ConfigError


class Section(BaseModel):
    """Base of every section: immutable, unknown keys refused, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DataConfig(Section):
    """Interactions -> samples (jobs.prepare_data)."""

    source: Literal["movielens", "amazon", "table"] = Field("movielens", description="Format of the raw data.")
    name: str = Field("ml-100k", description="Name of the data set in reports.")
    path: str | None = Field(None, description="Folder of raw files; none with movielens means MovieLens-100K from its pinned wheel.")
    interactions: str | None = Field(None, description="table and amazon: file, folder or URI of the interactions (or reviews).")
    items: str | None = Field(None, description="table and amazon: file, folder or URI of the items (or item metadata).")
    min_rating: float | None = Field(4.0, description="Interactions rated lower are dropped; none keeps all.")
    start_time: int | None = Field(None, lt=10**11, description="Interactions before this Unix time (seconds) are dropped.")
    end_time: int | None = Field(None, lt=10**11, description="Interactions at or after this Unix time (seconds) are dropped.")
    least_items: int | None = Field(
        None,
        ge=1,
        description="start_time moves back a year, again and again, until so many items are left or nothing is earlier (the D3 protocol: "
        "10,000); none: it stays.",
    )
    drop_duplicates: bool = Field(
        True, description="Of interactions with the same user, item and time one is kept (the D3 protocol keeps them all)."
    )
    k_core: int = Field(5, ge=0, description="Users and items with fewer interactions are dropped, again and again until none is left.")
    max_title_words: int = Field(20, ge=1, description="Items whose title has more words are dropped (the D3 protocol).")
    title_rule: Literal["strict", "d3"] = Field(
        "strict",
        description="Which titles are usable. d3: to the letter of the D3 protocol, which keeps some page debris, counts a double space as "
        "a word, and drops an item if one of its rows has no usable title.",
    )
    history_length: int = Field(10, ge=1, description="Items a prompt in the instruction format shows; the data card counts with it.")
    split: Literal["global-time", "leave-one-out"] = Field("global-time", description="How samples are cut into train, valid, test.")
    valid_fraction: float = Field(0.1, gt=0, lt=0.5, description="Share of samples for validation (global-time).")
    test_fraction: float = Field(0.1, gt=0, lt=0.5, description="Share of samples for test (global-time).")
    users_per_part: int = Field(512, ge=1, description="Users in one part file: the unit that is streamed and committed.")

    @model_validator(mode="after")
    def _a_window_can_widen(self) -> DataConfig:
        if self.least_items is not None and (self.start_time is None or not self.k_core):
            raise ValueError(
                f"least_items ({self.least_items}) moves start_time ({self.start_time}) back until the k-core (k_core {self.k_core}) "
                "has so many items; give a start_time and a k_core above 0, or set least_items to null"
            )
        return self


class MiniConfig(Section):
    """Shape of the small Llama that is trained from scratch (model.name = mini)."""

    vocab_size: int = Field(4096, ge=300, description="Entries of the byte-level BPE made from the training titles.")
    hidden_size: int = Field(128, ge=16, description="Width of the hidden state.")
    num_layers: int = Field(3, ge=1, description="Transformer blocks.")
    num_heads: int = Field(4, ge=1, description="Attention heads; must divide hidden_size.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Attention dropout in training.")


class ModelConfig(Section):
    """Which LLM, and how histories become text."""

    name: str = Field("auto", description="mini, smollm2, a local folder, a hub id, or auto: smollm2 with a CUDA device, else mini.")
    prompt_format: Literal["sequence", "instruction"] = Field("sequence", description="One text a user, or one prompt a sample.")
    window_items: int = Field(50, ge=2, description="sequence: items in one window; longer sequences are cut into overlapping windows.")
    min_history: int = Field(10, ge=1, description="sequence: items every entry has seen at least, where the user has them.")
    max_title_tokens: int = Field(48, ge=1, description="Longer titles are cut to this many tokens.")
    cpu_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Arithmetic of the finished model's passes on a CPU (on CUDA always bfloat16). One with AMX reads SmolLM2 two to three "
        "times as fast in bfloat16.",
    )
    mini: MiniConfig = Field(MiniConfig(), description="Shape of the mini model.")

    @model_validator(mode="after")
    def _windows_move_on(self) -> ModelConfig:
        if self.window_items <= self.min_history:
            raise ValueError(f"window_items ({self.window_items}) must be more than min_history ({self.min_history})")
        return self


class LoraConfig(Section):
    """Low-rank adapters instead of full fine-tuning (peft)."""

    rank: int = Field(16, ge=1, description="Rank of the update.")
    alpha: float = Field(32.0, gt=0, description="Scale of the update.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the update.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="Modules that get adapters.")


class TrainConfig(Section):
    """Fine-tuning with Ray Train and DeepSpeed (jobs.train)."""

    num_workers: int = Field(1, ge=1, description="Training workers.")
    num_epochs: int | None = Field(None, ge=1, description="Passes over the training sequences at most; none: 6 for mini, else 3.")
    batch_tokens: int | None = Field(
        None, ge=64, description="Tokens in a worker's packed batch, on average; none: 768 for mini, else 8192."
    )
    accumulation_steps: int = Field(1, ge=1, description="Batches a worker adds up before an optimizer step.")
    learning_rate: float | None = Field(None, gt=0, description="Peak of the schedule; none: 0.002 for mini, else 0.0001.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of steps with a rising rate; then a cosine to a tenth.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay of matrices.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    patience: int = Field(2, ge=1, description="Epochs without a better validation loss before training stops.")
    item_loss_weight: float = Field(
        0.0, ge=0, description="What an item's log-likelihood, from the state that the memory keeps, counts beside a token's in training."
    )
    title_dropout: float = Field(
        0.0, ge=0, lt=1, description="sequence: share of the titles that a training text leaves out, others in every epoch."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the input embeddings and of the last hidden states in training.")
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage.")
    precision: Literal["float32", "bf16"] = Field("float32", description="Arithmetic of the forward and backward pass.")
    lora: LoraConfig | None = Field(None, description="Adapters instead of full fine-tuning.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations to save memory.")
    max_failures: int = Field(2, ge=0, description="Worker losses after which training resumes from its last checkpoint by itself.")
    storage_path: str | None = Field(None, description="Where Ray Train keeps checkpoints; none means RUN_DIR/train.")

    def filled(self, *, from_scratch: bool) -> TrainConfig:
        """The same settings with what was left open decided: a model from scratch learns in many fast steps, a pretrained one in few."""
        usual = {"num_epochs": 6, "batch_tokens": 768, "learning_rate": 2e-3}
        careful = {"num_epochs": 3, "batch_tokens": 8192, "learning_rate": 1e-4}
        chosen = usual if from_scratch else careful
        return self.model_copy(update={name: value for name, value in chosen.items() if getattr(self, name) is None})


class MemoryConfig(Section):
    """Training samples -> the memory (jobs.build_memory)."""

    uri: str | None = Field(None, description="Folder or object-store URI of the memory; none means RUN_DIR/memory.")
    num_workers: int = Field(1, ge=1, description="Encoder actors.")
    batch_tokens: int = Field(8192, ge=64, description="Tokens in one forward pass at most.")


class IndexConfig(Section):
    """Memory -> shards (jobs.build_index)."""

    num_shards: int = Field(2, ge=1, le=4096, description="Shards of the index; changing it never rewrites the memory.")
    kind: Literal["auto", "exact", "compressed", "statistics"] = Field(
        "auto", description="How entries are searched; auto: by size and device; statistics: none, for decoding without local."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where entries are to be searched; auto takes CUDA where there is one."
    )
    extend: bool = Field(
        True, description="Extend the index of an older memory version; false builds anew and drops dead entries from disk."
    )
    rebuild_fraction: float = Field(0.25, ge=0, description="A shard with a larger share of new or dead entries is built, not extended.")
    pairs: bool = Field(True, description="Count item pairs in all user sequences, for the paired decoder; each version does so anew.")
    keep_previous: int = Field(1, ge=0, description="Indexes before this one that are kept, for replicas that have them open.")


class DecoderConfig(Section):
    """What jobs.tune_decoder tries on validation."""

    num_neighbors: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (100, 200, 500, 1000), min_length=1, description="Neighbours of the local decoder."
    )
    shrinkages: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.01, 0.03, 0.1, 0.2, 0.4, 0.7), min_length=1, description="Shrinkages of the covariance."
    )
    mean_shrinkages: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0.0, 1.0, 4.0, 12.0), min_length=1, description="Entries that the mean of all entries counts for in an item's representation."
    )
    prior_weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0), min_length=1, description="Weights of the prior, log(n + smoothing)."
    )
    prior_smoothings: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.1, 1.0), min_length=1, description="What is added to an item's count in the prior."
    )
    cold_counts: tuple[Annotated[float, Field(ge=0)] | None, ...] = Field(
        (None, 0.0, 0.1, 0.3, 1.0, 3.0),
        min_length=1,
        description="Entries that the prior takes an item without any for, which its title represents; null: it is not recommended.",
    )
    pair_weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (5.0, 10.0, 20.0, 40.0, 80.0, 160.0),
        description="Weights of log(1 + scale * evidence of item pairs); empty: no paired decoder is tried.",
    )
    pair_scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (6.0, 25.0, 100.0, 400.0), min_length=1, description="Scales of the evidence of item pairs."
    )
    pair_recency_powers: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0.5, 0.7, 1.0), description="Powers delta: what an item of the history says by its pairs is worth (1 + its age)^-delta."
    )
    repeat_weights: tuple[float, ...] = Field(
        (-160.0, -80.0, -40.0, -20.0, -10.0, 10.0),
        description="What the paired decoder adds to items that the history holds before its last one; 0 is tried in any case.",
    )
    half_lives_days: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0, 15, 30, 60, 120, 360),
        description="Times in which an entry's weight in the prior halves; 0: never. The memory takes the best one. Empty: its own stays.",
    )
    metric: str = Field("ndcg@20", pattern=r"^(recall|ndcg)@(10|20|50|100)$", description="What is maximised, unmasked, by item id.")
    max_samples: int = Field(3000, ge=1, description="Validation samples used, the latest ones.")


class UpdateConfig(Section):
    """Changes of a memory that is there (jobs.update_memory, jobs.memory), made in this order; each is one version."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    interactions: str | None = Field(None, description="File, folder or URI of new interactions: user_id, item_id, timestamp.")
    items: str | None = Field(None, description="File, folder or URI of new items: item_id, title[, attributes].")
    forget_users: tuple[str, ...] = Field((), description="Users whose entries and sequences are removed.")
    retire_items: tuple[str, ...] = Field((), description="Items whose entries are removed and that get none any more.")
    rename_items: dict[str, str] = Field({}, description="New titles by item_id.")
    expire_before: int | None = Field(None, description="Entries of interactions before this Unix time (seconds) are removed.")
    half_life_days: float | None = Field(None, ge=0, description="Entries' weight in counts halves in this time; 0: all weigh one.")
    reference_time: int | None = Field(None, description="Unix time at which an entry weighs one; none: that of the newest entry.")
    compact: bool = Field(False, description="Write files with removed rows, and small ones, anew.")
    clean_up_days: float | None = Field(None, ge=0, description="Versions older than this are deleted from storage, except the newest.")
    clean_up_unfinished: bool = Field(False, description="With clean_up_days: also leftovers of killed writers; only where none runs.")
    roll_back_to: int | None = Field(None, ge=1, description="jobs.memory: make a version that equals this earlier one.")


WholeNumber = Annotated[int, BeforeValidator(lambda value: int(float(value)) if isinstance(value, str) else value)]
"""Large numbers may be written as 1e9."""


class PlanConfig(Section):
    """What jobs.plan is asked; what is none is taken from the run's memory and index, or has the default of l2d_ray/plan.py."""

    num_entries: WholeNumber | None = Field(None, description="Memory entries.")
    num_items: WholeNumber | None = Field(None, description="Items with entries.")
    dim: int | None = Field(None, description="Width of the hidden states.")
    num_parameters: float | None = Field(None, gt=0, description="Parameters of the model's body.")
    num_shards: int | None = Field(None, description="Shards of the index.")
    kind: Literal["exact", "compressed", "statistics"] | None = Field(None, description="How entries are searched.")
    num_neighbors: int | None = Field(None, description="Neighbours of the local decoder.")
    tokens_per_entry: float | None = Field(None, gt=0, description="Tokens that the encoder reads for one entry.")
    num_gpus: int | None = Field(None, ge=0, description="GPUs that encode; 0: the cores do.")
    gpu_flops: float | None = Field(None, gt=0, description="Floating-point operations a second of one GPU at its peak.")
    gpu_utilization: float | None = Field(None, gt=0, le=1, description="Share of the peak that encoding reaches; not measured here.")
    num_cores: int | None = Field(None, description="Cores of all nodes together.")
    cores_per_shard: int | None = Field(None, description="Cores of one replica of a shard.")
    largest_share: float | None = Field(None, description="Share of all entries in the largest shard; none: evenly spread.")


class EvaluateConfig(Section):
    """Scores on a split, and the speed measurement."""

    split: Literal["valid", "test"] = Field("test", description="Split that is scored; the decoders were tuned on valid.")
    num_bootstrap: int = Field(1000, ge=100, description="Resamples of the 95 % intervals.")
    speed_k: int = Field(20, ge=1, description="Items asked for in the speed measurement.")
    speed_beams: int = Field(20, ge=1, description="Beams of language-space decoding.")
    speed_requests: int = Field(16, ge=2, description="Requests timed on every side.")
    speed_batch: int = Field(8, ge=1, description="Requests in one batch, the same on every side.")
    language_samples: int = Field(256, ge=1, description="Test samples on which the beams' quality is taken.")


class ServeConfig(Section):
    """The HTTP service of jobs.serve; serve_configs/ has what a cluster needs."""

    host: str = Field("127.0.0.1", description="Address that is listened on; without access_control only one of the loopback interface.")
    port: int = Field(8000, ge=1, le=65535, description="Port that is listened on.")
    encoder_replicas: int = Field(1, ge=1, description="Replicas of the encoder.")
    shard_replicas: int = Field(1, ge=1, description="Replicas of every shard.")
    decoders: tuple[Literal["global", "local", "whitened", "paired"], ...] = Field(
        ("global", "local", "whitened", "paired"), min_length=1, description="Decoders that are answered; without local no entry is loaded."
    )
    state_url: str | None = Field(
        None,
        description="Where users, edits, keys and settings are: sqlite:///absolute/path or postgresql://user@host/database; none: "
        "RUN_DIR/state.db.",
    )
    access_control: bool = Field(True, description="Whether requests need an API key (jobs.api_keys makes them).")
    haproxy: bool = Field(False, description="HAProxy in front: faster, but it opens ports on every interface; needs access_control.")


class KeysConfig(Section):
    """What jobs.api_keys does; with neither create nor revoke it lists the keys."""

    create: str | None = Field(None, min_length=1, max_length=200, description="Make a key and call it so.")
    scopes: tuple[Literal["read", "write", "admin"], ...] = Field(
        ("read",), min_length=1, description="What the new key may do; each scope stands for itself alone."
    )
    requests_per_s: float = Field(50.0, gt=0, description="Requests a second that the new key may send for long.")
    burst: int = Field(100, ge=1, description="Requests that it may send at once after a pause.")
    expires_days: float | None = Field(None, gt=0, description="Days until the new key is refused; none: never.")
    revoke: str | None = Field(None, description="Id of a key that is refused from now on.")


class RayConfig(Section):
    """The Ray cluster a job runs on."""

    address: str | None = Field(None, description="Cluster to join; none starts a local one, or joins the one the job was submitted to.")
    num_cpus: int = Field(4, ge=3, description="Logical CPUs of a local cluster; may exceed the cores.")


class RunConfig(Section):
    """Everything one run needs; every job reads the same file."""

    run_dir: Path = Field(Path("runs/quickstart"), description="Folder of all results; on a cluster a path that every node sees.")
    seed: int = Field(0, ge=0, description="Seed of everything random.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs; auto takes CUDA where there is one.")
    data: DataConfig = Field(DataConfig(), description="Interactions and splits.")
    model: ModelConfig = Field(ModelConfig(), description="The LLM and its prompts.")
    train: TrainConfig | Literal["none"] = Field(TrainConfig(), description="Fine-tuning; none takes the model as it comes.")
    memory: MemoryConfig = Field(MemoryConfig(), description="The memory.")
    update: UpdateConfig = Field(UpdateConfig(), description="Changes of the memory.")
    plan: PlanConfig = Field(PlanConfig(), description="What is planned for.")
    index: IndexConfig = Field(IndexConfig(), description="The index.")
    decoder: DecoderConfig = Field(DecoderConfig(), description="Tuning of the decoders.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Evaluation.")
    serve: ServeConfig = Field(ServeConfig(), description="The service.")
    keys: KeysConfig = Field(KeysConfig(), description="API keys of the service.")
    ray: RayConfig = Field(RayConfig(), description="The cluster.")

    @model_validator(mode="after")
    def _titles_can_be_left_out(self) -> RunConfig:
        if self.train != "none" and self.train.title_dropout and self.model.prompt_format != "sequence":
            raise ValueError(
                f"train.title_dropout ({self.train.title_dropout}) needs model.prompt_format sequence, which is {self.model.prompt_format}"
            )
        return self

    @property
    def data_dir(self) -> Path:
        return self.run_dir / "data"

    @property
    def checkpoint_dir(self) -> Path:
        return self.run_dir / "checkpoint"

    @property
    def memory_uri(self) -> str:
        return self.memory.uri or str(self.run_dir / "memory")

    @property
    def index_dir(self) -> Path:
        return self.run_dir / "index"

    @property
    def state_url(self) -> str:
        return self.serve.state_url or f"sqlite://{quote(str(self.run_dir.absolute()))}/state.db"

    @property
    def evaluation_dir(self) -> Path:
        return self.run_dir / "evaluation"


def load_config(argv: Sequence[str] | None = None, *, prog: str = "job", description: str = "") -> RunConfig:
    """Settings from ``--config FILE key=value ...``; ConfigError lists every mistake at once."""
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML file with what differs from the defaults")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single settings with dotted keys, e.g. train.num_epochs=3")
    arguments = parser.parse_args(argv)
    settings = _read_yaml(arguments.config) if arguments.config else {}
    for override in arguments.overrides:
        _apply_override(settings, override)
    return parse_config(settings)


def parse_config(settings: dict[str, Any]) -> RunConfig:
    """Checked settings from plain data, with run_dir made absolute."""
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(part) for part in e['loc'])}: {e['msg']} (seen: {e['input']!r})" for e in error.errors()]
        raise ConfigError("These settings cannot be used; correct each one:\n" + "\n".join(lines)) from None
    if not config.run_dir.is_absolute() and os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        raise ConfigError(
            f"run_dir is {str(config.run_dir)!r}, a path inside the submitted copy of the code, where results would be lost; "
            "give an absolute path that every node of the cluster sees."
        )
    return config.model_copy(update={"run_dir": config.run_dir.absolute()})


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no configuration file at {path}; see jobs/configs/ for examples.")
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}, wanted a mapping of settings.")
    return settings


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"{override!r} is not of the form key=value, for example train.num_epochs=3.")
    *parents, leaf = key.split(".")
    node = settings
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key!r} cannot be set: {parent!r} is {child!r} in the configuration file, not a section.")
        node = child
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{override!r} cannot be read: {text!r} is not valid YAML; quote it, or close its bracket.") from None
