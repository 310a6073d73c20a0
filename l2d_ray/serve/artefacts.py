"""What one deployment serves: a checkpoint, an index and the decoder's settings, checked and pinned once, loaded part by part.

Every replica, also one that starts days later in place of a lost one, gets these pins: it loads the generation of the index that was
pinned, also where a newer one has been swapped in since, and refuses a model that has changed. Parts of two memory versions or of two
models never answer the same request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import AutoTokenizer

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.decode.decoder import PromptWriter
from l2d_ray.decode.search import ShardSearcher
from l2d_ray.decode.settings import DECODERS, FILE, DecoderName, DecoderSettings
from l2d_ray.errors import ArtefactError
from l2d_ray.index.layout import Index, IndexManifest, open_index
from l2d_ray.index.shard import is_sealed
from l2d_ray.memory.files import read_text
from l2d_ray.memory.table import exists
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel, load_checkpoint, read_metadata, verify_checkpoint
from l2d_ray.serve.cold_ranking import ColdRanking
from l2d_ray.serve.explain import SampleHistories
from l2d_ray.serve.logic import RecommendationLogic
from l2d_ray.text.prompts import PromptSettings


@dataclass(frozen=True)
class ServedArtefacts:
    """Folders (absolute) and what was found in them. Its methods load one part each, for the process that needs it.

    Attributes:
        settings: the tuned ones; their decoder is one of ``decoders``.
        decoders: those that the deployment answers. Where local is not among them, no part loads an entry.
        memory_uri: of the memory that the index was built from, whose samples explain; None: nothing is explained.
    """

    checkpoint_dir: Path
    index: Index
    prompts: PromptSettings
    settings: DecoderSettings
    decoders: tuple[DecoderName, ...] = DECODERS
    memory_uri: str | None = None

    @property
    def manifest(self) -> IndexManifest:
        return self.index.manifest

    @classmethod
    def pin(
        cls, checkpoint_dir: Path, index_dir: Path, *, memory_uri: str | None = None, decoders: Sequence[DecoderName] = DECODERS
    ) -> ServedArtefacts:
        """Check that all is there, whole and of one model, reading the weights but loading nothing.

        Args:
            memory_uri: memory with the tuned decoder settings; None, or a memory without them, means the defaults.
            decoders: those to answer; the first is the default where the tuned one is not among them.

        Raises ArtefactError.
        """
        checkpoint_dir = checkpoint_dir.absolute()
        prompts, fingerprint = verify_checkpoint(checkpoint_dir)
        index, dim = open_index(index_dir.absolute(), fingerprint=fingerprint), read_metadata(checkpoint_dir)["dim"]
        if index.manifest.dim != dim:
            raise ArtefactError(
                f"The index at {index.index_dir} is {index.manifest.dim} wide, the model's states {dim}; run jobs.build_index again."
            )
        _refuse_unfit(index, decoders)
        settings = _served_settings(_tuned_settings(memory_uri), decoders)
        return cls(checkpoint_dir, index, prompts, settings, tuple(decoders), memory_uri)

    def of_generation(self, generation: str) -> ServedArtefacts:
        """The same with another generation of the index; ArtefactError where that one cannot take this one's place."""
        if generation == self.manifest.generation:
            return self
        index = open_index(self.index.index_dir, fingerprint=self.manifest.fingerprint, generation=generation)
        if index.manifest.num_shards != self.manifest.num_shards:
            raise ArtefactError(
                f"The index {generation} at {index.index_dir} has {index.manifest.num_shards} shards, the application was deployed with "
                f"{self.manifest.num_shards}; deploy again to serve it."
            )
        _refuse_unfit(index, self.decoders)
        return replace(self, index=index)

    def load_logic(self) -> RecommendationLogic:
        """Tokenizer and catalogue, without the model."""
        catalogue = self._catalogue()
        tokenizer = AutoTokenizer.from_pretrained(str(self.checkpoint_dir), trust_remote_code=False)
        language_model = LanguageModel(None, tokenizer, self.prompts, self.manifest.fingerprint)
        writer = PromptWriter.of(language_model, catalogue)
        histories = None if self.memory_uri is None else SampleHistories(self.memory_uri, self.manifest.memory_version)
        ranks_cold = self.manifest.has_titles and self.settings.cold_count is not None
        cold = ColdRanking(self.index.warm_items(), self.index.pooled(), self.settings, shards_rank_cold=ranks_cold)
        return RecommendationLogic(self.manifest, catalogue, writer, self.settings, cold=cold, decoders=self.decoders, histories=histories)

    def load_encoder(self, *, device: str, max_batch_tokens: int) -> Encoder:
        language_model = load_checkpoint(self.checkpoint_dir, device=device)
        if language_model.fingerprint != self.manifest.fingerprint:
            raise ArtefactError(
                f"The checkpoint in {self.checkpoint_dir} is now the model {language_model.fingerprint}, the application was deployed with "
                f"{self.manifest.fingerprint}; deploy again."
            )
        return Encoder(language_model.model, max_batch_tokens=max_batch_tokens)

    def load_searcher(self, shard: int, *, device: str) -> ShardSearcher:
        self._refuse_removed_index()
        needs = {"with_entries": "local" in self.decoders, "with_pairs": "paired" in self.decoders}
        loaded = self.index.shard(shard, device=device, **needs)
        return ShardSearcher(loaded, self.index.pooled(), self.settings, decoders=self.decoders)

    def _catalogue(self) -> Catalogue:
        self._refuse_removed_index()
        return self.index.catalogue()

    def _refuse_removed_index(self) -> None:
        folder = self.index.index_dir / self.manifest.generation
        if not folder.is_dir():
            raise ArtefactError(
                f"The index that the application was deployed with, of memory version {self.manifest.memory_version}, is no longer at "
                f"{folder}, since newer ones were built; deploy again."
            )


def _refuse_unfit(index: Index, decoders: Sequence[DecoderName]) -> None:
    """Raise ArtefactError where a shard is not whole, or the index lacks what a decoder needs."""
    for folder in map(index.shard_dir, range(index.manifest.num_shards)):
        if not is_sealed(folder):
            raise ArtefactError(f"The shard {folder} is missing or half-built; run jobs.build_index again.")
    if index.manifest.kind == "statistics" and "local" in decoders:
        raise ArtefactError(
            f"The index at {index.index_dir} holds item statistics alone, but the decoder local needs entries; serve with "
            "decoders: [global, whitened, paired], or set index.kind to auto and run jobs.build_index again."
        )
    if not index.manifest.has_pairs and "paired" in decoders:
        raise ArtefactError(
            f"The index at {index.index_dir} holds no item pairs, but the decoder paired needs them; leave it out of decoders, or set "
            "index.pairs to true and run jobs.build_index again."
        )


def _served_settings(tuned: DecoderSettings, decoders: Sequence[DecoderName]) -> DecoderSettings:
    return tuned if tuned.decoder in decoders else replace(tuned, decoder=decoders[0])


def _tuned_settings(memory_uri: str | None) -> DecoderSettings:
    if memory_uri is None:
        return DecoderSettings()
    if not exists(memory_uri):
        raise ArtefactError(f"There is no memory at {memory_uri}; correct memory_uri, or leave it out to decode with the defaults.")
    text = read_text(memory_uri, FILE)
    return DecoderSettings() if text is None else DecoderSettings.from_json(text)
