"""The running gateway in front of a strict Gemini, driven by the real OpenAI SDKs."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import httpx2  # noqa: TID251, the test's client
import pytest

from amux_asgi import ChannelConfig, KeyConfig, ModelConfig, images_app
from tests.serve import serve
from tests.vendors.emulate_gemini import KEY as GOOGLES
from tests.vendors.emulate_gemini import MODELS, Emulator
from tests.vendors.emulate_gemini import picture as emulated
from tests.vendors.sdks import Answer, Case, case, node_answers, python_answers
from tests.vendors.staged import STAGED

KEY: Final = "sdk-key-of-the-tests-0123"
WRONG: Final = "gemini-wrong-key-0123456789"
FIRST, PRO, FLASH, LITE, NEW = MODELS
LANTERN: Final = "a red paper lantern"
SAFETY: Final = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "threshold": "BLOCK_ONLY_HIGH"}]

SIZES: Final = {  # what is made of it by the first model, by the middle ones, and by the one that makes small ones
    "1024x1024": ("1024x1024", "1024x1024", "1024x1024"),
    "1536x1024": ("1248x832", "1264x848", "1264x848"),
    "1024x1536": ("832x1248", "848x1264", "848x1264"),
    "1792x1024": ("1344x768", "1376x768", "1376x768"),
    "1024x1792": ("768x1344", "768x1376", "768x1376"),
    "256x256": ("1024x1024", "1024x1024", "512x512"),
    "512x512": ("1024x1024", "1024x1024", "512x512"),
    "2048x2048": ("1024x1024", "2048x2048", "2048x2048"),
    "5504x3072": ("1344x768", "5504x3072", "5504x3072"),
    "999x1001": ("1024x1024", "1024x1024", "1024x1024"),
}
COLUMN: Final = {FIRST: 0, PRO: 1, NEW: 1, FLASH: 2}


def made(model: str, size: str) -> str:
    if model == LITE:
        return {"2048x2048": "1024x1024", "5504x3072": "1376x768"}.get(size, SIZES[size][1])
    return SIZES[size][COLUMN[model]]


def ask(name: str, model: str = PRO, /, prompt: str = LANTERN, **fields: Any) -> Case:
    return case(name, model=model, prompt=prompt, **fields)


SIZED: Final = [ask(f"{model} {size}", model, size=size) for model in MODELS for size in SIZES]
COUNTED: Final = [ask(f"n {n}", n=n, extra_body={"seed": 40}, size="1024x1024") for n in range(1, 11)]
QUALITIES: Final = ("low", "medium", "high", "standard", "hd", "auto")
GRADED: Final = [
    ask(f"{model} {quality}", model, quality=quality) for model in (FLASH, NEW, FIRST) for quality in QUALITIES
]
SPOKEN: Final = [
    ask("auto", size="auto"),
    ask("base64", response_format="b64_json", size="1024x1024"),
    ask("urls", NEW, response_format="url", n=2, seed=5, size="2048x2048"),
    ask("ratio", size="16:9"),
    ask("tier", size="4K"),
    ask("top", NEW, aspect_ratio="21:9", image_size="2K", seed=3, thinking_level="high", safety_settings=SAFETY),
    ask("body", NEW, extra_body={"aspect_ratio": "21:9", "image_size": "2K", "seed": 3, "safety_settings": SAFETY}),
    ask("wins", size="1024x1024", quality="hd", extra_body={"aspect_ratio": "16:9", "image_size": "4K"}),
    ask("candidates", extra_body={"candidateCount": 3}),
    ask("people", person_generation="allow_adult"),
    ask("others", negative_prompt="blur", style="vivid", user="u-7", output_format="png", background="auto"),
    ask("strict", size="1792x1024", extra_headers={"x-amux-strict": "true"}),
]
BAD: Final = [
    ask("unknown field", sparkle=True),
    ask("bad ratio", aspect_ratio="1:4"),
    ask("bad tier", image_size="512"),
    ask("bad size", size="0x0"),
    ask("bad quality", quality="superb"),
    ask("bad seed", seed="x"),
    ask("config", generationConfig={"candidateCount": 2}),
    ask("two counts", n=2, candidateCount=3),
    ask("too many", n=11),
    ask("empty prompt", prompt=""),
]
ENDED: Final = {  # status, code, param
    "unsafe-picture": (403, "moderation_blocked", None),
    "unsafe-prompt": (403, "moderation_blocked", "prompt"),
    "recited": (403, "moderation_blocked", None),
    "words": (400, "no_image_generated", "prompt"),
    "no-image": (400, "no_image_generated", "prompt"),
    "cut": (400, "max_tokens_reached", None),
    "language": (400, "invalid_value", "prompt"),
    "other": (502, "upstream_error", None),
    "empty": (502, "upstream_error", None),
    "odd": (502, "upstream_bad_response", None),
    "busy": (503, "upstream_unavailable", None),
    "minute": (429, "rate_limit_exceeded", None),
    "day": (503, "upstream_unavailable", None),
    "abroad": (502, "upstream_auth_failed", None),
}
FAILING: Final = [ask(f"end {end}", prompt=f"{LANTERN} [[{end}]]") for end in ENDED]
PARTIAL: Final = [
    ask("one of three", prompt=f"{LANTERN} [[unsafe-picture:8]]", n=3, seed=7),
    ask("none of three", prompt=f"{LANTERN} [[unsafe-picture]]", n=3, seed=7),
]
COMPAT: Final = [
    ask("compat plain", "compat"),
    ask("compat three", "compat", n=3, size="1792x1024"),
    ask("compat ratio", "compat", size="16:9", quality="hd", response_format="b64_json", seed=7),
    ask("compat url", "compat", response_format="url"),
    ask("compat withheld", "compat", prompt=f"{LANTERN} [[withheld]]"),
    ask("compat unknown field", "compat", sparkle=True),
    ask("compat size", "compat", size="banana"),
]
CASES: Final = [
    *SIZED,
    *COUNTED,
    *GRADED,
    *SPOKEN,
    *BAD,
    *FAILING,
    *PARTIAL,
    *COMPAT,
    ask("elsewhere", "either", prompt=f"{LANTERN} [[busy]]", image_size="2K", aspect_ratio="16:9", quality="low"),
    ask("wrong key", "wrong key"),
    ask("retired", "retired"),
]


class Seen:
    """What one SDK saw of all cases, and what reached Google."""

    def __init__(self, answers: dict[str, Answer], google: Emulator) -> None:
        self.answers = answers
        self.google = google

    def __getitem__(self, name: str) -> Answer:
        return self.answers[name]

    def error(self, name: str) -> tuple[int, str, str | None]:
        told = self[name].error or {}
        return self[name].status, told["code"], told["param"]

    def shows(self, name: str, size: str, *seeds: int | None, kind: str = "jpeg") -> None:
        """Check that just these pictures came, in this order."""
        answer = self[name]
        assert answer.status == 200, (name, answer.error)
        assert answer.extra["output_format"] == kind
        expected = [hashlib.sha256(emulated(kind, size, seed)).hexdigest() for seed in seeds or (None,)]
        assert [one.sha256 for one in answer.data] == expected, name


@pytest.fixture(scope="module", params=[python_answers, node_answers], ids=["python", "node"])
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Send every case with one of the SDKs."""
    google = Emulator()
    with serve(google.app) as upstream:
        base = f"{upstream}/v1beta"

        def channel(name: str, models: Iterable[Any], **fields: Any) -> ChannelConfig:
            told: dict[str, Any] = {"adapter": "gemini", "base_url": base, "credentials": (GOOGLES,), **fields}
            return ChannelConfig(name=name, models=tuple(models), **told)

        images = images_app(
            adapters=STAGED,
            channels=[
                channel("gemini", MODELS),
                channel("first", [ModelConfig(name="either", upstream=NEW)], priority=1),
                ChannelConfig(
                    name="second", adapter="sandbox", models=(ModelConfig(name="either", upstream="gpt-image-2"),)
                ),
                channel("old", [ModelConfig(name="retired", upstream="gemini-3-pro-image-preview")]),
                channel("keyless", [ModelConfig(name="wrong key", upstream=PRO)], credentials=(WRONG,)),
                channel(
                    "compat",
                    [ModelConfig(name="compat", upstream=FIRST)],
                    adapter="google-openai",
                    base_url=f"{base}/openai",
                ),
            ],
            keys=[KeyConfig(name="sdk", key=KEY)],
        )
        with serve(images) as gateway:
            yield Seen(request.param(f"{gateway}/v1", KEY, CASES), google)


def test_every_model_makes_every_size(seen: Seen) -> None:
    """I get the size nearest to mine, and am told which, whenever it is another."""
    for model in MODELS:
        for size in SIZES:
            got = made(model, size)
            seen.shows(f"{model} {size}", got, kind=MODELS[model]["kind"])
            assert seen[f"{model} {size}"].adapted == (None if got == size else f"size: {size} -> {got}")


def test_google_was_never_told_what_it_does_not_know(seen: Seen) -> None:
    """Only what I made up myself was refused by Google."""
    others = [text for text in seen.google.refused if "sparkle" not in text]

    statuses = [status for text in others for status in re.findall(r'"status":"(\w+)"', text)]
    assert sorted(statuses) == ["INVALID_ARGUMENT", "NOT_FOUND"]  # the wrong key, and the retired model
    assert seen.error("unknown field") == (400, "invalid_value", "sparkle")


def test_any_number_of_pictures_is_made_one_by_one_and_paid_once_each(seen: Seen) -> None:
    """I ask for ten and get ten, in order, each with its own seed; the tokens are those of all."""
    for n in range(1, 11):
        seen.shows(f"n {n}", "1024x1024", *range(40, 40 + n))
        each = 1120 + 88 + 160
        assert seen[f"n {n}"].usage == {
            "total_tokens": n * (6 + each),
            "input_tokens": n * 6,
            "output_tokens": n * each,
            "input_tokens_details": {"text_tokens": n * 6, "image_tokens": 0},
            "output_tokens_details": {"text_tokens": n * 248, "image_tokens": n * 1120},
        }
        cost = n * (6 * 2 + 1120 * 120 + 248 * 12) / 1_000_000
        assert float(seen[f"n {n}"].headers["x-amux-cost"]) == pytest.approx(cost)
    assert all(ask.get("generationConfig", {}).get("candidateCount") is None for ask in seen.google.asks)


def test_quality_is_a_tier_where_there_are_tiers(seen: Seen) -> None:
    """Low is the smallest, high and hd are 2K; where it cannot be had I am told."""
    for quality in QUALITIES:
        small, large = quality == "low", quality in ("high", "hd")
        seen.shows(f"{FLASH} {quality}", "512x512" if small else "2048x2048" if large else "1024x1024")
        seen.shows(f"{NEW} {quality}", "2048x2048" if large else "1024x1024")
        seen.shows(f"{FIRST} {quality}", "1024x1024", kind="png")
        assert seen[f"{NEW} {quality}"].adapted is None
        assert seen[f"{FIRST} {quality}"].adapted == ("quality: dropped" if small or large else None)


def test_pictures_come_as_urls_to_whoever_wants_them_so(seen: Seen) -> None:
    """Google knows base64 alone: I get addresses of the gateway's, where the same bytes are, untouched."""
    pictures = [httpx2.get(one.url or "", timeout=60) for name in ("urls", "compat url") for one in seen[name].data]

    assert [picture.headers["content-type"] for picture in pictures] == ["image/jpeg", "image/jpeg", "image/png"]
    assert [picture.content for picture in pictures] == [
        emulated("jpeg", "2048x2048", 5),
        emulated("jpeg", "2048x2048", 6),
        emulated("png", "1024x1024"),
    ]
    assert [seen[name].adapted for name in ("urls", "compat url")] == [None, None]


def test_geminis_words_are_understood(seen: Seen) -> None:
    """Its fields go where they belong, from the top level and from `extra_body`."""
    seen.shows("auto", "1024x1024")
    seen.shows("base64", "1024x1024")
    seen.shows("ratio", "1376x768")
    seen.shows("tier", "4096x4096")
    seen.shows("top", "3168x1344", 3)
    seen.shows("body", "3168x1344", 3)
    seen.shows("wins", "5504x3072")
    seen.shows("candidates", "1024x1024", None, None, None)
    wide = [ask for ask in seen.google.asks if ask.get("generationConfig", {}).get("seed") == 3]
    assert [ask["safetySettings"] for ask in wide] == [SAFETY, SAFETY]
    assert {"thinkingLevel": "high"} in [ask["generationConfig"].get("thinkingConfig") for ask in wide]


def test_nothing_is_lost_without_a_word(seen: Seen) -> None:
    """What Gemini cannot be told stands in the report, or is refused if I am strict."""
    assert seen["wins"].adapted == "size: 1024x1024 -> 5504x3072; quality: dropped"
    assert seen["people"].adapted == "person_generation: dropped"
    assert set((seen["others"].adapted or "").split("; ")) == {
        f"{name}: dropped" for name in ("negative_prompt", "style", "user", "output_format", "background")
    }
    assert seen["top"].adapted is None
    assert seen.error("strict")[0::2] == (400, "size")


def test_what_cannot_be_is_refused_before_google_is_asked(seen: Seen) -> None:
    """The error names my field."""
    refused = {case["name"]: seen.error(case["name"])[0::2] for case in BAD[1:]}

    assert refused == {
        "bad ratio": (400, "aspect_ratio"),
        "bad tier": (400, "image_size"),
        "bad size": (400, "size"),
        "bad quality": (400, "quality"),
        "bad seed": (400, "seed"),
        "config": (400, "generationConfig"),
        "two counts": (400, "candidateCount"),
        "too many": (400, "n"),
        "empty prompt": (400, "prompt"),
    }


def test_every_end_without_a_picture_is_an_honest_error(seen: Seen) -> None:
    """Refused, out of tokens, overloaded or odd: one error that fits, nothing charged, nobody else asked."""
    assert {end: seen.error(f"end {end}") for end in ENDED} == ENDED
    assert {seen[f"end {end}"].headers["x-amux-cost"] for end in ENDED} == {"0"}
    assert {seen[f"end {end}"].headers["x-amux-attempts"] for end in ENDED} == {"1"}
    assert "I would rather describe it." in (seen["end words"].error or {})["message"]
    codes = {end: seen[f"end {end}"].headers.get("x-amux-upstream-code") for end in ("minute", "recited", "words")}
    assert codes == {"minute": "RESOURCE_EXHAUSTED", "recited": "IMAGE_RECITATION", "words": "STOP"}
    assert seen["end minute"].headers["retry-after"] == "47"
    assert seen["end day"].headers["x-should-retry"] == "false"


def test_pictures_that_were_made_are_delivered(seen: Seen) -> None:
    """Two of three came: I get two and pay for two."""
    seen.shows("one of three", "1024x1024", 7, 9)
    assert seen["one of three"].usage is not None
    assert seen["one of three"].usage["output_tokens_details"]["image_tokens"] == 2240
    assert seen.error("none of three") == (403, "moderation_blocked", None)


def test_nothing_of_geminis_crosses_to_another_vendor(seen: Seen) -> None:
    """When Gemini is busy I get the other vendor's picture, and am told what it could not be told."""
    answer = seen["elsewhere"]

    assert (answer.status, [picture.kind for picture in answer.data]) == (200, ["png"])
    assert set((answer.adapted or "").split("; ")) == {"image_size: dropped", "aspect_ratio: dropped"}
    assert answer.headers["x-amux-attempts"] == "2"


def test_a_key_that_google_refuses_is_not_mine(seen: Seen) -> None:
    """A wrong key of the gateway is no 400 and no 401 for me; a retired model is not found."""
    assert seen.error("wrong key") == (502, "upstream_auth_failed", None)
    assert seen.error("retired") == (404, "model_not_found", "model")


def test_googles_interface_for_openais_clients_is_spoken_too(seen: Seen) -> None:
    """It knows few fields: the others are reported."""
    square = "1024x1024"
    seen.shows("compat plain", square, kind="png")
    seen.shows("compat three", square, None, None, None, kind="png")
    seen.shows("compat ratio", square, kind="png")
    assert seen["compat three"].adapted == "size: 1792x1024 -> 1344x768"
    assert set((seen["compat ratio"].adapted or "").split("; ")) == {"quality: dropped", "seed: dropped"}
    assert float(seen["compat three"].headers["x-amux-cost"]) == pytest.approx(
        3 * (1290 * 30 + len(LANTERN) * 0.3) / 1_000_000
    )
    assert seen.error("compat withheld") == (403, "moderation_blocked", None)
    assert seen.error("compat unknown field") == (400, "invalid_value", "sparkle")
    assert seen.error("compat size") == (400, "invalid_value", "size")
