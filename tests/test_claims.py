"""Of all twins one works, and the others get its answer."""

from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.claims import Bell, Claims, Work
from amux_asgi.errors import (
    GatewayError,
    IdempotencyConflictError,
    IdempotencyMismatchError,
    StorageUnavailableError,
)
from amux_asgi.idempotency import DAY, PICK_UP, Claim, Facts, MemoryAnswers, facts_of
from amux_asgi.quota import Answer
from tests.claimants import ALICE, BOB, LATE, answer_of, keyed, opened, replay, stock, work

pytestmark = pytest.mark.anyio
PICTURE = b'{"data":[{"b64_json":"aGk="}]}'
TWINS = 50


async def test_of_many_twins_one_works_and_all_get_its_bytes(store: str) -> None:
    """Fifty parallel requests with one key are one generation."""
    works: list[Work] = []
    bodies: list[bytes] = []

    async def ask_for_it(claims: Claims, begun: anyio.Event) -> None:
        found = await claims.begin(keyed(), deadline=LATE)
        if isinstance(found, Work):
            works.append(found)
            begun.set()
        else:
            bodies.append(found.body)

    async with opened(store) as claims, anyio.create_task_group() as twins:
        begun = anyio.Event()
        for _ in range(TWINS):
            twins.start_soon(ask_for_it, claims, begun)
        await begun.wait()
        works[0].keep(answer_of(works[0], PICTURE))

    assert len(works) == 1
    assert bodies == [PICTURE] * (TWINS - 1)


async def test_another_request_under_the_same_key_is_refused(store: str) -> None:
    """While the first is worked on, and after."""
    async with opened(store) as claims:
        first = await work(claims, keyed())

        with pytest.raises(IdempotencyMismatchError):
            await claims.begin(keyed(body=b"[]"), deadline=LATE)
        first.keep(answer_of(first, PICTURE))
        with pytest.raises(IdempotencyMismatchError):
            await claims.begin(keyed(body=b"[]"), deadline=LATE)


async def test_two_tenants_do_not_meet(store: str) -> None:
    """The same key and the same request are two generations, and nobody gets another one's picture."""
    async with opened(store) as claims:
        alices, bobs = await work(claims, keyed(principal=ALICE)), await work(claims, keyed(principal=BOB))
        alices.keep(answer_of(alices, b"of alice"))
        bobs.keep(answer_of(bobs, b"of bob"))

        replayed = [(await replay(claims, keyed(principal=principal))).body for principal in (ALICE, BOB)]

    assert replayed == [b"of alice", b"of bob"]


async def test_when_the_work_fails_one_twin_takes_over(store: str) -> None:
    """The others go on waiting, until one succeeds."""
    events: list[str | bytes] = []

    async def ask_for_it(claims: Claims) -> None:
        found = await claims.begin(keyed(), deadline=LATE)
        if isinstance(found, Answer):
            events.append(found.body)
            return
        events.append("begins")
        await anyio.lowlevel.checkpoint()
        if events.count("begins") == 3:
            found.keep(answer_of(found, PICTURE))
        found.drop()

    async with opened(store) as claims, anyio.create_task_group() as twins:
        for _ in range(10):
            twins.start_soon(ask_for_it, claims)

    assert events == ["begins"] * 3 + [PICTURE] * 7


async def test_a_refusal_is_said_again(store: str) -> None:
    """A status, a body, and headers, as they were."""
    facts = Facts(status=403, headers=(("x-should-retry", "false"),))

    async with opened(store) as claims:
        first = await work(claims, keyed())
        first.keep(first.answer(b'{"error":{}}', facts=facts, life=DAY))
        first.keep(answer_of(first, PICTURE))
        first.drop()
        answer = await replay(claims, keyed())

    assert (answer.body, facts_of(answer)) == (b'{"error":{}}', facts)


async def test_a_twin_waits_only_as_long_as_it_has_time(store: str) -> None:
    """Then it is told to ask again; who works is not disturbed."""
    async with opened(store) as claims:
        first = await work(claims, keyed())

        with pytest.raises(IdempotencyConflictError) as caught:
            await claims.begin(keyed(), deadline=0)
        first.keep(answer_of(first, PICTURE))

        assert (await replay(claims, keyed())).body == PICTURE
    assert (caught.value.status, caught.value.retry_after) == (409, 5)


async def test_a_twin_that_leaves_disturbs_nobody(store: str) -> None:
    """Neither the one that works nor the others that wait."""
    async with opened(store) as claims, anyio.create_task_group() as stays:
        first = await work(claims, keyed())
        async with anyio.create_task_group() as leaves:
            leaves.start_soon(replay, claims, keyed())
            stays.start_soon(replay, claims, keyed())
            await anyio.lowlevel.checkpoint()
            leaves.cancel_scope.cancel()

        first.keep(answer_of(first, PICTURE))


async def test_who_leaves_before_it_has_the_claim_leaves_it_free(store: str) -> None:
    """Also when the database is just writing it down."""
    async with opened(store) as claims:
        with anyio.CancelScope() as scope:
            scope.cancel()
            (await work(claims, keyed())).drop()  # memory is done before it could leave

        begun = await claims.begin(keyed(), deadline=LATE)

    assert isinstance(begun, Work)


async def test_an_expired_answer_is_none(store: str) -> None:
    """The request is a new one, and so is another request under the key."""
    clock = [0]

    async with opened(store, now=lambda: clock[0]) as claims:
        first = await work(claims, keyed())
        first.keep(answer_of(first, PICTURE, life=100))
        clock[0] = 99
        await replay(claims, keyed())
        clock[0] = 100

        again = await work(claims, keyed(body=b"[]"))

        again.keep(answer_of(again, b"another"))
        assert (await replay(claims, keyed(body=b"[]"))).body == b"another"


async def test_what_has_no_twin_is_always_worked_on(store: str) -> None:
    """Whatever is done to it, nobody hears of it."""
    async with opened(store) as claims:
        for _ in range(2):
            alone = await work(claims, None)
            answer = answer_of(alone, PICTURE)
            assert alone.with_capture(answer) is None
            alone.left()
            alone.answered()
            alone.finish(answer)
            alone.keep(answer)
            alone.drop()


async def test_two_first_requests_are_two(store: str) -> None:
    """Who asks twice for the same without a key wants two pictures, also when the first is there."""
    async with opened(store) as claims:
        first, second = await work(claims, stock(0)), await work(claims, stock(0))
        first.finish(answer_of(first, PICTURE))
        second.finish(answer_of(second, PICTURE))

        third = await claims.begin(stock(0), deadline=LATE)

    assert isinstance(third, Work)


async def test_a_retry_joins_what_is_worked_on(store: str) -> None:
    """It gets the answer that its first time missed; so does a retry of the retry that gets lost on its way."""
    bodies: list[bytes] = []

    async def come_back(claims: Claims, count: int) -> None:
        bodies.append((await replay(claims, stock(count))).body)

    async with opened(store) as claims:
        first = await work(claims, stock(0))
        async with anyio.create_task_group() as retries:
            retries.start_soon(come_back, claims, 1)
            retries.start_soon(come_back, claims, 2)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            first.finish(answer_of(first, PICTURE))
            first.drop()
        await come_back(claims, 2)

    assert bodies == [PICTURE] * 3


async def test_a_retry_prefers_what_nobody_waits_for(store: str) -> None:
    """Of three alike, it gets the one whose client has gone."""
    async with opened(store) as claims:
        begun = [await work(claims, stock(0)) for _ in range(3)]
        begun[1].left()

        async with anyio.create_task_group() as retries:
            retries.start_soon(_expect, claims, b"1")
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            for number, one in enumerate(begun):
                one.finish(answer_of(one, b"%d" % number))


async def _expect(claims: Claims, body: bytes) -> None:
    assert (await replay(claims, stock(1))).body == body


@pytest.mark.parametrize("early", [True, False])
async def test_who_left_finds_the_answer_when_it_comes_back(store: str, *, early: bool) -> None:
    """Gone while it was worked on or just before the answer reached it; for ten minutes."""
    clock = [0]

    async with opened(store, now=lambda: clock[0]) as claims:
        first = await work(claims, stock(0))
        if early:
            first.left()
        first.finish(answer_of(first, PICTURE))
        if not early:
            first.left()
        first.left()
        clock[0] = PICK_UP - 1
        answer = await replay(claims, stock(1))
        clock[0] = PICK_UP

        anew = await claims.begin(stock(1), deadline=LATE)

    assert answer.body == PICTURE
    assert isinstance(anew, Work)


async def test_a_retry_may_come_before_it_is_known_that_the_client_left(store: str) -> None:
    """The work has ended, but nobody has said yet that its client has the answer: it is found, also by a third time."""
    async with opened(store) as claims:
        first = await work(claims, stock(0))
        first.finish(answer_of(first, PICTURE))

        found = [await replay(claims, stock(1))]
        first.left()
        found.append(await replay(claims, stock(2)))

    assert [answer.body for answer in found] == [PICTURE, PICTURE]


async def test_who_got_its_answer_does_not_get_it_again(store: str) -> None:
    """A retry of a later request for the same is worked on."""
    async with opened(store) as claims:
        first = await work(claims, stock(0))
        first.finish(answer_of(first, PICTURE))
        first.drop()
        first.answered()

        retried = await claims.begin(stock(1), deadline=LATE)

    assert isinstance(retried, Work)


async def test_who_left_what_failed_finds_nothing(store: str) -> None:
    """There is no answer to be kept, so a retry is worked on."""
    async with opened(store) as claims:
        first = await work(claims, stock(0))
        first.drop()
        first.left()

        retried = await claims.begin(stock(1), deadline=LATE)

    assert isinstance(retried, Work)


@pytest.mark.parametrize("gone", [True, False])
async def test_a_retry_of_what_failed_is_worked_on(store: str, *, gone: bool) -> None:
    """Whether it waited for the failure or came later."""
    begun: list[Work] = []

    async def come_back(claims: Claims) -> None:
        begun.append(await work(claims, stock(1)))
        begun[-1].drop()

    async with opened(store) as claims:
        first = await work(claims, stock(0))
        if gone:
            first.left()
        async with anyio.create_task_group() as retries:
            retries.start_soon(come_back, claims)
            await anyio.lowlevel.checkpoint()
            first.drop()
            first.drop()
        first.left()
        await come_back(claims)

    assert len(begun) == 2


async def test_a_refusal_reaches_a_retry(store: str) -> None:
    """What is the answer for good is so with and without a key."""
    async with opened(store) as claims:
        first = await work(claims, stock(0))
        first.left()
        first.keep(first.answer(b"no", facts=Facts(status=403), life=DAY))
        first.finish(answer_of(first, PICTURE))

        answer = await replay(claims, stock(1))

    assert answer.body == b"no"


async def test_a_retry_waits_only_as_long_as_it_has_time() -> None:
    """What it waited for goes on."""
    async with opened("memory") as claims:
        first = await work(claims, stock(0))

        with pytest.raises(IdempotencyConflictError):
            await claims.begin(stock(1), deadline=0)
        first.finish(answer_of(first, PICTURE))

        assert (await replay(claims, stock(2))).body == PICTURE


async def test_who_comes_after_the_bell_does_not_wait() -> None:
    """Also when it rang in another thread just now."""
    bell = Bell()
    bell.ring()

    await bell.wait()


class Away(MemoryAnswers):
    """A store that cannot be asked, which shows only when the test lets it."""

    def __init__(self) -> None:
        super().__init__(now=lambda: 0)
        self.asked = 0
        self.go_on = anyio.Event()

    async def take(self, claim: Claim, *, deadline: float) -> Answer | None:
        await super().take(claim, deadline=deadline)
        self.asked += 1
        await self.go_on.wait()
        raise StorageUnavailableError("away", retry_after=5)


async def test_when_the_store_is_away_all_twins_hear_of_it_at_once() -> None:
    """Fifty do not wait for it one after the other."""
    answers = Away()
    claims = Claims(answers, clock=lambda: 0, now=lambda: 0)
    errors: list[GatewayError] = []

    async def ask_for_it() -> None:
        with pytest.raises(StorageUnavailableError) as caught:
            await claims.begin(keyed(), deadline=LATE)
        errors.append(caught.value)

    async with anyio.create_task_group() as twins:
        for _ in range(TWINS):
            twins.start_soon(ask_for_it)
        await anyio.wait_all_tasks_blocked()
        answers.go_on.set()

    assert answers.asked == 1
    assert len({id(error) for error in errors}) == TWINS
    assert {error.retry_after for error in errors} == {5}


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "finish", "keep", "drop", "again", "leave", "tick"]),
        st.integers(0, 1),
        st.integers(0, 2),
    ),
    max_size=40,
)


@given(steps)
async def test_whatever_happens_one_works_and_all_hear_the_same(script: Sequence[Step]) -> None:
    """In any order of requests, ends, cancellations and hours."""
    play = Play()

    async with anyio.create_task_group() as play.tasks:
        for step in script:
            play.do(*step)
            await settle()
            play.check()
        while play.working:
            play.do("drop", next(iter(play.working)), 0)
            await settle()
            play.check()

    assert play.waiting == 0


async def settle() -> None:
    """Let everybody go on until all wait."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


class Play:
    """Requests with two keys, of three bodies, and what must be true of them."""

    tasks: anyio.abc.TaskGroup

    def __init__(self) -> None:
        self.hour = 0
        self.claims = Claims(MemoryAnswers(now=lambda: self.hour), clock=lambda: 0, now=lambda: self.hour)
        self.working: dict[int, tuple[int, Work]] = {}
        self.finished: dict[int, tuple[int, Answer]] = {}
        self.ended: list[Work] = []
        self.scopes: list[anyio.CancelScope] = []
        self.heard: list[tuple[int, int, Work | Answer | GatewayError]] = []
        self.waiting = 0

    def do(self, what: str, key: int, body: int) -> None:
        match what:
            case "ask":
                self.tasks.start_soon(self.ask, key, body)
            case "finish" | "keep" | "drop" if key in self.working:
                self.end(what, key, body)
            case "again" if self.ended:
                for old in self.ended:
                    old.finish(old.answer(b"late", facts=Facts(), life=DAY))
                    old.drop()
            case "leave":
                for scope in self.scopes[:body]:
                    scope.cancel()
            case "tick":
                self.hour += 1
            case _:
                pass

    def end(self, what: str, key: int, life: int) -> None:
        body, one = self.working.pop(key)
        self.ended.append(one)
        if what == "drop":
            one.drop()
            return
        answer = one.answer(b"%d %d" % (key, len(self.ended)), facts=Facts(), life=life)
        (one.finish if what == "finish" else one.keep)(answer)
        self.finished[key] = (body, answer)

    async def ask(self, key: int, body: int) -> None:
        self.waiting += 1
        with anyio.CancelScope() as scope:
            self.scopes.append(scope)
            try:
                ask = keyed(str(key), body=b"%d" % body)
                self.heard.append((key, body, await self.claims.begin(ask, deadline=LATE)))
            except GatewayError as error:
                self.heard.append((key, body, error))
            finally:
                self.scopes.remove(scope)
                self.waiting -= 1

    def check(self) -> None:
        for key, body, what in self.heard:
            last, answer = self.finished.get(key, (body, None))
            valid = answer is not None and answer.expires > self.hour
            match what:
                case Work():
                    assert key not in self.working
                    assert not valid
                    self.working[key] = (body, what)
                case Answer():
                    assert (what, body) == (answer, last)
                case error:
                    assert isinstance(error, IdempotencyMismatchError)
                    assert body != (self.working[key][0] if key in self.working else last)
        self.heard.clear()
