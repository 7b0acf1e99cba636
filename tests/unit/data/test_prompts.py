"""One prompt everywhere: the chat template renders to the prompt of sampling and training."""

from __future__ import annotations

import jinja2
import pytest

from rft_ray.config import ALPACA
from rft_ray.data import prompts
from rft_ray.records import Problem


class FakeTokenizer:
    """Adds a BOS, like Llama's; ids are code points."""

    bos_token_id, eos_token_id = 1, 2

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + [ord(c) for c in text]}


@pytest.mark.parametrize("template", [ALPACA, "Question: {query}\nAnswer:", "It's '{query}' \\ {%", "{query}"])
@pytest.mark.parametrize("question", ["Tom has 3 pens?", "  spaces  ", "braces {{ x }} 'quoted' \\n"])
def test_chat_template_renders_the_prompt(template: str, question: str) -> None:
    source = prompts.chat_template(FakeTokenizer(), template)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    chat = [{"role": "user", "content": question}]
    assert environment.from_string(source).render(messages=chat, bos_token="<s>") == "<s>" + prompts.render(
        template, question
    )


def test_a_question_that_names_the_placeholder_is_not_expanded() -> None:
    assert prompts.render("Q: {query}\nA:", "what is {query}?") == "Q: what is {query}?\nA:"


def test_response_ends_with_eos_and_has_no_bos() -> None:
    assert prompts.encode_response(FakeTokenizer(), "5", 2) == [ord("5"), 2]


def test_few_shot_prompt_holds_the_shots_in_order_and_ends_with_the_question() -> None:
    shots = [Problem("x", f"q{i}", f"s{i}", str(i)) for i in range(2)]
    text = prompts.render_few_shot("Q: {query} A:", "last", shots)
    assert text == "Q: q0 A:s0" + prompts.ICL_SEPARATOR + "Q: q1 A:s1" + prompts.ICL_SEPARATOR + "Q: last A:"
    assert prompts.stop_strings("Q: {query} A:", 2) == (prompts.ICL_SEPARATOR,)
    assert prompts.stop_strings("Q: {query} A:", 0) == ()
