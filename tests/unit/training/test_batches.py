"""The batches of fine-tuning: masks, left-out rows, and steps that do not depend on workers and micro-batches."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_ray.config import ConfigError, Recipe, Training
from rft_ray.config.schema import check_batch
from rft_ray.training.batches import IGNORED, Example, encode, padded, plan, warmup_steps

TEMPLATE = "Q: {query}\nA:"


class ByteTokenizer:
    """Bytes as tokens, with a BOS before and, where `closes`, an EOS after every text; pad is EOS as in SmolLM2."""

    bos_token_id, eos_token_id, pad_token_id = 256, 257, 257

    def __init__(self, closes: bool = False) -> None:
        self._closing = [self.eos_token_id] * closes

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = list(text.encode())
        return {"input_ids": [self.bos_token_id, *ids, *self._closing] if add_special_tokens else ids}


@pytest.mark.parametrize("closes", [False, True])
def test_only_the_response_and_the_eos_that_ends_it_are_learned(closes: bool) -> None:
    (example,), _ = encode(ByteTokenizer(closes), TEMPLATE, [("2+3", " 5")], 100)
    learned = [token for token in example.labels if token != IGNORED]
    assert learned == [*b" 5", ByteTokenizer.eos_token_id]
    assert example.tokens.tolist() == [256, *b"Q: 2+3\nA:", *b" 5", 257]


def test_a_training_of_one_step_learns_at_the_full_rate() -> None:
    """The first step of a warm-up has a learning rate of 0: it would be the only one."""
    assert [warmup_steps(steps, Recipe()) for steps in (1, 2, 33, 34, 100)] == [0, 1, 1, 2, 3]
    assert warmup_steps(100, Recipe(warmup_ratio=0)) == 0


def test_eos_is_learned_when_it_is_also_the_padding_token() -> None:
    examples, _ = encode(ByteTokenizer(), TEMPLATE, [("1", "1"), ("a longer one", "22")], 100)
    columns = padded(examples, ByteTokenizer.pad_token_id)
    for example, labels, mask in zip(examples, columns["labels"], columns["attention_mask"], strict=True):
        assert labels[len(example.tokens) - 1] == ByteTokenizer.eos_token_id
        assert set(labels[len(example.tokens) :]) <= {IGNORED}
        assert sum(mask) == len(example.tokens)
    assert {len(row) for column in columns.values() for row in column} == {max(len(e.tokens) for e in examples)}


def test_rows_longer_than_the_limit_are_left_out_and_counted() -> None:
    rows = [("x", "y"), ("x" * 50, "y"), ("x", "y" * 50), ("x", "z")]
    examples, skipped = encode(ByteTokenizer(), TEMPLATE, rows, 20)
    assert (len(examples), skipped) == (2, 2)
    exact, skipped = encode(ByteTokenizer(), TEMPLATE, rows[:1], len(examples[0].tokens))
    assert (exact, skipped) == (examples[:1], 0)


def test_an_empty_micro_batch_is_a_row_without_a_loss() -> None:
    columns = padded([], 257)
    assert set(columns["labels"][0]) == {IGNORED}
    assert len(columns["input_ids"]) == 1


lengths = st.lists(st.integers(2, 40), min_size=1, max_size=70)


@given(lengths, st.integers(1, 4), st.sampled_from([1, 2, 6, 8, 64]), st.integers(0, 3))
def test_every_example_is_seen_once_per_epoch(sizes: list[int], epochs: int, batch: int, seed: int) -> None:
    steps = plan(sizes, epochs, batch, seed).steps
    per_epoch = -(-len(sizes) // batch)
    assert len(steps) == epochs * per_epoch
    for epoch in range(epochs):
        seen = [index for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for index in step]
        assert sorted(seen) == list(range(len(sizes)))


@given(lengths, st.integers(1, 90), st.sampled_from([1, 6, 64]))
def test_a_number_of_steps_is_a_prefix_of_enough_epochs(sizes: list[int], wanted: int, batch: int) -> None:
    steps = plan(sizes, 1, batch, 0, wanted).steps
    assert len(steps) == wanted
    assert steps == plan(sizes, 90, batch, 0).steps[:wanted]


@given(lengths, st.sampled_from([(1, 4), (1, 8), (2, 1), (2, 4), (4, 2), (8, 1)]))
def test_a_step_has_the_same_examples_for_any_workers_and_micro_batches(sizes: list[int], cut: tuple[int, int]) -> None:
    whole = plan(sizes, 2, 8, 0)
    workers, size = cut
    shares = [whole.micro_batches(rank, workers, size) for rank in range(workers)]
    per_step = 8 // (workers * size)
    assert {len(share) for share in shares} == {len(whole.steps) * per_step}
    assert max(len(piece) for share in shares for piece in share) <= size
    for number, step in enumerate(whole.steps):
        pieces = [i for share in shares for piece in share[number * per_step : (number + 1) * per_step] for i in piece]
        assert sorted(pieces) == sorted(step)


def test_order_depends_only_on_seed_and_epoch() -> None:
    first = plan([5] * 20, 2, 4, 7).steps
    assert first == plan([5] * 20, 2, 4, 7).steps
    assert first != plan([5] * 20, 2, 4, 8).steps
    assert first[:5] != first[5:]


@pytest.mark.parametrize(
    ("batch_size", "workers", "allowed", "expected"),
    [(128, 1, 8, 8), (128, 2, 100, 64), (12, 2, 4, 3), (7, 1, 4, 1), (2, 2, 8, 1), (48, 1, 32, 24)],
)
def test_micro_batch_shrinks_to_the_largest_divisor_that_fits(
    batch_size: int, workers: int, allowed: int, expected: int
) -> None:
    settings = Training(workers=workers, micro_batch_size=allowed)
    assert settings.micro_batch_of(Recipe(batch_size=batch_size)) == expected


@pytest.mark.parametrize(("batch_size", "workers", "nearest"), [(128, 3, 2), (2, 4, 2), (9, 2, 1)])
def test_workers_that_cannot_share_a_batch_are_refused_with_the_nearest_number(
    batch_size: int, workers: int, nearest: int
) -> None:
    with pytest.raises(ConfigError, match=rf"training\.workers={workers} .*batch_size={batch_size}.* can: {nearest}$"):
        check_batch(Training(workers=workers), Recipe(batch_size=batch_size))


def test_a_fitting_number_of_workers_is_accepted() -> None:
    check_batch(Training(workers=4), Recipe(batch_size=128))


def test_labels_mask_the_prompt_by_length_not_by_token() -> None:
    assert Example(array("I", [7, 7, 7, 7]), 2).labels == [IGNORED, IGNORED, 7, 7]
