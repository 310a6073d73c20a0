"""What a GPU gets out of this code: a bf16 training step, packed encoding, exact search; each beside what the card itself can do.

    python -m benchmarks.gpu data/amazon_Video_Games_2015 [--small] [--device cuda] [--model smollm2]

Ceilings are measured in the same run: a large matrix product in bf16 and a copy within the device's memory. Sides are interleaved, medians
of the rounds, the device waited for. Model: SmolLM2-135M; texts: the data set's training samples.

    train      packed texts of whole users, loss on the completions' tokens (l2d_ray.train), against one padded text a sample with
               transformers' own loss over all tokens: samples a second. Floating-point operations are counted as 6 a weight and token,
               the vocabulary's only where a token is predicted, and attention's products.
    encode     the packed encoder, against padded batches of 64 with the last 10 titles a sample, in arrival order
    search     ``resident`` (l2d_ray.index.resident), against the float32 blocks of the linear decoders' search (``dense``) and a plain
               float16 product with torch.topk (``plain``: neither exact nor refined). A share of the bandwidth is the time in which the
               rows could be read once over the time taken. Rows: clusters of Gaussian points, d = 576.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.d3_folder import convert
from benchmarks.encoder import plain_loop
from benchmarks.result import arguments, print_result, target
from jobs.train import base_model
from l2d_ray.config import RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, iter_sequences
from l2d_ray.index.exact import ExactSearch
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel
from l2d_ray.schema import TRAIN
from l2d_ray.text.harvest import harvest
from l2d_ray.text.packing import pad_batch
from l2d_ray.text.prompts import TokenIds, tokenize_titles
from l2d_ray.train.batches import TrainingText, packed_batches, training_texts
from l2d_ray.train.loss import CompletionLoss, make_batch
from l2d_ray.train.weights import parameter_groups

LAST, PLAIN_BATCH = 10, 64
DIM: Final = 576
NUM_NEIGHBORS, BATCHES = (100, 500), (1, 64)
CHECKED = 4


@dataclass(frozen=True)
class Sizes:
    """How much of everything is run."""

    num_users: int
    rounds: int
    train_tokens: int
    encode_tokens: int
    rows: tuple[int, ...]
    product: int
    copied: int


FULL = Sizes(4000, 7, 16384, 65536, (100_000, 1_000_000, 4_000_000), 8192, 1 << 30)
SMALL = Sizes(24, 2, 768, 1024, (20_000,), 512, 1 << 22)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path, help="a data set in the D3 protocol")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that the script runs")
    parser.add_argument("--model", default="smollm2", help="smollm2, mini or a folder")
    options = parser.parse_args()
    sizes = SMALL if options.small else FULL
    run = Run(options.device, sizes)
    with TemporaryDirectory() as scratch:
        given = {"run_dir": options.run_dir or scratch, "model": {"name": options.model}, "device": options.device}
        config = RunConfig.model_validate(given)
        config.run_dir.mkdir(parents=True, exist_ok=True)
        convert(options.folder, config.data_dir)
        catalogue = Catalogue.read(config.data_dir / "items.parquet")
        language_model = base_model(config, catalogue, options.device)
        users = [user for user in iter_sequences(config.data_dir) if user.num_train > 1][: sizes.num_users]
    language_model.model.to(options.device, torch.bfloat16)
    texts = Texts(language_model, catalogue, users)
    figures = {
        "small": options.small,
        "device": torch.cuda.get_device_name() if run.on_gpu else options.device,
        "torch": torch.__version__,
        "model": options.model,
        "ceilings": run.ceilings,
        "encode": measure_encoding(run, texts),
        "train": measure_training(run, texts),
        "search": [measure_search(run, num_rows) for num_rows in sizes.rows],
    }
    print_result("gpu", figures, targets(figures))


def targets(figures: dict[str, Any]) -> dict[str, Any]:
    """No issue names a figure for a GPU; these are what a user may expect of it."""
    largest = {(way["batch"], way["num_neighbors"]): way for way in figures["search"][-1]["ways"]}
    return {
        "packed encoding over the padded loop, samples a second": target(figures["encode"]["speedup"], 5.0),
        "packed training over one padded text a sample, samples a second": target(figures["train"]["speedup"], 5.0),
        "exact single queries: share of the memory bandwidth": target(largest[1, 100]["resident"]["bandwidth_share"], 0.5),
        "search is exact (rows that differ from a float64 search)": target(
            sum(way["num_wrong"] for size in figures["search"] for way in size["ways"]), 0, at_most=True
        ),
    }


class Run:
    """A device, its clock and its ceilings."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.device = device
        self.on_gpu = device.startswith("cuda")
        self.sizes = sizes
        product = torch.randn(sizes.product, sizes.product, device=device).bfloat16()
        source = torch.randint(256, (sizes.copied,), dtype=torch.uint8, device=device)
        copy = torch.empty_like(source)
        seconds = self.interleaved({"product": lambda: product @ product, "copy": lambda: copy.copy_(source)}, rounds=20)
        self.ceilings = {
            "bf16_tflops": round(2 * sizes.product**3 / seconds["product"] / 1e12, 2),
            "copy_gb_per_s": round(2 * sizes.copied / seconds["copy"] / 1e9, 1),
        }

    def interleaved(self, sides: Mapping[str, Callable[[], object]], *, rounds: int | None = None) -> dict[str, float]:
        """Median seconds of each side; the first round warms up."""
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range((rounds or self.sizes.rounds) + 1):
            for name, side in sides.items():
                self.wait()
                started = time.perf_counter()
                side()
                self.wait()
                if number:
                    seconds[name].append(time.perf_counter() - started)
        return {name: median(taken) for name, taken in seconds.items()}

    def throughput(self, work: float, num_tokens: int, seconds: float) -> dict[str, float]:
        """Of so many floating-point operations for so many tokens."""
        tflops = work / seconds / 1e12
        share = tflops / self.ceilings["bf16_tflops"]
        return {"tokens_per_s": round(num_tokens / seconds), "tflops": round(tflops, 2), "peak_share": round(share, 4)}

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


class Texts:
    """Training samples of some users as texts, packed and plain.

    Attributes:
        plain: (t,) int32 each: a sample's last titles and its target's.
    """

    def __init__(self, language_model: LanguageModel, catalogue: Catalogue, users: Sequence[UserSequence]) -> None:
        self.language_model = language_model
        item_ids = list(catalogue.item_ids)
        self.titles = tokenize_titles(language_model.tokenizer, catalogue.titles, 48)
        titles = dict(zip(item_ids, self.titles, strict=True))
        indexes = {item_id: index for index, item_id in enumerate(item_ids)}
        prompts = language_model.prompts
        self.windows = harvest(users, TRAIN, item_id_to_title=titles, prompts=prompts).windows
        self.training: list[TrainingText] = [
            text
            for user in users
            for text in training_texts(user, TRAIN, item_id_to_title=titles, item_id_to_index=indexes, prompts=prompts)
        ]
        histories = [[titles[i] for i in user.item_ids[max(0, p - LAST) : p + 1]] for user in users for p in user.target_positions(TRAIN)]
        self.histories = [prompts.prompt(history[:-1]) for history in histories]
        self.plain = [prompts.prompt(history) for history in histories]


def flops(config: Any, num_weights: int, lengths: Sequence[int], num_predicted: int) -> float:
    """Floating-point operations of a forward pass over texts; causal attention's products are half a square."""
    attention = 2.0 * int(config.num_hidden_layers * config.hidden_size) * float(np.square(lengths, dtype=np.float64).sum())
    return 2.0 * num_weights * sum(lengths) + attention + 2.0 * int(config.vocab_size * config.hidden_size) * num_predicted


def body_weights(model: Any) -> int:
    """Weights that every token is multiplied with: the body's, without the embedding."""
    embedding = model.get_input_embeddings().weight
    return int(sum(p.numel() for p in model.base_model.parameters()) - embedding.numel())


def measure_encoding(run: Run, texts: Texts) -> dict[str, Any]:
    model, windows = texts.language_model.model, texts.windows
    encoder = Encoder(model, max_batch_tokens=run.sizes.encode_tokens)
    num_states = sum(len(window.state_indexes) for window in windows)
    plain = texts.histories[: max(PLAIN_BATCH, num_states // 8)]
    seconds = run.interleaved(
        {"packed": lambda: encoder.encode_windows(windows), "plain": lambda: plain_loop(model.base_model, plain, batch_size=PLAIN_BATCH)},
        rounds=3,
    )
    lengths = [len(window.token_ids) for window in windows]
    rates = {"packed": num_states / seconds["packed"], "plain": len(plain) / seconds["plain"]}
    work = flops(model.config, body_weights(model), lengths, 0)
    return {
        "samples_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "speedup": round(rates["packed"] / rates["plain"], 2),
        **run.throughput(work, sum(lengths), seconds["packed"]),
        "num_samples": num_states,
        "batch_tokens": run.sizes.encode_tokens,
    }


def measure_training(run: Run, texts: Texts) -> dict[str, Any]:
    """One optimizer step of each side, the same texts every round."""
    model = texts.language_model.model
    mean = float(np.mean([len(text.token_ids) for text in texts.training]))
    packed = next(iter(packed_batches(texts.training, batch_tokens=run.sizes.train_tokens, mean_tokens=mean, rng=np.random.default_rng(0))))
    num_plain = max(1, run.sizes.train_tokens // int(np.mean([len(text) for text in texts.plain])))
    plain = [texts.plain[i] for i in np.random.default_rng(0).permutation(len(texts.plain))[:num_plain]]
    plain_loss, own_loss = PlainLoss(model, plain), CompletionLoss(model)
    with_items = CompletionLoss(model, item_weight=1.0, titles=texts.titles).to(run.device)
    batch = make_batch(packed).to(run.device)
    sides = {
        "packed": step(own_loss, lambda: own_loss(*batch.tensors()) / len(batch.targets)),
        "packed-with-items": step(with_items, lambda: with_items(*batch.tensors()) / len(batch.targets)),
        "plain": step(model, lambda: plain_loss(run.device)),
    }
    model.train()
    seconds = run.interleaved(sides)
    lengths = [len(text.token_ids) for text in packed]
    num_samples = {"plain": len(plain)} | dict.fromkeys(("packed", "packed-with-items"), sum(len(text.target_items) for text in packed))
    rates = {name: num_samples[name] / taken for name, taken in seconds.items()}
    work = 3 * flops(model.config, body_weights(model), lengths, len(batch.targets))
    return {
        "samples_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "speedup": round(rates["packed"] / rates["plain"], 2),
        "step_ms": {name: round(1000 * taken, 1) for name, taken in seconds.items()},
        **run.throughput(work, sum(lengths), seconds["packed"]),
        "batch_tokens": sum(lengths),
    }


class PlainLoss:
    """Padded texts and labels, transformers' own loss."""

    def __init__(self, model: Any, texts: Sequence[TokenIds]) -> None:
        self.model = model
        self.token_ids, self.is_real = (torch.from_numpy(array) for array in pad_batch(texts, pad_id=0))

    def __call__(self, device: str) -> torch.Tensor:
        token_ids, is_real = self.token_ids.to(device), self.is_real.to(device)
        labels = token_ids.masked_fill(~is_real, -100)
        loss: torch.Tensor = self.model(input_ids=token_ids, attention_mask=is_real.long(), labels=labels, use_cache=False).loss
        return loss


def step(module: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Forward, backward and AdamW on a module's parameters; the rate is zero, so that all sides keep the same weights."""
    optimizer = torch.optim.AdamW(parameter_groups(module, 0.0), lr=0.0)

    def run() -> None:
        torch.autograd.backward(loss())
        optimizer.step()
        optimizer.zero_grad()

    return run


def measure_search(run: Run, num_rows: int) -> dict[str, Any]:
    generator = torch.Generator(device=run.device).manual_seed(0)
    centers = torch.randn(1000, DIM, generator=generator, device=run.device) * 2
    rows = torch.empty(num_rows, DIM, dtype=torch.float16, device=run.device)
    for start in range(0, num_rows, 1 << 18):
        which = torch.randint(len(centers), (min(1 << 18, num_rows - start),), generator=generator, device=run.device)
        noise = torch.randn(len(which), DIM, generator=generator, device=run.device)
        rows[start : start + len(which)] = (centers[which] + noise).half()
    vectors = rows.cpu().numpy()
    near = rows[:: num_rows // max(BATCHES)][: max(BATCHES)].float()
    queries = (near + 0.5 * torch.randn(near.shape, generator=generator, device=run.device)).cpu().numpy()
    ids = np.arange(num_rows)
    resident = ExactSearch(vectors, ids, device=run.device, way="resident")
    dense = ExactSearch(vectors, ids, device=run.device, way="dense")
    squares = torch.cat([block.float().square().sum(1) for block in torch.split(rows, 1 << 18)])
    ways = []
    for batch in BATCHES:
        for k in NUM_NEIGHBORS:
            some = queries[:batch]
            sides: dict[str, Callable[[], object]] = {
                "resident": partial(resident.nearest, some, k),
                "plain": partial(plain_search, some, rows, squares, k),
                "dense": partial(dense.nearest, some, k),
            }
            seconds = run.interleaved(sides)
            least_s = num_rows * DIM * 2 / run.ceilings["copy_gb_per_s"] / 1e9
            found = resident.nearest(some, k).positions[:CHECKED]
            right = np.stack([nearest_in_float64(rows, query, k) for query in some[:CHECKED]])
            ways.append(
                {"batch": batch, "num_neighbors": k, "num_wrong": int((found != right).sum())}
                | {
                    name: {
                        "ms": round(1000 * taken, 3),
                        "queries_per_s": round(batch / taken, 1),
                        "bandwidth_share": round(least_s / taken, 4),
                    }
                    for name, taken in seconds.items()
                }
            )
    return {"num_rows": num_rows, "ways": ways}


def plain_search(queries: NDArray[np.float32], rows: torch.Tensor, squares: torch.Tensor, k: int) -> NDArray[np.int64]:
    """What one would write: a float16 product over all rows and a top-k."""
    keys = squares - 2 * (torch.from_numpy(queries).to(rows.device).half() @ rows.T).float()
    found: NDArray[np.int64] = keys.topk(k, dim=1, largest=False).indices.cpu().numpy()
    return found


def nearest_in_float64(rows: torch.Tensor, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """All distances in float64; ties by position."""
    wanted = torch.from_numpy(query).to(rows.device).double()
    keys = torch.cat([(block.double() - wanted).square().sum(1) for block in torch.split(rows, 1 << 18)])
    found: NDArray[np.int64] = keys.argsort(stable=True)[:k].cpu().numpy()
    return found


if __name__ == "__main__":
    main()
