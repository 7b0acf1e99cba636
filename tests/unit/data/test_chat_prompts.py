"""A prompt of kind chat: the model's own chat template, the same tokens in sampling and training."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from rft_ray.config import Prompt
from rft_ray.data import prompts
from rft_ray.data.tiny import model_dir
from rft_ray.records import Problem
from rft_ray.training.batches import encode

CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
    "{%- if add_generation_prompt and no_thinking %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
)
FORM = prompts.stored(Prompt(kind="chat"))
SHOTS = [Problem("x", "q0 ", "s0", "0")]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    tokenizer = AutoTokenizer.from_pretrained(model_dir("tiny-s"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def test_the_stored_form_of_a_template_is_its_text() -> None:
    assert prompts.stored(Prompt(template="Q: {query}")) == "Q: {query}"
    assert not prompts.is_chat("Q: {query}")
    assert prompts.build("Q: {query}", " x ") == "Q: x"


def test_a_chat_holds_the_system_message_the_shots_and_the_question() -> None:
    form = prompts.stored(Prompt(kind="chat", system="Be brief.", chat_kwargs={"no_thinking": True}))
    chat = prompts.build(form, " last ", SHOTS)
    assert isinstance(chat, prompts.Chat)
    assert [(m.role, m.content) for m in chat.messages] == [
        ("system", "Be brief."),
        ("user", "q0"),
        ("assistant", "s0"),
        ("user", "last"),
    ]
    assert chat.kwargs == {"no_thinking": True}
    assert prompts.stop_strings(form, 1) == ()


def test_the_models_own_chat_template_renders_the_prompt(tokenizer: Any) -> None:
    form = prompts.stored(Prompt(kind="chat", system="Be brief.", chat_kwargs={"no_thinking": True}))
    ids = prompts.encode_prompt(tokenizer, prompts.build(form, "2+3?"))
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+3?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ids.count(start) == 3  # special tokens, not their letters
    assert ids[0] == start  # no BOS that the template does not write


def test_a_response_ends_with_the_token_that_the_chat_template_writes(tokenizer: Any) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end != tokenizer.eos_token_id
    assert prompts.end_of_response(tokenizer, FORM) == end
    assert prompts.ends_of_response(tokenizer, FORM) == sorted([end, tokenizer.eos_token_id])
    assert prompts.end_of_response(tokenizer, "Q: {query}") == tokenizer.eos_token_id


@pytest.mark.parametrize("special", [True, False])
def test_the_token_that_ends_a_response_need_not_be_among_the_named_special_tokens(special: bool) -> None:
    """Phi-3 names EOS, padding and no more, and some ChatML models have a normal token `<|im_end|>`."""
    plain = AutoTokenizer.from_pretrained(model_dir("tiny-s"))
    plain.add_tokens([AddedToken("<|im_end|>", special=special, normalized=False)], special_tokens=special)
    plain.chat_template = CHATML
    end = plain.convert_tokens_to_ids("<|im_end|>")
    assert end not in plain.all_special_ids
    assert prompts.end_of_response(plain, FORM) == end
    [example], _ = encode(plain, FORM, [("2+3?", "5")], 100)
    assert example.tokens[-1] == end


@pytest.mark.parametrize("before", ["\n", "</answer>", "\n</answer>\n", " over"])
def test_what_a_template_writes_before_the_ending_token_does_not_end_a_response(before: str) -> None:
    """Words in tags are tokens of their own in many vocabularies, and no special ones."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir("tiny-s"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens([AddedToken("</answer>", special=False, normalized=False)])
    tokenizer.chat_template = CHATML.replace("'<|im_end|>", f"{before!r} + '<|im_end|>")
    assert f"5{before}<|im_end|>" in tokenizer.apply_chat_template(
        [{"role": "assistant", "content": "5"}], tokenize=False
    )
    assert prompts.end_of_response(tokenizer, FORM) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_template_that_leaves_out_the_response_does_not_say_how_it_ends() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir("tiny-s"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = "{%- for m in messages if m.role == 'user' %}<|im_start|>{{ m.content }}{%- endfor %}"
    assert prompts.end_of_response(tokenizer, FORM) == tokenizer.eos_token_id


@pytest.mark.parametrize("after", ["", "\n", " over"])
def test_a_template_without_an_ending_token_ends_with_eos(tokenizer: Any, after: str) -> None:
    plain = AutoTokenizer.from_pretrained(model_dir("tiny-s"))
    plain.chat_template = (
        "{%- for m in messages %}{{ m['content'] + '" + after.replace("\n", "\\n") + "' }}{%- endfor %}"
    )
    assert prompts.end_of_response(plain, FORM) == plain.eos_token_id


def test_training_learns_the_answer_and_its_end_after_the_prompt_of_sampling(tokenizer: Any) -> None:
    [example], skipped = encode(tokenizer, FORM, [("2+3?", "5")], 100)
    prompt = prompts.encode_prompt(tokenizer, prompts.build(FORM, "2+3?"))
    assert skipped == 0
    assert example.tokens.tolist()[: example.prompt_tokens] == prompt
    assert tokenizer.decode(example.tokens[example.prompt_tokens :]) == "5<|im_end|>"


def test_a_template_cannot_be_taken_for_a_chat() -> None:
    with pytest.raises(ValueError, match="must not start with"):
        Prompt(template='{"chat": {query}}')
    with pytest.raises(ValueError, match="belong to kind: chat"):
        Prompt(template="Q: {query}", system="Be brief.")
    with pytest.raises(ValueError, match="texts, numbers"):
        Prompt(kind="chat", chat_kwargs={"when": object()})
