"""A chat template that runs for ever or writes without end is refused in one line, in any thread."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rft_ray.data import chat_rendering, prompts
from rft_ray.data.model_checks import RunTexts, check_model
from rft_ray.data.prompts import Chat, Message
from rft_ray.data.tiny import model_dir
from rft_ray.store.models.folder import ModelError
from tests.unit.data.test_model_checks import edit

CHAT = Chat((Message("user", "Tom has 3 pens."),))
QUESTION = "{{ messages[0]['content'] }}"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
SECRET = "{% if 'secret' in messages[0]['content'] %}" + LOOPS + "{% endif %}" + QUESTION


def folder_with(template: str, folder: Path) -> Path:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_dir("tiny-m") / name, folder / name)
    edit(folder / "tokenizer_config.json", chat_template=template)
    return folder


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOPS + QUESTION, "does not end within 1 s of CPU time for one prompt"),
        ("{{ 9 ** (9 ** 9) }}" + QUESTION, "does not end within 1 s of CPU time for one prompt"),
        ("{{ 'ab' * 10 ** 10 }}" + QUESTION, "needs more than 2 GiB for one prompt"),
        ("{% set n = 10 ** 10 %}{{ 'a'.rjust(n) }}" + QUESTION, "needs more than 2 GiB for one prompt"),
        ("{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}", "writes more than 16,777,216 characters"),
        ("{% for i in range(10 ** 9) %}a{% endfor %}" + QUESTION, "cannot render a question (OverflowError: Range too"),
        ("{% generation %}" + LOOPS + "{% endgeneration %}" + QUESTION, "does not end within 1 s of CPU time"),
        (SECRET.replace("secret", "pens"), "does not end within 1 s of CPU time"),
    ],
)
def test_a_template_without_bounds_is_refused_before_any_work(
    template: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_rendering, "CPU_SECONDS", 1)
    folder = folder_with(template, tmp_path)
    with pytest.raises(ModelError, match=r"prompt\.kind=template") as refused:
        check_model("my-model", folder, RunTexts(prompts=[CHAT]))
    message = str(refused.value)
    assert message.startswith("my-model: its chat template ")
    assert said in message
    assert "\n" not in message


def test_every_question_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_rendering, "CPU_SECONDS", 1)
    folder = folder_with(SECRET, tmp_path)
    check_model("my-model", folder, RunTexts(prompts=[CHAT]))
    with pytest.raises(ModelError, match="does not end"):
        check_model("my-model", folder, RunTexts(prompts=[CHAT, Chat((Message("user", "the secret"),))]))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(model_dir("tiny-s"))


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "chat-template"]


def test_a_rendering_that_does_not_end_is_ended_in_any_thread(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = SECRET
    assert prompts.encode_prompt(tokenizer, CHAT)
    monkeypatch.setattr(chat_rendering, "CPU_SECONDS", 0.5)
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(ModelError, match=r"tiny-s does not end within 0\.5 s of CPU time for one prompt: correct it"),
    ):
        pool.submit(prompts.encode_prompt, tokenizer, Chat((Message("user", "secret"),))).result()
    until = time.monotonic() + 60
    while alive() and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive()


def test_a_prompt_of_any_size_is_refused(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = "{{ 'a' * (messages | length) * 5000 }}"
    monkeypatch.setattr(chat_rendering, "MOST_CHARACTERS", 7000)
    assert prompts.encode_prompt(tokenizer, CHAT)
    with pytest.raises(ModelError, match=r"writes 10,000 characters for one prompt: correct it"):
        prompts.encode_prompt(tokenizer, Chat((*CHAT.messages, *CHAT.messages)))


def test_what_a_template_raises_passes_through(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('only tools') }}"
    with pytest.raises(Exception, match="only tools"):
        prompts.encode_prompt(tokenizer, CHAT)
