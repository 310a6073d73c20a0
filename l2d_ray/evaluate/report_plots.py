"""The report's plots as inline SVG: text stays text, and colours follow the page (light or dark) through CSS variables.

Figures are drawn with matplotlib's object interface (no pyplot, so no global state and no display) in marker colours that are then
replaced by ``currentColor`` and ``var(--...)``. The SVG has a viewBox and no size: it scales with its column. Labels come from data, so
they are drawn with ``parse_math=False`` and escaped by the SVG writer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from math import ceil, floor, hypot, log10
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

_INK, _MUTED, _GRID, _FIRST, _SECOND = "#010203", "#020304", "#030405", "#040506", "#050607"
_CSS_COLOURS: Final = {
    _INK: "currentColor",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _FIRST: "var(--accent)",
    _SECOND: "var(--second)",
}
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "l2d_ray",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.parse_math": False,
}

_LINE_MARKS: Final = ((_FIRST, "o"), (_SECOND, "s"), (_INK, "^"), (_MUTED, "D"))
_PAGE: Final = (
    "svg{color:#1b1f24;--muted:#667080;--line:#e3e7ec;--accent:#0b62c4;--second:#d9822b}"
    "@media(prefers-color-scheme:dark){svg{color:#e6e9ed;--muted:#98a2b0;--line:#2d333b;--accent:#6cb0ff;--second:#f0a95a}}"
)

_LABEL_GAP: Final = 7.0  # points between a dot and its label
_LABEL_DISTANCES: Final = (1.0, 2.2, 3.6, 5.0, 7.0, 9.5, 12.0)  # multiples of the gap that are tried
_DIRECTIONS: Final = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


@dataclass(frozen=True)
class Dot:
    """One system of the cost plot: milliseconds per request (> 0) and accuracy."""

    label: str
    ms_per_request: float
    accuracy: float


@dataclass(frozen=True)
class Line:
    """A line of a panel: ``xs`` ascending."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


def cost_plot(dots: Sequence[Dot], *, accuracy_label: str, cost_label: str = "milliseconds per request") -> str:
    """Accuracy (y) against milliseconds per request (x, logarithmic), one labelled dot a system; up and left is better."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=4.0)
        axes.set_xscale("log")
        costs, accuracies = [dot.ms_per_request for dot in dots], [dot.accuracy for dot in dots]
        axes.scatter(costs, accuracies, s=34, color=_FIRST, linewidths=0, zorder=3)
        axes.set_xlim(10 ** floor(log10(min(costs) / 1.5)), 10 ** ceil(log10(max(costs) * 1.5)))  # whole decades, so there are ticks
        axes.set_ylim(0, max(max(accuracies), 1e-6) * 1.18)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.minorticks_off()
        axes.grid(True)
        axes.set_xlabel(f"{cost_label} (logarithmic)")
        axes.set_ylabel(accuracy_label)
        _place_labels(figure, axes, dots)
        return _to_svg(figure, f"{accuracy_label} against {cost_label}")


def panels_plot(panels: Mapping[str, Sequence[Line]], *, x_label: str, y_label: str) -> str:
    """Panels side by side on one scale from 0, at most four lines in each, the same marker for a label in all; at least one panel."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
            for line, (colour, marker) in zip(lines, _LINE_MARKS, strict=False):
                axes.plot(line.xs, line.ys, color=colour, marker=marker, linewidth=1.4, markersize=4.0, label=line.label)
            axes.set_title(title, fontsize=9.0)
            axes.set_xlabel(x_label)
            axes.grid(True, axis="y")
        all_axes[0].set_ylim(bottom=0)
        all_axes[0].set_ylabel(y_label)
        all_axes[-1].legend(frameon=False, loc="lower right")
        return _to_svg(figure, f"{y_label} against {x_label}")


def standalone(svg: str) -> str:
    """A plot as a file of its own: with the colours that it takes from its page otherwise, light or dark as the reader's system is."""
    tag, rest = svg.split(">", 1)
    return f"{tag}><style>{_PAGE}</style>{rest}\n"


def training_plot(steps: Sequence[int], train_losses: Sequence[float | None], valid_losses: Sequence[float | None]) -> str:
    """Training and validation loss over steps; a None is a point without that loss."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=2.9)
        for losses, colour, name in ((train_losses, _SECOND, "training"), (valid_losses, _FIRST, "validation")):
            points = [(step, loss) for step, loss in zip(steps, losses, strict=True) if loss is not None]
            if points:
                marker = "o" if len(points) < 60 else ""
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=name)
        axes.grid(True, axis="y")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss per token")
        axes.legend(frameon=False)
        return _to_svg(figure, "Training and validation loss")


def seconds_plot(stage_to_seconds: Mapping[str, float]) -> str:
    """Horizontal bars, one a stage, in the order given, with the seconds written beside them."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=0.7 + 0.32 * len(stage_to_seconds))
        stages, seconds = list(stage_to_seconds), list(stage_to_seconds.values())
        bars = axes.barh(range(len(stages)), seconds, height=0.62, color=_FIRST)
        axes.bar_label(bars, labels=[f"{value:,.1f} s" for value in seconds], padding=4)
        axes.set_yticks(range(len(stages)), stages)
        axes.invert_yaxis()
        axes.set_xlim(0, max(max(seconds), 1e-6) * 1.18)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("seconds")
        return _to_svg(figure, "Seconds per stage")


def _figure(*, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures text for the label placement
    return figure, figure.add_subplot()


def _place_labels(figure: Figure, axes: Any, dots: Sequence[Dot]) -> None:
    """Label every dot at the nearest place that touches no dot, no earlier label and no edge; a far label gets a thin line."""
    figure.draw_without_rendering()  # settles the layout, so that pixels are final
    figure.set_layout_engine("none")
    points = [axes.transData.transform((dot.ms_per_request, dot.accuracy)) for dot in dots]
    scale = figure.dpi / 72  # pixels per point
    radius = 4.5 * scale
    taken = [Bbox([[x - radius, y - radius], [x + radius, y + radius]]) for x, y in points]
    for dot, (x, y) in sorted(zip(dots, points, strict=True), key=lambda pair: -pair[0].accuracy):
        place = (dot.ms_per_request, dot.accuracy)
        label = axes.annotate(dot.label, place, textcoords="offset points", xytext=(0, 0), va="bottom", annotation_clip=False, zorder=4)
        size = label.get_window_extent()
        box = _free_box((x, y), (size.width, size.height), taken, axes.bbox, scale)
        taken.append(box)
        label.set_position(((box.x0 - x) / scale, (box.y0 - y) / scale))
        end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
        if hypot(end[0] - x, end[1] - y) > 2.5 * _LABEL_GAP * scale:
            line = zip(place, axes.transData.inverted().transform(end), strict=True)
            axes.plot(*line, color=_MUTED, linewidth=0.6, zorder=2)


def _free_box(point: tuple[float, float], size: tuple[float, float], taken: Sequence[Bbox], frame: Bbox, scale: float) -> Bbox:
    """Box of a label in pixels: the first free one of the candidates around the dot, nearest first, else the least covered one."""
    reaches = _LABEL_GAP * scale * np.repeat(_LABEL_DISTANCES, len(_DIRECTIONS))[:, None]
    directions = np.tile(_DIRECTIONS, (len(_LABEL_DISTANCES), 1))
    corners = np.array(point) + directions * reaches - (1 - directions) / 2 * np.array(size)
    boxes = np.hstack([corners, corners + np.array(size)])
    best = boxes[np.argmin(_covered(boxes, np.array([box.extents for box in taken]), np.array(frame.extents)))]
    return Bbox.from_extents(*best)


def _covered(boxes: NDArray[np.float64], taken: NDArray[np.float64], frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) pixels of labels (n, 4) that lie on something else (m, 4) or outside the axes (4,); 0: it is free. Boxes are x0, y0, x1, y1."""
    outside = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - _overlaps(boxes, frame[None])[:, 0]
    covered: NDArray[np.float64] = np.maximum(outside, 0.0) + _overlaps(boxes, taken).sum(axis=1)
    return covered


def _overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) pixels that boxes (n, 4) have in common with others (m, 4)."""
    lows = np.maximum(boxes[:, None, :2], others[None, :, :2])
    highs = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common: NDArray[np.float64] = np.prod(np.maximum(highs - lows, 0.0), axis=2)
    return common


def _to_svg(figure: Figure, description: str) -> str:
    """The figure as one <svg> element without size, metadata, prolog or group ids (they would repeat), in the page's colours."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue().decode()
    tag, rest = text[text.index("<svg") :].split(">", 1)
    tag = re.sub(r' (width|height)="[^"]*"', "", tag).replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    svg = tag + ">" + re.sub('<g id="[^"]*"', "<g", rest).strip()
    for marker, colour in _CSS_COLOURS.items():
        svg = svg.replace(marker, colour)
    return svg
