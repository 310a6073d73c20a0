"""Writes RUN_DIR/report.html and RUN_DIR/metrics.json from the results of the other jobs, with a few real recommendations explained.

    python -m jobs.report --config jobs/configs/quickstart.yaml

Needs jobs.evaluate and jobs.measure_speed. Reads files and answers a few requests in this process; needs no Ray.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs.cli import run
from jobs.inputs import LoadedRun, draw_test_requests, load_run
from jobs.train import CURVE
from l2d_ray.config import RunConfig
from l2d_ray.data.sequences import iter_sequences
from l2d_ray.decode.lookup import ItemReasons
from l2d_ray.errors import ArtefactError
from l2d_ray.evaluate.explain import causes_of, reasons_of, titles_of_samples
from l2d_ray.evaluate.report import Example, ExampleItem, ReportData, SystemRow, TrainingPoint, write_report

NUM_EXAMPLES, NUM_ITEMS, NUM_REASONS, NUM_CAUSES, SHOWN_HISTORY = 4, 5, 2, 3, 8


def main(config: RunConfig, seconds: dict[str, float] | None = None) -> dict[str, Any]:
    """``seconds`` of the stages, where the caller knows them."""
    loaded = load_run(config)
    card = read_json(config.data_dir / "card.json", "jobs.prepare_data")
    evaluation = read_json(config.evaluation_dir / f"{config.evaluate.split}.json", "jobs.evaluate")
    speed = read_json(config.evaluation_dir / "speed.json", "jobs.measure_speed")
    curve = read_json(config.checkpoint_dir / CURVE, "jobs.train")
    metrics = {"dataset": card["name"], "systems": evaluation["systems"], "speed": speed, "seconds": seconds or {}}
    (config.run_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    report = ReportData(
        name=card["name"],
        card={name: value for name, value in card.items() if name not in ("settings", "name")},
        systems=(*(_row(system, speed["ms_per_request"]) for system in evaluation["systems"]), _beams_row(speed)),
        training=tuple(TrainingPoint(int(p["step"]), p["epoch"], p["train_loss"], p["valid_loss"]) for p in curve),
        seconds=seconds or {},
        speed=_speed(speed),
        examples=examples(config, loaded),
    )
    write_report(report, config.run_dir / "report.html")
    return {"job": "report", "report": str(config.run_dir / "report.html"), "metrics": str(config.run_dir / "metrics.json")}


def examples(config: RunConfig, loaded: LoadedRun) -> tuple[Example, ...]:
    """Test requests with the default decoder's items, each with the pairs that its decoder read and its nearest samples."""
    decoder, catalogue = loaded.decoder, loaded.catalogue
    requests = draw_test_requests(config, catalogue, NUM_EXAMPLES)
    queries = decoder.encode(requests.histories)
    found = decoder.search(queries, NUM_ITEMS, histories=requests.histories, excluded=requests.histories)
    items = [of_request[of_request >= 0] for of_request in found.ids]
    read = requests.histories if decoder.settings.decoder == "paired" else None
    told = decoder.reasons(queries, items, NUM_REASONS, histories=read)
    samples = {entry.sample_id for of_request in told for near in of_request.entries.values() for entry in near}
    sample_id_to_titles = titles_of_samples(iter_sequences(config.data_dir), samples, catalogue)

    def explained(item: int, score: float, why: ItemReasons) -> ExampleItem:
        reasons = reasons_of(why.entries.get(item, ()), sample_id_to_titles)
        causes = causes_of(why.pairs.get(item, ()), catalogue)[:NUM_CAUSES]
        return ExampleItem(catalogue.titles[item], score, reasons, causes)

    return tuple(
        Example(
            tuple(catalogue.titles[i] for i in history[-SHOWN_HISTORY:]),
            catalogue.titles[target],
            tuple(explained(item, score, why) for item, score in zip(of_request.tolist(), scores.tolist(), strict=False)),
        )
        for history, target, of_request, scores, why in zip(requests.histories, requests.targets, items, found.scores, told, strict=True)
    )


def read_json(path: Path, job: str) -> Any:
    if not path.is_file():
        raise ArtefactError(f"There is no {path}; run {job} first.")
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise ArtefactError(f"{path} is damaged: it is not JSON; run {job} again.") from None


def _row(system: dict[str, Any], ms_per_request: dict[str, float]) -> SystemRow:
    unmasked, masked = system["unmasked"], system["masked"]
    return SystemRow(
        name=system["name"],
        unmasked=unmasked["metrics"],
        masked=masked["metrics"],
        by_title=unmasked["by_title"],
        intervals=unmasked["intervals"],
        masked_intervals=masked["intervals"],
        ms_per_request=ms_per_request.get(system["name"]),
    )


def _beams_row(speed: dict[str, Any]) -> SystemRow:
    quality = speed["quality_on_subset"]
    name = f"{speed['beam']} beams (on {quality['num_samples']} samples)"
    return SystemRow(name=name, unmasked=quality["beams"], ms_per_request=speed["ms_per_request"]["beams-generate"])


def _speed(speed: dict[str, Any]) -> dict[str, Any]:
    milliseconds = speed["ms_per_request"]
    setting = (
        f"{speed['num_requests']} test requests with {speed['mean_prompt_tokens']:g} prompt tokens on average, batches of "
        f"{speed['batch_size']}, on {speed['device']}, sides interleaved, medians. The opponent is Hugging Face's generate with "
        f"{speed['beam']} beams kept inside the catalogue; our own search of the same beams with tree attention takes "
        f"{milliseconds['beams-tree']:g} ms ({speed['ratio_to_tree_attention']:g} times {speed['decoder']}), one greedy title "
        f"{milliseconds['greedy-generate']:g} ms ({speed['ratio_to_greedy']:g} times)."
    )
    return {
        "k": speed["k"],
        "beams": speed["beam"],
        "latent_ms": milliseconds[speed["decoder"]],
        "language_ms": milliseconds["beams-generate"],
        "ratio": speed["ratio"],
        "setting": setting,
    }


if __name__ == "__main__":
    run(main, __doc__)
