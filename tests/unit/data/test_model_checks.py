"""Broken models are refused in one line, by their config and tokenizer alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from rft_ray import config
from rft_ray.data.model_checks import RunTexts, check_model, opens_reasoning
from rft_ray.data.prompts import Chat, Message, stored
from rft_ray.data.tiny import MODELS, model_dir
from rft_ray.store.models.folder import ModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model without weights."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_dir("tiny-m") / name, tmp_path / name)
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def chat(**arguments: Any) -> Chat:
    return Chat((Message("user", "Tom has 3 pens."),), arguments)


def refusal(folder: Path, texts: RunTexts) -> str:
    with pytest.raises(ModelError) as refused:
        check_model("my-model", folder, texts)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("my-model: ")
    return message


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_models_are_sound(name: str) -> None:
    check_model(f"tiny:{name}", model_dir(name), RunTexts())


def test_a_model_without_weights_can_be_checked(folder: Path) -> None:
    check_model("my-model", folder, RunTexts())


def test_a_tokenizer_without_eos_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    assert "has no EOS token" in refusal(folder, RunTexts())


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no system') }}", "cannot render a question (TemplateError: no system)"),
        ("{% for", "cannot render a question (TemplateSyntaxError"),
        ("Hello", "leaves out the question"),
        (None, "has no chat template: set prompt.kind=template"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused_where_prompts_use_it(
    folder: Path, template: str | None, said: str
) -> None:
    edit(folder / "tokenizer_config.json", chat_template=template)
    check_model("my-model", folder, RunTexts())
    assert said in refusal(folder, RunTexts(prompts=[chat()]))


def test_arguments_reach_the_chat_template(folder: Path) -> None:
    template = "{% if not thinking %}{{ raise_exception('off') }}{% endif %}{{ messages[0]['content'] }}"
    edit(folder / "tokenizer_config.json", chat_template=template)
    check_model("my-model", folder, RunTexts(prompts=[chat(thinking=True)]))
    assert "TemplateError: off" in refusal(folder, RunTexts(prompts=[chat(thinking=False)]))


R1 = (
    "{{ bos_token }}{% for m in messages %}<User>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<Bot><think>\n{% endif %}"
)
DATED = "{{ date_string or strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}"


def test_a_chat_template_that_opens_reasoning_is_noted_where_the_texts_do_not_close_it(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template=R1)
    [note] = check_model("my-model", folder, RunTexts(prompts=[chat()], unclosed=["think"]))
    assert note.startswith("my-model: its chat template ends in <think>, and it learns from texts that do not close it")
    assert check_model("my-model", folder, RunTexts(prompts=[chat()])) == []
    assert check_model("my-model", folder, RunTexts(prompts=[chat()], unclosed=["draft"])) == []
    assert check_model("my-model", folder, RunTexts(prompts=["Tom <think>"], unclosed=["think"])) == []


def test_a_chat_template_opens_reasoning_where_it_ends_in_the_tag(folder: Path) -> None:
    template = R1.replace("<think>\n", "{{ '<think>' if thinking is not false else '<think></think>' }}")
    edit(folder / "tokenizer_config.json", chat_template=template)

    def opens(form: str, *tags: str) -> bool:
        return opens_reasoning("my-model", folder, form, tags)

    asked = stored(config.Prompt(kind="chat"))
    assert opens(asked, "plan", "think")
    assert not opens(stored(config.Prompt(kind="chat", chat_kwargs={"thinking": False})), "think")
    assert not opens(asked, "plan")
    assert not opens(asked)
    assert not opens("{query}<think>", "think")


def test_a_chat_template_in_a_file_of_its_own_is_read(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(R1)
    assert opens_reasoning("my-model", folder, stored(config.Prompt(kind="chat", system="Be brief.")), ("think",))


def test_the_tag_may_come_from_an_argument_of_the_chat_template(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template="{{ messages[0]['content'] }}{{ end }}")
    form = stored(config.Prompt(kind="chat", chat_kwargs={"end": "<think>"}))
    assert opens_reasoning("my-model", folder, form, ("think",))


def test_a_chat_template_that_cannot_be_rendered_is_refused_before_it_is_asked(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template="{{ raise_exception('no <think>') }}")
    with pytest.raises(ModelError, match="my-model: its chat template cannot render a question"):
        opens_reasoning("my-model", folder, stored(config.Prompt(kind="chat")), ("think",))


def test_without_a_chat_template_nothing_opens_reasoning(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template=None)
    form = stored(config.Prompt(kind="chat", chat_kwargs={"enable_thinking": False}))
    assert not opens_reasoning("my-model", folder, form, ("think",))


def test_a_chat_template_that_leaves_out_the_system_text_is_noted(folder: Path) -> None:
    """As that of Phi-3-mini did."""
    asked = Chat((Message("system", " Be brief. "), *chat().messages), {})
    template = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    edit(folder / "tokenizer_config.json", chat_template=template)
    [note] = check_model("my-model", folder, RunTexts(prompts=[asked]))
    assert note.startswith("my-model: its chat template leaves out prompt.system")
    edit(folder / "tokenizer_config.json", chat_template="{% for m in messages %}{{ m['content'] | trim }}{% endfor %}")
    assert check_model("my-model", folder, RunTexts(prompts=[asked])) == []


def test_a_chat_template_with_the_date_of_today_is_noted_unless_it_is_fixed(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template=DATED)
    [note] = check_model("my-model", folder, RunTexts(prompts=[chat()]))
    assert note.startswith("my-model: its chat template writes today's date")
    assert check_model("my-model", folder, RunTexts(prompts=[chat(date_string="26 Jul 2024")])) == []


def test_a_tokenizer_that_loses_characters_is_refused_with_them(folder: Path) -> None:
    words = {"<unk>": 0, "</s>": 1, "Tom": 2, "has": 3, "3": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    check_model("my-model", folder, RunTexts(prompts=["Tom has 3"]))
    message = refusal(folder, RunTexts(prompts=["Tom has 3"], responses=["Tom has $3"]))
    assert "its tokenizer loses '$'" in message
    assert "of 'Tom has $3'" in message


@pytest.mark.parametrize("form", ["%Z", "\ud800", "%Y\0"])
def test_a_format_of_no_date_is_not_noted(folder: Path, form: str) -> None:
    """A local time has no zone's name, and the others are no text for the system's clock."""
    template = "{{ no_date or strftime_now('" + form + "') }}: {{ messages[0]['content'] }}"
    edit(folder / "tokenizer_config.json", chat_template=template)
    assert check_model("my-model", folder, RunTexts(prompts=[chat(no_date="x")])) == []


def test_a_prompt_template_may_hold_special_tokens_and_a_question_may_not(folder: Path) -> None:
    prompts = [f"<s>{question}</s>" for question in ("Tom has 3", "Ann has 4")]
    check_model("my-model", folder, RunTexts(prompts=prompts))
    assert "its tokenizer loses '</s>' of" in refusal(folder, RunTexts(prompts=[*prompts, "<s>Tom</s> has 3</s>"]))
    assert "its tokenizer loses '</s>' of" in refusal(folder, RunTexts(prompts=prompts, responses=["So.</s>"]))
    assert "its tokenizer loses '</s>' of" in refusal(folder, RunTexts(prompts=["Tom</s>", "Ann"]))


def test_a_prompt_template_with_the_bos_that_the_tokenizer_adds_is_refused(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    check_model("my-model", folder, RunTexts(prompts=["[INST] Tom"]))
    assert "prompt.template begins with <s>" in refusal(folder, RunTexts(prompts=["<s>[INST] Tom"]))


def test_a_prompt_template_with_a_token_beyond_the_embedding_is_refused(folder: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    image = {**tree["added_tokens"][0], "id": 532, "content": "<image>"}
    edit(folder / "tokenizer.json", added_tokens=[*tree["added_tokens"], image])
    assert "special tokens that the embedding lacks" in refusal(folder, RunTexts(prompts=["<image>Tom has 3"]))


def test_a_vocabulary_larger_than_the_embedding_is_refused(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=100)
    assert "has token ids up to 531, and the embedding only 100 rows" in refusal(folder, RunTexts())


def test_a_special_token_beyond_the_embedding_is_fine_while_no_text_has_it(folder: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    image = {**tree["added_tokens"][0], "id": 532, "content": "<image>"}
    edit(folder / "tokenizer.json", added_tokens=[*tree["added_tokens"], image])
    check_model("my-model", folder, RunTexts())


@pytest.mark.parametrize(("own", "limit", "context"), [(8, None, 8), (512, 8, 8), (8, 512, 8)])
def test_a_context_shorter_than_every_prompt_is_refused(
    folder: Path, own: int, limit: int | None, context: int
) -> None:
    edit(folder / "config.json", max_position_embeddings=own)
    prompts = ["Tom has 3 pens and then buys many others.", "Tom has 3 pens and then buys many others, and more."]
    assert f"tokens and the context {context}, so nothing can be sampled" in refusal(
        folder, RunTexts(prompts=prompts, context=limit)
    )


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda folder: edit(folder / "config.json", model_type="nonesuch"), "config.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "the tokenizer's files"),
    ],
)
def test_what_transformers_cannot_read_is_named(folder: Path, damage: Callable[[Path], None], part: str) -> None:
    damage(folder)
    assert f"transformers cannot read {part} in {folder}" in refusal(folder, RunTexts())
