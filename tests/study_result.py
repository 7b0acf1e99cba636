"""A small `Study` with every kind of entry, for the tests of its page."""

from __future__ import annotations

from rft_ray.runtime.progress import StageTime
from rft_ray.study.result import CommonSlope, Comparison, Estimate, Finding, Fit, Model, Point, Skipped, Study, Table

MODELS = tuple(
    Model(name, f"tiny:{name}", 10**5 * (at + 1), 0.5 - at / 10, True, True) for at, name in enumerate("abc")
)


def fit(name: str, question: int, group: str, slope: float, *, log2_x: bool) -> Fit:
    """Three points on a line, with intervals as if they were scattered around it."""
    places = (1.0, 2.0, 3.0)
    points = tuple((2**x if log2_x else x, 0.3 + slope * x, f"{group} at {x}") for x in places)
    narrow, wide = Estimate(slope, slope - 0.01, slope + 0.01), Estimate(0.3, 0.2, 0.4)
    return Fit(question, name, group, "x & more", "accuracy", log2_x, narrow, wide, 0.97, points)


def compared(question: int, name: str, model: str, first: str, second: str) -> Comparison:
    return Comparison(question, name, model, first, second, Estimate(0.05, 0.01, 0.09), 500)


def point(model: Model) -> Point:
    return Point(
        name=f"{model.name} sft #0",
        model=model.name,
        stage="sft",
        selection="gold",
        samplers=(),
        k=0,
        share=1.0,
        schedule="epochs",
        seed=0,
        gold=100,
        paths=0,
        paths_per_problem=0.0,
        steps=12,
        tokens=9000,
        training_seconds=4.0,
        sampled=0,
        sampling_tokens=0,
        sampling_seconds=0.0,
        training_flops=1e9,
        sampling_flops=0.0,
        right=30,
        problems=100,
        accuracy=Estimate(0.3, 0.22, 0.39),
        training="0123456789abcdef",
        evaluation="evaluation/0.parquet",
    )


STUDY = Study(
    run="small",
    fingerprint="0123456789abcdef",
    command="python jobs/scaling_study.py --config <mine>.yaml",
    finished=False,
    planned=5,
    train_problems=100,
    test_problems=500,
    k=8,
    models=MODELS,
    points=tuple(map(point, MODELS)),
    fits=(
        fit("sft-loss", 1, "", -0.05, log2_x=False),
        *(fit("sft-data", 2, model.name, 0.04, log2_x=True) for model in MODELS),
    ),
    slopes=(CommonSlope(2, "sft-data", True, Estimate(0.04, 0.03, 0.05), 0.9, len(MODELS), 9),),
    comparisons=tuple(
        compared(question, name, model, first, second)
        for question, name, first, second in (
            (1, "rft-sft", "RFT on the union", "SFT"),
            (3, "distinct-all", "distinct paths", "all correct paths"),
            (4, "union-own", "union", "own paths"),
            (4, "union-without", "union", "without a"),
        )
        for model in ("a", "b", "")
    ),
    tables=(Table(5, "What a point costs", ("model", "FLOPs"), (("a", "1e9"), ("<b>", "-")), "6 FLOPs a token."),),
    findings=(
        Finding("loss", 1, "Accuracy falls with loss.", "yes", "slope -5 points", "yes where it falls"),
        Finding("data", 2, "Log-linear in data.", "no", "R2 0.1", "yes where R2 >= 0.9"),
        Finding("pooling", 4, "Pooling beats any one.", "unclear", "+1 point [-1, 3]", "by the interval"),
    ),
    skipped=(Skipped(3, "one model has no <k> samples"),),
    stages=(StageTime("sft", 71.2, {"trained": 3}),),
)
