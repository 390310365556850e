"""The OpenAPI document of the admin app, made of its verbs."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec
from msgspec import Struct

from amux_asgi.admin_verbs import VERBS, Verb, paths
from amux_asgi.manage import NewKey

REFERENCE: Final = "#/components/schemas/{name}"


class ErrorBody(Struct, frozen=True):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Struct, frozen=True):
    """Every error."""

    error: ErrorBody


def document(root: str) -> dict[str, Any]:
    """Write the document for an app that answers below `root`."""
    types = [kind for verb in VERBS for kind in (verb.answer, verb.body, verb.query) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, ErrorAnswer], ref_template=REFERENCE)
    schema_of = dict(zip([*types, ErrorAnswer], schemas, strict=True))
    queries = {verb.query for verb in VERBS}
    names = {kind: _name(schema_of[kind]) for kind in queries if kind is not None}
    return {
        "openapi": "3.1.0",
        "info": {"title": "amux-asgi admin", "version": version("amux-asgi")},
        "servers": [{"url": root or "/"}],
        "security": [{"secret": []}],
        "paths": {
            path: {
                method.lower(): _operation(verb, schema_of, components[names[verb.query]] if verb.query else {})
                for method, verb in methods.items()
            }
            for path, methods in paths().items()
        },
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in names.values()},
            "securitySchemes": {"secret": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(verb: Verb, schema_of: Mapping[Any, Any], query: Mapping[str, Any]) -> dict[str, Any]:
    failed = {"description": "Not done", "content": _json(schema_of[ErrorAnswer])}
    operation: dict[str, Any] = {
        "operationId": verb.id,
        "summary": verb.summary,
        "responses": {
            str(verb.status): {"description": "Done", "content": _json(schema_of[verb.answer]), **_links(verb)},
            "4XX": failed,
            "5XX": failed,
        },
    }
    parameters = [
        {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": schema}
        for name, schema in query.get("properties", {}).items()
    ]
    if "{name}" in verb.path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string"}})
    if parameters:
        operation["parameters"] = parameters
    if verb.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(schema_of[verb.body])}
    return operation


def _links(verb: Verb) -> dict[str, Any]:
    """Say what can be done with a new key."""
    if verb.answer is not NewKey:
        return {}
    parameters = {"name": "$response.body#/info/id"}
    of_one = [found.id for found in VERBS if found.path.startswith("/keys/{name}")]
    return {"links": {name: {"operationId": name, "parameters": parameters} for name in of_one}}


def _json(schema: Any) -> dict[str, Any]:  # noqa: ANN401, a JSON schema
    return {"application/json": {"schema": schema}}


def _name(schema: Mapping[str, str]) -> str:
    return schema["$ref"].rpartition("/")[2]
