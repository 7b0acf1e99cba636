"""The generated problems are right and stable, and the shipped models load."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs import pretrain_tiny
from rft_ray.data.tiny import FAMILY, MODELS, SNAPSHOTS, model_dir
from rft_ray.data.tiny.generator import Split, generate, solutions, stories
from rft_ray.data.tiny.tokenizer import CONTEXT, TEMPLATE
from rft_ray.records import problem_id

OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
PINNED = ["d5e13e003d40129a", "b78ad8f8bf1df497"]
SPLITS: tuple[Split, ...] = ("train", "test", "pretrain")


def value(expression: str) -> Fraction:
    """An arithmetic expression's exact value, computed without the generator's code."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant)
        return Fraction(str(node.value))

    return walk(ast.parse(expression, mode="eval").body)


def pretraining(name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((model_dir(name) / "pretraining.json").read_text())
    return facts


def equations(solution: str) -> list[str]:
    return re.findall(r"<<(.*?)>>", solution)


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_arguments_give_the_same_problems(split: Split) -> None:
    assert generate(50, split=split, seed=3) == generate(50, split=split, seed=3)


def test_another_seed_gives_other_problems() -> None:
    assert {p.question for p in generate(50, split="train", seed=1)}.isdisjoint(
        p.question for p in generate(50, split="train", seed=2)
    )


def test_the_problems_are_pinned() -> None:
    """A change of the generator changes the data of every run, and this test with it."""
    assert [p.problem_id for p in generate(2, split="train", seed=0)] == PINNED


def test_a_shorter_list_is_a_prefix_of_a_longer_one() -> None:
    assert generate(200, split="train", seed=0)[:100] == generate(100, split="train", seed=0)


def test_no_question_is_repeated_within_a_split() -> None:
    questions = [p.question for p in generate(3000, split="pretrain", seed=0, steps=(1, 2))]
    assert len(set(questions)) == len(questions)


def test_splits_share_no_question_for_any_seeds() -> None:
    split_of: dict[str, str] = {}
    for split in SPLITS:
        for seed in (0, 1):
            for problem in generate(700, split=split, seed=seed, steps=(1, 2)):
                assert split_of.setdefault(problem.question, split) == split


def test_a_problem_is_identified_by_its_question() -> None:
    assert all(p.problem_id == problem_id(p.question) for p in generate(20, split="test"))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_every_equation_of_every_solution_is_true(steps: int) -> None:
    for story in islice(stories(split="train", steps=(steps, steps)), 150):
        for solution in solutions(story):
            for equation in equations(solution):
                left, right = equation.split("=")
                assert value(left) == value(right), solution


def test_every_line_repeats_its_equation_and_result() -> None:
    for problem in generate(300, split="train", steps=(1, 4)):
        for line in problem.solution.splitlines()[:-1]:
            assert re.search(r"(\S+) = <<(\1)=(\d+)>>\3 ", line), line


def test_all_solutions_of_a_problem_have_the_same_answer() -> None:
    for story in islice(stories(split="train", steps=(1, 4)), 300):
        assert len({solution.rsplit("\n#### ", 1)[1] for solution in solutions(story)}) == 1


def test_the_answer_is_the_last_equations_value_and_a_positive_integer() -> None:
    for problem in generate(300, split="train", steps=(1, 4)):
        assert problem.solution.endswith(f"\n#### {problem.answer}")
        assert equations(problem.solution)[-1].split("=")[1] == problem.answer
        assert int(problem.answer) > 0


def test_the_numbers_of_a_solution_come_from_the_question_or_earlier_steps() -> None:
    spelt = {"twice": {2}, "half": {2}, "together": {1}}
    for story in islice(stories(split="test", steps=(3, 4)), 200):
        words = set(re.findall(r"\w+", story.question))
        known = {int(w) for w in words if w.isdigit()} | set().union(*(spelt.get(w, set()) for w in words))
        for solution in solutions(story):
            seen = set(known)
            for equation in equations(solution):
                left, right = equation.split("=")
                assert set(map(int, re.findall(r"\d+", left))) <= seen, (story.question, solution)
                seen.add(int(right))


@pytest.mark.parametrize("steps", [3, 4])
def test_a_long_problem_has_several_distinct_equation_lists(steps: int) -> None:
    for story in islice(stories(split="train", steps=(steps, steps)), 300):
        lists = [tuple(equations(solution)) for solution in solutions(story)]
        assert len(set(lists)) == len(lists) >= 2


def test_the_gold_solution_is_the_first_of_its_problems_solutions() -> None:
    problems = generate(50, split="train")
    assert [p.solution for p in problems] == [solutions(s)[0] for s in islice(stories(split="train"), 50)]


@pytest.mark.parametrize("steps", [(0, 2), (3, 2), (1, 5)])
def test_an_impossible_range_of_steps_is_refused(steps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="steps"):
        generate(1, split="train", steps=steps)


def test_an_unknown_model_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=", ".join(MODELS)):
        model_dir("tiny")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "text", ["Tom has 3*4 = <<3*4=12>>12 pens.\n#### 12", "Ünï → 日本 \t 1,234.5 ##  x\n\n y", "<s> #### #"]
)
def test_a_shipped_tokenizer_decodes_to_the_encoded_text(name: str, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir(name))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_tokenizer_has_one_token_per_digit_and_adds_none(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir(name))
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert len(tokenizer("1234")["input_ids"]) == 4
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("name", MODELS)
def test_a_long_problem_takes_few_tokens(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir(name))
    texts = [TEMPLATE.format(query=p.question) + p.solution for p in generate(200, split="train")]
    lengths = sorted(len(ids) for ids in tokenizer(texts)["input_ids"])
    assert lengths[100] <= 130
    assert lengths[-1] <= 190 < CONTEXT


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_loads_and_says_how_it_was_pretrained(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir(name), dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) == pretraining(name)["parameters"]
    assert pretraining(name)["curve"][-1]["held_out_loss"] == pytest.approx(
        pretraining(name)["held_out_loss"], abs=2e-3
    )


@pytest.mark.parametrize("name", [FAMILY[0], FAMILY[-1], SNAPSHOTS[0]])
def test_a_shipped_models_recorded_loss_is_that_of_its_weights(name: str) -> None:
    facts = pretraining(name)
    recipe = pretrain_tiny.Recipe(**facts["recipe"])
    tokenizer = AutoTokenizer.from_pretrained(model_dir(name))
    model = AutoModelForCausalLM.from_pretrained(model_dir(name), dtype=torch.float32)
    assert pretrain_tiny.held_out_loss(model, tokenizer, recipe) == pytest.approx(facts["held_out_loss"], abs=1e-3)


def test_each_shipped_model_has_a_clearly_lower_loss_than_the_one_before() -> None:
    losses = [pretraining(name)["held_out_loss"] for name in FAMILY]
    assert all(after < 0.95 * before for before, after in pairwise(losses)), losses


def test_snapshots_are_from_the_same_run_as_the_model_in_their_name() -> None:
    for name in SNAPSHOTS:
        whole, facts = pretraining(name.rpartition("-")[0]), pretraining(name)
        assert facts["recipe"] == whole["recipe"]
        assert facts["curve"] == whole["curve"][: len(facts["curve"])] != whole["curve"]


def test_shipped_recipes_are_those_of_the_job() -> None:
    assert {name: pretraining(name)["recipe"] for name in FAMILY} == {
        name: asdict(recipe) for name, recipe in pretrain_tiny.RECIPES.items()
    }
    assert set(SNAPSHOTS) == {f"{name}-{share}" for name, shares in pretrain_tiny.SNAPSHOTS.items() for share in shares}


def test_shipped_models_share_one_vocabulary() -> None:
    assert len({(model_dir(name) / "tokenizer.json").read_bytes() for name in MODELS}) == 1


def test_shipped_models_are_at_most_ten_megabytes_together() -> None:
    files = [path for name in MODELS for path in model_dir(name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
