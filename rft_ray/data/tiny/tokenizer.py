"""The tiny models' tokenizer: byte-level BPE trained on generated text; every digit is one token.

Lossless for any text (bytes are the fallback, nothing becomes `<unk>`); the generator's words are
single tokens, so a three- or four-step problem with its solution is some 130 tokens long. Adds no
special tokens to a text. Deterministic: the same versions of the code build the same files.
"""

from __future__ import annotations

from typing import Any

from rft_ray.data.tiny.generator import drills, generate

VOCAB_SIZE = 640
CONTEXT = 512
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
TEMPLATE = "Question: {query}\nAnswer:"
"""The prompt that the shipped models are pre-trained with; the response follows without a space."""

# The opening of an annotated equation and the answer mark are one token each; a line's end joins its full stop.
_PIECES = r" = <<|#### |\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+\n*|\s+"


def build_tokenizer() -> Any:
    """A fresh `PreTrainedTokenizerFast` (imports transformers). Takes some seconds."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=CONTEXT,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _texts() -> list[str]:
    problems = generate(4000, split="pretrain", seed=0, steps=(1, 4)) + drills(400)
    return [text for p in problems for text in (TEMPLATE.format(query=p.question), p.solution)]
