"""The request and response of `POST /solve` and of the health routes, with their bounds and examples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_QUESTION_CHARS = 8_000
MAX_PATHS = 64
"""Paths of one request: k of /solve, n times prompts of the OpenAI routes."""
MAX_TOKENS = 1024
QUESTION = "Tom has 3 pens. He buys 2 boxes with 4 pens each. How many pens does Tom have now?"


class SolveRequest(BaseModel):
    """One word problem, to be solved k times and put to the vote."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"question": QUESTION, "k": 8}]},
    )

    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUESTION_CHARS)] = (
        Field(description="the word problem, in plain text")
    )
    k: int = Field(8, ge=1, le=MAX_PATHS, strict=True, description="reasoning paths to sample")
    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False, description="0 is greedy, and needs k=1")
    model: str | None = Field(None, description="a name that /v1/models lists; default: the first of them")
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=MAX_TOKENS,
        strict=True,
        description="tokens of one path at most; never more than the server's own limit or the model's context",
    )

    @model_validator(mode="after")
    def _greedy_once(self) -> SolveRequest:
        if self.temperature == 0 and self.k > 1:
            raise ValueError("temperature 0 is greedy, so all k paths would be one: use k=1 or a temperature above 0")
        return self


class Vote(BaseModel):
    answer: str
    count: int


class ShownPath(BaseModel):
    """A reasoning path as the model wrote it, and the equations in it."""

    text: str
    equations: list[str]


class SolveResponse(BaseModel):
    """k = sum of the votes' counts + undecided + no_answer + truncated."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "answer": "11",
                    "confidence": 0.75,
                    "votes": [{"answer": "11", "count": 6}, {"answer": "9", "count": 1}],
                    "path": {"text": "2*4 = <<2*4=8>>8\n3+8 = <<3+8=11>>11\n#### 11", "equations": ["2*4=8", "3+8=11"]},
                    "k": 8,
                    "distinct_paths": 2,
                    "undecided": 0,
                    "no_answer": 1,
                    "truncated": 0,
                    "model": "tiny-m-rft",
                    "seconds": 0.84,
                }
            ]
        }
    )

    answer: str | None = Field(description="the answer with most votes, in canonical form; null where no path voted")
    confidence: float = Field(ge=0, le=1, description="the answer's votes over k")
    votes: list[Vote] = Field(description="most votes first; a tie is broken by the answers' Unicode order")
    path: ShownPath | None = Field(
        description="for the answer: a path whose equations all hold where there is one, then the commonest, then the "
        "shortest"
    )
    k: int
    distinct_paths: int = Field(description="distinct equation lists among the answer's paths")
    undecided: int = Field(description="paths with several final answers that differ")
    no_answer: int
    truncated: int = Field(description="paths cut at the token limit; they do not vote")
    model: str
    seconds: float


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether each model's engine answers."""

    status: Literal["ready"] = "ready"
    models: list[str]


class ServedModel(BaseModel):
    """One entry of /v1/models: OpenAI's fields, and where the model comes from."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rft-ray"
    run: str
    stage: str
    base: str
    fingerprint: str


class ServedModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]
