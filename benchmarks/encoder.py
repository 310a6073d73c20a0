"""Samples a second of the sequence format (one pass a user) against one padded prompt a sample: same model, same users, one run.

    python -m benchmarks.encoder [--small]

Sides, interleaved, medians of the rounds; all are the transformer's body alone, on the same device:

    sequence      windows of the sequence format, packed by length (l2d_ray.model.encoder)
    same-text     one prompt a sample with exactly the text of its window up to its state, padded batches of 32 in arrival order
    last-10       one prompt a sample with its last 10 titles alone (what prompts of one sample hold), padded likewise
    last-10-sorted  the same, packed by length under the same token budget: the strongest form of the plain way

The states of ``sequence`` and ``same-text`` must agree to 1e-4. Data: MovieLens-100K's training samples; the model is a mini with random
weights (speed does not depend on them).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.result import arguments, print_result, target
from jobs import prepare_data
from jobs.train import base_model
from l2d_ray.config import RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, iter_sequences
from l2d_ray.model.encoder import Encoder
from l2d_ray.schema import TRAIN
from l2d_ray.text.harvest import harvest
from l2d_ray.text.packing import pad_batch
from l2d_ray.text.prompts import TokenIds, tokenize_titles

BATCH_SIZE, LAST = 32, 10


def main() -> None:
    options = arguments(__doc__).parse_args()
    num_users, num_rounds = (12, 2) if options.small else (60, 5)
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.model_validate({"run_dir": options.run_dir or folder, "device": "cpu", "model": {"name": "mini"}})
        if not config.data_dir.is_dir():
            prepare_data.main(config)
        catalogue = Catalogue.read(config.data_dir / "items.parquet")
        language_model = base_model(config, catalogue, "cpu")
        users = draw_users(list(iter_sequences(config.data_dir)), num_users)
    titles = dict(zip(catalogue.item_ids, tokenize_titles(language_model.tokenizer, catalogue.titles, 48), strict=True))
    encoder = Encoder(language_model.model)
    found = harvest(users, TRAIN, item_id_to_title=titles, prompts=language_model.prompts)
    histories = [[titles[i] for i in user.item_ids[:p]] for user in users for p in user.target_positions(TRAIN)]
    same_text = [language_model.prompts.prompt(history) for history in histories]
    last = [language_model.prompts.prompt(history[-LAST:]) for history in histories]
    sides: dict[str, Callable[[], NDArray[np.float32]]] = {
        "sequence": lambda: encoder.encode_windows(found.windows),
        "same-text": lambda: plain_loop(encoder.body, same_text),
        "last-10": lambda: plain_loop(encoder.body, last),
        "last-10-sorted": lambda: encoder.encode(last),
    }
    states, seconds = run_rounds(sides, num_rounds)
    rate = {name: round(len(histories) / s, 1) for name, s in seconds.items()}
    difference = float(np.abs(states["sequence"] - states["same-text"]).max())
    ratios = {name: round(seconds[name] / seconds["sequence"], 2) for name in sides if name != "sequence"}
    figures = {
        "small": options.small,
        "num_samples": len(histories),
        "mean_history": round(float(np.mean([len(h) for h in histories])), 1),
        "mean_tokens": {"same-text": round(mean_length(same_text), 1), "last-10": round(mean_length(last), 1)},
        "samples_per_s": rate,
        "speedup": ratios,
        "largest_state_difference": difference,
    }
    targets = {
        "speedup over one padded prompt a sample (last 10 titles)": target(ratios["last-10"], 5.0),
        "speedup over one padded prompt a sample (same text)": target(ratios["same-text"], 5.0),
        "states equal": target(difference, 1e-4, at_most=True),
    }
    print_result("encoder", figures, targets)


def draw_users(sequences: list[UserSequence], count: int) -> list[UserSequence]:
    """Users with training samples, drawn with a fixed seed."""
    trained = [s for s in sequences if s.num_train > 1]
    return [trained[i] for i in np.random.default_rng(0).permutation(len(trained))[:count]]


@torch.inference_mode()
def plain_loop(body: Any, prompts: list[TokenIds], *, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
    """Padded batches in arrival order, last token's state, on the body's device: the loop that everybody writes."""
    states, device = [], next(body.parameters()).device
    for start in range(0, len(prompts), batch_size):
        token_ids, mask = (torch.from_numpy(array).to(device) for array in pad_batch(prompts[start : start + batch_size], pad_id=0))
        hidden = body(input_ids=token_ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        states.append(hidden[torch.arange(len(mask), device=device), mask.sum(1) - 1].float().cpu().numpy())
    return np.concatenate(states)


def run_rounds(
    sides: dict[str, Callable[[], NDArray[np.float32]]], num_rounds: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """Each side's states, and its median seconds over the rounds; the first round is a warm-up."""
    states: dict[str, NDArray[np.float32]] = {}
    rounds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(num_rounds + 1):
        for name, encode in sides.items():
            started = time.perf_counter()
            states[name] = encode()
            if number:
                rounds[name].append(time.perf_counter() - started)
    return states, {name: median(seconds) for name, seconds in rounds.items()}


def mean_length(prompts: list[TokenIds]) -> float:
    return float(np.mean([len(prompt) for prompt in prompts]))


if __name__ == "__main__":
    main()
