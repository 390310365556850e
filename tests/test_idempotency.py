"""The same request sent twice is recognised, and nobody else's is taken for it."""

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.errors import (
    ContentPolicyError,
    End,
    GatewayError,
    IdempotencyMismatchError,
    InvalidRequestError,
    QuotaError,
    RateLimitError,
    StorageUnavailableError,
    UpstreamError,
    UpstreamTimeoutError,
)
from amux_asgi.idempotency import (
    DAY,
    NEVER,
    URL_LIFE,
    Answers,
    Ask,
    Claim,
    Facts,
    Found,
    Kind,
    MemoryAnswers,
    Turn,
    asked,
    decide,
    facts_of,
    fingerprint_of,
    is_terminal,
    keyed,
    life_of,
    unkeyed,
)
from amux_asgi.keys import Principal
from amux_asgi.quota import Answer
from amux_asgi.schema import Image, ImagesResponse

ALICE = Principal(account="alice", key="laptop")
PATH = "/v1/images/generations"
BODY = b'{"prompt": "a lantern"}'
CLAIM = Claim("name", "fingerprint")
LATE = float("inf")


def ask(
    *headers: tuple[bytes, bytes], principal: Principal = ALICE, path: str = PATH, body: bytes = BODY
) -> Ask | None:
    return asked(principal, path, body, headers)


@pytest.mark.parametrize("value", [b"k", b" ", b"~" * 255, b"7f3a-order 12/a"])
def test_a_key_is_any_printable_text(value: bytes) -> None:
    """UUIDs, order numbers, whatever a client likes."""
    found = ask((b"idempotency-key", value), (b"accept", b"*/*"))

    assert found == Ask(Claim(keyed(ALICE, value.decode()), fingerprint_of(PATH, BODY)), Kind.KEYED)


@pytest.mark.parametrize(
    "values",
    [[b""], [b"~" * 256], [b"a\nb"], [b"a\r\nx: y"], [b"a\n"], [b"a\0"], ["ä".encode()], [b"\x7f"], [b"a", b"a"]],
)
def test_a_key_that_is_none_is_refused(values: Sequence[bytes]) -> None:
    """Line breaks would forge headers, and of two keys nobody knows which counts."""
    with pytest.raises(InvalidRequestError) as caught:
        ask(*((b"idempotency-key", value) for value in values))

    assert (caught.value.status, caught.value.param) == (400, "Idempotency-Key")


@pytest.mark.parametrize(
    ("value", "kind"), [(b"0", Kind.FIRST), (b"00", Kind.FIRST), (b"1", Kind.RETRY), (b"2", Kind.RETRY)]
)
def test_a_stock_sdk_says_whether_it_asks_again(value: bytes, kind: Kind) -> None:
    """It sends no key, but how often it tried before."""
    found = ask((b"x-stainless-retry-count", value))

    assert found is not None
    assert found.kind is kind


def test_a_key_counts_more_than_a_count() -> None:
    """An SDK that was told to send a key retries with the same key."""
    found = ask((b"x-stainless-retry-count", b"1"), (b"idempotency-key", b"k"))

    assert found is not None
    assert found.kind is Kind.KEYED


@pytest.mark.parametrize("values", [[], [b""], [b"-1"], [b"one"], [b"1.0"], [b"1" * 4], [b"1", b"1"], [b"\xd9\xa1"]])
def test_what_is_no_sdk_has_no_twin(values: Sequence[bytes]) -> None:
    """Without a key or a count that makes sense, each request is one by itself."""
    found = ask(*((b"x-stainless-retry-count", value) for value in values))

    assert found is None


def test_nobody_meets_another_ones_claim() -> None:
    """Account, key, kind, and text lead to different names, also where one begins as another ends."""
    accounts = [Principal(account=account, key=key) for account, key in product(["a", "ab", "1:a", "\ud800"], repeat=2)]

    names = [
        name(principal, text) for principal in accounts for name in (keyed, unkeyed) for text in ("c", "bc", "1:a")
    ]

    assert len(set(names)) == len(names)


@given(st.text(), st.binary(), st.text(), st.binary())
def test_a_fingerprint_is_of_path_and_body(path: str, body: bytes, other_path: str, other_body: bytes) -> None:
    """Two requests look alike only if they are."""
    alike = fingerprint_of(path, body) == fingerprint_of(other_path, other_body)

    assert alike == ((path, body) == (other_path, other_body))


@pytest.mark.parametrize(
    ("found", "turn"),
    [
        (None, Turn.MINE),
        (Found("fingerprint", finished=False, expires=NEVER), Turn.THEIRS),
        (Found("fingerprint", finished=True, expires=11), Turn.OVER),
        (Found("fingerprint", finished=True, expires=10), Turn.MINE),
        (Found("another", finished=True, expires=10), Turn.MINE),
    ],
)
def test_whose_turn_it_is(found: Found | None, turn: Turn) -> None:
    """The first's, then nobody's until there is an answer, which is everybody's until it expires."""
    assert decide(found, "fingerprint", now=10) is turn


@pytest.mark.parametrize("finished", [True, False])
def test_a_key_stands_for_one_request(*, finished: bool) -> None:
    """Another body under the same key is a client's mistake."""
    with pytest.raises(IdempotencyMismatchError) as caught:
        decide(Found("another", finished=finished, expires=NEVER), "fingerprint", now=10)

    assert (caught.value.status, caught.value.retry) == (422, False)


@pytest.mark.parametrize(
    ("error", "terminal"),
    [
        (ContentPolicyError("no"), True),
        (InvalidRequestError("no"), True),
        (UpstreamError("no", end=End.FINAL), True),
        (UpstreamError("no"), False),
        (UpstreamTimeoutError("no"), False),
        (RateLimitError("no"), False),
        (QuotaError("no"), False),
        (StorageUnavailableError("no"), False),
    ],
)
def test_only_what_would_end_the_same_way_is_said_again(error: GatewayError, *, terminal: bool) -> None:
    """A refused picture stays refused; an empty account can be filled, and an upstream recovers."""
    assert is_terminal(error) == terminal


@pytest.mark.parametrize(
    ("images", "life"),
    [
        ([Image(b64_json=Raw(b'"aGk="'))], DAY),
        ([Image(url="https://pictures.example/1.png")], URL_LIFE),
        ([Image(b64_json=Raw(b'"aGk="')), Image(url="https://pictures.example/1.png")], URL_LIFE),
    ],
)
def test_an_answer_lives_no_longer_than_its_pictures(images: list[Image], life: int) -> None:
    """A day, but an address that leads nowhere is no answer."""
    assert life_of(ImagesResponse(data=tuple(images))) == life


def test_facts_are_read_as_they_were_written() -> None:
    """Status and headers of a reply survive."""
    facts = Facts(status=400, headers=(("x-amux-adapted", "style: dropped"),))
    answer = Answer(
        claim="name", body=b"", expires=1, facts=b'{"status":400,"headers":[["x-amux-adapted","style: dropped"]]}'
    )

    assert facts_of(answer) == facts


pytest_async = pytest.mark.anyio


def answer(body: bytes, *, name: str = "name", expires: int = 100) -> Answer:
    return Answer(claim=name, body=body, expires=expires)


@pytest_async
async def test_memory_keeps_an_answer_until_it_expires() -> None:
    """Then the request is a new one."""
    clock = [0]
    answers = MemoryAnswers(now=lambda: clock[0])
    assert isinstance(answers, Answers)

    assert await answers.take(CLAIM, deadline=LATE) is None
    answers.kept(CLAIM, answer(b"picture"))
    kept = await answers.take(CLAIM, deadline=LATE)
    clock[0] = 100
    expired = await answers.take(CLAIM, deadline=LATE)

    assert kept == answer(b"picture")
    assert expired is None


@pytest_async
async def test_memory_knows_the_request_of_a_key() -> None:
    """While it is worked on, and after."""
    answers = MemoryAnswers(now=lambda: 0)
    await answers.take(CLAIM, deadline=LATE)

    for _ in range(2):
        with pytest.raises(IdempotencyMismatchError):
            await answers.take(Claim("name", "another"), deadline=LATE)
        answers.kept(CLAIM, answer(b"picture"))


@pytest_async
async def test_memory_forgets_the_oldest_answers_first_and_never_a_claim() -> None:
    """Neither many answers nor large ones fill it, and what is worked on stays known."""
    answers = MemoryAnswers(now=lambda: 0, entries=3, size=10)
    await answers.take(CLAIM, deadline=LATE)

    for number, size in enumerate([1, 1, 1, 1, 9, 11, 10, 0, 0]):
        answers.keep(Claim(str(number), "f"), answer(b"x" * size, name=str(number)))
        answers.reserve(Claim(str(number), "f"))
    known = [name for name in "012345678" if await answers.find(Claim(name, "f"), deadline=LATE)]

    assert known == ["6", "7", "8"]
    with pytest.raises(IdempotencyMismatchError):
        await answers.find(Claim("name", "another"), deadline=LATE)


@pytest_async
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), max_size=30))
async def test_memory_is_bounded(kept: list[tuple[str, int]]) -> None:
    """Whatever is kept, also again under the same name, it fits; the newest that fits by itself is there."""
    answers = MemoryAnswers(now=lambda: 0, entries=2, size=5)

    for name, size in kept:
        answers.keep(Claim(name, "f"), answer(b"x" * size, name=name))
        held = {other: found for other in "abcd" if (found := await answers.find(Claim(other, "f"), deadline=LATE))}
        assert len(held) <= 2
        assert sum(len(found.body) for found in held.values()) <= 5
        assert (name in held) == (size <= 5)
