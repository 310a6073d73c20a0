"""What one deployment serves: a checkpoint, an index and the decoder's settings, checked and pinned once, loaded part by part.

Every replica, also one that starts days later in place of a lost one, gets these pins and refuses folders that have changed since:
parts of two memory versions or of two models never answer the same request.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.decode.decoder import PromptWriter
from l2d_ray.decode.search import ShardSearcher
from l2d_ray.decode.settings import FILE, DecoderSettings
from l2d_ray.errors import ArtefactError
from l2d_ray.index.layout import IndexManifest, load_catalogue, load_covariance, read_manifest, shard_dir
from l2d_ray.index.shard import is_sealed, load_shard
from l2d_ray.memory.table import exists, read_text
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel, load_checkpoint, read_metadata, verify_checkpoint
from l2d_ray.serve.service import RecommendationLogic
from l2d_ray.text.prompts import PromptSettings


@dataclass(frozen=True)
class ServedArtefacts:
    """Folders (absolute) and what was found in them. Its methods load one part each, for the process that needs it."""

    checkpoint_dir: Path
    index_dir: Path
    manifest: IndexManifest
    prompts: PromptSettings
    settings: DecoderSettings

    @classmethod
    def pin(cls, checkpoint_dir: Path, index_dir: Path, memory_uri: str | None = None) -> ServedArtefacts:
        """Check that all is there, whole and of one model, reading the weights but loading nothing.

        Args:
            memory_uri: memory with the tuned decoder settings; None, or a memory without them, means the defaults.

        Raises ArtefactError.
        """
        checkpoint_dir, index_dir = checkpoint_dir.absolute(), index_dir.absolute()
        prompts, fingerprint = verify_checkpoint(checkpoint_dir)
        manifest, dim = read_manifest(index_dir, fingerprint=fingerprint), read_metadata(checkpoint_dir)["dim"]
        if manifest.dim != dim:
            raise ArtefactError(f"The index at {index_dir} is {manifest.dim} wide, the model's states {dim}; run jobs.build_index again.")
        for folder in (shard_dir(index_dir, shard) for shard in range(manifest.num_shards)):
            if not is_sealed(folder):
                raise ArtefactError(f"The shard {folder} is missing or half-built; run jobs.build_index again.")
        return cls(checkpoint_dir, index_dir, manifest, prompts, _tuned_settings(memory_uri))

    def load_logic(self) -> RecommendationLogic:
        """Tokenizer and catalogue, without the model."""
        catalogue = self._catalogue()
        tokenizer = AutoTokenizer.from_pretrained(str(self.checkpoint_dir), trust_remote_code=False)
        language_model = LanguageModel(None, tokenizer, self.prompts, self.manifest.fingerprint)
        return RecommendationLogic(catalogue, PromptWriter.of(language_model, catalogue), self.settings)

    def load_encoder(self, *, device: str, max_batch_tokens: int) -> Encoder:
        language_model = load_checkpoint(self.checkpoint_dir, device=device)
        if language_model.fingerprint != self.manifest.fingerprint:
            raise ArtefactError(
                f"The checkpoint in {self.checkpoint_dir} is now the model {language_model.fingerprint}, the application was deployed with "
                f"{self.manifest.fingerprint}; deploy again."
            )
        return Encoder(language_model.model, max_batch_tokens=max_batch_tokens)

    def load_searcher(self, shard: int, *, device: str) -> ShardSearcher:
        self._refuse_changed_index()
        return ShardSearcher(
            load_shard(shard_dir(self.index_dir, shard), device=device),
            load_covariance(self.index_dir),
            self.settings,
        )

    def _catalogue(self) -> Catalogue:
        self._refuse_changed_index()
        return load_catalogue(self.index_dir)

    def _refuse_changed_index(self) -> None:
        seen = read_manifest(self.index_dir, fingerprint=self.manifest.fingerprint)
        if seen != self.manifest:
            raise ArtefactError(
                f"The index at {self.index_dir} is now of memory version {seen.memory_version} in {seen.num_shards} shards, "
                f"the application was deployed with version {self.manifest.memory_version} in {self.manifest.num_shards}; deploy again."
            )


def _tuned_settings(memory_uri: str | None) -> DecoderSettings:
    if memory_uri is None:
        return DecoderSettings()
    if not exists(memory_uri):
        raise ArtefactError(f"There is no memory at {memory_uri}; correct memory_uri, or leave it out to decode with the defaults.")
    text = read_text(memory_uri, FILE)
    return DecoderSettings() if text is None else DecoderSettings.from_json(text)
