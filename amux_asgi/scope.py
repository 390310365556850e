"""What travels on the ASGI scope, put and got with its type."""

import re
import secrets
from typing import Any, Final

from starlette.types import Scope

from amux_asgi.errors import AuthenticationError
from amux_asgi.keys import Principal

PRINCIPAL: Final = "amux.principal"
FACTS: Final = "amux"  # in scope["state"]

_OWN_FACTS: Final = "amux.facts"
_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def principal_of(scope: Scope) -> Principal:
    """Give whom the request is from.

    Raises:
        AuthenticationError: nobody said.
    """
    principal = found_principal(scope)
    if principal is None:
        raise AuthenticationError("this needs an API key, and nothing in front of it asked for one")
    return principal


def found_principal(scope: Scope) -> Principal | None:
    """Give the principal that an outer app put on the scope, if it is one of ours."""
    principal = scope.get(PRINCIPAL)
    return principal if isinstance(principal, Principal) else None


def with_principal(scope: Scope, principal: Principal) -> Scope:
    """Give the scope for inner apps."""
    facts_of(scope).update(key=principal.key, account=principal.account)
    return {**scope, PRINCIPAL: principal}


def request_id_of(scope: Scope) -> str:
    """Give the request's id: the client's own if it is fit to be echoed, otherwise a fresh one; always the same."""
    facts = facts_of(scope)
    if "request_id" not in facts:
        given = header_values(scope, b"x-request-id")
        fit = len(given) == 1 and _ID.fullmatch(given[0])
        facts["request_id"] = given[0].decode() if fit else fresh_request_id()
    return str(facts["request_id"])


def fresh_request_id() -> str:
    """Make an id for a request that brought none."""
    return f"req_{secrets.token_hex(16)}"


def facts_of(scope: Scope) -> dict[str, Any]:
    """Give the facts of a request that stand in `scope["state"]["amux"]`, for the host's access log."""
    if _OWN_FACTS not in scope:
        # Also on the scope itself, so that a state which requests share cannot mix up their facts.
        scope[_OWN_FACTS] = scope.setdefault("state", {})[FACTS] = {}
    facts: dict[str, Any] = scope[_OWN_FACTS]
    return facts


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    """Give every value of one header, its name in lower case."""
    return [value for given, value in scope.get("headers", ()) if given == name]
