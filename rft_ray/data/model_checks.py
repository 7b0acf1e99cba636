"""Models that could only fail later -> one line before any long work.

In: a folder with config.json and the tokenizer's files, and texts of the run. Out: notes on its chat template, whether
that opens reasoning, or a ModelError. Weights are not read, so the folder can lack them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

from rft_ray.data import chat_rendering
from rft_ray.data.prompts import Chat, Prompt, build, encode_prompt, is_chat
from rft_ray.grading.reasoning import Reasoning
from rft_ray.store.models.folder import ModelError, read_json

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
    unclosed: Sequence[str] = ()
    """Tags of reasoning that the texts which the model learns do not close; empty where they do, or it learns none."""


def opens_reasoning(source: str, folder: Path, form: str, tags: Sequence[str]) -> bool:
    """Whether a model's chat template ends in an opening tag of reasoning, as that of DeepSeek-R1 does.

    `form`: the prompt in its stored form; a template shows by itself how it ends, so of one it is False. Loads the
    tokenizer only where the chat template, or an argument of it, has the name of a tag. Raises ModelError where the
    chat template cannot render a question.
    """
    templates = [*_chat_templates(folder, source)] if is_chat(form) else []
    if not templates or not any(tag in text for text in (form, *templates) for tag in tags):
        return False
    chat, tokenizer = build(form, "1+1?"), _load(source, folder)[1]
    assert isinstance(chat, Chat)
    _check_chat_template(source, tokenizer, [chat])
    return Reasoning.after(_rendered(tokenizer, chat), tags).begins_inside


def _chat_templates(folder: Path, source: str) -> Iterator[str]:
    """The texts in which a model's files have its chat templates."""
    for file in (*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")):
        yield file.read_text(encoding="utf-8", errors="replace")
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and (template := read_json(settings, source).get("chat_template")):
        yield json.dumps(template, ensure_ascii=False)


def _rendered(tokenizer: Any, chat: Chat) -> str:
    return chat_rendering.render(tokenizer, chat.as_data(), add_generation_prompt=True, **chat.kwargs)


def check_model(source: str, folder: Path, texts: RunTexts) -> list[str]:
    """A line for each thing about the model's chat template that the user should know, where the prompts are chats.

    Raises ModelError where the model in `folder` cannot be trained or sampled with these texts:

    it has no EOS token, its chat template raises, its tokenizer loses characters or has tokens that the embedding
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
    rows = getattr(config, "vocab_size", None)
    _check_vocabulary(source, tokenizer, rows)
    written = [prompt for prompt in texts.prompts if isinstance(prompt, str)]
    of_template = _tokens_of_template(tokenizer, written)
    if rows is not None and any(token >= rows for token in of_template):
        raise ModelError(f"{source}: prompt.template has special tokens that the embedding lacks: leave them out")
    if of_template and encode_prompt(tokenizer, written[0])[:2] == [tokenizer.bos_token_id] * 2:
        raise ModelError(
            f"{source}: prompt.template begins with {tokenizer.bos_token}, which the tokenizer adds by itself, so that "
            "prompts begin with two: leave it out of the template"
        )
    for text in (*texts.prompts, *texts.responses):
        _check_round_trip(source, tokenizer, str(text), of_template if text in texts.prompts else Counter())
    own = getattr(config, "max_position_embeddings", None)
    context = min(filter(None, (own, texts.context)), default=None)
    if context is not None:
        shortest = min(len(encode_prompt(tokenizer, text)) for text in texts.prompts)
        if shortest >= context:
            raise ModelError(
                f"{source}: the shortest prompt has {shortest:,} tokens and the context {context:,}, so nothing can be "
                "sampled: shorten the prompt, raise sampling.max_model_len where it is set, or choose another model"
            )
    return [*_chat_notes(source, tokenizer, chats[0], texts.unclosed)] if chats else []


def _chat_notes(source: str, tokenizer: Any, chat: Chat, unclosed: Sequence[str]) -> Iterator[str]:
    """One line where a chat template loses the system text, writes the date, or opens reasoning that stays open."""
    text = _rendered(tokenizer, chat)
    if chat.messages[0].role == "system" and chat.messages[0].content.strip() not in text:
        yield (
            f"{source}: its chat template leaves out prompt.system, so that the model does not see it: set "
            "prompt.kind=template and write the text into prompt.template, or leave prompt.system out"
        )
    if any(now in text for form in _DATES.findall(tokenizer.get_chat_template()) if (now := _now(form))):
        yield (
            f"{source}: its chat template writes today's date, so that the prompts of a run that goes on tomorrow are "
            "others: fix it (Llama 3: prompt.chat_kwargs={date_string: 26 Jul 2024}), or set prompt.system where the "
            "date is in the template's own system text"
        )
    if Reasoning.after(text, unclosed).begins_inside:
        yield (
            f"{source}: its chat template ends in <{text.rstrip().rpartition('<')[2]}, and it learns from texts that "
            "do not close it, so that a server which separates reasoning takes the trained model's answers for "
            "reasoning: set sft=null, corpus.gold=false and corpus.reasoning=keep, as the preset self_improve does"
        )


_DATES = re.compile(r"strftime_now\(\s*['\"]([^'\"]+)['\"]")
"""The formats in which a chat template writes the time."""


def _now(form: str) -> str:
    """The time in this format; empty where it is the format of none."""
    with suppress(ValueError):
        return datetime.now().strftime(form)
    return ""


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
            text = _rendered(tokenizer, chat)
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


def _read(tokenizer: Any, text: str) -> tuple[list[int], Counter[int]]:
    """The token ids of a text without those for what the tokenizer does not know, and the special tokens written in it.

    A special token that is not written in the text stands for unknown characters, whatever its name.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    known = [number for number in ids if number not in special or special[number] in text]
    return known, Counter(number for number in known if number in special)


def _tokens_of_template(tokenizer: Any, prompts: Sequence[str]) -> Counter[int]:
    """The special tokens that all prompts of a template have: those that are written in it, as `<|im_start|>`."""
    return reduce(and_, (_read(tokenizer, prompt)[1] for prompt in prompts)) if prompts else Counter()


def _check_round_trip(source: str, tokenizer: Any, text: str, of_template: Counter[int]) -> None:
    """Special tokens are those of the template only: of a question or solution, they are no characters of its."""
    ids, special = _read(tokenizer, text)
    if beyond := special - of_template:
        lost = Counter(tokenizer.convert_ids_to_tokens(list(beyond)))
    else:
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
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
