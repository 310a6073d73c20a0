"""What several jobs load from a run directory: the model, the index and the tuned decoder, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.config import RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import part_paths
from l2d_ray.decode.decoder import LatentDecoder, load_latent_decoder
from l2d_ray.decode.settings import FILE, DecoderSettings
from l2d_ray.errors import ArtefactError
from l2d_ray.evaluate.protocol import EvaluationSamples
from l2d_ray.evaluate.queries import samples_of_parts
from l2d_ray.index.layout import load_catalogue
from l2d_ray.memory.files import read_text
from l2d_ray.model.loading import resolve_device
from l2d_ray.schema import TEST


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, ready to answer."""

    decoder: LatentDecoder
    catalogue: Catalogue
    device: str


def load_run(config: RunConfig) -> LoadedRun:
    """Raises ArtefactError where a stage has not been run or its result does not fit the others."""
    device = resolve_device(config.device)
    text = read_text(config.memory_uri, FILE)
    if text is None:
        raise ArtefactError(f"The memory at {config.memory_uri} has no {FILE}; run jobs.tune_decoder first.")
    settings = DecoderSettings.from_json(text)
    decoder = load_latent_decoder(
        config.checkpoint_dir, config.index_dir, settings, device=device, max_batch_tokens=config.memory.batch_tokens
    )
    catalogue = Catalogue.read(config.data_dir / "items.parquet")
    if load_catalogue(config.index_dir).item_ids != catalogue.item_ids:
        raise ArtefactError(
            f"The items of the index at {config.index_dir} are not those of {config.data_dir}; build memory and index again."
        )
    return LoadedRun(decoder, catalogue, device)


def draw_test_requests(config: RunConfig, catalogue: Catalogue, count: int) -> EvaluationSamples:
    """Test samples drawn with the run's seed, the same for every job that draws as many; all where there are fewer."""
    samples, _ = samples_of_parts(part_paths(config.data_dir), TEST, catalogue)
    rng = np.random.default_rng(config.seed)
    rows: NDArray[np.int64] = np.sort(rng.permutation(len(samples))[:count])
    return EvaluationSamples([samples.histories[row] for row in rows], samples.targets[rows], samples.titles)
