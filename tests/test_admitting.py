"""A request falls under the rules of its key, its account, its model and the gateway, and weighs what it asks for."""

from collections import Counter

import pytest

from amux_asgi import GenerationRequest, Principal, rules
from amux_asgi.admission import Demand, Unit
from amux_asgi.admitting import USUAL, Asked, Rulebook, demand_of

BOOK = Rulebook(
    gateway=rules("600 requests/minute"),
    account=rules("9 concurrent"),
    key=rules("60 requests/minute", "20 images/hour"),
    models={"m": rules("40 megapixels/minute")},
)


def counters(principal: Principal, model: str) -> dict[str, int]:
    hits = BOOK.hits(principal, model, Demand(images=2, pixels=5_000_000))
    assert set(Counter(hit.counter for hit in hits).values()) == {1}
    return {hit.counter: hit.weight for hit in hits}


def test_all_rules_of_a_request_are_found() -> None:
    """Each with what the request weighs by it."""
    assert counters(Principal(account="acme", key="web"), "m") == {
        "key:acme/web:requests:60": 1,
        "key:acme/web:images:3600": 2,
        "account:acme:concurrent:0": 1,
        "model:m:megapixels:60": 5_000_000,
        "gateway::requests:60": 1,
    }


@pytest.mark.parametrize(("limits", "own"), [((), []), (rules("1 images/day"), ["key:acme/web:images:86400"])])
def test_a_keys_own_rules_stand_in_the_place_of_the_usual_ones(limits: tuple[object, ...], own: list[str]) -> None:
    """None at all are its own too; another model's rules are another model's."""
    found = counters(Principal(account="acme", key="web", limits=limits), "other")  # pyright: ignore[reportArgumentType]

    assert list(found) == [*own, "account:acme:concurrent:0", "gateway::requests:60"]


@pytest.mark.parametrize(
    ("upstream", "size", "n", "pixels"),
    [
        ("gpt-image-2", "1024x1536", 3, 3 * 1024 * 1536),
        ("gpt-image-2", None, None, 8_294_400),
        ("gpt-image-2", "auto", 2, 2 * 8_294_400),
        ("gpt-image-1", "auto", 1, 1024 * 1536),
        ("dall-e-3", None, 1, 1024 * 1024),
        ("unheard-of", "640x480", 1, 640 * 480),
        ("unheard-of", "2K", 1, 2048 * 2048),
        ("unheard-of", "huge", 1, USUAL),
        ("unheard-of", None, 4, 4 * USUAL),
    ],
)
def test_what_a_request_asks_for(upstream: str, size: str | None, n: int | None, pixels: int) -> None:
    """To the pixel; what the model chooses is the largest that it can make."""
    request = GenerationRequest(prompt="a", size=size, n=n)

    assert demand_of(request, upstream) == Demand(images=n or 1, pixels=pixels)
    asked = Asked(request, upstream)
    assert [asked.weight(unit) for unit in Unit] == [1, n or 1, pixels, 1]
