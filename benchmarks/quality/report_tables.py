"""Tables of the report as markdown, each from one committed line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Final

METRICS: Final = tuple(f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 20, 50, 100))
SUBSET_METRICS: Final = ("recall@10", "recall@20", "recall@50", "ndcg@10")
ABLATION_METRICS: Final = ("recall@10", "recall@20", "recall@50", "ndcg@20")
TRAINING_SYSTEMS: Final = ("item-knn", "l2d-g", "l2d-l", "l2d-w")
TRAINING_METRICS: Final = ("recall@10", "recall@50")
GROWTH_SYSTEMS: Final = ("l2d-g", "l2d-l", "l2d-w", "l2d-p")
LEAD_METRICS: Final = ("recall@10", "recall@20", "recall@50", "ndcg@10")
SLICES: Final = ("dense", "sparse", "long", "short")

Result = Mapping[str, Any]


def targets(result: Result) -> str:
    """What is wanted of this data set; empty where nothing is."""
    rows = [[name, found["target"], _figure(found["measured"]), _met(found["met"])] for name, found in result["targets"].items()]
    return table(["wanted", "target", "measured", "met"], rows) if rows else ""


def main_table(result: Result, setting: str) -> str:
    """All metrics of a setting; recall@10 with its interval."""
    rows = []
    for name, row in result["rows"].items():
        found = row[setting]
        low, high = found["intervals"]["recall@10"]
        cells = [f"{found['metrics'][metric]:.4f}" for metric in METRICS]
        rows.append([marked(name, row), f"{cells[0]} ({low:.4f}-{high:.4f})", *cells[1:]])
    return table([setting, *METRICS], rows)


def title_table(result: Result) -> str:
    return table(
        ["unmasked, by title", *METRICS],
        [
            [marked(name, row), *(f"{row['unmasked']['by_title'][metric]:.4f}" for metric in METRICS)]
            for name, row in result["rows"].items()
        ],
    )


def subset_table(result: Result) -> str:
    rows = [
        [marked(name, row), *(f"{row['language_subset'][metric]:.4f}" for metric in SUBSET_METRICS)] for name, row in result["rows"].items()
    ]
    return table(["subset, unmasked", *SUBSET_METRICS], rows)


def lead_table(result: Result, setting: str) -> str:
    """Default minus row; empty where the run had no default."""
    rows = []
    for name, row in result["rows"].items():
        if "default_minus_row" in row:
            found = row["default_minus_row"][setting]
            rows.append([marked(name, row), *(_interval(found[metric]) for metric in LEAD_METRICS)])
    return table([f"{setting}, default minus", *LEAD_METRICS], rows) if rows else ""


def ahead_table(result: Result) -> str:
    """Baselines that reach more than the default decoder, or than the one that reads titles alone, and in what; rows that write titles are
    compared on their samples."""
    rows = []
    for ours in ("default", "l2d-w"):
        for name, row in result["rows"].items() if ours in result["rows"] else ():
            if row["family"] != "decoder" and "+" not in name and (found := _ahead(result["rows"][ours], row)):
                rows.append([ours, name, ", ".join(found)])
    return table(["behind", "ahead", "in"], rows) if rows else "No baseline is ahead of either in any of these figures."


def _ahead(ours: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Figures in which a row is above ours, both values told."""
    if row["family"] == "language":
        compared = {f"{metric}": (ours["language_subset"][metric], row["language_subset"][metric]) for metric in LEAD_METRICS}
    else:
        compared = {
            f"{setting} {metric}": (ours[setting]["metrics"][metric], row[setting]["metrics"][metric])
            for setting in ("unmasked", "masked")
            for metric in LEAD_METRICS
        }
        parts = [part for part in SLICES if part in row["slices"] and part in ours["slices"]]
        compared |= {f"{part} recall@20": (ours["slices"][part]["recall@20"], row["slices"][part]["recall@20"]) for part in parts}
    return [f"{name} ({theirs:.4f} to {mine:.4f})" for name, (mine, theirs) in compared.items() if theirs > mine]


def slice_table(result: Result) -> str:
    rows = []
    for name, row in result["rows"].items():
        found = row["slices"]
        rows.append([marked(name, row), *(f"{found[part]['recall@20']:.4f}" if part in found else "-" for part in SLICES)])
    sizes = result["slice_sizes"]
    return table(["recall@20", *(f"{part} ({sizes[part]:,})" for part in SLICES)], rows)


def cost_table(result: Result) -> str:
    cost = result["cost"]
    batches = [batch for batch in cost["all"] if batch.startswith("batch")]
    alone = cost.get("decoders", {})
    head = ["s per 1,000 requests", *batches, *(f"decoders alone, {batch}" for batch in batches)]
    rows = []
    for name in cost["all"][batches[0]]:
        again = [f"{alone[batch][name]:.3f}" if name in alone.get(batch, {}) else "-" for batch in batches]
        rows.append([name, *(f"{cost['all'][batch][name]:.3f}" for batch in batches), *again])
    return table(head, rows)


def sweep_systems(result: Result) -> list[str]:
    """Decoders of the sweep, in its order."""
    return [name for name in result["memory_sweep"]["whole"] if name != "num_items"]


def sweep_table(result: Result, metric: str) -> str:
    sweep, rows = result["memory_sweep"], []
    systems = sweep_systems(result)
    for order, by_fraction in sweep["kept"].items():
        for fraction, found in by_fraction.items():
            values = [f"{found[system][metric]:.4f}" for system in systems]
            rows.append([order, f"{100 * float(fraction):g} %", f"{found['num_items']:,}", *values])
    rows.append(["whole", "100 %", f"{sweep['whole']['num_items']:,}", *(f"{sweep['whole'][system][metric]:.4f}" for system in systems)])
    return table(["kept", "share", "items", *systems], rows)


def ablation_table(result: Result) -> str:
    found = result["ablations"]
    rows = [
        [name, str(row["num_candidates"]), *(f"{row[metric]:.4f}" for metric in ABLATION_METRICS), f"`{_settings(row['settings'])}`"]
        for name, row in found["variants"].items()
    ]
    return table(["variant", "candidates", *ABLATION_METRICS, "best"], rows)


def rerank_table(result: Result) -> str:
    found = result["ablations"]["rerank"]
    rows = [[name, *(f"{row[metric]:.4f}" for metric in ABLATION_METRICS)] for name, row in found.items() if isinstance(row, Mapping)]
    return table(["the titles' log-likelihood added", *ABLATION_METRICS], rows)


def living_table(result: Result, which: str = "living") -> str:
    """``which``: living, or retrained."""
    rows = []
    for name, row in result[which].items():
        found, low_high = row["unmasked"]["metrics"], row["unmasked"]["intervals"]["recall@10"]
        cells = [f"{found[metric]:.4f}" for metric in METRICS]
        rows.append([name, f"{cells[0]} ({low_high[0]:.4f}-{low_high[1]:.4f})", *cells[1:]])
    return table([f"{which}, unmasked", *METRICS], rows) if rows else ""


def tuning_table(result: Result) -> str:
    rows = []
    for name, row in result["rows"].items():
        best = row["validation_ndcg@20"]
        cells = [str(row["num_trials"] or "-"), _figure(best), f"{row['fit_s']:.0f}", f"{row['num_parameters']:,}"]
        rows.append([name, *cells, f"`{_settings(row['settings'])}`"])
    return table(["row", "trials", "validation ndcg@20", "training and tuning, s", "parameters", "chosen"], rows)


def seeds_table(result: Result) -> str:
    """Trained rows with other seeds, and what is between the default and the best of them; empty where there were none."""
    rows, default = [], result["rows"].get("default")
    for name, row in result["rows"].items():
        if row["seeds"]:
            runs = [row["unmasked"]["metrics"], *row["seeds"].values()]
            best = max(run["recall@10"] for run in runs)
            lead = "-" if default is None else f"{default['unmasked']['metrics']['recall@10'] - best:+.4f}"
            rows.append([name, *(", ".join(f"{run[metric]:.4f}" for run in runs) for metric in ("recall@10", "recall@50")), lead])
    return table(["seeds, from 0 on", "recall@10", "recall@50", "default minus the best recall@10"], rows) if rows else ""


def claims(result: Result) -> str:
    """The paper's claims beside what was measured here, where the rows for them were run."""
    rows = [*_speed_claims(result), *_slice_claims(result), *_memory_claims(result)]
    return table(["claim of arXiv 2509.11524", "measured here", "holds"], rows) if rows else ""


def _speed_claims(result: Result) -> Iterable[list[str]]:
    """Against every number of beams, in batches of 32."""
    rows, seconds = result["rows"], result["cost"]["all"]["batch 32"]
    beams = [name for name in rows if name.startswith("d3-") and name.removeprefix("d3-").isdigit()]
    for name, other in product(("l2d-g", "l2d-l", "default"), beams):
        if name in rows:
            speed = seconds[other] / seconds[name]
            ours, theirs = (rows[row]["language_subset"]["recall@10"] for row in (name, other))
            measured = f"{speed:.1f} times, recall@10 {ours:.4f} against {theirs:.4f}"
            yield [f"{name}: more than 10 times as fast as {other}, recall@10 no worse", measured, _met(speed > 10 and ours >= theirs)]


def _slice_claims(result: Result) -> Iterable[list[str]]:
    rows = result["rows"]
    if not {"l2d-g", "l2d-l"} <= rows.keys():
        return
    for part, better, worse in (("dense", "l2d-l", "l2d-g"), ("sparse", "l2d-g", "l2d-l")):
        first, second = (rows[name]["slices"].get(part, {}).get("recall@20", 0.0) for name in (better, worse))
        yield [f"{better} above {worse} for {part} items, recall@20", f"{first:.4f} against {second:.4f}", _met(first > second)]


def _memory_claims(result: Result) -> Iterable[list[str]]:
    sweep = result["memory_sweep"]
    for system in sweep_systems(result):
        part, whole = sweep["kept"]["random"]["0.3"][system]["recall@50"], sweep["whole"][system]["recall@50"]
        holds = part >= 0.95 * whole
        yield [f"{system}: a random 30 % of the memory keeps 95 % of recall@50", f"{part:.4f} of {whole:.4f}", _met(holds)]


def training_table(lines: Iterable[Result]) -> str:
    columns = [("valid", system, metric) for system in TRAINING_SYSTEMS for metric in TRAINING_METRICS]
    columns += [("test", TRAINING_SYSTEMS[-1], metric) for metric in TRAINING_METRICS]
    rows = []
    for line in sorted(
        lines, key=lambda line: (line["data"], line["num_parameters"], line.get("item_loss_weight", 0.0), line["num_epochs"])
    ):
        cells = [line["data"], f"{line['num_parameters']:,}", f"{line.get('item_loss_weight', 0.0):g}", str(line["num_epochs"])]
        rows.append([*cells, *(f"{line[split][system][metric]:.4f}" for split, system, metric in columns)])
    heads = [f"{'test ' if split == 'test' else ''}{system} {metric}" for split, system, metric in columns]
    return table(["data", "parameters", "item loss", "epochs", *heads], rows)


def growth_table(line: Result) -> str:
    """A row a run of benchmarks.growth."""
    axes = (("epochs", "num_epochs"), ("widths", "hidden_size"))
    return runs_table((f"{what}={point[what]}", point) for axis, what in axes for point in line[axis])


def runs_table(runs: Iterable[tuple[str, Result]]) -> str:
    """Runs by what they are called, as ``benchmarks.growth.measured`` tells them."""
    rows = []
    for name, run in runs:
        figures = [f"{run['valid'][system][metric]:.4f}" for system in GROWTH_SYSTEMS for metric in TRAINING_METRICS]
        rows.append([name, f"{run['num_parameters']:,}", str(run["num_epochs_run"]), f"{run['train_s']:.0f}", *figures])
    heads = [f"{system} {metric}" for system in GROWTH_SYSTEMS for metric in TRAINING_METRICS]
    return table(["run", "parameters", "epochs", "training, s", *heads], rows)


def check_table(line: Result) -> str:
    """Ours, with each dropout that was tried, beside what was published."""
    metrics = list(line["published"])
    rows = [["published", "-", *(f"{line['published'][metric]:.4f}" for metric in metrics)]]
    for run in line["runs"]:
        rows.append([f"ours, dropout {run['dropout']:g}", str(run["epochs"]), *(f"{run['metrics'][metric]:.4f}" for metric in metrics)])
    return table(["SASRec", "epochs", *metrics], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, the first column to the left."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def marked(name: str, row: Mapping[str, Any]) -> str:
    """The name, with the sign of rows that write titles."""
    return f"{name} *" if row["family"] == "language" else name


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['mean']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _met(met: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[met]


def _settings(settings: Any) -> str:
    """Settings in one line, those of training after the rest."""
    if not isinstance(settings, Mapping):
        return str(settings)
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in flat.items())
