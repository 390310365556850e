"""The sandbox speaks OpenAI's protocol, strictly, and says what it is."""

import base64
import struct
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2  # noqa: TID251, the test's client
import msgspec
import pytest
from openai import APIError, OpenAI

from amux_asgi.sandbox import FAULTS, app
from tests.serve import serve

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = {"model": "gpt-image-2", "prompt": "a lantern", "size": "1024x1024", "quality": "low"}


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with serve(app, lifespan="off") as running:
        yield running


@pytest.fixture
async def asking() -> AsyncGenerator[httpx2.AsyncClient]:
    """Ask it without a socket."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://sandbox") as client:
        yield client


def size_of(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(PNG)
    return struct.unpack(">II", picture[16:24])


async def generate(asking: httpx2.AsyncClient, **fields: Any) -> httpx2.Response:
    return await asking.post("/v1/images/generations", json={**SMALL, **fields})


async def test_a_picture_is_answered_with_what_it_is(asking: httpx2.AsyncClient) -> None:
    """Nothing stays `auto`."""
    answer = (await generate(asking, size="auto", quality="auto", background="auto")).json()

    assert size_of(base64.b64decode(answer["data"][0]["b64_json"])) == (1024, 1024)
    assert {name: answer[name] for name in ("size", "quality", "background", "output_format")} == {
        "size": "1024x1024",
        "quality": "medium",
        "background": "opaque",
        "output_format": "png",
    }


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"model": "gpt-image-1", "quality": "high"}, 4160),
        ({"model": "gpt-image-1-mini", "quality": "low"}, 272),
        ({"model": "gpt-image-2", "quality": "low"}, 196),
        ({"model": "gpt-image-2", "quality": "medium", "n": 3}, 3 * 1756),
    ],
    ids=str,
)
async def test_usage_is_counted_by_the_published_formula(
    asking: httpx2.AsyncClient, fields: dict[str, Any], tokens: int
) -> None:
    """Four bytes of a prompt are taken for a token; all adds up."""
    usage = (await generate(asking, prompt="twelve bytes", **fields)).json()["usage"]

    n = fields.get("n", 1)
    assert usage == {
        "input_tokens": 3 * n,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 3 * n},
        "output_tokens": tokens,
        "output_tokens_details": {"image_tokens": tokens, "text_tokens": 0},
        "total_tokens": 3 * n + tokens,
    }


async def test_several_pictures_differ_and_a_seed_repeats_them(asking: httpx2.AsyncClient) -> None:
    """`seed` is the sandbox's own field; picture i of seed s is picture 0 of seed s + i."""
    three = (await generate(asking, n=3)).json()["data"]
    second = (await generate(asking, seed=1)).json()["data"]

    assert len({picture["b64_json"] for picture in three}) == 3
    assert second == [three[1]]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": "gpt-image-9"}, "model", "invalid_value"),
        ({"model": "sandbox-unknown"}, "model", "invalid_value"),
        ({"response_format": "b64_json"}, "response_format", "unknown_parameter"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"seed": "one"}, "seed", "invalid_type"),
        ({"seed": True}, "seed", "invalid_type"),
        ({"seed": 2**53 + 1}, "seed", "integer_above_max_value"),
        ({"seed": -(2**53) - 1}, "seed", "integer_below_min_value"),
        ({"model": "gpt-image-2.5-flare", "output_format": "gif"}, "output_format", "invalid_value"),
        ({"model": "gpt-image-2.5-flare", "output_format": "svg"}, "output_format", "invalid_value"),
        ({"n": 11}, "n", "integer_above_max_value"),
        ({"size": "1x1"}, "size", "invalid_value"),
        ({"prompt": None}, "prompt", "invalid_type"),
    ],
    ids=str,
)
async def test_what_openai_refuses_is_refused(
    asking: httpx2.AsyncClient, fields: dict[str, Any], param: str, code: str
) -> None:
    """Also the fields that it does not know."""
    answer = await generate(asking, **fields)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert error.keys() == {"message", "type", "param", "code"}


# httpx2 leaves its own generator to the collector, which trio reports.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
)
async def test_a_request_that_is_too_large_is_refused(asking: httpx2.AsyncClient) -> None:
    """It is not kept either."""
    assert (await asking.post("/v1/images/generations", content=b" " * 1_048_577)).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/images/generations", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/models/gpt-image-2", 405),
        ("POST", "/v1/pictures/x", 405),
        ("GET", "/v1/chat/completions", 404),
        ("GET", "/v1/models/gpt-4o", 400),
        ("GET", "/v1/pictures/x", 404),
        ("GET", "/v1/pictures/e30=", 404),
    ],
)
async def test_other_paths_and_methods_get_an_error_of_the_same_form(
    asking: httpx2.AsyncClient, method: str, path: str, status: int
) -> None:
    """With an id, like every answer."""
    answer = await asking.request(method, path)

    assert (answer.status_code, answer.json()["error"].keys()) == (status, {"message", "type", "param", "code"})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_both_forms_of_a_path_are_served(asking: httpx2.AsyncClient) -> None:
    """With `/v1` and without."""
    assert (await asking.post("/images/generations", json=SMALL)).status_code == 200
    assert (await asking.get("/models/gpt-image-2")).json() == {
        "id": "gpt-image-2",
        "object": "model",
        "created": 0,
        "owned_by": "amux-sandbox",
    }


async def test_its_models_are_the_catalogues_and_one_for_each_fault(asking: httpx2.AsyncClient) -> None:
    """All of them owned by the sandbox, which is no model."""
    listed = (await asking.get("/v1/models")).json()["data"]

    names = {card["id"] for card in listed}
    assert {"gpt-image-1", "gpt-image-2", "dall-e-3", *(f"sandbox-{name}" for name in FAULTS)} <= names
    assert {card["owned_by"] for card in listed} == {"amux-sandbox"}


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_url_leads_to_the_picture(url: str, prefix: str) -> None:
    """Whoever asks for it gets the same picture that `b64_json` would have been."""
    told = {"model": "dall-e-3", "prompt": "a lantern", "size": "1024x1792"}
    (item,) = httpx2.post(f"{url}{prefix}/images/generations", json=told, timeout=30).json()["data"]
    (other,) = httpx2.post(
        f"{url}{prefix}/images/generations", json={**told, "response_format": "b64_json"}, timeout=30
    ).json()["data"]

    picture = httpx2.get(item["url"], timeout=30)

    assert (picture.headers["content-type"], size_of(picture.content)) == ("image/png", (1024, 1792))
    assert base64.b64decode(other["b64_json"]) == picture.content
    assert item["revised_prompt"].startswith("a lantern, ")


@pytest.mark.parametrize(
    "made_up",
    [
        {"width": 100_000, "height": 100_000},
        {"output_format": "png\r\nset-cookie: a=b"},
        {"compression": 1000},
        {"blur": 1e300},
    ],
    ids=str,
)
async def test_a_picture_that_nobody_could_order_is_not_painted(url: str, made_up: dict[str, Any]) -> None:
    """A URL made up to keep the sandbox busy, or to add to its answer, leads nowhere."""
    order = msgspec.json.encode({"prompt": "", "seed": 0, "width": 16, "height": 16, **made_up})

    answer = httpx2.get(f"{url}/pictures/{base64.urlsafe_b64encode(order).decode()}")

    assert answer.status_code == 404


async def test_keys_that_look_wrong_are_refused(asking: httpx2.AsyncClient) -> None:
    """So that a team can see what a bad credential does; all other keys are good."""
    refused = await asking.get("/v1/models", headers={"authorization": "Bearer sk-wrong-1"})
    good = await asking.get("/v1/models", headers={"authorization": "Bearer sk-good"})

    assert (refused.status_code, refused.json()["error"]["code"], good.status_code) == (401, "invalid_api_key", 200)


@pytest.mark.parametrize("partials", [0, 2])
def test_a_stream_is_read_by_the_real_sdk(url: str, partials: int) -> None:
    """Unfinished pictures become clearer, then comes the picture and what it cost."""
    with OpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0) as client:
        stream = client.images.generate(
            model="gpt-image-2", prompt="a lantern", quality="low", stream=True, partial_images=partials
        )
        events = list(stream)

    *early, last = events
    assert [(event.type, getattr(event, "partial_image_index", None)) for event in early] == [
        ("image_generation.partial_image", i) for i in range(partials)
    ]
    assert last.type == "image_generation.completed"
    assert last.usage.output_tokens == 196 + 100 * partials
    assert len({event.b64_json for event in events}) == partials + 1


def test_a_stream_can_end_with_an_error(url: str) -> None:
    """The real SDK raises it."""
    with OpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0) as client:
        stream = client.images.generate(
            model="gpt-image-2", prompt="[[fault:stream-error]]", quality="low", stream=True, partial_images=1
        )
        with pytest.raises(APIError, match="Image generation failed"):
            list(stream)
