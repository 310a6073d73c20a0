"""report.html: one file without any other resource, written from one record of plain values.

``ReportData`` is all the page knows; a part that is None or empty is left out. Everything from data passes ``html.escape`` (titles are
text from the world), the plots come from ``report_plots``, the frame from ``report_template``. The file appears whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

from l2d_ray.evaluate.protocol import SystemScores
from l2d_ray.evaluate.report_plots import Dot, cost_plot, seconds_plot, training_plot
from l2d_ray.evaluate.report_template import PAGE

COST_METRIC: Final = "recall@10"
"""The y axis of the cost plot, unmasked and by item id."""


@dataclass(frozen=True)
class SystemRow:
    """A system's figures: ``{"recall@10": mean}`` by setting, ``{"recall@10": (low, high)}`` for the intervals; empty means not known."""

    name: str
    unmasked: Mapping[str, float]
    masked: Mapping[str, float] = field(default_factory=dict)
    by_title: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    masked_intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ms_per_request: float | None = None

    @classmethod
    def from_scores(cls, scores: SystemScores) -> SystemRow:
        """The row of a system that the protocol has scored."""
        seconds = scores.seconds_per_request
        return cls(
            name=scores.name,
            unmasked=scores.unmasked.metrics,
            masked=scores.masked.metrics,
            by_title=scores.unmasked.by_title,
            intervals=scores.unmasked.intervals,
            masked_intervals=scores.masked.intervals,
            ms_per_request=None if seconds is None else seconds * 1000,
        )


@dataclass(frozen=True)
class TrainingPoint:
    """Losses at an optimizer step; None where that loss was not measured there."""

    step: int
    epoch: float
    train_loss: float | None
    valid_loss: float | None


@dataclass(frozen=True)
class Reason:
    """A training sample near the request that speaks for the item: its distance, the end of its history, its target."""

    distance: float
    history_titles: tuple[str, ...]
    target_title: str


@dataclass(frozen=True)
class Cause:
    """An item of the history after which users took the recommended one, and its share, 0 to 1, of what such pairs say for it."""

    share: float
    title: str


@dataclass(frozen=True)
class ExampleItem:
    """A recommended item with its score (larger is better), and what explains it."""

    title: str
    score: float
    reasons: tuple[Reason, ...] = ()
    causes: tuple[Cause, ...] = ()


@dataclass(frozen=True)
class Example:
    """A real request of the test split: the history (oldest first), the item that followed, the recommendations (best first)."""

    history_titles: tuple[str, ...]
    target_title: str
    recommendations: tuple[ExampleItem, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    Args:
        name: the data set's name, in the page's title.
        card: data card, shown as label and value in its order; nested mappings are flattened to ``outer inner``.
        systems: rows of the tables, in the order shown.
        training: the training curve, by step; empty where nothing was trained.
        seconds: stage -> seconds, in the order shown.
        speed: the speed measurement; known keys are k, beams, latent_ms, language_ms, ratio and setting (a sentence), all optional.
        examples: real recommendations.
    """

    name: str
    card: Mapping[str, Any] = field(default_factory=dict)
    systems: tuple[SystemRow, ...] = ()
    training: tuple[TrainingPoint, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    speed: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()


def write_report(data: ReportData, path: Path) -> None:
    """Write the page, replacing an older one in one step; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(render_report(data), encoding="utf-8")
    temporary.replace(path)


def render_report(data: ReportData) -> str:
    """The page as text."""
    sections: tuple[Callable[[ReportData], str], ...] = (_header, _systems, _cost, _speed, _training, _seconds, _examples)
    body = "\n".join(part for part in (section(data) for section in sections) if part)
    return PAGE.substitute(title=escape(f"{data.name}: evaluation of latent-space decoding"), body=body)


def _header(data: ReportData) -> str:
    entries = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in _flat_card(data.card))
    card = f'<dl class="card">{entries}</dl>' if entries else ""
    lead = "Next-item recommendation by latent-space decoding, beside its baselines, on the test split."
    return f'<header><h1>{escape(data.name)}</h1><p class="lead">{lead}</p>{card}</header>'


def _flat_card(card: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in card.items():
        label = f"{prefix} {key}".strip().replace("_", " ")
        pairs += _flat_card(value, label) if isinstance(value, Mapping) else [(label, _plain(value))]
    return pairs


def _plain(value: Any) -> str:
    """A card value for people: thousands separated, four significant digits, list members joined, none as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(_plain(member) for member in value) if isinstance(value, list | tuple) else str(value)


def _systems(data: ReportData) -> str:
    rows = data.systems
    tables = [
        _table("Unmasked", "Nothing is excluded; matches by item.", rows, [_Figures(row.unmasked, row.intervals) for row in rows]),
        _table(
            "Masked",
            "Every item of the history except its last one is excluded; matches by item.",
            rows,
            [_Figures(row.masked, row.masked_intervals) for row in rows],
        ),
        _table(
            "By title, unmasked",
            "Any item with exactly the target's title counts; titles are not unique.",
            rows,
            [_Figures(row.by_title, {}) for row in rows],
        ),
    ]
    if not any(tables):
        return ""
    note = (
        "Full ranking over the catalogue. Small figures are 95 % bootstrap intervals over the samples; the best mean of a column is bold."
    )
    return f'<section id="systems"><h2>Systems</h2><p class="note">{note}</p>{"".join(tables)}</section>'


@dataclass(frozen=True)
class _Figures:
    """A row of one table."""

    means: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]


def _table(title: str, note: str, systems: Sequence[SystemRow], figures: Sequence[_Figures]) -> str:
    """One setting's table, or nothing where no system has figures for it."""
    columns = list(dict.fromkeys(column for row in figures for column in row.means))
    if not columns:
        return ""
    best = {column: max(row.means.get(column, -1.0) for row in figures) for column in columns}
    rows = []
    for system, row in zip(systems, figures, strict=True):
        cells = "".join(_cell(row.means.get(c), row.intervals.get(c), is_best=row.means.get(c) == best[c]) for c in columns)
        rows.append(f'<tr><th scope="row">{escape(system.name)}</th>{cells}<td>{_milliseconds(system.ms_per_request)}</td></tr>')
    labels = "".join(f'<th scope="col">{escape(_metric_label(column))}</th>' for column in columns)
    head = f'<thead><tr><th scope="col">System</th>{labels}<th scope="col">ms/request</th></tr></thead>'
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f'<h3>{title}</h3><p class="note">{note}</p><div class="scroll"><table>{head}{body}</table></div>'


def _cell(value: float | None, interval: Sequence[float] | None, *, is_best: bool) -> str:
    if value is None:
        return "<td>–</td>"
    mean = _fraction(value)
    small = f"<small>{_fraction(interval[0])}–{_fraction(interval[1])}</small>" if interval else ""
    return f"<td><b>{mean}</b>{small}</td>" if is_best else f"<td>{mean}{small}</td>"


def _fraction(value: float) -> str:
    """Four decimals without the leading zero, as papers print metrics: 0.0842 -> .0842, 1 -> 1.0000."""
    return f"{value:.4f}".removeprefix("0")


def _metric_label(column: str) -> str:
    return column.replace("recall", "Recall").replace("ndcg", "NDCG")


def _milliseconds(cost: float | None) -> str:
    if cost is None:
        return "–"
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def _cost(data: ReportData) -> str:
    dots = [
        Dot(row.name, row.ms_per_request, row.unmasked[COST_METRIC])
        for row in data.systems
        if row.ms_per_request is not None and row.ms_per_request > 0 and COST_METRIC in row.unmasked
    ]
    if not dots:
        return ""
    label = _metric_label(COST_METRIC)
    note = f"{label} (unmasked, by item) against the time a request takes. Up and to the left is better."
    plot = cost_plot(dots, accuracy_label=label)
    return f'<section id="cost"><h2>Accuracy against cost</h2><p class="note">{note}</p><figure>{plot}</figure></section>'


def _speed(data: ReportData) -> str:
    speed = {key: value for key, value in data.speed.items() if value is not None}
    sentences = []
    if "ratio" in speed:
        sentences.append(f"Latent-space decoding is <b>{speed['ratio']:.1f} times</b> as fast as language-space decoding.")
    if "latent_ms" in speed and "language_ms" in speed:
        latent, language = _milliseconds(speed["latent_ms"]), _milliseconds(speed["language_ms"])
        sentences.append(f"A request takes {latent} ms in the latent space and {language} ms in the language space.")
    if "k" in speed and "beams" in speed:
        sentences.append(f"Both were asked for {int(speed['k'])} items; language-space decoding used {int(speed['beams'])} beams.")
    if "setting" in speed:
        sentences.append(escape(str(speed["setting"])))
    if not sentences:
        return ""
    return f'<section id="speed"><h2>Speed</h2><p>{" ".join(sentences)}</p></section>'


def _training(data: ReportData) -> str:
    measured = [point for point in data.training if point.train_loss is not None or point.valid_loss is not None]
    if not measured:
        return ""
    points = sorted(measured, key=lambda point: point.step)
    plot = training_plot([p.step for p in points], [p.train_loss for p in points], [p.valid_loss for p in points])
    note = f"{points[-1].step:,} steps, {points[-1].epoch:g} epochs."
    valid = [(point.valid_loss, point) for point in points if point.valid_loss is not None]
    if valid:
        loss, best = min(valid, key=lambda pair: pair[0])
        note += f" Best validation loss {loss:.4f} at step {best.step:,} (epoch {best.epoch:g})."
    return f'<section id="training"><h2>Training</h2><p class="note">{note}</p><figure>{plot}</figure></section>'


def _seconds(data: ReportData) -> str:
    if not data.seconds:
        return ""
    note = f"{sum(data.seconds.values()):,.0f} seconds in all."
    plot = seconds_plot(data.seconds)
    return f'<section id="seconds"><h2>Seconds per stage</h2><p class="note">{note}</p><figure>{plot}</figure></section>'


def _examples(data: ReportData) -> str:
    if not data.examples:
        return ""
    note = (
        "Requests of the test split. Under each item: those of the history's items that did most for it, since users took it after them, "
        "with their shares of all that such pairs say; and the training samples nearest to the request whose target it was, by distance."
    )
    articles = "".join(_example(example) for example in data.examples)
    return f'<section id="examples"><h2>Real recommendations</h2><p class="note">{note}</p>{articles}</section>'


def _example(example: Example) -> str:
    items = "".join(
        _item(item, is_hit=item.title == example.target_title, is_open=place == 0) for place, item in enumerate(example.recommendations)
    )
    return (
        f"<article><h3>History, oldest first</h3>{_titles(example.history_titles)}"
        f"<h3>What came next</h3><p>{escape(example.target_title)}</p>"
        f'<h3>Recommended</h3><ol class="items">{items}</ol></article>'
    )


def _titles(titles: Sequence[str]) -> str:
    return f'<p class="history">{"".join(f"<span>{escape(title)}</span>" for title in titles)}</p>'


def _item(item: ExampleItem, *, is_hit: bool, is_open: bool) -> str:
    title = f'<span class="hit">{escape(item.title)} ✓</span>' if is_hit else f"<span>{escape(item.title)}</span>"
    return f'<li>{title}<span class="score">{item.score:.4g}</span>{_why(item, is_open=is_open)}</li>'


def _why(item: ExampleItem, *, is_open: bool) -> str:
    causes = [(f"{100 * cause.share:.0f} %", escape(cause.title)) for cause in item.causes]
    reasons = [
        (f"{reason.distance:.4g}", f"{escape(' → '.join(reason.history_titles))} → <b>{escape(reason.target_title)}</b>")
        for reason in item.reasons
    ]
    names = [_counted(causes, "item of the history", "items of the history"), _counted(reasons, "training sample", "training samples")]
    summary = " and ".join(filter(None, names))
    if not summary:
        return ""
    return f"<details{' open' if is_open else ''}><summary>because of {summary}</summary>{_told(causes)}{_told(reasons)}</details>"


def _counted(told: Sequence[tuple[str, str]], singular: str, plural: str) -> str:
    return f"{len(told)} {singular if len(told) == 1 else plural}" if told else ""


def _told(told: Sequence[tuple[str, str]]) -> str:
    """A list of amounts and what they are of, which is markup."""
    return f"<ul>{''.join(f'<li><span>{amount}</span><span>{of}</span></li>' for amount, of in told)}</ul>" if told else ""
