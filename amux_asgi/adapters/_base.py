"""What an adapter is: one vendor's dialect as data plus a conversation."""

from collections.abc import Callable

from msgspec import Struct

from amux_asgi.schema import GenerationRequest
from amux_asgi.wire import Flow, HttpRequest, Target

Sign = Callable[[HttpRequest, str], tuple[tuple[str, str], ...]]
"""From an ask and a credential to the headers that prove who asks."""


def header(name: str, prefix: str = "") -> Sign:
    """Show the credential in one header."""

    def sign(_request: HttpRequest, credential: str) -> tuple[tuple[str, str], ...]:
        return ((name, prefix + credential),)

    return sign


bearer: Sign = header("authorization", "Bearer ")


class Adapter(Struct, frozen=True, kw_only=True):
    """One vendor's dialect.

    `fields` are the vendor's own fields that it understands beside OpenAI's; `ignores` are OpenAI's fields that cannot
    be said upstream and are dropped with a report. `closed` says that the vendor's server refuses fields it does not
    know.
    """

    name: str
    generate: Callable[[Target, GenerationRequest], Flow]
    sign: Sign = bearer
    base_url: str | None = None  # where the vendor has one address
    hosts: tuple[str, ...] = ()  # beside the base URL's own, where the credential may go; a suffix match
    fields: frozenset[str] = frozenset()
    ignores: frozenset[str] = frozenset()
    closed: bool = False
    needs_credential: bool = True
    max_images: int = 10  # in one ask
    forms: tuple[str, ...] = ("b64_json", "url")  # in which it can answer; a single one is never asked for
