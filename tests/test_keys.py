"""Who an API key stands for."""

from datetime import UTC, datetime

import pytest

from amux_asgi.errors import AuthenticationError
from amux_asgi.keys import FixedKey, FixedKeys, Principal, digest_of

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
