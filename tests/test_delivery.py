"""Each picture in the form that is wanted: what must be done for it, and what comes of it."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, integers, lists, sampled_from
from msgspec import UNSET, Raw

from amux_asgi.delivery import (
    Delivered,
    Step,
    Wish,
    check_form,
    form_of,
    joined,
    kept,
    step_of,
    with_base64,
    with_url,
)
from amux_asgi.errors import InvalidRequestError, UpstreamIncompleteError, UpstreamTimeoutError
from amux_asgi.pictures import GIF, JPEG, PNG, SVG, WEBP, Kind
from amux_asgi.schema import NOTHING, Image, ImagesResponse
from tests import samples

AT_URL = Image(url="https://pictures.example.com/a")
AT_DATA = Image(url="Data:image/png;base64,aaaa")
TEXT = Raw(b'"aaaa"')
AS_BASE64 = Image(b64_json=TEXT)
AS_BOTH = Image(url="https://pictures.example.com/a", b64_json=TEXT)
FORMS = ("url", "b64_json", None)


def wish(form: str | None, *, rehost: bool = False, url_life: int = 3600, hosted: bool = True) -> Wish:
    return Wish(form=form, rehost=rehost, url_life=url_life, hosted=hosted)


@pytest.mark.parametrize(
    ("asked", "own", "form"),
    [
        ("url", "b64_json", "url"),
        ("b64_json", "url", "b64_json"),
        (None, "url", "url"),
        (None, "b64_json", "b64_json"),
        (None, None, None),
    ],
)
def test_the_form_is_the_one_asked_for_or_the_models_own(asked: str | None, own: str | None, form: str | None) -> None:
    """Of a model that nobody knows, whichever comes."""
    assert form_of(asked, own) == form


@pytest.mark.parametrize(
    ("image", "wished", "step"),
    [
        (AT_URL, wish("b64_json"), Step.FETCH),
        (AT_URL, wish("b64_json", rehost=True, hosted=False), Step.FETCH),
        (AT_DATA, wish("b64_json"), Step.FETCH),
        (AS_BASE64, wish("b64_json"), Step.KEEP_BASE64),
        (AS_BOTH, wish("b64_json"), Step.KEEP_BASE64),
        (AT_URL, wish("url"), Step.KEEP_URL),
        (AT_URL, wish("url", hosted=False), Step.KEEP_URL),
        (AT_URL, wish("url", rehost=True), Step.REHOST),
        (AT_URL, wish("url", url_life=3599), Step.REHOST),
        (AT_DATA, wish("url", url_life=2**31), Step.REHOST),
        (Image(url="HTTP://pictures.example.com/a"), wish("url"), Step.KEEP_URL),
        (Image(url="javascript:alert(1)"), wish("url"), Step.REHOST),
        (Image(url="file:///etc/passwd"), wish("url"), Step.REHOST),
        (Image(url="/a.png"), wish(None, hosted=False), Step.FETCH),
        (AS_BASE64, wish("url"), Step.HOST),
        (AS_BOTH, wish("url"), Step.KEEP_URL),
        (AS_BOTH, wish("url", rehost=True), Step.HOST),
        (AT_URL, wish(None), Step.KEEP_URL),
        (AT_URL, wish(None, rehost=True), Step.REHOST),
        (AT_URL, wish(None, rehost=True, hosted=False), Step.FETCH),
        (AT_URL, wish(None, url_life=60, hosted=False), Step.FETCH),
        (AT_DATA, wish(None, hosted=False), Step.FETCH),
        (AS_BASE64, wish(None), Step.KEEP_BASE64),
        (AS_BOTH, wish(None, rehost=True), Step.KEEP_BASE64),
    ],
)
def test_only_what_is_needed_is_done(image: Image, wished: Wish, step: Step) -> None:
    """A picture that has the form already is left alone; one that dies soon, or must not be seen, is not handed on."""
    assert step_of(image, wished) is step


@given(
    sampled_from([AT_URL, AT_DATA, AS_BASE64, AS_BOTH]), sampled_from(FORMS), booleans(), integers(0, 10**6), booleans()
)
def test_a_hidden_url_is_never_kept(image: Image, form: str | None, rehost: bool, life: int, hosted: bool) -> None:  # noqa: FBT001, drawn
    """Nor one that dies within the hour."""
    step = step_of(image, wish(form, rehost=rehost, url_life=life, hosted=hosted))

    assert step is not Step.KEEP_URL or (not rehost and life >= 3600)
    assert step not in {Step.FETCH, Step.KEEP_BASE64} or form != "url"
    assert step not in {Step.HOST, Step.REHOST, Step.KEEP_URL} or form != "b64_json"


@pytest.mark.parametrize("life", [3600, 10**6])
@pytest.mark.parametrize("forms", [("url",), ("b64_json", "url")])
def test_urls_may_be_wanted_where_the_channel_has_good_ones(forms: tuple[str, ...], life: int) -> None:
    """Then nothing of ours is needed."""
    check_form(wish("url", url_life=life, hosted=False), forms)


@pytest.mark.parametrize(
    ("forms", "rehost", "life"),
    [(("b64_json",), False, 3600), (("url",), True, 3600), (("url",), False, 60), (("b64_json", "url"), True, 3600)],
)
def test_urls_that_cannot_be_had_are_refused_before_anything_is_sent(
    forms: tuple[str, ...],
    rehost: bool,  # noqa: FBT001, a row of the table
    life: int,
) -> None:
    """The error names the field and the mend; with a place for pictures, or as base64, it works."""
    with pytest.raises(InvalidRequestError, match="b64_json") as caught:
        check_form(wish("url", rehost=rehost, url_life=life, hosted=False), forms)

    assert (caught.value.status, caught.value.param) == (400, "response_format")
    check_form(wish("url", rehost=rehost, url_life=life), forms)
    check_form(wish("b64_json", rehost=rehost, url_life=life, hosted=False), forms)
    check_form(wish(None, rehost=rehost, url_life=life, hosted=False), forms)


def test_a_picture_is_in_one_form_and_keeps_the_rest() -> None:
    """Whatever else the vendor said of it stays."""
    told = msgspec.structs.replace(AS_BOTH, revised_prompt="a cat", extra={"seed": Raw(b"7")})

    at_url, as_base64 = with_url(told, "https://here.example.com/b"), with_base64(told, Raw(b'"bbbb"'))

    assert (at_url.url, at_url.b64_json) == ("https://here.example.com/b", NOTHING)
    assert (as_base64.url, as_base64.b64_json) == (UNSET, Raw(b'"bbbb"'))
    for image in (at_url, as_base64, kept(told, Step.KEEP_URL).image, kept(told, Step.KEEP_BASE64).image):
        assert (image.revised_prompt, image.extra) == ("a cat", {"seed": Raw(b"7")})
        assert (image.url is UNSET) is (image.b64_json is not NOTHING)


@pytest.mark.parametrize("kind", [PNG, JPEG, WEBP, GIF, SVG])
def test_the_kind_of_base64_that_is_kept_is_known(kind: Kind) -> None:
    """By its first bytes, without decoding the rest."""
    data = {PNG: samples.PNG, JPEG: samples.JPEG, WEBP: samples.WEBP, GIF: samples.GIF, SVG: b"<svg/>"}[kind]
    text = base64.b64encode(data + bytes(300)).decode().replace("/", "\\/")

    assert kept(Image(b64_json=Raw(f'"{text}"'.encode())), Step.KEEP_BASE64).kind == kind
    assert kept(AS_BASE64, Step.KEEP_BASE64).kind is None


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ([PNG], Raw(b'"png"')),
        ([JPEG, JPEG], Raw(b'"jpeg"')),
        ([WEBP], Raw(b'"webp"')),
        ([GIF], Raw(b'"gif"')),
        ([SVG], None),
        ([None], None),
        ([PNG, None], None),
        ([None, PNG], None),
        ([PNG, JPEG], None),
    ],
)
def test_the_output_format_is_told_where_it_is_sure(kinds: list[Kind | None], told: Raw | None) -> None:
    """All pictures are there, of one kind; the upstream's own word counts more."""
    images = ImagesResponse(data=(AS_BASE64,) * len(kinds), created=7, usage=Raw(b"{}"), extra={"size": Raw(b'"1x1"')})
    outcomes = [Delivered(AS_BASE64, kind) for kind in kinds]

    answer = joined(images, outcomes)
    asserted = joined(msgspec.structs.replace(images, extra={"output_format": Raw(b'"avif"')}), outcomes)

    assert answer.extra.get("output_format") == told
    assert (answer.created, answer.usage, answer.extra["size"]) == (7, Raw(b"{}"), Raw(b'"1x1"'))
    assert asserted.extra == {"output_format": Raw(b'"avif"')}


@given(lists(booleans(), min_size=1, max_size=10))
def test_what_failed_is_left_out_and_the_rest_stays_in_order(made: list[bool]) -> None:
    """If nothing is left, the first failure is the answer."""
    images = ImagesResponse(data=tuple(Image(url=f"https://a.example/{i}") for i in range(len(made))))
    first = UpstreamTimeoutError("late")
    failures = iter([first, *(UpstreamIncompleteError("cut") for _ in made)])
    outcomes = [
        Delivered(image, None) if good else next(failures) for image, good in zip(images.data, made, strict=True)
    ]

    if any(made):
        wanted = [image for image, good in zip(images.data, made, strict=True) if good]
        assert list(joined(images, outcomes).data) == wanted
        return
    with pytest.raises(UpstreamTimeoutError) as caught:
        joined(images, outcomes)
    assert caught.value is first
