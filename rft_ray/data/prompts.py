"""One prompt for sampling, training, evaluation and serving: question -> token ids.

Prompt and response are tokenized separately and their ids joined, so that no merge across the boundary makes
the tokens of training differ from those of sampling. The chat template of the exported tokenizer renders
the same text, so `/v1/chat/completions` gets the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rft_ray.records import Problem

ICL_SEPARATOR = "\n\n\n"


def render(template: str, question: str) -> str:
    """The prompt text of one question."""
    return template.replace("{query}", question.strip())


def render_few_shot(template: str, question: str, shots: Sequence[Problem]) -> str:
    """The prompt text of one question after worked examples, for in-context evaluation of a base model."""
    examples = [render(template, shot.question) + shot.solution for shot in shots]
    return ICL_SEPARATOR.join([*examples, render(template, question)])


def stop_strings(shots: int) -> tuple[str, ...]:
    """Stop strings in addition to EOS: in-context, the model would continue with the next example."""
    return (ICL_SEPARATOR,) if shots else ()


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt, with the special tokens that the tokenizer adds by itself (Llama: BOS)."""
    ids: list[int] = tokenizer(prompt)["input_ids"]
    eos = tokenizer.eos_token_id
    if len(ids) > 1 and ids[-1] == eos:  # the tokenizer appends EOS to every text, but the response follows
        ids = ids[:-1]
    return ids


def encode_response(tokenizer: Any, response: str) -> list[int]:
    """Token ids of a response and the EOS that ends it."""
    ids: list[int] = tokenizer(response, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def chat_template(tokenizer: Any, template: str) -> str:
    """A Jinja chat template whose rendering of one user message is `render(template, message)`.

    A turn before the last one (few-shot by chat) is rendered as in `render_few_shot`; a system message is put before
    the question.
    """
    probe = encode_prompt(tokenizer, "x")
    bos = "{{ bos_token }}" if probe and probe[0] == tokenizer.bos_token_id else ""
    before, after = (_quote(part) for part in template.split("{query}"))
    return (
        bos + "{%- set ns = namespace(system='') -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] + '\\n' -%}"
        "{%- elif message['role'] == 'user' -%}"
        "{{ " + before + " + ns.system + message['content'] | trim + " + after + " }}"
        "{%- elif message['role'] == 'assistant' -%}"
        "{{ message['content'] + " + _quote(ICL_SEPARATOR) + " }}"
        "{%- endif -%}"
        "{%- endfor -%}"
    )


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
