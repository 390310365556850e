"""What travels on the ASGI scope, put and got with its type."""

import re
from collections.abc import Callable
from random import getrandbits  # which lets no other thread in between, and is seeded anew after a fork
from typing import Any, Final

from msgspec import Struct
from starlette.types import Scope

from amux_asgi.admission import Admission
from amux_asgi.errors import AuthenticationError
from amux_asgi.keys import Principal
from amux_asgi.quota import Order, Settlement

PRINCIPAL: Final = "amux.principal"
RESERVATION: Final = "amux.reservation"
ADMISSION: Final = "amux.admission"
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


class Reservation(Struct, kw_only=True):
    """What an app further out holds for this call. Inner apps hold nothing themselves; they say what it did cost.

    `fixed` tells that the price is `order.amount`, whatever they say. `settlement` is what they said last. `hand_over`
    gives the money back at once, and leaves it to the inner app to hold and to charge.
    """

    order: Order
    fixed: bool
    hand_over: Callable[[], None]
    settlement: Settlement | None = None
    open: bool = True  # until the answer begins

    def report(self, settlement: Settlement) -> None:
        """Say what the call did cost, in nano-dollars, and the facts of its usage row; `ended` is filled in later.

        Raises:
            RuntimeError: the answer has begun, so that it is settled already.
        """
        if not self.open:
            raise RuntimeError("say what a call did cost before its answer begins; then it is settled")
        self.settlement = settlement


def reservation_of(scope: Scope) -> Reservation | None:
    """Give what an outer app holds for this call; `None` if nobody does."""
    reservation = scope.get(RESERVATION)
    return reservation if isinstance(reservation, Reservation) else None


def with_reservation(scope: Scope, reservation: Reservation) -> Scope:
    """Give the scope for inner apps."""
    return {**scope, RESERVATION: reservation}


def admission_of(scope: Scope) -> Admission | None:
    """Give what an outer app has admitted this call by; `None` if nobody has."""
    admission = scope.get(ADMISSION)
    return admission if isinstance(admission, Admission) else None


def with_admission(scope: Scope, admission: Admission) -> Scope:
    """Give the scope for inner apps."""
    return {**scope, ADMISSION: admission}


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
    return f"req_{getrandbits(128):032x}"


def facts_of(scope: Scope) -> dict[str, Any]:
    """Give the facts of a request that stand in `scope["state"]["amux"]`, for the host's access log."""
    if _OWN_FACTS not in scope:
        # Also on the scope itself, so that a state which requests share cannot mix up their facts.
        scope[_OWN_FACTS] = scope.setdefault("state", {})[FACTS] = {}
    facts: dict[str, Any] = scope[_OWN_FACTS]
    return facts


def peer_of(scope: Scope) -> str | None:
    """Give the client's address as the server saw it; what the request says of itself does not count."""
    client = scope.get("client")
    return str(client[0]) if client else None


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    """Give every value of one header, its name in lower case."""
    return [value for given, value in scope.get("headers", ()) if given == name]
