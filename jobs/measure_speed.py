"""Times latent-space decoding against language-space decoding of the same model: same requests, same machine, one run.

    python -m jobs.measure_speed --config jobs/configs/quickstart.yaml evaluate.speed_beams=10
    ray job submit --working-dir . -- python -m jobs.measure_speed --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one

Needs jobs.tune_decoder. The sides, interleaved batch by batch, medians over rounds:

    l2d-g, l2d-l, l2d-w, l2d-p    (l2d-l where the index has entries) history -> prompt -> encoder -> index -> items
    beams-generate         Hugging Face generate, ``speed_beams`` beams kept inside the catalogue: what people run today
    beams-tree             our own exact search of the same beams with tree attention: the strongest opponent we could make
    greedy-generate        Hugging Face generate, one beam, not constrained: one title, any text

Recall@10 of the beams is taken on ``evaluate.language_samples`` test samples, and of the default decoder on the same ones.
Writes RUN_DIR/evaluation/speed.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from jobs.cli import run
from jobs.inputs import draw_test_requests, load_run
from l2d_ray.config import EvaluateConfig, RunConfig
from l2d_ray.decode.decoder import LatentDecoder
from l2d_ray.decode.settings import SYSTEM_NAMES
from l2d_ray.evaluate.metrics import PADDING, metric_means, target_ranks
from l2d_ray.evaluate.protocol import EvaluationSamples
from l2d_ray.evaluate.speed import Answer, seconds_per_request
from l2d_ray.model.generation import generate_titles, greedy_titles
from l2d_ray.model.language_space import constrained_beam_search
from l2d_ray.model.loading import load_checkpoint
from l2d_ray.text.prefix_tree import PrefixTree

NUM_ROUNDS = 3

BeamSearch = Callable[[Sequence[Sequence[int]]], NDArray[np.int64]]
"""Histories -> ranked item indexes (n, k), padded with -1."""


def main(config: RunConfig) -> dict[str, Any]:
    started = time.monotonic()
    loaded, settings = load_run(config), config.evaluate
    model = load_checkpoint(config.checkpoint_dir, device=loaded.device).model
    requests = draw_test_requests(config, loaded.catalogue, settings.speed_requests)
    sides, beam_search = make_sides(loaded.decoder, model, requests.histories, settings)
    with tqdm(desc="speed, all sides in turns", unit="batch", total=NUM_ROUNDS * -(-len(requests) // settings.speed_batch)) as bar:
        seconds = seconds_per_request(sides, len(requests), batch_size=settings.speed_batch, num_rounds=NUM_ROUNDS, on_batch=bar.update)
    default = SYSTEM_NAMES[loaded.decoder.settings.decoder]
    subset = draw_test_requests(config, loaded.catalogue, settings.language_samples)
    result = {
        "k": settings.speed_k,
        "beam": settings.speed_beams,
        "ratio": round(seconds["beams-generate"] / seconds[default], 2),
        "ratio_to_tree_attention": round(seconds["beams-tree"] / seconds[default], 2),
        "ratio_to_greedy": round(seconds["greedy-generate"] / seconds[default], 2),
        "decoder": default,
        "num_requests": len(requests),
        "batch_size": settings.speed_batch,
        "device": loaded.device,
        "mean_prompt_tokens": round(float(np.mean([len(loaded.decoder.writer.write(h)) for h in requests.histories])), 1),
        "ms_per_request": {name: round(1000 * s, 3) for name, s in seconds.items()},
        "quality_on_subset": compare_quality(loaded.decoder, beam_search, subset, settings.speed_batch),
    }
    config.evaluation_dir.mkdir(parents=True, exist_ok=True)
    (config.evaluation_dir / "speed.json").write_text(json.dumps(result, indent=2) + "\n")
    return {"job": "measure_speed", **result, "measure_s": round(time.monotonic() - started, 2)}


def make_sides(
    decoder: LatentDecoder, model: Any, histories: Sequence[Sequence[int]], settings: EvaluateConfig
) -> tuple[dict[str, Answer], BeamSearch]:
    """Every system as a function of a batch of request positions; and the beam search as a function of histories."""
    writer, k, num_beams = decoder.writer, settings.speed_k, settings.speed_beams
    terminator = writer.prompts.terminator_id
    tree = PrefixTree([[*title.tolist(), terminator] for title in writer.titles])
    shared = {"terminator_id": terminator, "pad_token_id": 0}

    def prompts(batch: Sequence[int]) -> list[NDArray[np.int32]]:
        return [writer.write(histories[i]) for i in batch]

    def latent(name: Any) -> Answer:
        return lambda batch: decoder.recommend([histories[i] for i in batch], k, decoder=name)

    def beam_search(chosen: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        texts = [writer.write(history) for history in chosen]
        ranked = np.full((len(chosen), k), PADDING, dtype=np.int64)
        for row, found in enumerate(constrained_beam_search(model, texts, tree, num_beams=num_beams, k=k, pad_token_id=0)):
            ranked[row, : len(found.item_indexes)] = found.item_indexes
        return ranked

    sides: dict[str, Answer] = {SYSTEM_NAMES[name]: latent(name) for name in decoder.decoders}
    sides["beams-generate"] = lambda batch: generate_titles(model, prompts(batch), tree, num_beams=num_beams, **shared)
    sides["beams-tree"] = lambda batch: beam_search([histories[i] for i in batch])
    sides["greedy-generate"] = lambda batch: greedy_titles(model, prompts(batch), max_new_tokens=tree.max_depth, **shared)
    return sides, beam_search


def compare_quality(decoder: LatentDecoder, beam_search: BeamSearch, subset: EvaluationSamples, batch_size: int) -> dict[str, Any]:
    """Metrics at 10 and 20 of the beams and of the default decoder on the same test samples, unmasked, by item id."""
    blocks: dict[str, list[NDArray[np.int64]]] = {"beams": [], "latent": []}
    for start in tqdm(range(0, len(subset), batch_size), desc="language space", unit="batch"):
        histories = subset.histories[start : start + batch_size]
        blocks["beams"].append(beam_search(histories))
        blocks["latent"].append(decoder.recommend(histories, blocks["beams"][0].shape[1]).ids)
    scores = {
        name: {metric: round(value, 5) for metric, value in metric_means(target_ranks(np.concatenate(b), subset.targets), (10, 20)).items()}
        for name, b in blocks.items()
    }
    return {"num_samples": len(subset), **scores}


if __name__ == "__main__":
    run(main, __doc__)
