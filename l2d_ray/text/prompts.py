"""The two prompt formats; the only module that owns the prompt's wording and which state belongs to which sample.

``sequence`` (default): one text a user, ``[bos] title sep title sep ...``. With causal attention the state at the k-th separator has
seen exactly items 1..k, so it is the state of the sample (items 1..k -> item k+1): one pass gives many samples.
``instruction``: one prompt a sample (the paper's, Alpaca-style as D3 and BIGRec): instruction, the last titles, response marker.

Titles are tokenised once, each alone, and prompts are joined from their token ids: what stands in a prompt never depends on its
neighbours, and a request costs no tokenisation of the catalogue.

Invariant (tested): for every entry of ``windows(titles)``, the tokens up to and including its state are exactly
``prompt(titles[:position])``. Training, memory, evaluation and serving therefore see the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from l2d_ray.errors import ConfigError

TokenIds = NDArray[np.int32]

INSTRUCTION = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
    "Given a list of items the user has recently chosen, oldest first, recommend the next one.\n\n### Input:\n"
)
RESPONSE = "\n\n### Response:\n"


@dataclass(frozen=True, slots=True, eq=False)
class TokenWindow:
    """One text for the model.

    Attributes:
        token_ids: (t,) int32.
        state_indexes: (s,) int32, ascending: tokens whose state predicts a target's first token.
        target_positions: (s,) int32: position in the user's sequence of each state's target.
        loss_start: first token that training predicts; ``token_ids[loss_start:]`` are the completions.
    """

    token_ids: TokenIds
    state_indexes: NDArray[np.int32]
    target_positions: NDArray[np.int32]
    loss_start: int


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """What of the prompt is a setting; stored with the checkpoint and part of the model's fingerprint."""

    prompt_format: Literal["sequence", "instruction"]
    window_items: int
    min_history: int
    history_length: int
    max_title_tokens: int


class PromptFormat(Protocol):
    """How titles become text. ``titles`` are token ids of titles, oldest first, as ``tokenize_titles`` returns them."""

    @property
    def terminator_id(self) -> int:
        """Token that ends every completion."""

    @property
    def shared_prefix(self) -> TokenIds:
        """(p,) int32: what every text of this format starts with."""

    def prompt(self, titles: Sequence[TokenIds]) -> TokenIds:
        """Text of a request, at least one title; the state of its last token is the query vector."""

    def windows(self, titles: Sequence[TokenIds], first_position: int = 1, *, completions: bool) -> list[TokenWindow]:
        """Texts that hold the samples with targets at ``first_position..len(titles) - 1``, each sample in exactly one of them.

        ``completions`` adds the target's own tokens where only training needs them; without it the text ends at its last state.
        """


@dataclass(frozen=True, slots=True)
class SequencePrompts:
    """A user's sequence as one text, cut into overlapping windows where it is long.

    A window starts at a multiple of ``window_items - min_history`` and holds at most ``window_items`` items of history, so every
    entry has seen at least ``min(min_history, all)`` items before it.
    """

    prefix_ids: tuple[int, ...]
    separator_id: int
    window_items: int
    min_history: int

    @property
    def terminator_id(self) -> int:
        return self.separator_id

    @property
    def shared_prefix(self) -> TokenIds:
        return np.array(self.prefix_ids, dtype=np.int32)

    def window_start(self, position: int) -> int:
        """First item in the window of the sample whose history is the ``position`` items before its target."""
        stride = self.window_items - self.min_history
        return max(0, -(-(position - self.window_items) // stride) * stride)

    def prompt(self, titles: Sequence[TokenIds]) -> TokenIds:
        return self._text(titles[self.window_start(len(titles)) :])[0]

    def windows(self, titles: Sequence[TokenIds], first_position: int = 1, *, completions: bool) -> list[TokenWindow]:
        found = []
        position = max(first_position, 1)
        while position < len(titles):
            start = self.window_start(position)
            stop = min(start + self.window_items + 1, len(titles))
            token_ids, separators = self._text(titles[start : stop if completions else stop - 1])
            states = separators[position - 1 - start : stop - 1 - start]
            positions = np.arange(position, stop, dtype=np.int32)
            found.append(TokenWindow(token_ids, states, positions, int(states[0]) + 1))
            position = stop
        return found

    def _text(self, titles: Sequence[TokenIds]) -> tuple[TokenIds, NDArray[np.int32]]:
        """Token ids and the index of each title's separator."""
        separator = np.array([self.separator_id], dtype=np.int32)
        pieces = [self.shared_prefix]
        for title in titles:
            pieces += [title, separator]
        lengths = np.array([len(title) + 1 for title in titles], dtype=np.int32)
        return np.concatenate(pieces), (len(self.prefix_ids) + np.cumsum(lengths, dtype=np.int32) - 1).astype(np.int32)


@dataclass(frozen=True, slots=True)
class InstructionPrompts:
    """One prompt a sample: instruction, the last ``history_length`` titles one a line, response marker."""

    instruction_ids: tuple[int, ...]
    newline_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    terminator: int
    history_length: int

    @property
    def terminator_id(self) -> int:
        return self.terminator

    @property
    def shared_prefix(self) -> TokenIds:
        return np.array(self.instruction_ids, dtype=np.int32)

    def prompt(self, titles: Sequence[TokenIds]) -> TokenIds:
        pieces = [self.shared_prefix]
        newline = np.array(self.newline_ids, dtype=np.int32)
        for index, title in enumerate(titles[-self.history_length :]):
            pieces += [newline, title] if index else [title]
        return np.concatenate([*pieces, np.array(self.response_ids, dtype=np.int32)])

    def windows(self, titles: Sequence[TokenIds], first_position: int = 1, *, completions: bool) -> list[TokenWindow]:
        end = np.array([self.terminator], dtype=np.int32)
        found = []
        for position in range(max(first_position, 1), len(titles)):
            prompt = self.prompt(titles[max(0, position - self.history_length) : position])
            token_ids = np.concatenate([prompt, titles[position], end]) if completions else prompt
            state = np.array([len(prompt) - 1], dtype=np.int32)
            found.append(TokenWindow(token_ids, state, np.array([position], dtype=np.int32), len(prompt)))
        return found


def tokenize_titles(tokenizer: Any, titles: Sequence[str], max_title_tokens: int) -> list[TokenIds]:
    """Token ids of every title, alone, without special tokens, cut to ``max_title_tokens``; never empty."""
    if not titles:
        return []
    encoded = tokenizer(list(titles), add_special_tokens=False)["input_ids"]
    return [np.array(ids[:max_title_tokens] or _plain_ids(tokenizer, "?"), dtype=np.int32) for ids in encoded]


def title_prompts(titles: Sequence[TokenIds], prompts: PromptFormat) -> list[TokenIds]:
    """Requests whose history is one title and nothing else: the state of such a request is the title's (``memory.titles``)."""
    return [prompts.prompt([title]) for title in titles]


def prompt_format(tokenizer: Any, settings: PromptSettings) -> PromptFormat:
    """The format named by the settings, in this tokenizer's ids; ConfigError where windows could not move on."""
    prefix = _beginning_ids(tokenizer)
    if settings.prompt_format == "sequence":
        if settings.window_items <= settings.min_history:
            raise ConfigError(
                f"model.window_items is {settings.window_items} and min_history {settings.min_history}; "
                "a window must hold more items than every entry is to have seen."
            )
        return SequencePrompts(prefix, _separator_id(tokenizer), settings.window_items, settings.min_history)
    return InstructionPrompts(
        instruction_ids=(*prefix, *_plain_ids(tokenizer, INSTRUCTION)),
        newline_ids=_plain_ids(tokenizer, "\n"),
        response_ids=_plain_ids(tokenizer, RESPONSE),
        terminator=int(tokenizer.eos_token_id),
        history_length=settings.history_length,
    )


def _plain_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"])


def _beginning_ids(tokenizer: Any) -> tuple[int, ...]:
    """What the tokenizer itself puts before a text (a bos token, or nothing)."""
    with_special = tuple(int(i) for i in tokenizer("a")["input_ids"])
    body = _plain_ids(tokenizer, "a")
    starts = [i for i in range(len(with_special)) if with_special[i : i + len(body)] == body]
    return with_special[: starts[0]] if starts else ()


def _separator_id(tokenizer: Any) -> int:
    """A newline where that is one token, else the end-of-text token: one token that no cleaned title contains."""
    newline = _plain_ids(tokenizer, "\n")
    return newline[0] if len(newline) == 1 else int(tokenizer.eos_token_id)
