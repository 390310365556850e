"""Any wallet that may exist, and what its columns can keep."""

from hypothesis import strategies as st

from amux_asgi.wallets import LARGEST, Wallet

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
