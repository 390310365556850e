"""A model's card says what can be asked of it, in the same words for every vendor."""

from typing import Any

import msgspec
import pytest

from amux_asgi.adapt import adapt
from amux_asgi.adapters import ADAPTERS
from amux_asgi.capabilities import capabilities
from amux_asgi.catalogue._base import CENT, ImagePrices
from amux_asgi.document import body_of
from amux_asgi.explain import parse
from amux_asgi.models import CATALOGUE
from amux_asgi.pricing import Prices
from amux_asgi.schema import GenerationRequest
from tests.readme_table import UNKNOWN, candidate_of, models_of


def card(model: str, *, adapter: str = "openai", prices: Prices | None = None) -> dict[str, Any]:
    told = capabilities(model, candidate_of(ADAPTERS[adapter], model), prices or Prices())
    return msgspec.json.decode(msgspec.json.encode(told))


def test_a_model_with_listed_sizes_lists_them() -> None:
    """Everything that dall-e-3 takes, and what a picture costs."""
    assert card("dall-e-3") == {
        "parameters": ["model", "n", "prompt", "quality", "response_format", "size", "stream", "style", "user"],
        "response_formats": ["url", "b64_json"],
        "n": {"max": 1, "native": 1},
        "prompt_max": 4000,
        "sizes": ["1024x1024", "1792x1024", "1024x1792"],
        "qualities": ["standard", "hd"],
        "price": {"least": "0.04", "most": "0.12"},
    }


def test_a_model_of_any_size_says_its_rule() -> None:
    """Pixels between two bounds, in steps."""
    told = card("gpt-image-2")

    assert told["pixels"] == {"step": 16, "longest": 3840, "ratio": 3, "fewest": 655360, "most": 8294400}
    assert "sizes" not in told
    assert told["output_formats"] == ["png", "jpeg", "webp"]
    assert float(told["price"]["least"]) < float(told["price"]["most"])


def test_a_card_says_what_the_channel_takes_not_what_the_vendor_does() -> None:
    """By way of Azure dall-e-3 makes ten, one at a time, and is not told who is behind the request."""
    told = card("dall-e-3", adapter="azure")

    assert told["n"] == {"max": 10, "native": 1}
    assert set(told["qualities"]) > {"standard", "hd", "high"}
    assert told["price"] == {"least": "0.04", "most": "0.12"}
    assert "safety_identifier" not in card("gpt-image-2", adapter="azure")["parameters"]


def test_a_vendors_own_fields_are_named() -> None:
    """What can be said beside OpenAI's fields."""
    told = card("some-model", adapter="recraft")

    assert {"negative_prompt", "style_id", "quality"} <= set(told["parameters"])
    assert "stream" in told["parameters"]  # which is ours to make
    assert "partial_images" not in told["parameters"]
    assert "partial_images" in card("gpt-image-2")["parameters"]


def test_an_unknown_model_says_what_is_sure() -> None:
    """Nobody knows its sizes, and its price only if the operator told it."""
    assert card("some-model").keys() == {"parameters", "response_formats", "n"}
    assert card("some-model")["n"] == {"max": 10}
    prices = Prices({"some-model": ImagePrices(flat=3 * CENT)})
    assert card("some-model", prices=prices)["price"] == {"least": "0.03", "most": "0.03"}


def test_a_price_that_is_not_known_for_all_has_no_upper_end() -> None:
    """What `max` quality costs by tokens nobody says."""
    assert card("gpt-image-2.5-flare")["price"].keys() == {"least"}
    assert "price" not in card("gpt-image-2.6-flare")


@pytest.mark.parametrize(
    ("adapter", "model"),
    [(name, model) for name, adapter in ADAPTERS.items() for model in models_of(adapter) if model != UNKNOWN],
)
def test_what_a_card_lists_can_be_asked(adapter: str, model: str) -> None:
    """Sizes, qualities, formats, backgrounds and numbers: each is valid for the model there, a size as it is."""
    candidate = candidate_of(ADAPTERS[adapter], model)
    told = card(model, adapter=adapter)
    lists: dict[str, Any] = {
        "size": told.get("sizes", []),
        "quality": told.get("qualities", []),
        "output_format": told.get("output_formats", []),
        "background": told.get("backgrounds", []),
        "n": [1, told["n"]["max"]],
    }

    for name, values in lists.items():
        for value in values:
            request = GenerationRequest(prompt="a cat", **{name: value})
            assert parse(body_of(request), candidate.spec) == request
            changes = adapt(request, candidate).changes
            assert not any(change.startswith(("size:", "n:")) for change in changes)


@pytest.mark.parametrize("model", CATALOGUE)
def test_a_card_tells_shapes_and_tiers_as_the_catalogue_does(model: str) -> None:
    """Where a size is made of a shape and a tier, both are named."""
    told, spec = card(model), CATALOGUE[model].spec

    assert (told.get("tiers", []), told.get("aspect_ratios", [])) == (list(spec.tiers), list(spec.ratios))
    assert told.get("sizes_snap", False) == spec.snaps
    assert 1 <= told["n"]["native"] <= told["n"]["max"]
