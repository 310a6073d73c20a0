"""The report on the committed runs: every figure and plot from benchmarks/results/quality-*.json, none typed by hand; a test compares.

python -m benchmarks.quality.report            # writes REPORT.md and the plots beside this file
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.quality import report_tables as tables
from benchmarks.readme_figures import RESULTS
from l2d_ray.evaluate.report_plots import Dot, Line, cost_plot, panels_plot, standalone

FOLDER: Final = Path(__file__).parent
REPORT: Final = FOLDER / "REPORT.md"
COST_BATCHES: Final = ("batch 1", "batch 32")
SWEEP_METRIC: Final = "recall@50"

HEAD: Final = """# Quality: every system on one protocol

Written by `python -m benchmarks.quality.report` from `benchmarks/results/quality-*.json`; a run is
`python -m benchmarks.quality FOLDER` (see `benchmarks/quality/__main__.py`).

Full ranking over the catalogue, by item id. Unmasked: nothing is excluded. Masked: the history except its last item is excluded, and a
target among it is a miss. Everything is tuned on validation (ndcg@20, unmasked), test is scored once a run; runs of earlier versions, which
git has, were seen before these. Intervals are 95 % bootstrap intervals over test samples. All rows that read text use one fine-tuned model.
`default` is the decoder that `jobs.tune_decoder` chose. `l2d-p` is `l2d-w`, the item pairs of the memory's user sequences, and a weight
of the history's own items before its last one; `item-knn` and `session-knn` have such a weight too. Rows with + join `l2d-w` with whole
baselines."""

TRAINING: Final = """## Models, and training for the latent space

Runs of `python -m benchmarks.amazon_mini`: on validation, in the last two columns on test. 0 epochs: the model as it comes. Item loss: the
weight of a second loss in training, in which a linear layer must tell from the state that the memory keeps which item follows (the layer is
dropped afterwards, the model still writes titles)."""

CHECK: Final = """## SASRec against a published implementation

`python -m benchmarks.sasrec_check`: MovieLens-100K, leave-one-out, all items ranked but those of the history, the validation items at the
best epoch. Published: the log of UniRec's SASRec (see the script), which was stopped after four epochs. It is a floor that a faulty model
would not pass, no proof of the best; we know of no converged public figure on this protocol."""

GROWTH: Final = """## How quality grows with the model and its training

Runs of `python -m benchmarks.growth`, on validation alone; each was tuned by itself. How it grows with the memory stands with each data set
above."""

VARIANTS: Final = """## What a change of the training is worth

Runs of `python -m benchmarks.trainings`, on validation alone; each was tuned by itself. Title dropout: the share of the titles that a
training text leaves out, others in every epoch. Dropout: of the input embeddings and of the last hidden states."""

GROWTH_AXES: Final = {"epochs": ("num_epochs_run", "epochs"), "widths": ("num_parameters", "parameters of the model")}
"""What grows in a line of benchmarks.growth: what a point is drawn at, and what that is."""

AHEAD: Final = """Of the default decoder, and of `l2d-w`, which knows what titles tell. What that one lacks are pairs of items that
nothing in their titles joins: who had this album had that one next. Neighbourhoods live on them, also for items that are seldom taken, and
models of item ids for those that are taken often; most where titles are names (CDs). So the default decoder takes item pairs from the user
sequences that the memory keeps anyway; `l2d-p` is what they add. Targets without a memory entry count as sparse: bm25 ranks every title,
the default decoder items without entries only where that paid on validation (`cold_count`)."""

NOTHING: Final = "No run is committed yet."


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    text, pictures = written()
    REPORT.write_text(text)
    for name, svg in pictures.items():
        (FOLDER / name).write_text(svg)


def written() -> tuple[str, dict[str, str]]:
    """What the committed results say: REPORT.md, and the plots by the names of their files."""
    results, growth, variants = (read_results(pattern=pattern) for pattern in ("quality", "growth", "trainings"))
    check = read_results(pattern="sasrec_check").get("")
    return report(results, read_results(pattern="amazon_mini"), check, growth, variants), plots(results) | growth_plots(growth)


def read_results(folder: Path = RESULTS, *, pattern: str = "quality") -> dict[str, dict[str, Any]]:
    """Committed lines of a benchmark by name: what follows the dash in the file's."""
    return {path.stem.partition("-")[2]: json.loads(path.read_text()) for path in sorted(folder.glob(f"{pattern}*.json"))}


def report(
    results: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]],
    check: Mapping[str, Any] | None = None,
    growth: Mapping[str, Mapping[str, Any]] | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The whole of REPORT.md: a section a data set, lines of benchmarks.amazon_mini, growth and trainings by name, and the check."""
    sections = [section(name, result) for name, result in results.items()] or [NOTHING]
    trained = [TRAINING, tables.training_table(models.values())] if models else []
    grown = [GROWTH, *(part for name, line in growth.items() for part in _growth(name, line))] if growth else []
    varied = [VARIANTS, *(part for line in variants.values() for part in _variants(line))] if variants else []
    checked = [CHECK, tables.check_table(check)] if check is not None else []
    return "\n\n".join([HEAD, *sections, *trained, *varied, *grown, *checked]) + "\n"


def section(name: str, result: Mapping[str, Any]) -> str:
    """One data set."""
    samples, thresholds = result["num_samples"], result["thresholds"]
    parts = [
        f"## {result['data']}",
        f"{result['num_items']:,} items, {result['num_memory_entries']:,} memory entries, {samples['valid']:,} validation and "
        f"{samples['test']:,} test samples; {result['unreachable_share']:.1%} of the test targets have no memory entry. The language model "
        f"has {result['num_language_parameters']:,} parameters; epochs of its training: {result['num_epochs']}.",
        tables.targets(result),
        "### Test, unmasked, by item id",
        tables.main_table(result, "unmasked"),
        *_subset(result),
        "### The paper's claims",
        tables.claims(result),
        "### Lead of the default decoder",
        "Paired differences, default minus row, with their intervals; * on the subset.",
        *(tables.lead_table(result, setting) for setting in ("unmasked", "masked")),
        "### Where a baseline is ahead",
        AHEAD,
        tables.ahead_table(result),
        "### Masked, and by title",
        tables.main_table(result, "masked"),
        tables.title_table(result),
        "### Slices",
        f"Dense: more than {thresholds['target_count']:g} training interactions of the target; long: more than "
        f"{thresholds['history_length']:g} items of history (medians over the test samples). Recall@20.",
        tables.slice_table(result),
        *_cost(name, result),
        *_sweep(name, result),
        *_ablations(result),
        "### Living memory",
        "The validation samples are added before test, without retraining. A protocol of its own, not comparable with the tables above.",
        tables.living_table(result),
        *_retrained(result),
        "### What was tuned, and what it took",
        f"Tuning: {result['tuning']}. Grid: {result['grids']}. The decoders' settings: {result['num_decoder_trials']} trials on the latest "
        f"{result['num_decoder_samples']:,} validation samples. Seconds of a row are those of all its trials, trained each; before "
        f"them, for all rows that read text: {_shared(result)}.",
        tables.tuning_table(result),
        tables.seeds_table(result),
    ]
    return "\n\n".join(part for part in parts if part)


def _subset(result: Mapping[str, Any]) -> list[str]:
    if not any(row["family"] == "language" for row in result["rows"].values()):
        return []
    return [
        f"Rows with * write titles: {result['language_subset']}. Their figures above are those of the subset; this is the subset for all:",
        tables.subset_table(result),
    ]


def _retrained(result: Mapping[str, Any]) -> list[str]:
    if not result["retrained"]:
        return []
    return [
        "Trained anew with the validation samples, which takes minutes where the memory takes seconds. Rows that write titles know nothing "
        f"of new samples until the language model is fine-tuned anew ({result['shared_seconds']['train']:,.0f} s), which was not done:",
        tables.living_table(result, "retrained"),
    ]


def _shared(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {seconds:,.0f} s" for name, seconds in result["shared_seconds"].items())


def plots(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Files of all plots."""
    found = {}
    for name, result in results.items():
        for batch in COST_BATCHES:
            found[_cost_file(name, batch)] = standalone(_cost_plot(result, batch))
        found[f"{name}-memory.svg"] = standalone(_sweep_plot(result))
    return found


def growth_plots(growth: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Files of the plots of lines of benchmarks.growth."""
    return {_growth_file(name, axis): standalone(_growth_plot(line, axis)) for name, line in growth.items() for axis in GROWTH_AXES}


def _growth(name: str, line: Mapping[str, Any]) -> list[str]:
    pictures = [f"![Validation recall against {label}]({_growth_file(name, axis)})" for axis, (_, label) in GROWTH_AXES.items()]
    return [f"### {line['data']}", tables.growth_table(line), *pictures]


def _variants(line: Mapping[str, Any]) -> list[str]:
    return [f"### {line['data']}", tables.runs_table((f"`{run['changes']}`", run) for run in line["runs"])]


def _growth_file(name: str, axis: str) -> str:
    return f"growth-{name}-{axis}.svg"


def _growth_plot(line: Mapping[str, Any], axis: str) -> str:
    field, label = GROWTH_AXES[axis]
    places = [float(point[field]) for point in line[axis]]
    panels = {}
    for metric in tables.TRAINING_METRICS:
        panels[metric] = [Line(row, places, [point["valid"][row][metric] for point in line[axis]]) for row in tables.GROWTH_SYSTEMS]
    return panels_plot(panels, x_label=label, y_label="recall, validation")


def _cost(name: str, result: Mapping[str, Any]) -> list[str]:
    cost = result["cost"]
    pictures = [f"![Recall@10 against seconds, {batch}]({_cost_file(name, batch)})" for batch in COST_BATCHES]
    return [
        "### Cost",
        f"Seconds per 1,000 requests from history to {cost['k']} items, all rows taking turns on {cost['all']['num_requests']} test "
        f"requests, medians of {cost['rounds']} rounds; the plots show it against recall@10 on the subset. The decoders alone were timed "
        f"again on {cost['decoders']['num_requests'] if 'decoders' in cost else 0} requests.",
        tables.cost_table(result),
        *pictures,
    ]


def _sweep(name: str, result: Mapping[str, Any]) -> list[str]:
    sweep = result["memory_sweep"]
    return [
        "### How much of the memory is needed",
        f"On {sweep['num_samples']:,} validation samples, the latest where times are known; settings as tuned on the whole memory; "
        f"{SWEEP_METRIC}.",
        tables.sweep_table(result, SWEEP_METRIC),
        f"![{SWEEP_METRIC} against the share of the memory that is kept]({name}-memory.svg)",
    ]


def _ablations(result: Mapping[str, Any]) -> list[str]:
    found, again, seconds = result["ablations"], result["ablations"]["rerank"], result["shared_seconds"]
    return [
        "### What was tried beyond",
        f"On {found['num_samples']:,} validation samples, the latest where times are known. Of each variant the best of its candidates, so "
        "that many candidates flatter it; the first row is what was tuned.",
        tables.ablation_table(result),
        f"The first {again['num_reranked']} ranked again with the likelihood of their titles, on {again['num_samples']} of these samples, "
        f"which took {again['seconds_per_1000']:.0f} s per 1,000 requests:",
        tables.rerank_table(result),
        "Not tried: ratings in the prompt (these data sets keep those of 4 and 5 alone, or lack most), and states harvested during the "
        f"last epoch instead of a memory build afterwards, which took {seconds['build_memory']:,.0f} s, where training took "
        f"{seconds['train']:,.0f} s.",
    ]


def _cost_file(name: str, batch: str) -> str:
    return f"{name}-cost-{batch.replace(' ', '')}.svg"


def _cost_plot(result: Mapping[str, Any], batch: str) -> str:
    """A second per 1,000 requests is a millisecond per request."""
    seconds = result["cost"]["all"][batch]
    dots = [Dot(row, value, result["rows"][row]["language_subset"]["recall@10"]) for row, value in seconds.items()]
    return cost_plot(dots, accuracy_label="Recall@10", cost_label=f"seconds per 1,000 requests, {batch}")


def _sweep_plot(result: Mapping[str, Any]) -> str:
    sweep = result["memory_sweep"]
    panels = {}
    for system in tables.sweep_systems(result):
        lines = []
        for order, by_fraction in sweep["kept"].items():
            shares = [100 * float(fraction) for fraction in by_fraction]
            values = [figures[system][SWEEP_METRIC] for figures in by_fraction.values()]
            lines.append(Line(order, [*shares, 100.0], [*values, sweep["whole"][system][SWEEP_METRIC]]))
        panels[system] = lines
    return panels_plot(panels, x_label="% of the memory kept", y_label=SWEEP_METRIC)


if __name__ == "__main__":
    main()
