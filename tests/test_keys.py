"""Who an API key stands for."""

import random
import string
from datetime import UTC, datetime
from typing import Any

import pytest

from amux_asgi import ConfigError, KeyConfig, fixed_keys
from amux_asgi.errors import AuthenticationError, StorageUnavailableError
from amux_asgi.keys import FixedKey, FixedKeys, KeysInTurn, KeyStore, Principal, digest_of, key_id_of, make_key

TEAM = Principal(account="team", key="team-a", models=("gpt-image-*",), passthrough=("speech",))
SOON = datetime(2027, 1, 1, tzinfo=UTC)


def fixed(now: datetime = datetime(2026, 11, 24, tzinfo=UTC)) -> FixedKeys:
    other = FixedKey(digest=digest_of("k" * 20), principal=Principal(account="o", key="o"))
    return FixedKeys(
        [FixedKey(digest=digest_of("team-a-secret-key-123"), principal=TEAM, expires=SOON), other], now=lambda: now
    )


@pytest.mark.anyio
async def test_a_known_key_gives_its_principal() -> None:
    """Whoever shows the key is the team."""
    assert await fixed().authenticate("team-a-secret-key-123") is TEAM


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["", "team-a-secret-key-124", "Team-a-secret-key-123", "é" * 20, "\udcff"])
async def test_an_unknown_key_is_refused(key: str) -> None:
    """One letter off is nobody."""
    with pytest.raises(AuthenticationError) as caught:
        await fixed().authenticate(key)

    assert caught.value.code == "invalid_api_key"


@pytest.mark.anyio
async def test_an_expired_key_says_so() -> None:
    """From the very moment on, the key has expired."""
    with pytest.raises(AuthenticationError) as caught:
        await fixed(SOON).authenticate("team-a-secret-key-123")

    assert caught.value.code == "api_key_expired"


def test_globs_say_which_models_and_passthroughs_are_allowed() -> None:
    """Globs are matched with their case; no globs means every model, and no passthrough."""
    free = Principal(account="a", key="k")

    assert (TEAM.may_use("gpt-image-2"), TEAM.may_use("GPT-image-2"), TEAM.may_use("dall-e-3")) == (True, False, False)
    assert (free.may_use("dall-e-3"), free.may_pass("speech"), TEAM.may_pass("speech")) == (True, False, True)


class Empty:
    """A store of keys that knows nobody, or cannot tell; it writes down whom it was asked about."""

    def __init__(self, *, away: bool = False) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.away = away

    async def authenticate(self, key: str, peer: str | None = None) -> Principal:
        self.asked.append((key, peer))
        if self.away:
            raise StorageUnavailableError("away")
        raise AuthenticationError("who is this?")


@pytest.mark.anyio
async def test_of_several_stores_the_first_that_knows_a_key_decides() -> None:
    """Another is asked, with the client's address, only about keys that those before do not know."""
    other = Empty()
    both: KeyStore = KeysInTurn(other, fixed(), Empty(away=True))

    principal = await both.authenticate("team-a-secret-key-123", "192.0.2.7")

    assert principal is TEAM
    assert other.asked == [("team-a-secret-key-123", "192.0.2.7")]


@pytest.mark.anyio
async def test_a_store_that_refuses_a_key_it_knows_has_the_last_word() -> None:
    """An expired key of the configuration is not looked for elsewhere."""
    other = Empty()

    with pytest.raises(AuthenticationError) as caught:
        await KeysInTurn(fixed(SOON), other).authenticate("team-a-secret-key-123")

    assert (caught.value.code, other.asked) == ("api_key_expired", [])


@pytest.mark.anyio
async def test_a_key_that_no_store_knows_is_refused() -> None:
    """It is said as the last one said it; a store that cannot tell is no refusal."""
    with pytest.raises(AuthenticationError) as caught:
        await KeysInTurn(fixed(), Empty()).authenticate("nobody")
    with pytest.raises(StorageUnavailableError):
        await KeysInTurn(fixed(), Empty(away=True)).authenticate("nobody")
    with pytest.raises(AuthenticationError):
        await KeysInTurn().authenticate("nobody")

    assert str(caught.value) == "who is this?"


def test_a_key_begins_with_its_id() -> None:
    """It is read from the key alone."""
    key = make_key()

    assert key_id_of(key) == key[4:12]


def test_a_slip_of_the_pen_is_no_key() -> None:
    """Any one character off, two neighbours exchanged, or a piece missing or too much."""
    key = make_key()
    slips = [f"{key[:i]}{other}{key[i + 1 :]}" for i in range(len(key)) for other in "aZ0_é\n" if other != key[i]]
    swaps = [f"{key[:i]}{key[i + 1]}{key[i]}{key[i + 2 :]}" for i in range(len(key) - 1) if key[i] != key[i + 1]]
    rest = ["", key[:-1], f"{key}0", f"{key}\n", f" {key}", key.upper(), key.replace("amx", "sk"), "amx_" * 13]

    assert [wrong for wrong in (*slips, *swaps, *rest) if key_id_of(wrong) is not None] == []


def test_random_strings_of_the_right_form_are_no_keys() -> None:
    """The checksum lets one in thirteen thousand million through, so none of twenty thousand."""
    chance = random.Random(20261124)
    digits = string.digits + string.ascii_letters

    texts = ["".join(chance.choices(digits, k=46)) for _ in range(20_000)]

    assert not any(key_id_of(f"amx_{text[:8]}_{text[8:40]}_{text[40:]}") for text in texts)


def test_each_character_of_the_checksum_counts() -> None:
    """Whatever else stands in its place, the key is none."""
    key = make_key()
    others = [(i, other) for i in range(-6, 0) for other in string.digits + string.ascii_letters if other != key[i]]

    assert not any(key_id_of(f"{key[:i]}{other}{key[len(key) + i + 1 :]}") for i, other in others)


@pytest.mark.parametrize("told", [{"balance": "5"}, {"budget": "5"}])
def test_fixed_keys_in_code_cannot_say_what_they_may_spend(told: dict[str, Any]) -> None:
    """Only a database keeps that; it would be forgotten without a word."""
    with pytest.raises(ConfigError, match="needs a database"):
        fixed_keys([KeyConfig(name="a", key="0123456789012345678901", **told)])
