"""Requests, responses and stream events of the service's own routes, with their bounds and examples."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from serve.api import fields

MAX_QUESTION_CHARS = 8_000
MAX_PATHS = 64
"""Most paths of one request: k of /solve; n times the number of prompts of the OpenAI routes."""
MAX_TOKENS = 1024
MAX_TOKENS_RULE = (
    f"most tokens of one path, 1 to {MAX_TOKENS}; lowered to the server's limit and the room in the model's context"
)
QUESTION = "Tom has 3 pens. He buys 2 boxes with 4 pens each. How many pens does Tom have now?"


class SolveRequest(BaseModel):
    """One word problem to solve k times; the answers vote."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"question": QUESTION, "k": 8},
                {"question": QUESTION, "k": 1, "temperature": 0, "model": "tiny-m-sft"},
                {"question": QUESTION, "k": 16, "stream": True, "deltas": True, "early_stop": False},
            ]
        },
    )

    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUESTION_CHARS)] = (
        Field(description="the word problem, in plain text")
    )
    k: int = Field(8, ge=1, le=MAX_PATHS, strict=True, description="reasoning paths to sample")
    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False, description="0 is greedy, and needs k=1")
    model: str | None = Field(None, description="a model that /v1/models lists; default: the first one")
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=MAX_TOKENS,
        strict=True,
        description=MAX_TOKENS_RULE,
    )

    early_stop: bool = Field(True, description="cancel samples that can no longer change the answer")
    stream: bool = Field(False, description="answer with server-sent events: start, path, vote, … and result or error")
    deltas: bool = Field(False, description="with stream: also send the text of unfinished paths, as text events")

    seed: int | None = Field(None, description="accepted with temperature 0, where it has no effect")
    user: Any = Field(None, description=fields.IGNORED)
    store: Any = Field(None, description=fields.IGNORED)
    metadata: Any = Field(None, description=fields.IGNORED)
    service_tier: Any = Field(None, description=fields.IGNORED)
    prompt_cache_key: Any = Field(None, description=fields.IGNORED)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return fields.without_nulls(given) if isinstance(given, dict) else given

    @field_validator("temperature")
    @classmethod
    def _greedy_once(cls, temperature: float, info: ValidationInfo) -> float:
        if temperature == 0 and info.data.get("k", 1) > 1:
            raise ValueError(
                "temperature 0 is greedy, so all k paths would be the same: use k=1 or a temperature above 0"
            )
        return temperature

    @field_validator("seed")
    @classmethod
    def _seed_of_greedy(cls, seed: int | None, info: ValidationInfo) -> int | None:
        if seed is not None and info.data.get("temperature", 0) != 0:
            raise ValueError("a seed is supported with temperature 0 only, where it has no effect")
        return seed


class Vote(BaseModel):
    answer: str
    count: int


class ShownPath(BaseModel):
    """A reasoning path as the model wrote it, with its equations."""

    text: str
    equations: list[str]


class Interval(BaseModel):
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Saved(BaseModel):
    """The paths and tokens that early stopping saved."""

    paths: int = Field(0, description="samples that were cancelled before they finished")
    tokens: int = Field(
        0,
        description="estimate of the tokens that they would have generated, at the finished paths' average length",
    )


class SolveResponse(BaseModel):
    """k = sum of the votes' counts + undecided + no_answer + truncated + saved.paths."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "answer": "11",
                    "confidence": 0.75,
                    "interval": {"low": 0.409, "high": 0.929},
                    "votes": [{"answer": "11", "count": 6}, {"answer": "9", "count": 1}],
                    "path": {"text": "2*4 = <<2*4=8>>8\n3+8 = <<3+8=11>>11\n#### 11", "equations": ["2*4=8", "3+8=11"]},
                    "k": 10,
                    "came": 8,
                    "distinct_paths": 2,
                    "undecided": 0,
                    "no_answer": 1,
                    "truncated": 0,
                    "saved": {"paths": 2, "tokens": 31},
                    "tokens": 412,
                    "model": "tiny-m-rft",
                    "seconds": 0.84,
                }
            ]
        }
    )

    answer: str | None = Field(description="the answer with most votes, in canonical form; null where no path voted")
    confidence: float = Field(ge=0, le=1, description="the answer's share of all finished paths, voting or not")
    interval: Interval = Field(description="Wilson 95 % interval of the confidence")
    votes: list[Vote] = Field(description="most votes first; a tie is broken by the answers' Unicode order")
    path: ShownPath | None = Field(
        description="a path of the answer: one whose equations all hold if any, of the most common equation list, "
        "then the shortest"
    )
    k: int = Field(description="requested paths")
    came: int = Field(description="finished paths")
    distinct_paths: int = Field(
        description="distinct paths to the answer: by their equations, or where there are none and the verifier is "
        "not gsm8k, by their words"
    )
    undecided: int = Field(description="paths with several final answers that differ")
    no_answer: int
    truncated: int = Field(description="paths cut at the token limit; they do not vote")
    saved: Saved
    tokens: int = Field(description="tokens generated, those of cancelled samples included")
    model: str
    seconds: float


class Started(BaseModel):
    """Event `start`: the samples are with the engine."""

    model: str
    k: int
    max_tokens: int


class TextEvent(BaseModel):
    """Event `text`: new text of unfinished paths, by index."""

    texts: dict[int, str]


class MarkedEquation(BaseModel):
    equation: str
    holds: bool | None = Field(description="null where the grader cannot tell")
    start: int = Field(description="its first character in the text")
    end: int = Field(description="the character after its last one")
    rule: str = Field(description="the rule that decided")


class PathEvent(BaseModel):
    """Event `path`: a finished path."""

    index: int = Field(description="0 to k-1; paths finish in any order")
    text: str
    finish_reason: str
    answer: str | None = Field(description="the answer that it votes for; null where it does not vote")
    silent: Literal["undecided", "no_answer", "truncated"] | None = Field(description="why it does not vote")
    equations: list[MarkedEquation]
    sound: bool = Field(description="whether it votes and all its equations hold")
    distinct: int | None = Field(description="number of its distinct path, from 1 in order of arrival")
    tokens: int
    seconds: float


class VoteEvent(BaseModel):
    """Event `vote`: the vote after each path."""

    votes: list[Vote]
    undecided: int
    no_answer: int
    truncated: int
    came: int
    k: int
    confidence: float
    interval: Interval
    decided: bool = Field(description="whether no unfinished path can change the answer")


class EngineRefusal(BaseModel):
    """A request that the engine refuses: sent instead of `start`, and answered as an error."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None


Event = Started | TextEvent | PathEvent | VoteEvent | SolveResponse | EngineRefusal
EVENT_NAMES: dict[type[BaseModel], str] = {
    Started: "start",
    TextEvent: "text",
    PathEvent: "path",
    VoteEvent: "vote",
    SolveResponse: "result",
}


EXAMPLE_EVENTS = """event: start
data: {"model":"tiny-m-rft","k":1,"max_tokens":256}

event: path
data: {"index":0,"text":"3+4 = <<3+4=7>>7\\n#### 7","finish_reason":"stop","answer":"7","silent":null,"equations":[\
{"equation":"3+4=7","holds":true,"start":0,"end":16,"rule":"equal"}],"sound":true,"distinct":1,"tokens":14,"seconds":0.21}

event: error
data: {"error":{"message":"the engine failed: send the request again","type":"server_error","param":null,\
"code":"unavailable"}}

"""


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """The models whose engines answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ready", "models": ["tiny-m-rft"]}]})

    status: Literal["ready"] = "ready"
    models: list[str] | None = Field(None, description="absent for a caller without a valid API key")


class ServedModel(BaseModel):
    """One entry of /v1/models: OpenAI's fields, and the model's origin."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rft-ray"
    run: str
    stage: str
    base: str
    fingerprint: str
    max_model_len: int | None = Field(None, description="tokens of the context: prompt and answer together")


class Metric(BaseModel):
    """A share of the test problems, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int = Field(description="problems")
    k: int | None = Field(None, description="samples of each problem; null for greedy answers")


class Sampler(BaseModel):
    model: str
    paths: int
    share: float = Field(description="share of the corpus's paths")


class Corpus(BaseModel):
    """The training corpus. The counts are null where the run's summary describes another corpus."""

    fingerprint: str
    gold: int | None = None
    paths: int | None = None
    samplers: list[Sampler] = []


class ModelDetails(ServedModel):
    """GET /v1/models/{id}: a model's lineage."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "tiny-m-rft",
                    "object": "model",
                    "created": 1767225600,
                    "owned_by": "rft-ray",
                    "run": "demo",
                    "stage": "rft",
                    "base": "tiny:tiny-m",
                    "fingerprint": "e120e43e5ee212fc",
                    "corpus": {
                        "fingerprint": "8fac0452414ecce7",
                        "gold": 400,
                        "paths": 703,
                        "samplers": [{"model": "tiny-m", "paths": 400, "share": 0.569}],
                    },
                    "settings": {"epochs": 3, "seed": 0, "template": "Question: {query}\nAnswer:"},
                    "evaluation": {"maj1@1": {"value": 0.31, "low": 0.26, "high": 0.364, "n": 300, "k": None}},
                }
            ]
        }
    )

    corpus: Corpus | None = None
    settings: dict[str, Any] = Field({}, description="training settings: recipe, seed and prompt template")
    evaluation: dict[str, Metric] = Field({}, description="by metric: maj1@1 (greedy), maj@k, pass@k, pass@1")


class ServedModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]
    shared_cpus: bool = Field(
        False, description="whether the engines share CPUs: models that are asked one after another answer sooner"
    )
