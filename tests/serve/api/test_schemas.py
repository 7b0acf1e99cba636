"""The bounds of `POST /solve`, and the shape of all errors."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.testclient import TestClient

from serve.api import errors, schemas
from serve.api.schemas import SolveRequest, SolveResponse


@pytest.fixture(scope="module")
def caller() -> TestClient:
    app = FastAPI()
    errors.install(app)

    @app.post("/solve")
    async def solve(body: SolveRequest) -> int:
        if body.question == "refuse":
            raise errors.Refusal(404, "no such model", param="model", code="model_not_found")
        if body.question == "fail":
            raise ZeroDivisionError("secret")
        return body.k

    return TestClient(app, raise_server_exceptions=False)


def test_the_defaults_are_the_papers() -> None:
    request = SolveRequest(question=" How many? ")
    assert (request.question, request.k, request.temperature) == ("How many?", 8, 0.7)
    assert (request.model, request.max_tokens) == (None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("question", ""),
        ("question", " \n "),
        ("question", "x" * 8001),
        ("question", 5),
        ("question", None),
        ("question", "\ud800"),
        ("k", 0),
        ("k", 65),
        ("k", 2.5),
        ("k", "8"),
        ("k", True),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("max_tokens", 0),
        ("max_tokens", 1025),
        ("model", 3),
        ("colour", "red"),
    ],
)
def test_values_out_of_bounds_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        SolveRequest.model_validate({"question": "How many?", field: value})


def test_greedy_needs_one_path() -> None:
    assert SolveRequest(question="q", temperature=0, k=1).k == 1
    with pytest.raises(ValidationError, match="k=1"):
        SolveRequest(question="q", temperature=0, k=2)


def test_the_examples_are_valid() -> None:
    for model in (SolveRequest, SolveResponse):
        for example in model.model_json_schema()["examples"]:
            model.model_validate(example)


def test_a_votes_account_in_the_example_adds_up() -> None:
    shown = SolveResponse.model_validate(SolveResponse.model_json_schema()["examples"][0])
    assert sum(v.count for v in shown.votes) + shown.undecided + shown.no_answer + shown.truncated == shown.came
    assert shown.came + shown.saved.paths == shown.k
    assert shown.confidence == shown.votes[0].count / shown.came


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b"{", 400, None, "invalid_json"),
        (b"[1]", 400, None, "invalid_value"),
        (b"", 400, None, "missing_field"),
        (b"\xff", 400, None, "invalid_request"),
        (b'{"question": "q", "colour": 1}', 400, "colour", "unknown_field"),
        (b'{"question": "q", "k": 0}', 400, "k", "invalid_value"),
        (b'{"k": 1}', 400, "question", "missing_field"),
        (b'{"question": "q", "\\ud800": 1}', 400, None, "invalid_value"),
        (b"[" * 100_000, 400, None, "invalid_request"),
        (b'{"question": "refuse"}', 404, "model", "model_not_found"),
        (b'{"question": "fail"}', 500, None, None),
    ],
)
def test_every_refusal_has_openais_shape(
    caller: TestClient, body: bytes, status: int, param: str | None, code: str | None
) -> None:
    answer = caller.post("/solve", content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == ("server_error" if status == 500 else "invalid_request_error")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b'{"question": "q"}'),  # as curl -d sends it
        (None, b'{"question": "q"}'),
        ("text/plain", b'{"question": "q"}'),
        ("application/json", b"[1]"),
        ("application/json", b"null"),
        ("application/json", b""),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_with_what_to_send(
    caller: TestClient, kind: str | None, body: bytes
) -> None:
    answer = caller.post("/solve", content=body, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 400
    assert "a JSON object" in answer.json()["error"]["message"]
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_unknown_paths_and_methods_have_openais_shape(caller: TestClient) -> None:
    assert caller.get("/nothing").json()["error"]["code"] == "not_found"
    assert caller.get("/solve").json()["error"]["code"] == "method_not_allowed"


def test_the_documents_examples_are_valid_by_its_schemas() -> None:
    shown = (schemas.SolveRequest, schemas.SolveResponse, schemas.ModelDetails, schemas.Readiness, errors.ErrorBody)
    for model in shown:
        examples = model.model_json_schema()["examples"]
        assert all(model.model_validate(one).model_dump(include=set(one)).keys() == one.keys() for one in examples)
    for block in schemas.EXAMPLE_EVENTS.strip().split("\n\n"):
        name, data = (line.partition(": ")[2] for line in block.split("\n"))
        known = {event: model for model, event in schemas.EVENT_NAMES.items()} | {"error": errors.ErrorBody}
        known[name].model_validate_json(data)
