"""Free generation: what a language model writes after a history when nothing keeps it inside the catalogue.

The first half of BIGRec and GPT4Rec. Beam search is Hugging Face's ``generate``; prompts are batched by length, left padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from l2d_ray.decode.decoder import PromptWriter
from l2d_ray.errors import ConfigError
from l2d_ray.model.loading import LanguageModel
from l2d_ray.text.packing import pack_by_length, pad_batch
from l2d_ray.text.prompts import TokenIds


@dataclass(frozen=True)
class TitleWriter:
    """A language model and its prompts, as ``PromptWriter.of`` makes them for the catalogue.

    Attributes:
        language_model: on its device, in eval mode.
        max_batch_tokens: prompt tokens of one call of ``generate``, beams counted; one prompt is always allowed.
    """

    language_model: LanguageModel
    prompts: PromptWriter
    max_batch_tokens: int = 16384

    def write(self, histories: Sequence[Sequence[int]], *, num_beams: int) -> list[list[str]]:
        """The ``num_beams`` best texts after each history (at least one item each), best first, as ``generate`` ranks them.

        Texts are stripped and end before the terminator, at most ``max_title_tokens`` tokens long; they may be empty or repeat each
        other. Scores are log-probability / length, the library's default.

        Raises:
            ConfigError: num_beams below 1.
            RequestError: an empty history.
        """
        if num_beams < 1:
            raise ConfigError(f"num_beams is {num_beams}; it must be at least 1.")
        written: list[list[str]] = [[] for _ in histories]
        prompts = [self.prompts.write(history) for history in histories]
        for rows in pack_by_length([len(prompt) * num_beams for prompt in prompts], self.max_batch_tokens):
            texts = self._generate([prompts[row] for row in rows.tolist()], num_beams)
            for place, row in enumerate(rows.tolist()):
                written[row] = texts[place * num_beams : (place + 1) * num_beams]
        return written

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[TokenIds], num_beams: int) -> list[str]:
        model, tokenizer, terminator = self.language_model.model, self.prompts.tokenizer, self.prompts.prompts.terminator_id
        padding = terminator if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        token_ids, is_real = pad_batch(prompts, padding, side="left")
        output = model.generate(
            torch.from_numpy(token_ids).to(model.device),
            attention_mask=torch.from_numpy(is_real).long().to(model.device),
            max_new_tokens=self.prompts.max_title_tokens + 1,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            do_sample=False,
            eos_token_id=terminator,
            pad_token_id=padding,
        )
        rows = output[:, token_ids.shape[1] :].tolist()
        titles = [row[: row.index(terminator)] if terminator in row else row for row in rows]
        return [text.strip() for text in tokenizer.batch_decode(titles, skip_special_tokens=True)]
