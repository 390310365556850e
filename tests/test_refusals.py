"""Clients are told how their limits stand, in the words of the IETF's draft, and nothing of others."""

import pytest

from amux_asgi import rules
from amux_asgi.admission import SECOND, Hit, Standing
from amux_asgi.errors import RateLimitError
from amux_asgi.refusals import check_weights, headers_of, verdict
from amux_asgi.respond import headers_of as lines_of

MINUTE, HOUR, PIXELS, PLACES = rules("60 requests/minute", "20 images/hour", "40 megapixels/minute", "4 concurrent")


def standing(hit: Hit, wait: int = 0, left: int = 5, reset: int = SECOND) -> Standing:
    return Standing(hit=hit, wait=wait, left=left, reset=reset)


def refused(*standings: Standing) -> RateLimitError:
    with pytest.raises(RateLimitError) as caught:
        verdict(standings, None)
    return caught.value


def test_the_headers_are_lists_of_strings_with_parameters() -> None:
    """Policy and state, unit for unit; megapixels are whole ones, a window's rest is rounded up."""
    lines = dict(
        headers_of(
            [
                standing(Hit(rule=MINUTE, scope="key:a/b"), left=59, reset=60 * SECOND),
                standing(Hit(rule=HOUR, scope="account:b"), left=0, reset=1),
                standing(Hit(rule=PIXELS, scope="address:::1"), left=38_999_999, reset=1_500_000),
                standing(Hit(rule=PLACES, scope="whatever"), left=3, reset=0),
            ]
        )
    )

    assert lines["ratelimit-policy"] == (
        '"key-requests-minute";q=60;qu="requests";w=60, '
        '"account-images-hour";q=20;qu="images";w=3600, '
        '"address-megapixels-minute";q=40;qu="megapixels";w=60, '
        '"call-concurrent";q=4;qu="concurrent-requests"'
    )
    assert lines["ratelimit"] == (
        '"key-requests-minute";r=59;t=60, "account-images-hour";r=0;t=1, '
        '"address-megapixels-minute";r=38;t=2, "call-concurrent";r=3'
    )


def test_what_all_share_is_not_shown() -> None:
    """How much others do is nobody's business; nor is what was counted further out shown twice."""
    standings = [
        standing(Hit(rule=MINUTE, scope="gateway:")),
        standing(Hit(rule=HOUR, scope="model:m")),
        standing(Hit(rule=MINUTE, scope="key:a", weight=0)),
    ]

    assert headers_of(standings) == ()


def test_the_longest_wait_is_told() -> None:
    """The answer names the rule that refuses longest; only rules that refuse stand in `RateLimit`."""
    error = refused(
        standing(Hit(rule=MINUTE, scope="key:a"), wait=2 * SECOND, left=0, reset=2 * SECOND),
        standing(Hit(rule=PIXELS, scope="key:a"), wait=30_500_000, left=0, reset=SECOND),
        standing(Hit(rule=HOUR, scope="key:a"), reset=3000 * SECOND),
    )

    lines = {name.decode(): value.decode() for name, value in lines_of(error)}
    assert (error.status, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert error.message == "this API key's limit of 40 megapixels/minute is reached"
    assert lines["retry-after"] == "31"
    assert "x-should-retry" not in lines
    assert lines["ratelimit-policy"].count(";q=") == 3
    assert lines["ratelimit"] == '"key-requests-minute";r=0;t=2, "key-megapixels-minute";r=0;t=1'


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ("gateway:", "a limit of the whole gateway is reached"),
        ("model:m", "a limit of the whole model is reached"),
        ("account:a", "the account's limit of 4 concurrent requests is reached"),
        ("address:a", "your address's limit of 4 concurrent requests is reached"),
        ("mine", "the limit of 4 concurrent requests is reached"),
    ],
)
def test_whose_limit_it_is_is_said(scope: str, message: str) -> None:
    """A client can tell its own limits from those of all."""
    error = refused(standing(Hit(rule=PLACES, scope=scope), wait=SECOND, left=0, reset=0))

    assert error.message == message
    assert len(error.headers) == (0 if scope in ("gateway:", "model:m") else 2)


def test_a_long_wait_stops_the_sdks() -> None:
    """They would come back after a minute at most, in vain."""
    error = refused(standing(Hit(rule=HOUR, scope="key:a"), wait=61 * SECOND, left=0))

    lines = dict(lines_of(error))
    assert (lines[b"retry-after"], lines[b"x-should-retry"]) == (b"61", b"false")


def test_what_no_wait_can_help_is_refused_for_good() -> None:
    """A request that is heavier than the whole limit is never admitted, and its client is told not to try."""
    hit = Hit(rule=HOUR, scope="key:a", weight=10)
    check_weights([hit], nodes=2)

    with pytest.raises(RateLimitError, match=r"more than this API key's limit of 20 images/hour allows") as caught:
        check_weights([hit], nodes=3)

    lines = dict(lines_of(caught.value))
    assert lines[b"x-should-retry"] == b"false"
    assert b"retry-after" not in lines
