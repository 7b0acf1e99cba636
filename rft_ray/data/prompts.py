"""One prompt for sampling, training, evaluation and serving: question -> messages or text -> token ids.

A model's prompt is a template, a text with the question in it, or `chat`: the messages of a chat, which the model's own
chat template renders. The names of results hold a prompt in its stored form, a string: of a template its text, of a
chat a JSON object (`stored`).

Prompt and response are tokenized separately and their ids joined, so that no merge across the boundary makes the tokens
of training differ from those of sampling. The chat template of an exported tokenizer renders the same text, so
`/v1/chat/completions` gets the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from rft_ray import config
from rft_ray.data import chat_rendering
from rft_ray.records import Problem
from rft_ray.store.names import FIRST_SHOTS

ICL_SEPARATOR = "\n\n\n"
_CHAT = '{"chat": '


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat. Example: Message("user", "Tom has 3 pens …?")"""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt that the model's own chat template renders. Example: Chat((Message("user", "Tom has 3 pens …?"),))"""

    messages: tuple[Message, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template, such as `enable_thinking`."""

    def __str__(self) -> str:
        return "\n".join(message.content for message in self.messages)

    def as_data(self) -> list[dict[str, str]]:
        """The messages, as chat templates and OpenAI-compatible endpoints take them."""
        return [asdict(message) for message in self.messages]


Prompt = str | Chat
"""The prompt of one question: its text, or its messages."""


def stored(prompt: config.Prompt) -> str:
    """The stored form of a prompt's settings. `kind: auto` counts as `template`: `plan/prompt_kinds.py` resolves it."""
    if prompt.kind != "chat":
        return prompt.template
    return json.dumps({"chat": {"system": prompt.system, "kwargs": prompt.chat_kwargs}}, sort_keys=True)


def is_chat(form: str) -> bool:
    """Whether a prompt in its stored form is rendered by the model's own chat template."""
    return form.startswith(_CHAT)


def build(form: str, question: str, shots: Sequence[Problem] = ()) -> Prompt:
    """The prompt of one question, after worked examples, from the stored form."""
    if not is_chat(form):
        return render_few_shot(form, question, shots)
    settings = json.loads(form)["chat"]
    turns = [Message("system", settings["system"])] if settings["system"] else []
    for shot in shots:
        turns += [Message("user", shot.question.strip()), Message("assistant", shot.solution)]
    return Chat((*turns, Message("user", question.strip())), settings["kwargs"])


def render(template: str, question: str) -> str:
    """The prompt text of one question."""
    return template.replace("{query}", question.strip())


def render_few_shot(template: str, question: str, shots: Sequence[Problem]) -> str:
    """The prompt text of one question after worked examples, for in-context evaluation of a base model."""
    examples = [render(template, shot.question) + shot.solution for shot in shots]
    return ICL_SEPARATOR.join([*examples, render(template, question)])


def shots_of(problems: Iterable[Problem], shots: int) -> list[Problem]:
    """What the worked examples of a prompt are chosen from: the first problems with a solution, one more than shown."""
    return list(islice((problem for problem in problems if problem.solution), shots + 1))


def build_few_shot(form: str, problem: Problem, candidates: Sequence[Problem], shots: int, version: int) -> Prompt:
    """The prompt of a problem after the first `shots` of `candidates` (`shots_of`) that are not the problem itself.

    `version`: as in `SamplingSettings`; in the first one a problem among the candidates is shown its own solution.
    """
    own = "" if version == FIRST_SHOTS else problem.problem_id
    return build(form, problem.question, [shot for shot in candidates if shot.problem_id != own][:shots])


def stop_strings(form: str, shots: int) -> tuple[str, ...]:
    """Stop strings in addition to EOS: after worked examples in a text, the model would continue with the next one."""
    return (ICL_SEPARATOR,) if shots and not is_chat(form) else ()


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, with the special tokens that tokenizer (Llama: BOS) or chat template add by themselves.

    Raises ModelError where a chat template exceeds a bound of time or size.
    """
    if isinstance(prompt, Chat):
        return chat_rendering.encode(tokenizer, prompt.as_data(), add_generation_prompt=True, **prompt.kwargs)
    ids: list[int] = tokenizer(prompt)["input_ids"]
    eos = tokenizer.eos_token_id
    if len(ids) > 1 and ids[-1] == eos:  # the tokenizer appends EOS to every text, but the response follows
        ids = ids[:-1]
    return ids


def encode_response(tokenizer: Any, response: str, end: int) -> list[int]:
    """Token ids of a response and the token that ends it: `end_of_response`."""
    ids: list[int] = tokenizer(response, add_special_tokens=False)["input_ids"]
    return [*ids, end]


def end_of_response(tokenizer: Any, form: str) -> int:
    """The token that ends a response: in a chat the one that the chat template writes after it, otherwise EOS.

    A template may write another token than EOS after an assistant's message (Gemma: `<end_of_turn>`). It is the first
    special one there, which the tokenizer need not name (Phi-3: `<|end|>`); else what stands first, where it was added
    to the vocabulary.
    """
    eos: int = tokenizer.eos_token_id
    if not is_chat(form):
        return eos
    chat = build(form, "1+1?")
    assert isinstance(chat, Chat)
    answer = "The answer is 2."
    turns = [*chat.as_data(), {"role": "assistant", "content": answer}]
    text = chat_rendering.render(tokenizer, turns, **chat.kwargs)
    _, found, rest = text.rpartition(answer)
    after = tokenizer(rest.strip(), add_special_tokens=False)["input_ids"] if found else []
    added = tokenizer.added_tokens_decoder
    special = [token for token in after if token in added and added[token].special]
    return next(iter(special or [token for token in after[:1] if token in added]), eos)


def ends_of_response(tokenizer: Any, form: str) -> list[int]:
    """Every token that ends a sampled response: `end_of_response`, and EOS where that is another one."""
    return sorted({end_of_response(tokenizer, form), tokenizer.eos_token_id})


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
