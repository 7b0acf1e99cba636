"""The page at `/docs`: an application's OpenAPI document -> HTML with each route, its fields and its examples.

The page is rendered by the server and loads only `/page/style.css` and the icon: it has no script, needs no network
beyond the service, and its Content-Security-Policy allows nothing else. FastAPI's own page loads scripts from a CDN.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastapi import FastAPI, Request
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from starlette.responses import HTMLResponse, Response

PATH = "/docs"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_REF = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a schema.

    Example: Field("k", "integer, 1 to 64", False, "8", "reasoning paths to sample")
    """

    name: str
    type: str
    required: bool
    default: str
    description: str


@dataclass(frozen=True, slots=True)
class Body:
    """A request's or an answer's body: its schema's fields and an example.

    Example: Body("SolveRequest", (), '{"question": "…"}')
    """

    name: str
    fields: tuple[Field, ...]
    example: str


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    Example: Route("POST", "/solve", "Sample k reasoning paths …", None, None)
    """

    method: str
    path: str
    description: str
    request: Body | None
    answer: Body | None


def install(app: FastAPI) -> None:
    """Add the page to an application that was made with `docs_url=None`."""
    app.add_api_route(PATH, _docs, methods=["GET"], include_in_schema=False)


async def _docs(request: Request) -> Response:
    return HTMLResponse(render(request.app.openapi()), headers=HEADERS)


def render(document: Mapping[str, Any]) -> str:
    """The HTML page of an OpenAPI document."""
    schemas = document["components"]["schemas"]
    listed = routes(document)
    answers = [route.answer.name for route in listed if route.answer]
    types = [_body(schemas, {"$ref": _REF + name}, ()) for name in _nested(schemas, [*answers, "ErrorBody"])]
    return _template().render(info=document["info"], routes=listed, types=types)


def routes(document: Mapping[str, Any]) -> list[Route]:
    """The routes of an OpenAPI document, in its order."""
    schemas = document["components"]["schemas"]
    return [
        Route(
            method.upper(),
            path,
            operation.get("description", ""),
            _body(schemas, *_schema(operation.get("requestBody", {}))),
            _body(schemas, *_schema(operation["responses"]["200"])),
        )
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _schema(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The JSON schema of a body, and the examples of its media types."""
    content = body.get("content", {})
    examples = tuple(_text(media["example"]) for media in content.values() if "example" in media)
    return content.get("application/json", {}).get("schema", {}), examples


def _body(schemas: Mapping[str, Any], schema: Mapping[str, Any], examples: tuple[str, ...]) -> Body | None:
    """The body of a schema that has a name; None for any other one."""
    name = schema.get("$ref", "").removeprefix(_REF)
    if not name:
        return None
    named = schemas[name]
    required = set(named.get("required", ()))
    fields = tuple(
        Field(
            field,
            type_of(described),
            field in required,
            json.dumps(described["default"]) if described.get("default") is not None else "",
            described.get("description", ""),
        )
        for field, described in named.get("properties", {}).items()
    )
    own = map(_text, named.get("examples", ())[:1])
    return Body(name, fields, "\n\n".join(dict.fromkeys([*own, *examples])))


def _text(example: Any) -> str:
    return example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)


def type_of(schema: Mapping[str, Any]) -> str:
    """A schema's type in words: `integer, 1 to 64`, `list of Vote`, `string or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_REF)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(type_of, options)))
    if "const" in schema or "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = f", {low:g} to {high:g}" if low is not None and high is not None else ""
    return str(schema.get("type", "any")) + bounds


def _nested(schemas: Mapping[str, Any], names: list[str]) -> list[str]:
    """The names of the schemas that others refer to, at any depth, in the order of their first mention."""
    reached: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        new = [name for name in _references(schemas[waiting.pop(0)]) if name not in reached]
        reached |= dict.fromkeys(new)
        waiting += new
    return [*(["ErrorBody"] if "ErrorBody" in schemas else []), *(name for name in reached if name not in names)]


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(_REF)
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("serve", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    return environment.get_template("docs.html")
