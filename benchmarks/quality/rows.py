"""All rows in the order of the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.quality.bench import Row
from benchmarks.quality.fusion import FUSION_ROWS
from benchmarks.quality.item_rows import ITEM_ROWS
from benchmarks.quality.language_rows import language_rows
from benchmarks.quality.state_rows import state_rows
from l2d_ray.decode.settings import DecoderName
from l2d_ray.errors import ConfigError


def all_rows(beams: tuple[int, ...], decoders: Sequence[DecoderName]) -> dict[str, Row]:
    return ITEM_ROWS | language_rows(beams) | state_rows(decoders) | FUSION_ROWS


def chosen_names(rows: Mapping[str, Row], wanted: str | None) -> list[str]:
    """Names of a comma-separated list, in the order of the tables; all without one. ConfigError for a name that is no row."""
    names = list(rows) if wanted is None else [name.strip() for name in wanted.split(",")]
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise ConfigError(f"There is no row {', '.join(unknown)}; choose among {', '.join(rows)}.")
    return [name for name in rows if name in names]
