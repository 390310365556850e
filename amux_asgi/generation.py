"""What came of a request, and how it is kept so that it can be said again under an idempotency key."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from amux_asgi.admission import Standing
from amux_asgi.errors import End, GatewayError
from amux_asgi.idempotency import Facts, facts_of
from amux_asgi.quota import Answer
from amux_asgi.schema import ImagesResponse, fields_of, images_response


class Generation(Struct, frozen=True, kw_only=True):
    """What came of a request: the pictures, our own id, what had to be changed, who made them and at which attempt.

    `body` is the reply as it is sent. `cost` is what was charged, in nano-dollars; `None` if nobody said what this
    model costs. `replayed` says that it is the answer to an earlier request with the same idempotency key.
    `standings` say how the limits stand that it was admitted by; a replay was admitted by none.
    """

    id: str
    images: ImagesResponse
    body: bytes
    changes: tuple[str, ...]
    channel: str
    attempts: int
    cost: int | None
    replayed: bool = False
    standings: tuple[Standing, ...] = ()


class Streamed(Struct, frozen=True, kw_only=True):
    """What came of a stream. `body` is what it said but for previews, where that is kept; `images` counts them."""

    id: str
    body: bytes
    images: int
    changes: tuple[str, ...]
    channel: str
    attempts: int
    cost: int | None
    replayed: bool = False


class _Error(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str
    retry: bool | None
    upstream_code: str | None
    channel: str | None
    attempts: int


def facts_about(made: Generation | Streamed) -> Facts:
    """Write what is kept of a generation beside its body."""
    cost = "" if made.cost is None else str(made.cost)
    told = [("id", made.id), ("channel", made.channel), ("attempts", str(made.attempts)), ("cost", cost)]
    if isinstance(made, Streamed):
        told.append(("images", str(made.images)))
    return Facts(headers=(*told, *(("change", change) for change in made.changes)))


def error_kept(error: GatewayError) -> tuple[bytes, Facts]:
    """Write what is kept of an error that is the answer for good."""
    told = _Error(
        error.message,
        error.type,
        error.param,
        error.code,
        error.retry,
        error.upstream_code,
        error.channel,
        error.attempts,
    )
    return msgspec.json.encode(told), Facts(status=error.status)


def said_again(answer: Answer) -> Generation:
    """Read what was kept.

    Raises:
        GatewayError: an error was.
    """
    facts, told = _kept(answer)
    return Generation(
        id=told["id"],
        images=images_response(fields_of(answer.body)),
        body=answer.body,
        changes=_all(facts.headers, "change"),
        channel=told["channel"],
        attempts=int(told["attempts"]),
        cost=int(told["cost"]) if told["cost"] else None,
        replayed=True,
    )


def streamed_again(answer: Answer) -> Streamed:
    """Read what was kept of a stream.

    Raises:
        GatewayError: an error was.
    """
    facts, told = _kept(answer)
    return Streamed(
        id=told["id"],
        body=answer.body,
        images=int(told["images"]),
        changes=_all(facts.headers, "change"),
        channel=told["channel"],
        attempts=int(told["attempts"]),
        cost=int(told["cost"]) if told["cost"] else None,
        replayed=True,
    )


def _kept(answer: Answer) -> tuple[Facts, dict[str, str]]:
    facts = facts_of(answer)
    if facts.status != _OK:
        raise _error(answer.body, facts.status)
    return facts, dict(facts.headers)


def _error(body: bytes, status: int) -> GatewayError:
    told = msgspec.json.decode(body, type=_Error)
    error = GatewayError(
        told.message,
        param=told.param,
        code=told.code,
        type=told.type,
        end=End.FINAL,
        retry=told.retry,
        upstream_code=told.upstream_code,
    )
    error.status = status
    error.channel = told.channel
    error.attempts = told.attempts
    error.headers = (REPLAYED,)
    return error


def _all(pairs: Sequence[tuple[str, str]], name: str) -> tuple[str, ...]:
    return tuple(value for found, value in pairs if found == name)


_OK: Final = 200
REPLAYED: Final = ("idempotent-replayed", "true")
