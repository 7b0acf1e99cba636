"""Reasoning is cut out of a text before it is graded."""

from __future__ import annotations

import pytest

from rft_ray.grading.reasoning import Reasoning, closes_draft, opens_draft, without_drafts


@pytest.mark.parametrize(
    ("text", "graded"),
    [
        ("3+2=5", "3+2=5"),
        ("<think>is it 4?</think>3+2=5", "3+2=5"),
        ("First <think>a</think>then <think>b</think>end", "First then end"),
        ("is it 4?</think>3+2=5", "3+2=5"),
        ("<think>a<think>b</think>c", "c"),
        ("<think>a</think>b</think>c", "c"),
        ("<think>is it 4? #### 4", ""),
        ("#### 5<think>or 4?", "#### 5"),
        ("a <thinking> b", "a <thinking> b"),
        ("", ""),
    ],
)
def test_reasoning_is_removed(text: str, graded: str) -> None:
    assert Reasoning(("think",)).removed(text) == graded


@pytest.mark.parametrize(
    ("text", "graded"),
    [
        ("is it 4?</think>3+2=5", "3+2=5"),
        ("is it 4? #### 4", ""),
        ("<think>a</think>5", "5"),
        ("a</think>b<think>c", "b"),
    ],
)
def test_a_text_begins_inside_where_the_prompt_ends_in_the_tag(text: str, graded: str) -> None:
    reasoning = Reasoning.after("Question: {query}\n<think>\n", ("think",))
    assert reasoning.removed(text) == graded
    assert reasoning.blanked(text).replace("\n", "") == graded


@pytest.mark.parametrize(
    ("text", "cut", "graded"),
    [
        ("is it 4?</think>3+2=5", True, "3+2=5"),
        ("is it 4?</think>3+2=5", False, "3+2=5"),
        ("is it 4? #### 4", True, ""),
        ("is it 4? #### 4", False, "is it 4? #### 4"),
        ("", True, ""),
    ],
)
def test_after_a_chat_template_that_opens_reasoning_a_text_that_is_cut_in_it_is_a_draft(
    text: str, cut: bool, graded: str
) -> None:
    assert Reasoning.after('{"chat": {}}', ("think",), True).removed(text, cut=cut) == graded


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("Q<think>\n", True),
        ("Q<|begin_of_thought|>", True),
        ("Q[THINK] ", True),
        ("Q<think>\n\n</think>\n\n", False),
        ("<think>Q", False),
        ("Q", False),
        ("", False),
    ],
)
def test_a_prompt_opens_a_draft_where_it_ends_in_its_tag(prompt: str, opens: bool) -> None:
    assert opens_draft(prompt) == opens


def test_a_closing_tag_of_any_draft_is_found() -> None:
    assert all(map(closes_draft, ("a</think>b", "a[/THINK]b", "a<|end_of_thought|>")))
    assert not any(map(closes_draft, ("a<think>b", "think>", "")))


def test_tags_have_names_of_ones_own() -> None:
    reasoning = Reasoning(("plan", "a.b"))
    assert reasoning.removed("<plan>x</plan>1<a.b>y</a.b>2<think>z</think>") == "12<think>z</think>"
    assert reasoning.removed("<aXb>y</aXb>") == "<aXb>y</aXb>"


def test_many_tags_take_linear_time() -> None:
    assert Reasoning(("think",)).removed("<think>" * 100_000 + "</think>5") == "5"


@pytest.mark.parametrize(
    "text", ["<think>a</think>b", "a</think>b", "a<think>b", "<think>a<think>b</think>c</think>d", "a"]
)
def test_blanked_drafts_keep_the_positions_of_the_rest(text: str) -> None:
    blanked = without_drafts(text)
    assert blanked == Reasoning(("think",)).blanked(text)
    assert Reasoning(("plan",)).blanked(text) == text
    assert len(blanked) == len(text)
    assert blanked.replace("\n", "") == Reasoning(("think",)).removed(text)
    assert all(shown in ("\n", kept) for shown, kept in zip(blanked, text, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "<thinking>4?</thinking>#### 6",
        "<Think>4?</Think>#### 6",
        "<thought>4?</thought>#### 6",
        "<scratchpad>4?</scratchpad>#### 6",
        "[THINK]4?[/THINK]#### 6",
        "◁think▷4?◁/think▷#### 6",
        "<|begin_of_thought|>4?<|end_of_thought|>#### 6",
        "4?</thought>#### 6",
    ],
)
def test_a_draft_is_left_out_under_each_name(text: str) -> None:
    assert without_drafts(text).strip() == "#### 6"


@pytest.mark.parametrize("text", ["I [think] it is 6", "a thought> of 6", "<thoughts about> 6"])
def test_words_that_are_no_tags_stay(text: str) -> None:
    assert without_drafts(text) == text
