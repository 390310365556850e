"""Imagen and Gemini through the running gateway, by the real SDKs, against a vendor as strict as Google."""

import ssl
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx2  # noqa: TID251, a client of the caller's own, which trusts the tests' certificate
import pytest
import trustme

from amux_asgi import ChannelConfig, KeyConfig, images_app
from amux_asgi.config import ModelConfig
from amux_asgi.transport.base import Open, Transport
from amux_asgi.transport.httpx import own_client
from tests.serve import serve
from tests.vendors.emulate_google import API_KEY, MODELS, TOKEN, Google
from tests.vendors.sdks import Answer, Case, case, node_answers, python_answers
from tests.vendors.staged import STAGED
from tests.vendors.token_desk import TokenDesk, account

KEY: Final = "sdk-key-of-the-tests-0123"
GENERATE, ULTRA, FAST = MODELS
LANTERN: Final[dict[str, Any]] = {"model": GENERATE, "prompt": "a red paper lantern"}
GEMINI: Final = "gemini-3-pro-image"
PLACE: Final = {"project": "some-project", "location": "us-central1"}


class World:
    """The vendor, and the gateway before it."""

    def __init__(self, google: Google, url: str) -> None:
        self.google = google
        self.url = url

    def python(self, *cases: Case) -> dict[str, Answer]:
        return python_answers(self.url, KEY, cases)

    def one(self, **params: Any) -> Answer:
        return self.python(case("one", **params))["one"]

    def asked(self, **params: Any) -> tuple[Answer, dict[str, Any]]:
        """Ask for one thing, and give what the vendor was asked."""
        before = len(self.google.asks)
        answer = self.one(**params)
        [ask] = self.google.asks[before:]
        return answer, ask


def trusting(authority: Any) -> Open:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Transport]:
        async with (
            httpx2.AsyncClient(cookies=cookies, timeout=None, trust_env=False, verify=context) as client,
            own_client(client)() as transport,
        ):
            yield transport

    return opened


def channels(base: str) -> list[ChannelConfig]:
    vertex: dict[str, Any] = {"adapter": "vertex", "base_url": f"{base}/v1"}
    renamed = tuple(ModelConfig(name=f"vertex-{name}", upstream=name) for name in (*MODELS, GEMINI))
    return [
        ChannelConfig(
            name="imagen", adapter="imagen", base_url=f"{base}/v1beta", credentials=(API_KEY,), models=(*MODELS, "gone")
        ),
        ChannelConfig(
            name="wrong-key",
            adapter="imagen",
            base_url=f"{base}/v1beta",
            credentials=("AIzaSy-another-key-0123456789",),
            models=(ModelConfig(name="wrong-key", upstream=GENERATE),),
        ),
        ChannelConfig(
            name="account", credentials=(account(f"{base}/token/"),), models=renamed, options=PLACE, **vertex
        ),
        ChannelConfig(
            name="token",
            credentials=(TOKEN,),
            models=(ModelConfig(name="by-token", upstream=GENERATE),),
            options={"project": "some-project"},
            **vertex,
        ),
        ChannelConfig(
            name="express",
            credentials=(API_KEY,),
            models=(ModelConfig(name="by-key", upstream=GENERATE),),
            options={"express": True},
            **vertex,
        ),
        ChannelConfig(
            name="nobody",
            credentials=(account("https://127.0.0.1:1/token"),),
            models=(ModelConfig(name="either", upstream=GENERATE),),
            options=PLACE,
            priority=1,
            **vertex,
        ),
        ChannelConfig(
            name="somebody",
            adapter="imagen",
            base_url=f"{base}/v1beta",
            credentials=(API_KEY,),
            models=(ModelConfig(name="either", upstream=GENERATE),),
        ),
    ]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Serve the vendor with a certificate, since tokens are asked for over TLS alone, and the gateway before it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    desk = TokenDesk()
    google = Google(desk)
    with (
        certificate.private_key_pem.tempfile() as key,
        certificate.cert_chain_pems[0].tempfile() as chain,
        serve(google.app, ssl_keyfile=key, ssl_certfile=chain) as plain,
    ):
        base = plain.replace("http:", "https:")
        desk.uri = f"{base}/token/"
        images = images_app(
            adapters=STAGED,
            channels=channels(base),
            keys=[KeyConfig(name="sdk", key=KEY)],
            transport=trusting(authority),
        )
        with serve(images) as url:
            yield World(google, f"{url}/v1")


SIZES: Final = {
    "256x256": "1024x1024",
    "512x512": "1024x1024",
    "1024x1024": "1024x1024",
    "1536x1024": "1280x896",
    "1024x1536": "896x1280",
    "1792x1024": "2816x1536",
    "1024x1792": "1536x2816",
    "1408x768": "1408x768",
    "2048x2048": "2048x2048",
    "3840x2160": "2816x1536",
    "999999x1": "2816x1536",
    "16:9": "16:9",
    "3:2": "4:3",
    "2K": "2K",
    "1k": "1K",
    "auto": "auto",
}
NO_SIZES: Final = ("1024\u00d71024", "0x0", "-1x5", "1024", "big", "0:1", "1x", "")


@pytest.mark.parametrize("answers_of", [python_answers, node_answers])
def test_the_whole_matrix_is_served(
    answers_of: Callable[[str, str, Sequence[Case]], dict[str, Answer]], world: World
) -> None:
    """Every size, quality and number of pictures, and every vendor's field, from both SDKs."""
    cases = [
        *(case(f"size {size}", size=size, **LANTERN) for size in SIZES),
        *(case(f"no size {size}", size=size, **LANTERN) for size in NO_SIZES),
        *(
            case(f"quality {quality}", quality=quality, **LANTERN)
            for quality in ("auto", "low", "medium", "high", "standard", "hd")
        ),
        *(case(f"n {n}", n=n, **LANTERN) for n in range(1, 11)),
        *(case(f"gemini {n}", n=n, **{**LANTERN, "model": f"vertex-{GEMINI}"}) for n in (1, 3)),
        case("b64", response_format="b64_json", **LANTERN),
        case("top", aspect_ratio="16:9", image_size="2K", person_generation="ALLOW_ADULT", n=2, **LANTERN),
        case("body", extra_body={"aspect_ratio": "9:16", "parameters": {"sampleCount": 3}}, **LANTERN),
        case("jpeg", output_format="jpeg", output_compression=50, **LANTERN),
        case("webp", output_format="webp", output_compression=50, **LANTERN),
        case("all", n=4, style="vivid", user="u", background="auto", moderation="low", seed=7, **LANTERN),
        case("blocked", **LANTERN | {"prompt": "blocked"}),
        case("nothing", **LANTERN | {"prompt": "nothing"}),
        case("refused", **LANTERN | {"prompt": "refused"}),
        case("half", n=10, **LANTERN | {"prompt": "half"}),
        case("too many", n=11, **LANTERN),
    ]

    seen = answers_of(world.url, KEY, cases)

    for size, made in SIZES.items():
        answer = seen[f"size {size}"]
        assert answer.adapted == (None if made.lower() == size.lower() else f"size: {size} -> {made}"), size
        assert [picture.kind for picture in answer.data] == ["png"]
    for size in NO_SIZES:
        assert (seen[f"no size {size}"].error or {})["param"] == "size"
    adapted = {name: seen[f"quality {name}"].adapted for name in ("auto", "low", "medium", "high", "standard", "hd")}
    dropped = {"low": "quality: dropped", "high": "quality: high -> 2K", "hd": "quality: hd -> 2K"}
    assert adapted == {**dict.fromkeys(("auto", "medium", "standard")), **dropped}
    counted = {n: len({picture.sha256 for picture in seen[f"n {n}"].data}) for n in range(1, 11)}
    assert counted == {n: n for n in range(1, 11)}
    assert [len(seen[name].data) for name in ("b64", "top", "body", "all", "half")] == [1, 2, 3, 4, 5]
    assert [len(seen[f"gemini {n}"].data) for n in (1, 3)] == [1, 3]
    assert [(seen[name].data[0].kind, seen[name].extra["output_format"]) for name in ("jpeg", "webp")] == [
        ("jpeg", "jpeg"),
        ("png", "png"),
    ]
    assert seen["jpeg"].adapted is None
    assert seen["webp"].adapted == "output_format: dropped; output_compression: dropped"
    said = set((seen["all"].adapted or "").split("; "))
    assert said == {f"{name}: dropped" for name in ("background", "moderation", "seed", "style", "user")}
    for name in ("blocked", "nothing", "refused"):
        assert (seen[name].status, (seen[name].error or {})["code"]) == (403, "moderation_blocked"), name
    assert (seen["too many"].status, (seen["too many"].error or {})["param"]) == (400, "n")


def test_what_the_client_says_arrives_as_imagens_parameters(world: World) -> None:
    """Single fields are translated, the whole `parameters` object stands before them, and the count is always said."""
    _, plain = world.asked(**LANTERN)
    _, told = world.asked(
        **LANTERN,
        n=2,
        size="1024x1024",
        output_format="png",
        extra_body={
            "aspect_ratio": "9:16",
            "guidance_scale": 7.5,
            "image_size": "1k",
            "language": "de",
            "person_generation": "dont_allow",
            "safety_setting": "block_low_and_above",
            "parameters": {
                "aspectRatio": "3:4",
                "includeSafetyAttributes": True,
                "language": None,
                "outputOptions": {"mimeType": "image/jpeg", "compressionQuality": 60},
            },
        },
    )

    assert plain == {
        "instances": [{"prompt": LANTERN["prompt"]}],
        "parameters": {"includeRaiReason": True, "sampleCount": 1},
    }
    assert told["parameters"] == {
        "aspectRatio": "3:4",
        "guidanceScale": 7.5,
        "includeRaiReason": True,
        "includeSafetyAttributes": True,
        "language": "de",
        "outputOptions": {"mimeType": "image/jpeg", "compressionQuality": 60},
        "personGeneration": "dont_allow",
        "safetySetting": "block_low_and_above",
        "sampleCount": 2,
        "sampleImageSize": "1K",
    }


def test_more_than_four_pictures_are_asked_for_four_at_a_time(world: World) -> None:
    """Ten pictures are three asks."""
    before = len(world.google.asks)

    answer = world.one(n=10, **LANTERN)

    asks = world.google.asks[before:]
    assert sorted(ask["parameters"]["sampleCount"] for ask in asks) == [2, 4, 4]
    assert len(answer.data) == 10


@pytest.mark.parametrize("alias", ["sampleCount", "number_of_images"])
def test_imagens_names_of_the_count_are_the_count(alias: str, world: World) -> None:
    """They mean `n`, also inside `parameters`, and must not contradict it."""
    top, ask = world.asked(extra_body={alias: 3}, **LANTERN)
    inner, _ = world.asked(extra_body={"parameters": {"sampleCount": 2}}, **LANTERN)
    twice = world.one(n=2, extra_body={"parameters": {"sampleCount": 3}}, **LANTERN)
    much = world.one(extra_body={"parameters": {"sampleCount": 40}}, **LANTERN)

    assert (len(top.data), ask["parameters"]["sampleCount"], len(inner.data)) == (3, 3, 2)
    assert (twice.status, (twice.error or {})["code"]) == (400, "duplicate_key")
    assert (much.status, (much.error or {})["param"]) == (400, "n")


def test_vertex_is_told_more_than_the_gemini_api(world: World) -> None:
    """A seed, what must not be in the picture, the watermark and the better prompt; the new prompt is shown."""
    fields = {"seed": 42, "negative_prompt": "blur", "watermark": False, "enhance_prompt": True}

    vertex, told = world.asked(extra_body=fields, **LANTERN | {"model": f"vertex-{GENERATE}"})
    plain, less = world.asked(extra_body={**fields, "parameters": {"seed": 9}}, **LANTERN)

    assert vertex.adapted is None
    assert vertex.data[0].revised_prompt == "a red paper lantern, but better"
    assert told["parameters"] == {
        "addWatermark": False,
        "enhancePrompt": True,
        "includeRaiReason": True,
        "negativePrompt": "blur",
        "sampleCount": 1,
        "seed": 42,
    }
    assert less["parameters"] == {"includeRaiReason": True, "sampleCount": 1}
    assert set((plain.adapted or "").split("; ")) == {f"{name}: dropped" for name in (*fields, "parameters.seed")}


def test_a_seed_goes_without_a_watermark_only(world: World) -> None:
    """Google refuses it otherwise, so it is dropped, and the client is told."""
    answer, ask = world.asked(seed=42, **LANTERN | {"model": f"vertex-{GENERATE}"})

    assert answer.adapted == "seed: dropped"
    assert "seed" not in ask["parameters"]


def test_each_ask_of_one_request_has_its_own_seed(world: World) -> None:
    """Otherwise the fifth picture would be the first one again."""
    before = len(world.google.asks)

    world.one(n=8, seed=42, watermark=False, **LANTERN | {"model": f"vertex-{GENERATE}"})

    assert sorted(ask["parameters"]["seed"] for ask in world.google.asks[before:]) == [42, 46]


def test_gemini_on_vertex_is_gemini(world: World) -> None:
    """Its own conversation and its own answer, with what only Vertex can be told; Imagen's fields are dropped."""
    answer, ask = world.asked(
        **LANTERN | {"model": f"vertex-{GEMINI}"},
        size="1792x1024",
        output_format="jpeg",
        output_compression=70,
        extra_body={
            "person_generation": "allow_adult",
            "prominent_people": "BLOCK_PROMINENT_PEOPLE",
            "negative_prompt": "blur",
            "parameters": {"sampleCount": 1, "language": "de"},
            "seed": 3,
        },
    )

    assert ask["contents"] == [{"role": "user", "parts": [{"text": LANTERN["prompt"]}]}]
    assert ask["generationConfig"] == {
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {
            "aspectRatio": "16:9",
            "imageSize": "1K",
            "personGeneration": "ALLOW_ADULT",
            "prominentPeople": "BLOCK_PROMINENT_PEOPLE",
            "imageOutputOptions": {"mimeType": "image/jpeg", "compressionQuality": 70},
        },
        "seed": 3,
    }
    assert answer.data[0].kind == "jpeg"
    assert answer.usage is not None
    assert answer.usage["output_tokens"] == 1120
    assert answer.adapted == "negative_prompt: dropped; parameters: dropped; size: 1792x1024 -> 1376x768"


def test_three_kinds_of_credentials_open_vertex(world: World) -> None:
    """A service account, an access token, an API key: each at its own address."""
    before = len(world.google.paths)

    statuses = [world.one(**LANTERN | {"model": name}).status for name in (f"vertex-{GENERATE}", "by-token", "by-key")]

    assert statuses == [200] * 3
    model = f"publishers/google/models/{GENERATE}:predict"
    assert world.google.paths[before:] == [
        f"/v1/projects/some-project/locations/us-central1/{model}",
        f"/v1/projects/some-project/locations/global/{model}",
        f"/v1/{model}",
    ]


def test_a_service_account_gets_one_token_for_many_pictures(world: World) -> None:
    """Forty requests at once, and not one ask more for a token; a token that is revoked is replaced."""
    name = f"vertex-{GENERATE}"
    world.one(**LANTERN | {"model": name})
    asked = world.google.desk.asks

    seen = world.python(*(case(f"{i}", **LANTERN | {"model": name}) for i in range(40)))
    world.google.revoked = set(world.google.desk.given)
    refused = world.one(**LANTERN | {"model": name})
    again = world.one(**LANTERN | {"model": name})

    assert {answer.status for answer in seen.values()} == {200}
    assert (refused.status, (refused.error or {})["code"]) == (502, "upstream_auth_failed")
    assert again.status == 200
    assert world.google.desk.asks == asked + 1


def test_without_a_token_nothing_is_asked(world: World) -> None:
    """The token service is away: the client learns that our credential is at fault, and nothing of it."""
    name = f"vertex-{GENERATE}"
    world.one(**LANTERN | {"model": name})
    world.google.revoked = set(world.google.desk.given)
    world.one(**LANTERN | {"model": name})
    world.google.desk.says = [(400, {"error": "invalid_grant", "error_description": "painter@some-project is gone"})]
    before = len(world.google.asks)

    answer = world.one(**LANTERN | {"model": name})

    assert (answer.status, (answer.error or {})["code"]) == (502, "upstream_auth_failed")
    assert "painter" not in str(answer.error)
    assert len(world.google.asks) == before


def test_another_channel_serves_where_no_token_can_be_had(world: World) -> None:
    """Nothing was paid for, so the next one is asked; what only the first understands is not told to it."""
    answer, ask = world.asked(seed=7, watermark=False, **LANTERN | {"model": "either"})

    assert (answer.status, answer.headers["x-amux-attempts"]) == (200, "2")
    assert answer.adapted == "seed: dropped; watermark: dropped"
    assert ask["parameters"] == {"includeRaiReason": True, "sampleCount": 1}


@pytest.mark.parametrize(
    ("model", "prompt", "status", "code"),
    [
        ("wrong-key", "a cat", 502, "upstream_auth_failed"),
        ("gone", "a cat", 404, "model_not_found"),
        (GENERATE, "busy", 503, "upstream_unavailable"),
        (GENERATE, "limited", 429, "rate_limit_exceeded"),
        (GENERATE, "broken", 502, "upstream_error"),
        (f"vertex-{GENERATE}", "limited", 429, "rate_limit_exceeded"),
        (f"vertex-{GENERATE}", "refused", 403, "moderation_blocked"),
        (f"vertex-{GEMINI}", "limited", 429, "rate_limit_exceeded"),
        (f"vertex-{GEMINI}", "blocked", 403, "moderation_blocked"),
        (f"vertex-{GEMINI}", "broken", 502, "upstream_error"),
    ],
)
def test_what_goes_wrong_is_told_in_openais_words(
    model: str, prompt: str, status: int, code: str, world: World
) -> None:
    """Whether the request, the gateway or the vendor is at fault."""
    answer = world.one(model=model, prompt=prompt)

    assert (answer.status, (answer.error or {})["code"]) == (status, code)
