"""Which decoder answers, and with what settings; chosen on validation by jobs.tune_decoder, stored with the memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Final, Literal, get_args

from l2d_ray.errors import ArtefactError
from l2d_ray.memory.state import seal, unseal

DecoderName = Literal["global", "local", "whitened", "paired"]
DECODERS: Final[tuple[DecoderName, ...]] = get_args(DecoderName)
SYSTEM_NAMES: Final = {"global": "l2d-g", "local": "l2d-l", "whitened": "l2d-w", "paired": "l2d-p"}
"""Names of the decoders in tables and metrics."""
BY_DISTANCE: Final[frozenset[DecoderName]] = frozenset(("global", "local"))
"""Decoders whose scores are negated L2 distances."""
FILE = "decoder.json"


@dataclass(frozen=True)
class DecoderSettings:
    """Defaults are those that did well on the data sets tried so far.

    ``linear.WhitenedRule`` says what the whitened decoder's mean; the paired decoder has them too, and its own (``paired``).
    """

    decoder: DecoderName = "whitened"
    num_neighbors: int = 200
    shrinkage: float = 0.2
    prior_weight: float = 2.0
    prior_smoothing: float = 1.0
    mean_shrinkage: float = 4.0
    shrinks_to_titles: bool = True
    cold_count: float | None = None
    pair_weight: float = 20.0
    pair_scale: float = 100.0
    pair_recency_power: float = 0.7
    repeat_weight: float = 0.0

    def to_json(self) -> str:
        """With a hash, so that a changed digit is not taken for a setting."""
        return seal(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DecoderSettings:
        """Raises ArtefactError where the text is not what ``to_json`` writes."""
        try:
            stored = unseal(text)
            settings = cls(**{field.name: stored.pop(field.name) for field in fields(cls)}, **stored)
        except (ValueError, TypeError, KeyError):
            raise ArtefactError(f"{FILE} of the memory is damaged; run jobs.tune_decoder again.") from None
        if settings.decoder not in DECODERS:
            raise ArtefactError(f"{FILE} names the decoder {settings.decoder!r}, wanted one of {', '.join(DECODERS)}; tune again.")
        return settings
