"""Models that could only fail later -> one line before any long work.

In: a folder with config.json and the tokenizer's files, and texts of the run. Out: nothing, or a ModelError. Weights
are not read, so the folder can lack them.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_ray.data import chat_rendering
from rft_ray.data.prompts import Chat, Prompt, encode_prompt
from rft_ray.store.models.folder import ModelError

PROBE = "A box has 12 pens, 3.5 kg and $40: 12 * 3 = <<12*3=36>>36 (90%).\n#### 36"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTexts:
    """What a run gives a model to read and to learn. Example: RunTexts(prompts=("Question: …",), context=None)"""

    prompts: Sequence[Prompt] = (PROBE,)
    """Prompts of the problems, as the run builds them."""
    responses: Sequence[str] = ()
    """Worked solutions."""
    context: int | None = None
    """The run's bound of prompt and completion, in tokens; None: the model's own context."""


def check_model(source: str, folder: Path, texts: RunTexts) -> None:
    """Raises ModelError where the model in `folder` cannot be trained or sampled with these texts.

    It has no EOS token, its chat template raises, its tokenizer loses characters or has tokens that the embedding
    lacks, or not even the shortest prompt fits into its context.
    """
    config, tokenizer = _load(source, folder)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{source}: its tokenizer has no EOS token, so no response can end: set eos_token in "
            f"{folder}/tokenizer_config.json, or choose another model"
        )
    if chats := [prompt for prompt in texts.prompts if isinstance(prompt, Chat)]:
        _check_chat_template(source, tokenizer, chats)
    _check_vocabulary(source, tokenizer, getattr(config, "vocab_size", None))
    for text in (*texts.prompts, *texts.responses):
        _check_round_trip(source, tokenizer, str(text))
    own = getattr(config, "max_position_embeddings", None)
    context = min(filter(None, (own, texts.context)), default=None)
    if context is not None:
        shortest = min(len(encode_prompt(tokenizer, text)) for text in texts.prompts)
        if shortest >= context:
            raise ModelError(
                f"{source}: the shortest prompt has {shortest:,} tokens and the context {context:,}, so nothing can be "
                "sampled: shorten the prompt, raise sampling.max_model_len where it is set, or choose another model"
            )


def _load(source: str, folder: Path) -> tuple[Any, Any]:
    """The config of the text model, and the tokenizer. Raises ModelError where transformers cannot read them."""
    from transformers import AutoConfig, AutoTokenizer

    part = "config.json"
    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
        part = "the tokenizer's files"
        return config, AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # any class: also of code that reads wrong JSON
        raise ModelError(
            f"{source}: transformers cannot read {part} in {folder} ({_line(error)}): put intact ones there, or choose "
            "another model"
        ) from error


def _check_chat_template(source: str, tokenizer: Any, chats: Sequence[Chat]) -> None:
    if not tokenizer.chat_template:
        raise ModelError(
            f"{source}: its tokenizer has no chat template: set prompt.kind=template (models[].prompt.kind where the "
            "model has a prompt of its own), or choose a model that has one"
        )
    try:
        chat_rendering.check_bounds(source, tokenizer, [(chat.as_data(), chat.kwargs) for chat in chats])
        for chat in chats:
            text = chat_rendering.render(tokenizer, chat.as_data(), add_generation_prompt=True, **chat.kwargs)
            if chat.messages[-1].content.strip() not in text:
                raise ModelError(
                    f"{source}: its chat template leaves out the question: correct it, or set prompt.kind=template"
                )
    except ModelError:
        raise
    except Exception as error:  # what the template's author raises
        raise ModelError(
            f"{source}: its chat template cannot render a question ({_line(error)}): correct the template, "
            "prompt.system or prompt.chat_kwargs, or set prompt.kind=template"
        ) from error


def _check_vocabulary(source: str, tokenizer: Any, rows: int | None) -> None:
    """Special tokens beyond the embedding are fine while no text has them, as the image token of a text model."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = {number for number in tokenizer.get_vocab().values() if number not in special}
    used |= {number for number in (tokenizer.eos_token_id, tokenizer.bos_token_id) if number is not None}
    if rows is not None and (most := max(used)) >= rows:
        raise ModelError(
            f"{source}: its tokenizer has token ids up to {most:,}, and the embedding only {rows:,} rows: resize the "
            "embedding to the tokenizer, or use the tokenizer that the model was trained with"
        )


def _check_round_trip(source: str, tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    lost = Counter(unicodedata.normalize("NFKC", text)) - Counter(unicodedata.normalize("NFKC", back))
    del lost[" "]  # some tokenizers add one in front, and drop it again
    if lost:
        shown = " ".join(repr(character) for character in list(lost)[:5])
        raise ModelError(
            f"{source}: its tokenizer loses {shown} of {text[:60]!r}: choose a model whose tokenizer reads all "
            "characters, or leave these problems out"
        )


def _line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
