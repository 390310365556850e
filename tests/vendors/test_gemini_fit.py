"""OpenAI's sizes and qualities are said in Gemini's ratios and tiers, and priced as such."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.adapters import gemini, google_compat
from amux_asgi.adapters._base import Fitted
from amux_asgi.adapters._gemini_fit import fit
from amux_asgi.catalogue.google import FOURTEEN, QUALITIES, ROWS, TEN, pixels
from amux_asgi.document import body_of
from amux_asgi.errors import InvalidRequestError
from amux_asgi.explain import parse
from amux_asgi.pricing import Prices
from amux_asgi.schema import NOTHING, GenerationRequest, Image, ImagesResponse, TokensDetails, Usage

FIRST = "gemini-2.5-flash-image"
PRO = "gemini-3-pro-image"
FLASH = "gemini-3.1-flash-image"
LITE = "gemini-3.1-flash-lite-image"
NEW = "gemini-nano-banana-2.1"
OTHER = "gemini-9-image"  # unknown to the catalogue
PRICES = Prices()
Cases = list[tuple[Any, ...]]


def ask(extra: dict[str, Any] | None = None, **fields: Any) -> GenerationRequest:
    told = {name: Raw(msgspec.json.encode(value)) for name, value in (extra or {}).items()}
    said: dict[str, Any] = {"prompt": "a cat", **fields}
    return GenerationRequest(**said, extra=told)


def shown(fitted: Fitted) -> tuple[str | None, dict[str, Any], tuple[str, ...]]:
    """Give the size that it is priced by, what is written beside the prompt, and the report."""
    extra = {name: msgspec.json.decode(value) for name, value in fitted.request.extra.items()}
    return fitted.request.size, extra, fitted.changes


def shape(ratio: str | None, tier: str | None) -> dict[str, str]:
    told = {"aspect_ratio": ratio, "image_size": tier}
    return {name: value for name, value in told.items() if value is not None}


@pytest.mark.parametrize(
    ("model", "size", "ratio", "tier", "change"),
    [
        (PRO, "1024x1024", "1:1", "1K", None),
        (PRO, "1536x1024", "3:2", "1K", "1264x848"),
        (PRO, "1024x1536", "2:3", "1K", "848x1264"),
        (PRO, "1792x1024", "16:9", "1K", "1376x768"),
        (PRO, "1024x1792", "9:16", "1K", "768x1376"),
        (PRO, "2048x2048", "1:1", "2K", None),
        (PRO, "4096x4096", "1:1", "4K", None),
        (PRO, "5504x3072", "16:9", "4K", None),
        (PRO, "256x256", "1:1", "1K", "1024x1024"),
        (PRO, "100x800", "9:16", "1K", "768x1376"),
        (PRO, "767x767", "1:1", "1K", "1024x1024"),
        (FLASH, "256x256", "1:1", "512", "512x512"),
        (FLASH, "512x512", "1:1", "512", None),
        (FLASH, "767x767", "1:1", "512", "512x512"),
        (FLASH, "768x768", "1:1", "1K", "1024x1024"),
        (FLASH, "1535x1535", "1:1", "1K", "1024x1024"),
        (FLASH, "1536x1536", "1:1", "2K", "2048x2048"),
        (FLASH, "3071x3071", "1:1", "2K", "2048x2048"),
        (FLASH, "3072x3072", "1:1", "4K", "4096x4096"),
        (FLASH, "336x792", "9:16", "512", "384x688"),
        (FLASH, "384x3072", "1:8", "1K", None),
        (FLASH, "999999x1", "8:1", "1K", "3072x384"),
        (NEW, "512x512", "1:1", "1K", "1024x1024"),
        (OTHER, "1792x1024", "16:9", "1K", "1376x768"),
    ],
)
def test_a_size_is_the_nearest_ratio_and_tier(model: str, size: str, ratio: str, tier: str, change: str | None) -> None:
    """I ask for pixels and get the nearest that the model makes; where they differ, I am told the exact ones."""
    changes = (f"size: {size} -> {change}",) if change else ()

    assert shown(fit(model, ask(size=size))) == (tier, shape(ratio, tier), changes)


@pytest.mark.parametrize(
    ("model", "size", "change"),
    [
        (FIRST, "1024x1024", None),
        (FIRST, "1536x1024", "1248x832"),
        (FIRST, "1792x1024", "1344x768"),
        (FIRST, "4096x4096", "1024x1024"),
        (FIRST, "256x256", "1024x1024"),
        (LITE, "1792x1024", "1376x768"),
        (LITE, "2048x2048", "1024x1024"),
    ],
)
def test_a_model_of_one_tier_is_never_told_a_tier(model: str, size: str, change: str | None) -> None:
    """The field for it would be refused."""
    fitted = fit(model, ask(size=size))

    assert fitted.request.size == "1K"
    assert "image_size" not in fitted.request.extra
    assert fitted.changes == ((f"size: {size} -> {change}",) if change else ())


WORDS: Cases = [
    (PRO, {}, ("1K", shape(None, "1K"), ())),
    (PRO, {"size": "auto"}, ("1K", shape(None, "1K"), ())),
    (FIRST, {}, ("1K", {}, ())),
    (OTHER, {}, (None, {}, ())),
    (PRO, {"size": "16:9"}, ("1K", shape("16:9", "1K"), ())),
    (PRO, {"size": "1:4"}, ("1K", shape("9:16", "1K"), ("size: 1:4 -> 9:16",))),
    (FLASH, {"size": "1:4"}, ("1K", shape("1:4", "1K"), ())),
    (PRO, {"size": "7:3"}, ("1K", shape("21:9", "1K"), ("size: 7:3 -> 21:9",))),
    (PRO, {"size": "2K"}, ("2K", shape(None, "2K"), ())),
    (PRO, {"size": "2k"}, ("2K", shape(None, "2K"), ())),
    (PRO, {"size": "512"}, ("1K", shape(None, "1K"), ("size: 512 -> 1K",))),
    (FLASH, {"size": "512"}, ("512", shape(None, "512"), ())),
    (FIRST, {"size": "2K"}, ("1K", {}, ("size: 2K -> 1K",))),
    (LITE, {"size": "4K"}, ("1K", {}, ("size: 4K -> 1K",))),
    (OTHER, {"size": "2K"}, ("2K", shape(None, "2K"), ())),
]


@pytest.mark.parametrize(("model", "fields", "expected"), WORDS)
def test_ratios_and_tiers_are_sizes_too(model: str, fields: dict[str, Any], expected: Any) -> None:
    """I may say "16:9" or "2K" as the size, and nothing at all."""
    assert shown(fit(model, ask(**fields))) == expected


@pytest.mark.parametrize(
    ("model", "fields", "extra", "expected"),
    [
        (PRO, {"size": "1024x1024"}, shape("16:9", None), ("1K", "16:9", ("size: 1024x1024 -> 1376x768",))),
        (PRO, {"size": "1024x1024"}, shape(None, "4K"), ("4K", "1:1", ("size: 1024x1024 -> 4096x4096",))),
        (PRO, {"size": "1024x1024"}, shape("1:1", "1k"), ("1K", "1:1", ())),
        (PRO, {"size": "2K"}, shape(None, "4K"), ("4K", None, ("size: 2K -> 4K",))),
        (PRO, {"size": "4K"}, shape("3:2", "4K"), ("4K", "3:2", ())),
        (PRO, {"size": "16:9"}, shape("1:1", None), ("1K", "1:1", ("size: 16:9 -> 1:1",))),
        (PRO, {"size": "16:9"}, shape(None, "2K"), ("2K", "16:9", ())),
        (PRO, {"quality": "high"}, shape("1:1", "1K"), ("1K", "1:1", ("quality: dropped",))),
        (PRO, {"quality": "high"}, shape("1:1", None), ("2K", "1:1", ())),
        (FLASH, {"quality": "low", "size": "auto"}, {}, ("512", None, ())),
        (PRO, {"quality": "low"}, {}, ("1K", None, ())),
        (PRO, {"quality": "hd"}, {}, ("2K", None, ())),
        (PRO, {"quality": "hd", "size": "1024x1024"}, {}, ("1K", "1:1", ("quality: dropped",))),
        (PRO, {"quality": "hd", "size": "16:9"}, {}, ("2K", "16:9", ())),
        (PRO, {"quality": "medium", "size": "1024x1024"}, {}, ("1K", "1:1", ())),
        (FIRST, {"quality": "high"}, {}, ("1K", None, ("quality: dropped",))),
        (LITE, {"quality": "low"}, {}, ("1K", None, ("quality: dropped",))),
        (FIRST, {"quality": "standard"}, shape(None, "1K"), ("1K", None, ())),
        (OTHER, {"quality": "superb"}, {}, (None, None, ("quality: dropped",))),
    ],
)
def test_what_is_said_in_geminis_words_wins(
    model: str, fields: dict[str, Any], extra: dict[str, Any], expected: tuple[str | None, str | None, tuple[str, ...]]
) -> None:
    """`image_size` and `aspect_ratio` come before the size, and the size before the quality; I am told what lost."""
    fitted = fit(model, ask(extra, **fields))

    size, told, changes = shown(fitted)
    assert (size, told.get("aspect_ratio"), changes) == expected
    assert told.get("image_size") == (None if model in (FIRST, LITE) else size)
    assert fitted.request.quality is None


def test_pictures_are_made_one_by_one() -> None:
    """However many I want: Gemini refuses to make several at once."""
    fitted = fit(PRO, ask(n=7))

    assert (fitted.per_ask, fitted.request.n) == (1, 7)


@pytest.mark.parametrize(
    "size", ["", "banana", "0x0", "-1x5", "1024\u00d71024", "1024x", "1x1x1", "99999999x1", "0:5", "3K", "512px"]
)
@pytest.mark.parametrize("rules", [fit, google_compat.fit])
def test_a_size_that_is_none_is_refused(size: str, rules: Any) -> None:
    """I am told that my size is wrong, before anybody is asked."""
    with pytest.raises(InvalidRequestError) as caught:
        rules(PRO, ask(size=size))

    assert (caught.value.param, caught.value.code) == ("size", "invalid_value")


UNSAYABLE: Cases = [
    (PRO, "aspect_ratio", "1:4"),
    (PRO, "aspect_ratio", "16x9"),
    (PRO, "aspect_ratio", 1.5),
    (PRO, "image_size", "512"),
    (PRO, "image_size", 1024),
    (FIRST, "image_size", "2K"),
    (NEW, "image_size", "512"),
    (FLASH, "thinking_level", "medium"),
    (NEW, "thinking_level", "low"),
    (NEW, "thinking_level", True),
    (PRO, "seed", "7"),
    (PRO, "seed", 2**31),
    (PRO, "seed", 1.5),
    (PRO, "seed", True),
    (PRO, "person_generation", 3),
    (PRO, "safety_settings", "OFF"),
    (PRO, "safety_settings", [{"category": "HARM_CATEGORY_HARASSMENT"}]),
    (PRO, "safety_settings", [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "LOUD"}]),
    (PRO, "safety_settings", [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF", "extra": 1}]),
    (PRO, "generationConfig", {"candidateCount": 4}),
    (PRO, "contents", []),
    (PRO, "tools", [{"google_search": {}}]),
]


@pytest.mark.parametrize(("model", "name", "value"), UNSAYABLE)
def test_what_the_model_cannot_be_told_is_refused(model: str, name: str, value: Any) -> None:
    """The error names the field; what would change the price in disguise is not taken either."""
    with pytest.raises(InvalidRequestError) as caught:
        fit(model, ask({name: value}))

    assert caught.value.param == name
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("model", "extra", "kept", "changes"),
    [
        (PRO, {"seed": 0}, {"seed": 0}, ()),
        (PRO, {"seed": -(2**31)}, {"seed": -(2**31)}, ()),
        (PRO, {"seed": None, "aspect_ratio": None, "image_size": None, "safety_settings": None}, {}, ()),
        (PRO, {"thinking_level": "high"}, {}, ("thinking_level: dropped",)),
        (FIRST, {"thinking_level": "high"}, {}, ("thinking_level: dropped",)),
        (FLASH, {"thinking_level": "High"}, {"thinking_level": "high"}, ()),
        (LITE, {"thinking_level": "low"}, {"thinking_level": "low"}, ()),
        (PRO, {"person_generation": "allow_adult"}, {}, ("person_generation: dropped",)),
        (PRO, {"sparkle": [1]}, {"sparkle": [1]}, ()),
        (
            PRO,
            {"safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]},
            {"safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]},
            (),
        ),
    ],
)
def test_geminis_own_fields_are_checked_and_kept(
    model: str, extra: dict[str, Any], kept: dict[str, Any], changes: tuple[str, ...]
) -> None:
    """What the model understands goes there, what it does not is reported, null is nothing."""
    _, told, reported = shown(fit(model, ask(extra)))

    assert {name: value for name, value in told.items() if name != "image_size"} == kept
    assert reported == changes


@pytest.mark.parametrize(
    ("said", "written"), [("dont_allow", "ALLOW_NONE"), ("allow_adult", "ALLOW_ADULT"), ("ALLOW_ALL", "ALLOW_ALL")]
)
def test_where_people_can_be_chosen_they_are(said: str, written: str) -> None:
    """Vertex takes `person_generation`, in Imagen's words or in Gemini's."""
    fitted = fit(PRO, ask({"person_generation": said}), people=True)

    assert shown(fitted)[1]["person_generation"] == written
    assert not fitted.changes
    with pytest.raises(InvalidRequestError):
        fit(PRO, ask({"person_generation": "everybody"}), people=True)


@pytest.mark.parametrize(
    ("model", "size", "written", "changes"),
    [
        (FIRST, None, None, ()),
        (FIRST, "auto", None, ()),
        (FIRST, "1024x1024", "1024x1024", ()),
        (FIRST, "1792x1024", "1792x1024", ("size: 1792x1024 -> 1344x768",)),
        (FIRST, "16:9", "1344x768", ()),
        (FIRST, "2K", None, ("size: 2K -> 1K",)),
        (FLASH, "2048x2048", "2048x2048", ("size: 2048x2048 -> 1024x1024",)),
    ],
)
def test_the_interface_for_openais_clients_makes_the_smallest_tier(
    model: str, size: str | None, written: str | None, changes: tuple[str, ...]
) -> None:
    """It knows no tiers: I get, and pay, the smallest, and am told so."""
    fitted = google_compat.fit(model, ask(size=size, n=3))

    assert shown(fitted) == ("1K", {} if written is None else {"size": written}, changes)
    assert fitted.per_ask == 1


@pytest.mark.parametrize(
    ("ratio", "sizes"),
    [
        ("1:1", "512x512 1024x1024 2048x2048 4096x4096"),
        ("2:3", "424x632 848x1264 1696x2528 3392x5056"),
        ("4:3", "600x448 1200x896 2400x1792 4800x3584"),
        ("4:5", "464x576 928x1152 1856x2304 3712x4608"),
        ("16:9", "688x384 1376x768 2752x1536 5504x3072"),
        ("21:9", "792x336 1584x672 3168x1344 6336x2688"),
        ("1:4", "256x1024 512x2048 1024x4096 2048x8192"),
        ("8:1", "1536x192 3072x384 6144x768 12288x1536"),
    ],
)
def test_pictures_have_the_published_pixels(ratio: str, sizes: str) -> None:
    """The table of Google's documentation."""
    assert [pixels(FLASH, ratio, tier) for tier in ("512", "1K", "2K", "4K")] == sizes.split()


@pytest.mark.parametrize(
    ("ratio", "size"),
    [("1:1", "1024x1024"), ("3:2", "1248x832"), ("3:4", "864x1184"), ("9:16", "768x1344"), ("21:9", "1536x672")],
)
def test_the_first_model_has_pixels_of_its_own(ratio: str, size: str) -> None:
    """Gemini 2.5 makes slightly other sizes than its successors."""
    assert pixels(FIRST, ratio, "1K") == size


@pytest.mark.parametrize(
    ("model", "tier", "dollars"),
    [
        (FIRST, "1K", 0.039),
        (PRO, "1K", 0.134),
        (PRO, "2K", 0.134),
        (PRO, "4K", 0.24),
        (FLASH, "512", 0.045),
        (FLASH, "1K", 0.067),
        (FLASH, "2K", 0.101),
        (FLASH, "4K", 0.151),
        (LITE, "1K", 0.0336),
        (NEW, "1K", 0.0336),
        (NEW, "4K", 0.1134),
    ],
)
def test_a_pictures_tokens_cost_its_published_price(model: str, tier: str, dollars: float) -> None:
    """Two published numbers that must be one."""
    span = PRICES.rate(model, model).estimate(fit(model, ask({"image_size": tier})).request)

    assert span is not None
    assert span.least / 10**9 == pytest.approx(dollars, abs=0.0006)


SIZES: Any = st.sampled_from([None, "auto", "1024x1024", "1792x1024", "2048x2048", "16:9", "2K", "512", "9999x9999"])


@given(st.data(), st.sampled_from(sorted(ROWS)), SIZES, st.none() | st.sampled_from(QUALITIES), st.integers(1, 10))
@settings(max_examples=300)
def test_what_it_did_cost_is_between_the_least_and_the_most(
    data: st.DataObject, model: str, size: str | None, quality: str | None, count: int
) -> None:
    """Any model, size, quality and number, any honest answer, with its thoughts and without."""
    request = fit(model, parse(body_of(ask(size=size, quality=quality, n=count)), ROWS[model].spec)).request
    made = data.draw(st.integers(1, count))
    drawn = ROWS[model].tokens[request.size or ""] * made
    words = data.draw(st.integers(0, ROWS[model].text_most * made))
    inside = data.draw(st.integers(0, 5 * made))
    usage = Usage(
        total_tokens=inside + drawn + words,
        input_tokens=inside,
        output_tokens=drawn + words,
        output_tokens_details=data.draw(st.sampled_from([msgspec.UNSET, TokensDetails(words, drawn)])),
    )
    told = Raw(msgspec.json.encode(usage)) if data.draw(st.booleans()) else NOTHING
    images = ImagesResponse(data=(Image(url="x"),) * made, usage=told)

    span, cost = (
        PRICES.rate(model, model).estimate(request),
        PRICES.rate(model, model).cost(request, images, images.tokens()),
    )

    assert span is not None
    assert cost is not None
    assert 0 < span.least <= cost <= span.most


@given(st.text(alphabet="0123456789x:Kk", max_size=12), st.sampled_from([*ROWS, OTHER]))
@settings(max_examples=300)
def test_every_size_is_made_or_refused(size: str, model: str) -> None:
    """No size breaks anything, and what is written is what the model offers."""
    spec = ROWS[model].spec if model in ROWS else None
    ratios, tiers = (spec.ratios, spec.tiers) if spec else (FOURTEEN, ("1K", "2K", "4K"))

    try:
        made, told, changes = shown(fit(model, ask(size=size)))
    except InvalidRequestError as refused:
        assert refused.param == "size"
    else:
        assert made in (*tiers, None)
        assert told.get("aspect_ratio", "1:1") in ratios
        assert told.get("image_size", "1K") in tiers
        assert all(change.startswith("size: ") for change in changes)


def test_what_the_rows_say_of_themselves_holds() -> None:
    """The adapters' own words for OpenAI's fields are OpenAI's, and all of Gemini's ratios have pixels."""
    assert gemini.SAID >= google_compat.SAID
    assert {pixels(model, ratio, "1K") for model in (PRO, FIRST) for ratio in TEN}
    assert all(entry.native == 1 and set(entry.tokens) == set(entry.spec.tiers) for entry in ROWS.values())
