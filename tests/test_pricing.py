"""What a request can cost bounds what its answer did cost; no answer makes a picture free, or anybody poor."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from amux_asgi.catalogue import openai
from amux_asgi.catalogue._base import ANY, ImagePrices, TokenPrices
from amux_asgi.catalogue.openai import FREE
from amux_asgi.document import body_of
from amux_asgi.explain import parse
from amux_asgi.models import CATALOGUE
from amux_asgi.pricing import NANO, Prices, dollars, parse_dollars
from amux_asgi.rates import ABSURD, LARGEST, TEXT_OUT, Range, Rate
from amux_asgi.schema import GenerationRequest, Image, ImagesResponse
from amux_asgi.tokens import PARTIAL, fixed_size_tokens, free_size_bounds, free_size_tokens

PRICES = Prices()
MODELS = sorted(openai.ROWS)  # what other vendors' models cost is told by their own tests
PICTURE = Image(url="https://example.com/x.png")
ODD: list[Any] = [None, "", "auto", "low", "standard", "hd", "max", "1024x1024", "1x1", "nonsense", 7, [], "x" * 100]
SIZES = [(16 * a, 16 * b) for a in range(1, 241) for b in range(1, 241)]
LEGAL = [
    (width, height)
    for width, height in SIZES
    if max(width, height) <= 3 * min(width, height) and FREE.fewest <= width * height <= FREE.most
]


def ask(**fields: Any) -> GenerationRequest:
    said: dict[str, Any] = {"prompt": "a cat", **fields}
    return GenerationRequest(**said)


def answer(pictures: int = 1, usage: Any = None, **extra: Any) -> ImagesResponse:
    told = {name: Raw(msgspec.json.encode(value)) for name, value in extra.items()}
    response = ImagesResponse(data=(PICTURE,) * pictures, extra=told)
    return response if usage is None else replace(response, usage=Raw(msgspec.json.encode(usage)))


def usage_of(text: int, image_out: int, text_out: int = 0, *, details: bool = True) -> dict[str, Any]:
    told: dict[str, Any] = {
        "input_tokens": text,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
        "output_tokens": image_out + text_out,
        "total_tokens": text + image_out + text_out,
    }
    return told | ({"output_tokens_details": {"image_tokens": image_out, "text_tokens": text_out}} if details else {})


def charge(rate: Rate, request: GenerationRequest, images: ImagesResponse, *, sure: bool = True) -> int | None:
    return rate.cost(request, images, images.tokens(), sure=sure)


def tokens_of(model: str, size: str, quality: str) -> int | None:
    spec = CATALOGUE[model].spec
    if spec.pixels is None:
        return fixed_size_tokens(size, quality)
    width, height = map(int, size.split("x"))
    return free_size_tokens(width, height, quality)


@st.composite
def requests(draw: st.DrawFn, model: str) -> GenerationRequest:
    """Draw a request that the model takes."""
    spec = CATALOGUE[model].spec
    sizes = st.sampled_from(LEGAL).map(lambda size: f"{size[0]}x{size[1]}") | st.just("auto")
    fields: dict[str, Any] = {
        "prompt": draw(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)),
        "n": draw(st.none() | st.integers(1, spec.n_max)),
        "size": draw(st.none() | (st.sampled_from(spec.sizes) if spec.sizes else sizes)),
        "quality": draw(st.none() | st.sampled_from(spec.qualities)),
    }
    if "partial_images" in spec.fields:
        fields["partial_images"] = draw(st.none() | st.integers(0, 3))
        if not fields["partial_images"]:
            fields["output_format"] = draw(st.none() | st.sampled_from(spec.output_formats))
        if fields.get("output_format") == "svg":
            fields["n"] = None
    return parse(body_of(GenerationRequest(**fields)), spec)


@st.composite
def honest(draw: st.DrawFn, model: str, request: GenerationRequest) -> ImagesResponse:
    """Draw an answer as the vendor documents it."""
    spec = CATALOGUE[model].spec
    count = draw(st.integers(1, request.n or 1))
    free = st.tuples(st.integers(1, 3840), st.integers(1, 3840)).filter(
        lambda size: FREE.fewest <= size[0] * size[1] <= FREE.most and max(size) <= 3 * min(size)
    )
    size, quality = request.size, request.quality
    if spec.response_format == "url":
        return answer(count)
    if size in (None, "auto"):
        named = st.sampled_from([name for name in spec.sizes if name != "auto"] or [""])
        size = draw(named if spec.sizes else free.map(lambda drawn: f"{drawn[0]}x{drawn[1]}"))
    if quality in (None, "auto"):
        quality = draw(st.sampled_from([name for name in spec.qualities if name != "auto"]))
    echo: dict[str, Any] = {"size": size, "quality": quality} if draw(st.booleans()) else {}
    tokens = tokens_of(model, str(size), str(quality))
    if tokens is None or draw(st.booleans()):
        return answer(count, **echo)
    length = len(request.prompt.encode())
    partial = draw(st.integers(0, request.partial_images or 0)) * PARTIAL
    prices = CATALOGUE[model].prices
    bills_text = isinstance(prices, TokenPrices) and prices.text_out
    text_out = draw(st.integers(0, TEXT_OUT + length)) * count if bills_text else 0
    text_in = draw(st.integers(0, length * (request.n or 1)))
    return answer(count, usage_of(text_in, (tokens + partial) * count, text_out, details=draw(st.booleans())), **echo)


CATALOGUES = st.just(PRICES)
PRICE = st.integers(0, 10**15)
OTHERS = st.builds(
    TokenPrices,
    text_in=PRICE,
    cached_text_in=PRICE,
    image_in=PRICE,
    cached_image_in=PRICE,
    image_out=PRICE,
    text_out=st.integers(1, 10**15),
).map(lambda tokens: Prices({"gpt": tokens}))


@given(st.data(), st.sampled_from(MODELS), CATALOGUES | OTHERS)
@settings(max_examples=200)
def test_what_it_did_cost_is_between_the_least_and_the_most(data: st.DataObject, upstream: str, prices: Prices) -> None:
    """Any model, any valid request, any honest answer, any prices."""
    model = "gpt" if "gpt" in upstream else upstream
    request = data.draw(requests(upstream))
    images = data.draw(honest(upstream, request))

    span, cost = prices.rate(model, upstream).estimate(request), charge(prices.rate(model, upstream), request, images)

    if span is not None:
        assert cost is not None
        assert 0 <= span.least <= cost <= span.most <= LARGEST


WILD: Any = st.sampled_from([0, 1, -1, 10**6, 2**63, -(2**63), 10**30, 1.5, True, "1", None])
DETAILS: Any = st.none() | st.fixed_dictionaries({"text_tokens": WILD, "image_tokens": WILD})
USAGE: Any = st.fixed_dictionaries(
    {"total_tokens": WILD, "input_tokens": WILD, "output_tokens": WILD},
    optional={"input_tokens_details": DETAILS, "output_tokens_details": DETAILS},
)
ROWS = ImagePrices(prices={("1024x1024", "low"): LARGEST, ("512x512", "high"): 5})
DEAR = TokenPrices(**dict.fromkeys(TokenPrices.__struct_fields__, LARGEST))
NAMED = {"rows": ROWS, "flat": ImagePrices(flat=7), "dear": DEAR}
OWN = Prices(NAMED)
WILD_ANSWERS = st.builds(answer, st.integers(1, 20), USAGE, size=st.sampled_from(ODD), quality=st.sampled_from(ODD))


@given(st.data(), st.sampled_from([*MODELS, *NAMED]), st.sampled_from([*MODELS, "own"]), WILD_ANSWERS)
@settings(max_examples=200)
def test_no_answer_is_charged_below_zero_or_above_what_can_be_stored(
    data: st.DataObject, model: str, upstream: str, images: ImagesResponse
) -> None:
    """Whatever the upstream says, the charge is a sum of money; and where there is a price, nothing is free."""
    request = data.draw(requests(upstream)) if upstream in CATALOGUE else ask(size="1024x1024", quality="low")

    span, cost = OWN.rate(model, upstream).estimate(request), charge(OWN.rate(model, upstream), request, images)

    assert span is None or 0 < span.least <= span.most <= LARGEST
    assert cost is None or 0 < cost <= LARGEST


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_tokens": -5, "total_tokens": 1751, "input_tokens_details": {"text_tokens": -5}},
        {"total_tokens": 1},
        {"total_tokens": ABSURD, "output_tokens": ABSURD - 5, "output_tokens_details": None},
        {"input_tokens_details": {"text_tokens": 4}},
        {"input_tokens_details": {"text_tokens": 6, "image_tokens": -1}},
        {"output_tokens_details": {"text_tokens": 0, "image_tokens": 1}},
        {"output_tokens_details": {"text_tokens": -1, "image_tokens": 1757}},
        {"output_tokens_details": {"text_tokens": 1756, "image_tokens": 0}},
        {"output_tokens": 0, "total_tokens": 5, "output_tokens_details": {}},
        {"output_tokens": -5, "total_tokens": 0},
        {"prompt_tokens": 5, "output_tokens": "many"},
    ],
)
def test_a_usage_that_cannot_be_true_is_not_used(wrong: dict[str, Any]) -> None:
    """The pictures are priced as if there were none: an upstream that counts nothing makes nothing free."""
    request = ask(model="gpt-image-2", size="1024x1024", quality="medium")
    images = answer(1, usage_of(5, 1756) | wrong)

    cost = charge(PRICES.rate("gpt-image-2", "gpt-image-2"), request, images)

    assert cost == charge(PRICES.rate("gpt-image-2", "gpt-image-2"), request, answer(1))


@pytest.mark.parametrize(
    ("model", "fields", "usage", "price"),
    [
        ("gpt-image-1", {}, usage_of(22, 2112), "0.08459"),  # 22 * 5 + 2112 * 40
        ("gpt-image-1.5", {}, usage_of(10, 1056, 446), "0.038302"),  # 10 * 5 + 1056 * 32 + 446 * 10
        (
            "gpt-image-1.5",
            {"size": "1024x1024", "quality": "medium"},
            usage_of(10, 2112, 446, details=False),
            "0.072094",  # 10 * 5 + 2112 * 32 + 446 * 10
        ),
        ("gpt-image-2.5-flare", {}, usage_of(1, 196, details=False), "0.005885"),
        ("gpt-image-2", {}, {"total_tokens": 12, "input_tokens": 2, "output_tokens": 10}, "0.00031"),
        (
            "gpt-image-2",
            {},
            {
                "total_tokens": 110,
                "input_tokens": 10,
                "output_tokens": 100,
                "input_tokens_details": {"text_tokens": 4, "image_tokens": 6},
            },
            "0.003068",  # 4 * 5 + 6 * 8 + 100 * 30
        ),
    ],
)
def test_tokens_are_charged_by_what_they_are_of(model: str, fields: dict[str, Any], usage: Any, price: str) -> None:
    """Text and pictures have their own prices, in and out."""
    images = answer(2, usage)

    cost = charge(PRICES.rate(model, model), ask(n=2, **fields), images)

    assert cost == parse_dollars(price)


@pytest.mark.parametrize(
    ("model", "fields", "least", "most"),
    [
        ("dall-e-2", {"n": 3}, "0.02", "0.06"),
        ("dall-e-2", {"size": "256x256"}, "0.016", "0.016"),
        ("dall-e-3", {}, "0.04", "0.04"),
        ("dall-e-3", {"size": "1792x1024", "quality": "hd"}, "0.12", "0.12"),
        # the picture's tokens; 5 bytes of prompt at 5 dollars a million, and where text is billed 1029 of it at 10
        ("gpt-image-1", {"size": "1024x1024", "quality": "high"}, "0.1664", "0.166425"),
        ("gpt-image-1", {"n": 2}, "0.01088", "0.49925"),
        ("gpt-image-1", {"size": "1024x1024", "quality": "high", "partial_images": 3}, "0.1664", "0.178425"),
        ("gpt-image-2", {"size": "1024x1024", "quality": "high"}, "0.21072", "0.221035"),
        ("gpt-image-2", {"prompt": "日本", "size": "1024x1024", "quality": "low"}, "0.00588", "0.01621"),
        ("gpt-image-2.5-flare", {"quality": "high"}, "0.0612", "0.711595"),
    ],
)
def test_a_request_is_held_at_the_most_it_can_cost(model: str, fields: dict[str, Any], least: str, most: str) -> None:
    """What the model chooses counts as the dearest; what it leaves out costs its default."""
    request = ask(**fields)

    span = PRICES.rate(model, model).estimate(request)

    assert span == Range(parse_dollars(least), parse_dollars(most))


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("gpt-image-2.6-flare", {}),
        ("nobodys", {}),
        ("gpt-image-2.5-flare", {}),
        ("gpt-image-2.5-flare", {"quality": "max"}),
        ("gpt-image-2.5-flare", {"quality": "low", "output_format": "gif"}),
        ("gpt-image-2.5-flare", {"quality": "low", "output_format": "svg"}),
    ],
)
def test_what_nobody_knows_the_price_of_has_none(model: str, fields: dict[str, Any]) -> None:
    """Never a guess that is too low."""
    request = ask(**fields)

    span, cost = PRICES.rate(model, model).estimate(request), charge(PRICES.rate(model, model), request, answer(1))

    assert span is cost is None


def test_an_operators_own_price_covers_what_has_none() -> None:
    """A flat price holds for any size, quality and form; the client's name comes before the upstream's."""
    prices = Prices({"mine": ImagePrices(flat=NANO), "gpt-image-2.5-flare": ImagePrices(flat=2 * NANO)})
    request = ask(quality="max", output_format="svg", n=2)

    spans = [prices.rate(model, "gpt-image-2.5-flare").estimate(request) for model in ("mine", "other")]

    assert spans == [Range(NANO, 2 * NANO), Range(2 * NANO, 4 * NANO)]
    assert charge(prices.rate("mine", "gpt-image-2.5-flare"), request, answer(5)) == 2 * NANO


TABLE = Prices({"m": ImagePrices(prices={("1x1", "low"): 1, ("1x1", "high"): 3, ("2x2", "low"): 2, ("2x2", "x"): 9})})


@pytest.mark.parametrize(
    ("size", "quality", "span"),
    [
        ("1x1", "high", (3, 3)),
        ("1x1", None, (1, 3)),
        ("auto", "low", (1, 2)),
        (None, "auto", (1, 9)),
        ("2x2", "high", None),
        ("3x3", None, None),
    ],
)
def test_a_table_prices_its_rows_only(size: str | None, quality: str | None, span: tuple[int, int] | None) -> None:
    """A row that is missing has no price; what the model chooses is the dearest row that fits."""
    request = ask(size=size, quality=quality)

    found = TABLE.rate("m", "own").estimate(request)

    assert found == (None if span is None else Range(*span))


@pytest.mark.parametrize(
    ("asked", "told", "each"),
    [
        ((None, None), ("1x1", "high"), 3),
        ((None, None), ("auto", 7), 9),
        (("1x1", "low"), ("9x9", "low"), 1),
        (("1x1", None), ("2x2", "high"), 3),
        (("9x9", "low"), (None, None), 9),
    ],
)
def test_a_picture_costs_what_the_answer_says_it_is(
    asked: tuple[str | None, str | None], told: tuple[Any, Any], each: int
) -> None:
    """Else what was asked for, else the dearest; pictures that did not come cost nothing."""
    request = ask(n=4, size=asked[0], quality=asked[1])

    cost = charge(TABLE.rate("m", "own"), request, answer(2, size=told[0], quality=told[1]))

    assert cost == 2 * each


def test_tokens_nobody_told_are_those_of_the_pictures() -> None:
    """Without a usage: the published count, and a token for each byte of the prompt."""
    request = ask(size="auto", quality="auto", n=3)

    cost = charge(PRICES.rate("gpt-image-2", "gpt-image-2"), request, answer(2, size="1254x1254", quality="low"))

    assert cost == 2 * ((free_size_tokens(1254, 1254, "low") or 0) * 30_000 + 5 * 5_000)


def test_a_charge_that_cannot_be_stored_is_not_made() -> None:
    """What the usage makes too much is priced by the pictures; what those make too much has no price."""
    usage = usage_of(1, 2_000_000)
    small, large = ask(size="1024x1024", quality="low"), ask(size="auto", quality="high", n=10, prompt="x" * 900_000)

    cost = charge(OWN.rate("dear", "gpt-image-2"), small, answer(1, usage))

    assert cost == charge(OWN.rate("dear", "gpt-image-2"), small, answer(1))
    assert cost is not None
    assert charge(OWN.rate("dear", "gpt-image-2"), large, answer(10)) is None
    assert OWN.rate("dear", "gpt-image-2").estimate(large) is None


@pytest.mark.parametrize("size", ["5000x1000", "3000x900", "16x16", "nonsense"])
def test_a_size_that_cannot_be_is_not_believed(size: str) -> None:
    """A tiny picture would be cheap: the one that was asked for counts."""
    request = ask(size="1024x1024", quality="low")

    cost = charge(PRICES.rate("gpt-image-2", "gpt-image-2"), request, answer(1, size=size))

    assert cost == charge(PRICES.rate("gpt-image-2", "gpt-image-2"), request, answer(1))


@pytest.mark.parametrize("quality", ["low", "medium", "high"])
def test_no_legal_size_is_dearer_than_the_bound(quality: str) -> None:
    """Every size of the grid was counted: the bound is the dearest of them."""
    least, most = free_size_bounds(FREE, quality) or (0, 0)

    counts = [free_size_tokens(width, height, quality) or 0 for width, height in LEGAL]

    assert max(counts) == most
    assert min(counts) >= least
    assert free_size_bounds(FREE, "max") is None


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0.211", 211_000_000), ("0", 0), ("5", 5 * NANO), ("1.000000001", NANO + 1), ("9223372036.854775807", LARGEST)],
)
def test_dollars_are_read_and_written_exactly(text: str, nano: int) -> None:
    """To the nano-dollar, without needless zeros."""
    read = parse_dollars(text)

    assert read == nano
    assert dollars(nano) == text
    assert dollars(-NANO) == "-1"


@given(st.integers(0, LARGEST))
def test_dollars_come_back(nano: int) -> None:
    """What is written is read as the same."""
    text = dollars(nano)

    assert parse_dollars(text) == nano
    assert not text.endswith(".0")


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1e3", "NaN", "inf", ".5", "5.", "1,5", " 1", "1_0", "0.0000000001", "9223372036.854775808",
     "99999999999", "٣"],
)  # fmt: skip
def test_what_is_no_plain_sum_is_refused(text: str) -> None:
    """No sign, exponent, blank or tenth place; nothing that cannot be stored."""
    with pytest.raises(ValueError, match=r"plain decimal|too large"):
        parse_dollars(text)


@pytest.mark.parametrize("price", [-1, LARGEST + 1])
def test_prices_in_code_are_checked_too(price: int) -> None:
    """Negative, or more than can be stored."""
    tokens = TokenPrices(text_in=price, cached_text_in=0, image_in=0, cached_image_in=0, image_out=0)

    for priced in (tokens, ImagePrices(flat=price), ImagePrices(prices={("1x1", "low"): price})):
        with pytest.raises(ValueError, match="'m'"):
            Prices({"m": priced})


def test_text_of_half_a_character_is_counted() -> None:
    """A request made in code may hold a lone surrogate."""
    request = ask(prompt="\ud800", size="1024x1024", quality="low")

    span = PRICES.rate("gpt-image-1", "gpt-image-1").estimate(request)

    assert span == Range(272 * 40_000, 272 * 40_000 + 3 * 5_000)


def test_what_the_operator_told_stands_before_the_catalogue() -> None:
    """Also under the upstream's name, where the client's name is one of the catalogue's."""
    told = ImagePrices(flat=1)

    assert Prices({"mine": told}).find("dall-e-3", "mine") is told
    assert Prices().find("dall-e-3", "mine") is CATALOGUE["dall-e-3"].prices


def test_tokens_can_only_be_held_where_they_can_be_counted() -> None:
    """Nobody knows how many tokens a foreign model's picture is."""
    prices = Prices({"flat": ImagePrices(flat=1)})

    assert prices.can_be_held("flat", "anything")
    assert prices.can_be_held("pretty", "gpt-image-2")
    assert not prices.can_be_held("gpt-image-2", "my-deployment")
    assert not prices.can_be_held("nobody", "knows")


def test_a_model_that_the_catalogue_has_under_another_name_is_priced_by_its_row() -> None:
    """A deployment costs what its model costs."""
    request = GenerationRequest(prompt="a cat", size="1024x1024", quality="low")
    prices = Prices()

    assert prices.rate("ours", "mine", "gpt-image-1").estimate(request) == prices.rate(
        "gpt-image-1", "gpt-image-1"
    ).estimate(request)
    assert prices.can_be_held("ours", "mine", rules="gpt-image-1")
    assert prices.rate("ours", "mine").estimate(request) is None
    own = Prices({"mine": ImagePrices(flat=7)})
    assert own.rate("ours", "mine", "gpt-image-1").estimate(request) == Range(7, 7)


@pytest.mark.parametrize(
    ("size", "quality", "span"),
    [
        ("1x1", "extended", (30, 30)),
        ("1x1", "standard", (15, 15)),
        ("1x1", None, (15, 30)),
        ("2K", "standard", (40, 40)),
        (None, None, (15, 40)),
        ("2K", None, (15, 40)),
    ],
)
def test_a_row_may_stand_for_every_size_or_quality(
    size: str | None, quality: str | None, span: tuple[int, int]
) -> None:
    """What has a row of its own goes by that."""
    prices = Prices({"m": ImagePrices(prices={(ANY, "extended"): 30, ("2K", ANY): 40, (ANY, "standard"): 15})})

    assert prices.rate("m", "m").estimate(GenerationRequest(prompt="x", size=size, quality=quality)) == Range(*span)


@pytest.mark.parametrize(
    ("model", "words", "most"),
    [
        ("gemini-3-pro-image", {"size": "1K"}, {"size": "4K"}),
        ("z-image-turbo", {"quality": "standard"}, {"quality": "extended"}),
        ("qwen-image-3.0-pro", {"quality": "1K"}, {"quality": "2K"}),
    ],
)
def test_a_client_does_not_choose_the_price_where_nobody_knows_what_its_words_come_to(
    model: str, words: dict[str, Any], most: dict[str, Any]
) -> None:
    """Through a relay, a vendor's model is held and charged at its dearest, unless the tokens tell."""
    prices = Prices()
    asked = GenerationRequest(prompt="x", **words)
    dearest = prices.rate(model, model).estimate(GenerationRequest(prompt="x", **most))
    picture = ImagesResponse(data=(Image(url="u"),))
    unsure = prices.rate(model, model).estimate(asked, sure=False)

    assert dearest is not None
    assert unsure is not None
    assert unsure.most == dearest.most
    dear = charge(prices.rate(model, model), asked, picture, sure=False)
    assert dear is not None
    assert (charge(prices.rate(model, model), asked, picture) or 0) < dear <= unsure.most
    told = Prices({model: ImagePrices(prices={(words.get("size", "1x1"), ANY): 7})})
    asked = replace(asked, size=words.get("size", "1x1"))
    assert told.rate(model, model).estimate(asked, sure=False) == Range(7, 7)


def test_a_table_of_sizes_prices_no_model_whose_sizes_become_tiers() -> None:
    """It is told at start, not to the client."""
    by_size = Prices({"m": ImagePrices(prices={("1024x1024", "high"): 7})})
    by_tier = Prices({"m": ImagePrices(prices={("1K", ANY): 7})})

    assert not by_size.can_be_held("m", "gemini-3-pro-image")
    assert by_tier.can_be_held("m", "gemini-3-pro-image")
    assert by_size.can_be_held("m", "gpt-image-1")
    assert Prices({"m": ImagePrices(flat=7)}).can_be_held("m", "gemini-3-pro-image")
