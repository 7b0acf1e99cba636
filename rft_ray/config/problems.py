"""The section `problems` of a config: the problems to train on, and those to test on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rft_ray.config.section import Place, Section


class ProblemSet(Section):
    """One set of problems. Subsets are prefixes of one seeded order, in whole blocks, so they are nested."""

    source: Place = "hub:openai/gsm8k:train"
    """`hub:<dataset>:<split>`, `tiny:<split>:<count>`, `gsm8k:<split>` or another set by name (docs/your-data.md), or a
    file, a folder or a glob of .jsonl, .json, .csv, .tsv (also .gz, .zst), .parquet, .arrow (local or s3://)."""
    question: str | None = None
    """Column of the question; null: found by name (docs/your-data.md), as are the next two."""
    answer: str | None = None
    """Column of the final answer, or of a solution that ends in `#### <number>`."""
    solution: str | None = None
    """Column of the worked solution. A row without one is answer-only."""
    limit: int | None = Field(None, ge=1)
    """Use so many problems, rounded up to whole blocks; null: all."""
    fraction: float | None = Field(None, gt=0, le=1)
    """Use this share of the problems, rounded up to whole blocks; null: all."""

    @model_validator(mode="after")
    def _one_subset(self) -> ProblemSet:
        if self.limit is not None and self.fraction is not None:
            raise ValueError("give limit or fraction, not both")
        return self


GSM8K_SOURCES = ("hub:openai/gsm8k", "gsm8k:")


class Problems(Section):
    """The problems to train on, and those to test on."""

    train: ProblemSet = ProblemSet(source="hub:openai/gsm8k:train")
    test: ProblemSet = ProblemSet(source="hub:openai/gsm8k:test")
    order_seed: int = 0
    """Seed of the one order that subsets are prefixes of."""
    per_block: int = Field(50, ge=1, le=100_000)
    """Problems per shard. A limit is rounded up to whole blocks, so that a larger limit only adds shards."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """Rows with the question of another row. `drop`: one of the rows with the same answer stays; of a question with
    several answers, none."""
    decontaminate: Literal["report", "drop"] = "report"
    """Training problems that contain a test question. `drop` leaves them out of the training set."""
    overlap_threshold: float = Field(0.8, gt=0, le=1)
    """Share of a test question's word 8-grams that occur in a training question, from which that one contains it."""

    @model_validator(mode="before")
    @classmethod
    def _own_test_set(cls, tree: Any) -> Any:
        """GSM8K's test set goes with GSM8K's training set only."""
        test, train = (tree.get(name, {}) for name in ("test", "train")) if isinstance(tree, dict) else (None, None)
        if not isinstance(test, dict) or not isinstance(train, dict) or "source" in test:
            return tree
        source = train.get("source")
        if source is not None and not str(source).startswith(GSM8K_SOURCES):
            raise ValueError(
                "train is your own, so name the test set too: write test: {source: …} with problems that are not in "
                "train (for GSM8K's: gsm8k:test)"
            )
        return tree | {"test": {"source": "hub:openai/gsm8k:test"} | test}
