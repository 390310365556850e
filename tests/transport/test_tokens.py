"""Access tokens are got once, kept, renewed before they end, and cost nobody anything when they cannot be had."""

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from amux_asgi.adapters._base import TokenFlow
from amux_asgi.adapters._service_account import exchange
from amux_asgi.errors import End, InvalidRequestError, UpstreamAuthError
from amux_asgi.transport.asgi import AsgiTransport
from amux_asgi.transport.base import Transport
from amux_asgi.transport.httpx import open_httpx2
from amux_asgi.transport.rs256 import sign
from amux_asgi.transport.tokens import Tokens
from tests.vendors.token_desk import TokenDesk, account, pem_of, rsa_key

pytestmark = pytest.mark.anyio

NOW = 1_790_000_000  # Unix time in seconds


class Bench:
    """A desk, and the tokens of one account, at a time that the test tells."""

    def __init__(self, *, seconds: float = 3600) -> None:
        self.time = 1000.0
        self.desk = TokenDesk(seconds=seconds, now=lambda: NOW + self.time)
        self.tokens = Tokens(clock=lambda: self.time, now=lambda: int((NOW + self.time) * 1000))
        self.transport: Transport = AsgiTransport(self.desk)
        self.begin = begin_of(account(self.desk.uri))

    async def get(self, timeout: float = 30) -> str:
        return await self.tokens.get(self.begin, self.transport, timeout=timeout)

    async def fault(self, timeout: float = 30) -> UpstreamAuthError:
        with pytest.raises(UpstreamAuthError) as caught:
            await self.get(timeout)
        return caught.value


def begin_of(credential: str) -> Callable[[int], TokenFlow]:
    found = exchange(credential)
    assert found is not None
    return partial(found, sign)


async def test_a_token_is_got_once_and_kept_until_five_minutes_before_its_end() -> None:
    """One exchange an hour, however many pictures."""
    bench = Bench()

    first = [await bench.get() for _ in range(3)]
    bench.time += 3299
    still = await bench.get()
    bench.time += 2
    then = await bench.get()

    assert {*first, still} == {bench.desk.given[0]}
    assert then == bench.desk.given[1]
    assert bench.desk.asks == 2


async def test_many_who_ask_at_once_share_one_exchange() -> None:
    """A burst at the start asks the token service once."""
    bench = Bench()
    bench.desk.gate = anyio.Event()
    got: list[str] = []

    async def ask() -> None:
        got.append(await bench.get())

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        bench.desk.gate.set()

    assert got == [bench.desk.given[0]] * 50
    assert bench.desk.asks == 1


async def test_nobody_waits_for_a_new_token_while_the_old_one_is_good() -> None:
    """Only the one who fetches it waits; the others are served with the old one."""
    bench = Bench()
    old = await bench.get()
    bench.time += 3400
    bench.desk.gate = anyio.Event()
    got: list[str] = []

    async def ask() -> None:
        got.append(await bench.get())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        await ask()
        bench.desk.gate.set()

    assert got == [old, bench.desk.given[1]]


async def test_an_outage_of_the_token_service_is_not_noticed_while_the_old_token_is_good() -> None:
    """The old one serves on; a new one is tried for every ten seconds."""
    bench = Bench()
    old = await bench.get()
    bench.time += 3400
    bench.desk.says = [(503, {}), (503, {})]

    seen = [await bench.get(), await bench.get()]
    asked = bench.desk.asks
    bench.time += 11
    seen.append(await bench.get())
    bench.time += 11
    new = await bench.get()

    assert seen == [old] * 3
    assert asked == 2
    assert new == bench.desk.given[1]


async def test_an_old_token_is_never_shown_at_its_end() -> None:
    """Half a minute before its end it serves no more."""
    bench = Bench()
    await bench.get()
    bench.time += 3571
    bench.desk.says = [(503, {})]

    error = await bench.fault()

    assert error.end is End.NEVER_SENT


async def test_a_token_of_a_short_life_is_used_for_half_of_it() -> None:
    """Not fetched anew for every picture."""
    bench = Bench(seconds=60)

    got = [await bench.get()]
    bench.time += 29
    got.append(await bench.get())
    bench.time += 2
    got.append(await bench.get())

    assert got == [bench.desk.given[0]] * 2 + [bench.desk.given[1]]


@pytest.mark.parametrize(
    ("status", "body", "end", "code"),
    [
        (400, {"error": "invalid_grant", "error_description": "the key of a@b.example"}, End.REFUSED, "invalid_grant"),
        (401, {"error": {"message": "A Sentence"}}, End.REFUSED, None),
        (403, "no", End.REFUSED, None),
        (404, {}, End.NEVER_SENT, None),
        (500, {"error": "internal_failure"}, End.NEVER_SENT, None),
        (302, {}, End.NEVER_SENT, None),
        (200, {}, End.NEVER_SENT, None),
        (200, {"id_token": "x"}, End.NEVER_SENT, None),
        (200, {"access_token": ""}, End.NEVER_SENT, None),
        (200, {"access_token": "two words"}, End.NEVER_SENT, None),
        (200, {"access_token": "a\r\nb: c", "expires_in": 3600}, End.NEVER_SENT, None),
        (200, {"access_token": "x", "expires_in": 0}, End.NEVER_SENT, None),
        (200, {"access_token": "x", "expires_in": "soon"}, End.NEVER_SENT, None),
        (200, ["x"], End.NEVER_SENT, None),
    ],
)
async def test_without_a_token_nothing_was_paid(status: int, body: Any, end: End, code: str | None) -> None:
    """502 `upstream_auth_failed`, after which another credential or channel may serve; nothing secret in it."""
    bench = Bench()
    bench.desk.says = [(status, body)]

    error = await bench.fault()

    assert (error.status, error.code, error.end, error.upstream_code) == (502, "upstream_auth_failed", end, code)
    assert error.retry is (end is End.NEVER_SENT)
    assert "example" not in error.message


async def test_who_waits_for_an_exchange_that_fails_fails_with_it() -> None:
    """A hundred requests do not try a dead service one after the other."""
    bench = Bench()
    bench.desk.gate = anyio.Event()
    bench.desk.says = [(503, {})]
    faults: list[UpstreamAuthError] = []

    async def ask() -> None:
        faults.append(await bench.fault())

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        bench.desk.gate.set()

    assert len({id(fault) for fault in faults}) == 5
    assert bench.desk.asks == 1
    assert await bench.get() == bench.desk.given[0]


async def test_a_service_that_cannot_be_reached_is_told_as_such() -> None:
    """No connection, so nothing was sent."""
    bench = Bench()
    bench.begin = begin_of(account("https://127.0.0.1:1/token"))
    async with open_httpx2() as bench.transport:
        error = await bench.fault()

    assert (error.code, error.end) == ("upstream_auth_failed", End.NEVER_SENT)


async def test_a_service_that_does_not_answer_is_not_waited_for_beyond_the_attempt() -> None:
    """The attempt's own time is kept, and the next one tries again."""
    bench = Bench()
    bench.desk.gate = anyio.Event()

    error = await bench.fault(timeout=0.01)
    bench.desk.gate.set()
    after = await bench.get()

    assert (error.code, error.end) == ("upstream_auth_failed", End.NEVER_SENT)
    assert after == bench.desk.given[0]


async def test_a_service_that_never_answers_is_given_up() -> None:
    """However long the attempt may last."""
    bench = Bench()
    bench.desk.gate = anyio.Event()
    bench.tokens = Tokens(clock=lambda: bench.time, now=lambda: NOW * 1000, longest=0.01)

    error = await bench.fault()

    assert (error.code, error.end) == ("upstream_auth_failed", End.NEVER_SENT)


async def test_a_token_that_was_refused_is_not_shown_again() -> None:
    """A revoked token is replaced at the next attempt; a newer one stays."""
    bench = Bench()
    first = await bench.get()

    bench.tokens.forget(bench.begin, first)
    second = await bench.get()
    bench.tokens.forget(bench.begin, first)
    third = await bench.get()

    assert [first, second, third] == [*bench.desk.given, second]


async def test_a_token_refused_at_once_is_an_error_for_who_waited_for_it() -> None:
    """Somebody else found out first that it is no good."""
    bench = Bench()
    bench.desk.gate = anyio.Event()
    faults: list[UpstreamAuthError] = []

    async def ask() -> None:
        bench.tokens.forget(bench.begin, await bench.get())

    async def wait() -> None:
        faults.append(await bench.fault())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        bench.desk.gate.set()

    assert [fault.end for fault in faults] == [End.NEVER_SENT]


async def test_a_token_is_not_told_again() -> None:
    """An upstream may say what it was shown; a refusal of the request says nothing against the token."""
    bench = Bench()

    with pytest.raises(InvalidRequestError) as caught:
        async with bench.tokens.shown(bench.begin, bench.transport, timeout=30) as token:
            raise InvalidRequestError(f"{token} may not do this")

    assert caught.value.message == "[hidden] may not do this"
    assert await bench.get() == bench.desk.given[0]


async def test_each_account_has_its_own_token() -> None:
    """Two credentials of one channel are two."""
    bench = Bench()
    first = await bench.get()
    bench.begin = begin_of(account(bench.desk.uri))

    assert await bench.get() != first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "authorized_user"}, "'type'"),
        ({"token_uri": "http://tokens.example/token"}, "https"),
        ({"token_uri": "https://user@tokens.example/token"}, "https"),
        ({"private_key": 7}, "private_key"),
        ({"client_email": None}, "client_email"),
    ],
)
def test_what_is_no_service_account_is_refused_without_showing_it(changes: dict[str, Any], words: str) -> None:
    """The operator is told what is wrong, and no key stands in the message."""
    with pytest.raises(ValueError, match=words) as caught:
        exchange(account("https://tokens.example/token", **changes))

    assert "PRIVATE" not in str(caught.value)


def test_broken_json_is_no_service_account() -> None:
    """A file that was cut."""
    with pytest.raises(ValueError, match="not the JSON of a service account"):
        exchange('{"type": "service_acc')


@pytest.mark.parametrize("credential", ["ya29.token", "AIzaKey", ""])
def test_other_credentials_are_shown_as_they_are(credential: str) -> None:
    """An access token or an API key needs no exchange."""
    assert exchange(credential) is None


@pytest.mark.parametrize("pem", ["", "key", "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"])
def test_a_broken_private_key_is_refused_without_showing_it(pem: str) -> None:
    """In our own words."""
    with pytest.raises(ValueError, match="no RSA key") as caught:
        sign(pem, "", {})

    assert caught.value.__cause__ is None


async def test_a_key_that_is_not_the_accounts_is_refused_by_the_service() -> None:
    """As after its removal in the console."""
    bench = Bench()
    other = begin_of(account(bench.desk.uri, private_key_id="", private_key=pem_of(rsa_key("other"))))
    bench.begin = other

    error = await bench.fault()

    assert (error.end, error.upstream_code) == (End.REFUSED, "invalid_grant")
