"""Money that may be spent: what is decided, without any database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi import quota
from amux_asgi.errors import GatewayError, InvalidRequestError, QuotaError, StorageUnavailableError
from amux_asgi.quota import (
    DEAREST,
    LARGEST,
    REMEMBERED,
    Ledger,
    Line,
    MemoryLedger,
    Opening,
    Order,
    Settlement,
    State,
    Verb,
    Wallet,
    account_wallet,
    budget_wallet,
    budgeted,
    credited,
    opened,
    topped_up,
    wallets_of,
)

AMOUNTS = st.integers(0, DEAREST) | st.integers(0, 100)
CREDITS = st.none() | st.integers(0, LARGEST) | st.just(0)


@st.composite
def wallets(draw: st.DrawFn) -> Wallet:
    """Make any wallet that may exist."""
    credit = draw(CREDITS)
    held = draw(st.integers(0, LARGEST) | st.integers(0, 100))
    captured = draw(st.integers(0, LARGEST - held) | st.just(0))
    available = draw(st.integers(-(LARGEST if credit is None else credit), LARGEST - held - captured))
    return Wallet(id="account:a", available=available, held=held, captured=captured, credit=credit)


def assert_fits(wallet: Wallet) -> None:
    """Hold a wallet against what the columns can keep and their checks let through."""
    assert all(-LARGEST <= number <= LARGEST for number in (wallet.available, wallet.granted))
    assert 0 <= wallet.held <= LARGEST
    assert 0 <= wallet.captured <= LARGEST
    assert wallet.held + wallet.captured <= LARGEST
    assert wallet.credit is None or wallet.available >= -wallet.credit


def order(amount: int = 10, *, id: str = "gen_1", budget: str | None = None) -> Order:  # noqa: A002, a row's id
    return Order(id=id, account="a", key="k", amount=amount, begun=1, budget=budget)


@given(wallets(), AMOUNTS, st.sampled_from(Verb), st.data())
def test_nothing_that_a_reservation_lives_through_changes_the_sum(
    wallet: Wallet, amount: int, verb: Verb, data: st.DataObject
) -> None:
    """What was put in is what is there, set aside and taken: to the nano-dollar, up to the largest number."""
    try:
        (held,) = quota.hold([wallet], amount)
    except QuotaError:
        return
    assert_fits(held)
    charge, earned = data.draw(st.integers(0, amount)), data.draw(st.integers(0, amount) | st.just(0))
    line = quota.earn(Line(State.HELD, amount), earned, 1)

    ended = quota.end(line, verb, charge, [held])

    assert ended is not None
    ending, (after,) = ended
    assert_fits(after)
    assert after.granted == held.granted == wallet.granted
    assert after.held == wallet.held
    assert ending.charged == (charge if verb in (Verb.CAPTURE, Verb.RELEASE) else earned)
    assert after.captured == wallet.captured + ending.charged
    assert ending.state is State.CAPTURED or not ending.charged


DOINGS = st.one_of(
    st.tuples(st.just("earn"), st.integers(-1, 12)), st.tuples(st.sampled_from(Verb), st.integers(-1, 12))
)


@given(st.integers(0, 10), st.sampled_from((0, 5, None)), st.lists(DOINGS, max_size=8))
def test_whatever_happens_in_whatever_order_a_wallet_tells_of_its_reservation(
    amount: int, credit: int | None, doings: list[tuple[Verb | str, int]]
) -> None:
    """Nothing comes or goes, nothing is below its floor, and what is taken is the charge of what is captured."""
    (wallet,) = quota.hold([Wallet(id="account:a", available=10, credit=credit)], amount)
    line = Line(State.HELD, amount)
    for verb, number in doings:
        before = line
        try:
            if not isinstance(verb, Verb):
                line = quota.earn(line, number, 1)
            elif ended := quota.end(line, verb, number, [wallet]):
                line, (wallet,) = ended
        except StorageUnavailableError:
            assert before.state is State.SWEPT or (verb == "earn" and before.state is not State.HELD)
        assert_fits(wallet)
        assert wallet.granted == 10
        assert wallet.held == (amount if line.state is State.HELD else 0)
        assert wallet.captured == line.charged
        assert line.state is State.CAPTURED or not line.charged
        assert before.state is State.HELD or line.earned == before.earned
        assert not (before.state is State.HELD and line.state is State.SWEPT and line.earned)


@given(wallets(), AMOUNTS)
def test_a_capture_after_a_sweep_and_its_taking_back_leave_no_trace(wallet: Wallet, charge: int) -> None:
    """Charged afresh and refunded is as it was; if it cannot be paid it is said, and nothing changes."""
    try:
        charged = quota.end(Line(State.SWEPT, charge), Verb.CAPTURE, charge, [wallet])
    except StorageUnavailableError as error:
        assert error.retry is False
        assert not wallet.affords(charge)
        return
    assert charged is not None
    line, (after,) = charged
    assert_fits(after)

    refunded = quota.end(line, Verb.REVOKE, 0, [after])

    assert refunded == (Line(State.RELEASED, charge), (wallet,))


@pytest.mark.parametrize("verb", list(Verb))
@pytest.mark.parametrize("state", list(State))
def test_a_reservation_has_one_end(state: State, verb: Verb) -> None:
    """L22: whatever comes after the first end changes nothing, save that a capture may be taken back."""
    before = Wallet(id="account:a", available=90, held=10, captured=10)

    ended = quota.end(Line(state, 10, 10), verb, 10, [before])

    assert (ended is None) == ((state, verb) not in quota.TRANSITIONS)
    if state in (State.CAPTURED, State.RELEASED) and verb is not Verb.REVOKE:
        assert ended is None


@pytest.mark.parametrize(("charge", "taken"), [(-1, 0), (11, 10)])
def test_nobody_is_charged_more_than_was_set_aside_or_less_than_nothing(charge: int, taken: int) -> None:
    """A price that went wrong is no gift and no robbery."""
    wallet = Wallet(id="account:a", available=0, held=10)

    ended = quota.end(Line(State.HELD, 10), Verb.CAPTURE, charge, [wallet])

    assert ended == (
        Line(State.CAPTURED, 10, taken),
        (Wallet(id="account:a", available=10 - taken, captured=taken),),
    )
    assert quota.earn(Line(State.HELD, 10), charge, 1).earned == taken


@pytest.mark.parametrize(
    ("charge", "left"),
    [(10, 4), (5, 4), (4, 4), (3, 3), (0, 0)],
)
def test_a_capture_that_is_taken_back_leaves_what_was_delivered_before(charge: int, left: int) -> None:
    """Of what was taken nothing is added to: whoever captures less than was earned knows why."""
    line = quota.earn(Line(State.HELD, 10), 4, 2)
    captured = quota.end(line, Verb.CAPTURE, charge, [Wallet(id="account:a", available=90, held=10)])
    assert captured is not None
    after, wallets = captured

    revoked = quota.end(after, Verb.REVOKE, 0, wallets)

    expected = Line(State.CAPTURED if left else State.RELEASED, 10, left, 4, 2)
    after, wallets = revoked or captured
    assert after == expected
    assert wallets == (Wallet(id="account:a", available=100 - left, captured=left),)
    assert (revoked is None) == (charge == left > 0)


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (Verb.CAPTURE, Line(State.CAPTURED, 10, 6, 4, 2)),
        (Verb.RELEASE, Line(State.CAPTURED, 10, 6, 4, 2)),
        (Verb.SWEEP, Line(State.CAPTURED, 10, 4, 4, 2)),
        (Verb.REVOKE, Line(State.CAPTURED, 10, 4, 4, 2)),
    ],
)
def test_who_knows_what_a_stream_did_cost_tells_and_otherwise_what_it_earned_counts(verb: Verb, expected: Line) -> None:
    """However it ends, no picture that was delivered is a gift."""
    line = quota.earn(quota.earn(Line(State.HELD, 10), 9, 1), 4, 2)

    ended = quota.end(line, verb, 6, [])

    assert ended == (expected, ())


@pytest.mark.parametrize("state", [State.CAPTURED, State.RELEASED, State.SWEPT])
def test_nothing_is_earned_of_what_is_no_longer_held(state: State) -> None:
    """The gateway was away for too long: its next picture is not delivered, and nobody is told to ask again."""
    with pytest.raises(StorageUnavailableError) as caught:
        quota.earn(Line(state, 10), 4, 1)

    assert caught.value.retry is False


@pytest.mark.parametrize("amount", [-1, DEAREST + 1])
def test_what_nothing_can_cost_is_not_held(amount: int) -> None:
    """A negative amount would be a top-up."""
    wallet = Wallet(id="account:a", credit=None)

    with pytest.raises(InvalidRequestError):
        quota.hold([wallet], amount)


def test_all_wallets_pay_or_none() -> None:
    """L08: a key's budget and the account's money are set aside together."""
    account, budget = Wallet(id="account:a", available=100, credit=0), Wallet(id="budget:b", available=9, credit=0)

    with pytest.raises(QuotaError, match="this API key's budget"):
        quota.hold([account, budget], 10)
    with pytest.raises(QuotaError, match="the account's balance"):
        quota.hold([account], 101)

    assert [wallet.held for wallet in quota.hold([account, budget], 9)] == [9, 9]


@given(wallets(), st.integers(-2 * LARGEST, 2 * LARGEST))
def test_a_top_up_is_exact_or_refused(wallet: Wallet, amount: int) -> None:
    """Neither too much for a column, nor less than is spent already."""
    try:
        after = topped_up(wallet, amount)
    except InvalidRequestError as error:
        assert error.param == "amount"
        return

    assert_fits(after)
    assert after.granted == wallet.granted + amount


@pytest.mark.parametrize("amount", [LARGEST, -5])
def test_a_top_up_has_bounds(amount: int) -> None:
    """A sum that no column holds is refused, and a correction below what is left."""
    wallet = Wallet(id="account:a", available=4, captured=1, credit=0)

    with pytest.raises(InvalidRequestError):
        topped_up(wallet, amount)


@given(wallets(), st.integers(-5, 2 * LARGEST), CREDITS | st.integers(-5, 2 * LARGEST))
def test_an_opened_account_has_what_it_was_opened_with(wallet: Wallet, amount: int, credit: int | None) -> None:
    """What was only metered is forgiven; what is set aside is set aside of the new money, so that none is made."""
    try:
        after = opened(wallet, amount, credit)
    except InvalidRequestError as error:
        assert error.param in ("amount", "credit")
        return

    assert_fits(after)
    assert (after.held, after.captured, after.credit) == (wallet.held, wallet.captured, credit)
    assert after.available + after.held == amount or after.available == -(LARGEST if credit is None else credit or 0)


@given(wallets(), st.integers(-5, 2 * LARGEST))
def test_a_budget_is_never_less_than_was_spent(wallet: Wallet, total: int) -> None:
    """Lowering it below that leaves nothing to spend."""
    try:
        after = budgeted(wallet, total)
    except InvalidRequestError:
        assert total > LARGEST
        return

    assert_fits(after)
    assert after.granted == max(total, after.held + after.captured)


@given(wallets(), CREDITS | st.integers(-5, 2 * LARGEST))
def test_a_credit_line_covers_what_is_owed(wallet: Wallet, credit: int | None) -> None:
    """It cannot be shortened below the debt."""
    try:
        after = credited(wallet, credit)
    except InvalidRequestError as error:
        assert error.param == "credit"
        return

    assert_fits(after)


@pytest.mark.parametrize(("amount", "credit"), [(-1, 0), (1, -1), (1, LARGEST + 1), (LARGEST + 1, 0)])
def test_an_account_is_not_opened_with_nonsense(amount: int, credit: int) -> None:
    """Below zero, with a negative line, or with more than a column holds."""
    with pytest.raises(InvalidRequestError):
        opened(quota.unheard("account:a"), amount, credit)


def test_a_credit_line_is_not_shortened_below_the_debt() -> None:
    """Who owes five needs a line of five."""
    wallet = Wallet(id="account:a", available=-5, captured=5, credit=9)

    with pytest.raises(InvalidRequestError, match="owes more"):
        credited(wallet, 4)

    assert credited(wallet, 5).credit == 5


def test_wallets_have_names_that_cannot_be_mistaken() -> None:
    """An account and a budget of one name are two."""
    assert wallets_of("a", None) == ("account:a",)
    assert wallets_of("a", "a") == (account_wallet("a"), budget_wallet("a"))
    assert quota.unheard("account:a").credit is None
    assert quota.unheard("budget:a").credit == 0


@pytest.mark.anyio
async def test_memory_remembers_the_first_end_only() -> None:
    """L22 and L10: cheaper than the hold gives the rest back; a second end tells the first."""
    ledger = MemoryLedger([Wallet(id="account:a", available=100, credit=0)])
    await ledger.hold(order(10))

    first = await ledger.capture(order(10), Settlement(ended=2, charged=6))
    second = await ledger.capture(order(10), Settlement(ended=3, charged=9))
    ledger.release(order(10), Settlement(ended=4))

    assert isinstance(ledger, Ledger)
    assert (first, second) == (6, 6)
    assert await ledger.get("account:a") == Wallet(id="account:a", available=94, captured=6, credit=0)
    assert await ledger.get("account:b") is None


@pytest.mark.anyio
async def test_memory_gives_back_what_was_released() -> None:
    """And refuses what is not there."""
    ledger = MemoryLedger([Wallet(id="account:a", available=10, credit=0)])
    await ledger.hold(order(10))
    with pytest.raises(QuotaError):
        await ledger.hold(order(1, id="gen_2"))

    ledger.release(order(10), Settlement(ended=2))
    late = await ledger.capture(order(10), Settlement(ended=2, charged=5))

    assert late == 0
    assert await ledger.get("account:a") == Wallet(id="account:a", available=10, credit=0)


@pytest.mark.anyio
async def test_memory_charges_a_stream_for_what_was_delivered() -> None:
    """A release gives back everything but that; what it did cost, if a capture tells; what ended earns no more."""
    ledger = MemoryLedger([Wallet(id="account:a", available=100, credit=0)])
    for name in ("gen_1", "gen_2", "gen_3"):
        await ledger.hold(order(10, id=name))
        await ledger.earn(order(10, id=name), 4, 1)

    ledger.release(order(10, id="gen_1"), Settlement(ended=2, charged=4))
    charged = await ledger.capture(order(10, id="gen_2"), Settlement(ended=2, charged=7))
    ledger.release(order(10, id="gen_3"), Settlement(ended=2))

    for name in ("gen_1", "gen_2", "gen_3", "gen_unheard"):
        with pytest.raises(StorageUnavailableError):
            await ledger.earn(order(10, id=name), 5, 2)
    assert charged == 7
    assert await ledger.get("account:a") == Wallet(id="account:a", available=89, captured=11, credit=0)


@pytest.mark.anyio
async def test_memory_is_bounded() -> None:
    """What ended long ago is forgotten, and ending it again does nothing."""
    ledger = MemoryLedger()
    for i in range(REMEMBERED + 2):
        await ledger.hold(order(1, id=f"gen_{i}"))
        await ledger.capture(order(1, id=f"gen_{i}"), Settlement(ended=1, charged=1))

    again = await ledger.capture(order(1, id="gen_0"), Settlement(ended=1, charged=1))

    wallet = await ledger.get("account:a")
    assert again == 0
    assert wallet is not None
    assert (wallet.available, wallet.held, wallet.captured) == (-REMEMBERED - 2, 0, REMEMBERED + 2)


def test_a_refusal_is_fit_for_a_client() -> None:
    """It names neither figures nor wallets."""
    error: GatewayError = quota.refusal("account:secret-name")

    assert error.status == 429
    assert "secret-name" not in error.message


def test_an_account_that_is_limited_already_keeps_its_money() -> None:
    """A balance in the configuration opens what was only metered, and nothing else."""
    opening = Opening(wallet="account:a", amount=5)
    limited = Wallet(id="account:a", available=-40, captured=41, credit=50)

    assert opening.change(limited) == limited
    assert opening.change(Wallet(id="account:a", available=-1, captured=1)).available == 5
