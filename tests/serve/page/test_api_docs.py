"""The page of the API: everything of the OpenAPI document is on it, as text."""

from __future__ import annotations

import html
from typing import Any

import pytest
from ray.serve.llm.ingress import make_fastapi_ingress

from serve import ingress
from serve.access.api_keys import Keys
from serve.page import api_docs
from serve.scripted import ScriptedServer, application


@pytest.fixture(scope="module", params=["scripted", "deployed"])
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The documents of the application with scripted engines, and of the one that Serve deploys."""
    if request.param == "scripted":
        app = application({"tiny": ScriptedServer("tiny")}, Keys())
    else:
        app = ingress.fastapi_app(Keys())
        make_fastapi_ingress(ingress.Ingress, endpoint_map=ingress.ENDPOINTS, app=app)
    schema: dict[str, Any] = app.openapi()
    return schema


def test_each_route_field_and_example_is_on_the_page(document: dict[str, Any]) -> None:
    page = html.unescape(api_docs.render(document))
    listed = api_docs.routes(document)
    assert {(route.path, route.method.lower()) for route in listed} == {
        (path, method) for path, methods in document["paths"].items() for method in methods
    }
    for route in listed:
        assert f"<code>{route.method} {route.path}</code>" in page
        assert route.description in page
        for body in filter(None, (route.request, route.answer)):
            assert set(document["components"]["schemas"][body.name]["properties"]) == {f.name for f in body.fields}
            assert all(f"<code>{field.name}</code>" in page for field in body.fields)
            assert body.example in page
    solve = next(route for route in listed if route.path == "/solve")
    assert solve.request is not None
    fields = {field.name: field for field in solve.request.fields}
    assert (fields["k"].type, fields["k"].default, fields["question"].required) == ("integer, 1 to 64", "8", True)
    assert '<section id="Vote">' in page


def test_the_documents_text_is_escaped(document: dict[str, Any]) -> None:
    hostile = document | {"info": {"title": "<script>1</script>", "summary": "<img src=x>"}}
    page = api_docs.render(hostile)
    assert "<script" not in page
    assert "<img src=x" not in page


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 64}, "integer, 1 to 64"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Vote"}}, "list of Vote"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"enum": ["a", "b"]}, '"a" or "b"'),
        ({"const": "list"}, '"list"'),
        ({}, "any"),
    ],
)
def test_a_type_is_readable(schema: dict[str, Any], text: str) -> None:
    assert api_docs.type_of(schema) == text
