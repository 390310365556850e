"""What a reservation lives through: what is decided, without any database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.errors import InvalidRequestError, QuotaError, StorageUnavailableError
from amux_asgi.reservation import DEAREST, TRANSITIONS, Line, State, Verb, earn, end, hold
from amux_asgi.wallets import Wallet
from tests.any_wallet import assert_fits, wallets

AMOUNTS = st.integers(0, DEAREST) | st.integers(0, 100)


@given(wallets(), AMOUNTS, st.sampled_from(Verb), st.data())
def test_nothing_that_a_reservation_lives_through_changes_the_sum(
    wallet: Wallet, amount: int, verb: Verb, data: st.DataObject
) -> None:
    """What was put in is what is there, set aside and taken: to the nano-dollar, up to the largest number."""
    try:
        (held,) = hold([wallet], amount)
    except QuotaError:
        return
    assert_fits(held)
    charge, earned = data.draw(st.integers(0, amount)), data.draw(st.integers(0, amount) | st.just(0))
    line = earn(Line(State.HELD, amount), earned, 1)

    ended = end(line, verb, charge, [held])

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
    (wallet,) = hold([Wallet(id="account:a", available=10, credit=credit)], amount)
    line = Line(State.HELD, amount)
    for verb, number in doings:
        before = line
        try:
            if not isinstance(verb, Verb):
                line = earn(line, number, 1)
            elif ended := end(line, verb, number, [wallet]):
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
        charged = end(Line(State.SWEPT, charge), Verb.CAPTURE, charge, [wallet])
    except StorageUnavailableError as error:
        assert error.retry is False
        assert not wallet.affords(charge)
        return
    assert charged is not None
    line, (after,) = charged
    assert_fits(after)

    refunded = end(line, Verb.REVOKE, 0, [after])

    assert refunded == (Line(State.RELEASED, charge), (wallet,))


@pytest.mark.parametrize("verb", list(Verb))
@pytest.mark.parametrize("state", list(State))
def test_a_reservation_has_one_end(state: State, verb: Verb) -> None:
    """L22: whatever comes after the first end changes nothing, save that a capture may be taken back."""
    before = Wallet(id="account:a", available=90, held=10, captured=10)

    ended = end(Line(state, 10, 10), verb, 10, [before])

    assert (ended is None) == ((state, verb) not in TRANSITIONS)
    if state in (State.CAPTURED, State.RELEASED) and verb is not Verb.REVOKE:
        assert ended is None


@pytest.mark.parametrize(("charge", "taken"), [(-1, 0), (11, 10)])
def test_nobody_is_charged_more_than_was_set_aside_or_less_than_nothing(charge: int, taken: int) -> None:
    """A price that went wrong is no gift and no robbery."""
    wallet = Wallet(id="account:a", available=0, held=10)

    ended = end(Line(State.HELD, 10), Verb.CAPTURE, charge, [wallet])

    assert ended == (
        Line(State.CAPTURED, 10, taken),
        (Wallet(id="account:a", available=10 - taken, captured=taken),),
    )
    assert earn(Line(State.HELD, 10), charge, 1).earned == taken


@pytest.mark.parametrize(
    ("charge", "left"),
    [(10, 4), (5, 4), (4, 4), (3, 3), (0, 0)],
)
def test_a_capture_that_is_taken_back_leaves_what_was_delivered_before(charge: int, left: int) -> None:
    """Of what was taken nothing is added to: whoever captures less than was earned knows why."""
    line = earn(Line(State.HELD, 10), 4, 2)
    captured = end(line, Verb.CAPTURE, charge, [Wallet(id="account:a", available=90, held=10)])
    assert captured is not None
    after, wallets = captured

    revoked = end(after, Verb.REVOKE, 0, wallets)

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
    line = earn(earn(Line(State.HELD, 10), 9, 1), 4, 2)

    ended = end(line, verb, 6, [])

    assert ended == (expected, ())


@pytest.mark.parametrize("state", [State.CAPTURED, State.RELEASED, State.SWEPT])
def test_nothing_is_earned_of_what_is_no_longer_held(state: State) -> None:
    """The gateway was away for too long: its next picture is not delivered, and nobody is told to ask again."""
    with pytest.raises(StorageUnavailableError) as caught:
        earn(Line(state, 10), 4, 1)

    assert caught.value.retry is False


@pytest.mark.parametrize("amount", [-1, DEAREST + 1])
def test_what_nothing_can_cost_is_not_held(amount: int) -> None:
    """A negative amount would be a top-up."""
    wallet = Wallet(id="account:a", credit=None)

    with pytest.raises(InvalidRequestError):
        hold([wallet], amount)


def test_all_wallets_pay_or_none() -> None:
    """L08: a key's budget and the account's money are set aside together."""
    account, budget = Wallet(id="account:a", available=100, credit=0), Wallet(id="budget:b", available=9, credit=0)

    with pytest.raises(QuotaError, match="this API key's budget"):
        hold([account, budget], 10)
    with pytest.raises(QuotaError, match="the account's balance"):
        hold([account], 101)

    assert [wallet.held for wallet in hold([account, budget], 9)] == [9, 9]
