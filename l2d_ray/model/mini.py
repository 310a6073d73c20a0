"""mini: a small Llama with random weights and a byte-level BPE made from the training titles; trained from scratch on a CPU in minutes.

A real causal LM of the same family as the large ones: it is saved, loaded, fine-tuned and served by the same code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from l2d_ray.errors import ConfigError

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "\n"


def make_tokenizer(titles: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE; a newline ends a title (one special token), ``<|begin|>`` starts a text.

    Words are what stands between spaces, so that "(1995)" can become one token: a title takes a third fewer tokens than with GPT-2's
    split at punctuation, and training and every request get as much faster.
    """
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?[^ ]+| +"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, BEGIN, END]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(titles, trainer)
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BEGIN, eos_token=END)


def make_model(tokenizer: Any, *, hidden_size: int, num_layers: int, num_heads: int, dropout: float, seed: int) -> Any:
    """Llama of the given shape, tied embeddings, weights from ``seed``.

    Llama's classes are imported here, at the first model: they bring torch's compiler, seconds that no process without a model should take.
    """
    if hidden_size % num_heads or (hidden_size // num_heads) % 2:
        raise ConfigError(
            f"model.mini.hidden_size is {hidden_size} and num_heads {num_heads}; the width of a head must be a whole even number."
        )
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=-(-hidden_size * 8 // 3 // 64) * 64,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=8192,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)
