"""Pictures in the form that the client asks for, whatever the upstream answers with, over real sockets."""

import base64
import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2  # noqa: TID251, the test's client
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.routing import Mount

from amux_asgi import (
    ChannelConfig,
    Config,
    GatewayConfig,
    GenerationRequest,
    ImagesApp,
    KeyConfig,
    PriceConfig,
    Principal,
    anyone,
    images_app,
)
from amux_asgi.adapters import ADAPTERS
from amux_asgi.errors import InvalidRequestError, RateLimitError
from amux_asgi.pricing import dollars
from amux_asgi.transport.fetch import PUBLIC
from tests.painted import painted
from tests.picture_server import PictureServer, picture_server
from tests.serve import serve
from tests.stub import Script, sending, whole

KEY: Final = "delivery-key-of-the-tests"
PNG: Final = painted()
OK: Final = 200
URLS: Final = replace(ADAPTERS["openai-compatible"], name="urls", forms=("url",))
SHORT: Final = replace(URLS, name="short", url_life=600)
AS_PNG: Final = whole(PNG, "200 OK", "connection: close").replace(b"application/json", b"image/png")


def scripts(pictures: dict[str, bytes]) -> dict[str, Script]:
    return {path: sending(answer) for path, answer in pictures.items()}


@pytest.fixture(scope="module")
def vendor() -> Generator[PictureServer]:
    """Have pictures at some addresses, and nothing at others."""
    with picture_server(scripts({"/1.png": AS_PNG, "/2.png": AS_PNG, "/gone": whole(b"", "404 Not Found")})) as server:
        yield server


class Upstream:
    """Answers with these items, and notes what it was asked."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = items
        self.status = 200
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(json.loads((await receive())["body"]))
        body = json.dumps({"created": 7, "data": self.items, "error": "later" * (self.status != OK)}).encode()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": body})


def base64_item(data: bytes = PNG, **fields: Any) -> dict[str, Any]:
    return {"b64_json": base64.b64encode(data).decode(), **fields}


def app_of(
    upstream: Upstream,
    vendor: PictureServer | None = None,
    *,
    adapter: str = "sglang",
    rehost: bool = False,
    **settings: Any,
) -> ImagesApp:
    channel = ChannelConfig(name="c", adapter=adapter, base_url="asgi://up/v1", models=("m",), rehost=rehost)
    config = Config(
        gateway=GatewayConfig(reveal=("cost",), **settings),
        channels=(channel,),
        keys=(KeyConfig(name="k", key=KEY),),
        prices={"m": PriceConfig(image="0.5")},
    )
    policy = PUBLIC if vendor is None else vendor.policy
    return images_app(config, apps={"up": upstream}, adapters=[URLS, SHORT], fetch=policy)


@contextmanager
def client_of(app: Any) -> Generator[httpx2.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with serve(app) as url, httpx2.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


def ask(client: httpx2.Client, path: str = "/v1/images/generations", **fields: Any) -> httpx2.Response:
    headers = fields.pop("headers", None)
    return client.post(path, json={"model": "m", "prompt": "a lantern", **fields}, headers=headers)


def shown(url: str) -> httpx2.Response:
    """Fetch a hosted picture as a stranger does, without a key."""
    return httpx2.get(url)


def test_base64_becomes_a_url_for_an_hour() -> None:
    """Byte for byte, without a key, with headers that make it harmless."""
    upstream = Upstream(base64_item(revised_prompt="a paper lantern", seed=4))

    with client_of(app_of(upstream)) as client:
        answer = ask(client, response_format="url")
        (item,) = answer.json()["data"]
        picture = shown(item["url"])

    assert item.keys() == {"url", "revised_prompt", "seed"}
    assert "response_format" not in upstream.asked[0] or upstream.asked[0]["response_format"] == "b64_json"
    assert (picture.status_code, picture.content) == (200, PNG)
    assert (picture.headers["content-type"], picture.headers["x-content-type-options"]) == ("image/png", "nosniff")
    assert answer.json()["output_format"] == "png"
    assert answer.headers["x-amux-cost"] == "0.5"
    assert "x-amux-adapted" not in answer.headers


@pytest.mark.parametrize("mount", ["/v1", "/ai/v1", "/deep/inside/images"])
def test_a_hosted_picture_is_found_under_any_mount(mount: str) -> None:
    """At the address that the answer says."""
    images = app_of(Upstream(base64_item()))

    with client_of(Starlette(routes=[Mount(mount, images)], lifespan=images.lifespan)) as client:
        url = ask(client, f"{mount}/images/generations", response_format="url").json()["data"][0]["url"]
        picture = shown(url)

    assert url.startswith(f"{client.base_url}".rstrip("/") + f"{mount}/pictures/")
    assert picture.content == PNG


def test_behind_a_proxy_the_public_url_is_said() -> None:
    """The one that the team wrote down."""
    with client_of(app_of(Upstream(base64_item()), public_url="https://api.example.com/ai/v1")) as client:
        url = ask(client, response_format="url").json()["data"][0]["url"]
        picture = client.get("/pictures/" + url.rpartition("/")[2])

    assert url.startswith("https://api.example.com/ai/v1/pictures/")
    assert picture.content == PNG


def test_pictures_survive_a_restart_in_a_folder(tmp_path: Path) -> None:
    """And another process finds them too."""
    told: dict[str, Any] = {"pictures": f"file:{tmp_path}/pictures"}

    with client_of(app_of(Upstream(base64_item()), **told)) as client:
        name = ask(client, response_format="url").json()["data"][0]["url"].rpartition("/")[2]
    with client_of(app_of(Upstream(), **told)) as client:
        picture = client.get(f"/v1/pictures/{name}")

    assert picture.content == PNG


def test_a_url_becomes_base64(vendor: PictureServer) -> None:
    """Fetched over TLS from the address that was checked; the vendor was not asked for a form that it has not."""
    upstream = Upstream({"url": f"{vendor.url}/1.png", "revised_prompt": "r"})

    with client_of(app_of(upstream, vendor, adapter="urls")) as client:
        answer = ask(client, response_format="b64_json")

    (item,) = answer.json()["data"]
    assert item == {**base64_item(), "revised_prompt": "r"}
    assert "response_format" not in upstream.asked[0]
    assert answer.json()["output_format"] == "png"


def test_a_vendors_url_is_handed_on_as_it_came(vendor: PictureServer) -> None:
    """Nothing is fetched, and its signature stays byte for byte."""
    url = f"{vendor.url}/1.png?Expires=1&Signature=a%2Bb+c"
    before = len(vendor.stub.requests)

    with client_of(app_of(Upstream({"url": url}), vendor, adapter="urls")) as client:
        answers = [ask(client, response_format=form) for form in ("url", None)]

    assert [answer.json()["data"] for answer in answers] == [[{"url": url}]] * 2
    assert len(vendor.stub.requests) == before


@pytest.mark.parametrize(("adapter", "rehost"), [("short", False), ("urls", True)])
def test_a_url_that_dies_soon_or_must_not_be_seen_is_hosted(
    vendor: PictureServer, adapter: str, *, rehost: bool
) -> None:
    """The client gets one of ours."""
    upstream = Upstream({"url": f"{vendor.url}/1.png"})

    with client_of(app_of(upstream, vendor, adapter=adapter, rehost=rehost)) as client:
        url = ask(client, response_format="url").json()["data"][0]["url"]
        picture = shown(url)

    assert "/pictures/" in url
    assert picture.content == PNG


def test_what_cannot_be_fetched_is_left_out_and_not_charged(vendor: PictureServer) -> None:
    """Two of three: no empty item, two prices."""
    items = [{"url": vendor.url + path} for path in ("/1.png", "/gone", "/2.png")]

    with client_of(app_of(Upstream(*items), vendor, adapter="urls")) as client:
        answer = ask(client, n=3, response_format="b64_json")

    assert answer.json()["data"] == [base64_item(), base64_item()]
    assert answer.headers["x-amux-cost"] == "1"


def test_when_nothing_can_be_fetched_nothing_is_charged(vendor: PictureServer) -> None:
    """The upstream's fault, never asked again: it may have been paid."""
    upstream = Upstream({"url": f"{vendor.url}/gone"})

    with client_of(app_of(upstream, vendor, adapter="urls")) as client:
        answer = ask(client, response_format="b64_json")

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_bad_response")
    assert (answer.headers["x-should-retry"], answer.headers["x-amux-cost"]) == ("false", "0")
    assert "example" not in answer.text
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("url", ["https://127.0.0.1/1.png", "http://pictures.example.com/1.png", "https://[::1]/x"])
def test_nothing_is_fetched_from_inside(url: str) -> None:
    """An upstream's word opens no door."""
    with client_of(app_of(Upstream({"url": url}), adapter="urls")) as client:
        answer = ask(client, response_format="b64_json")

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_bad_response")


def test_without_room_nobody_is_asked() -> None:
    """503 before anything is spent; base64 needs no room."""
    upstream = Upstream(base64_item())

    with client_of(app_of(upstream, pictures_max="1 MB")) as client:
        refused = ask(client, response_format="url")
        made = ask(client, response_format="b64_json")

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
    assert made.json()["data"] == [base64_item()]
    assert len(upstream.asked) == 1


def test_an_answer_said_again_has_the_same_urls() -> None:
    """And they still lead to the pictures."""
    upstream = Upstream(base64_item())

    with client_of(app_of(upstream)) as client:
        first, second = (ask(client, response_format="url", headers={"idempotency-key": "once"}) for _ in range(2))
        picture = shown(second.json()["data"][0]["url"])

    assert (first.content, second.headers["idempotent-replayed"]) == (second.content, "true")
    assert picture.content == PNG
    assert len(upstream.asked) == 1


@pytest.mark.anyio
async def test_without_http_a_url_needs_a_public_url() -> None:
    """A library call has no address of its own: it is told so before anything is spent."""
    upstream = Upstream(base64_item())
    request = GenerationRequest(model="m", prompt="a lantern", response_format="url")
    me = Principal(account="me", key="me")
    nowhere, somewhere = app_of(upstream), app_of(upstream, public_url="https://api.example.com")

    async with nowhere.lifespan():
        with pytest.raises(InvalidRequestError) as caught:
            await nowhere.gateway.generate(request, me)
    assert (caught.value.param, upstream.asked) == ("response_format", [])
    async with somewhere.lifespan():
        made = await somewhere.gateway.generate(request, me)
    assert str(made.images.data[0].url).startswith("https://api.example.com/pictures/")


def test_without_a_lifespan_hosted_pictures_are_still_there() -> None:
    """Slower, and with its warning."""
    app = app_of(Upstream(base64_item()))

    with serve(app, lifespan="off") as url, httpx2.Client(base_url=url) as client:
        answer = client.post(
            "/v1/images/generations",
            json={"model": "m", "prompt": "x", "response_format": "url"},
            headers={"authorization": f"Bearer {KEY}"},
        )
        picture = shown(answer.json()["data"][0]["url"])

    assert picture.content == PNG


TOKENS: Final = {"total_tokens": 30, "input_tokens": 3, "output_tokens": 27}


class Counting(Upstream):
    """Tells tokens, too."""

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(json.loads((await receive())["body"]))
        body = json.dumps({"created": 7, "data": self.items, "usage": TOKENS}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    ("items", "n", "share"),
    [
        ([base64_item(), base64_item(b"no picture"), base64_item()], 3, 2),
        ([base64_item()] * 3, 3, 3),
    ],
)
def test_tokens_of_pictures_that_are_not_delivered_cost_nothing(
    items: list[dict[str, Any]], n: int, share: int
) -> None:
    """Their tokens are told in one sum: each picture is a part of it."""
    channel = ChannelConfig(name="c", adapter="sglang", base_url="asgi://up/v1", models=("gpt-image-1",))
    config = Config(channels=(channel,), keys=(KeyConfig(name="k", key=KEY),))

    with client_of(images_app(config, apps={"up": Counting(*items)})) as client:
        answer = ask(client, model="gpt-image-1", n=n, response_format="url", size="1024x1024", quality="low")

    whole = 3 * 5_000 + 27 * 40_000  # nano-dollars
    assert len(answer.json()["data"]) == share
    assert answer.headers["x-amux-cost"] == dollars(-(-whole * share // n))


def test_room_is_kept_for_what_is_being_made() -> None:
    """Whoever would find the store full when their pictures come is refused before they are made."""
    upstream = Upstream(base64_item())

    with client_of(app_of(upstream, pictures_max="30 MiB")) as client, ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask, client, response_format="url") for _ in range(20)]
        answers = [each.result().status_code for each in asked]

    assert set(answers) <= {200, 503}
    assert answers.count(200) == len(upstream.asked)


@pytest.mark.anyio
async def test_who_could_not_deliver_is_passed_over() -> None:
    """A channel behind the first does not refuse what the first can do, and is not asked when it fails."""
    urls, base = Upstream({"url": "https://pictures.example.com/1.png"}), Upstream(base64_item())
    channels = [
        ChannelConfig(name="a", adapter="urls", base_url="asgi://urls/v1", models=("m",), priority=1),
        ChannelConfig(name="b", adapter="sglang", base_url="asgi://base/v1", models=("m",)),
    ]
    images = images_app(channels=channels, authenticate=anyone, apps={"urls": urls, "base": base}, adapters=[URLS])
    request = GenerationRequest(model="m", prompt="a lantern", response_format="url")

    async with images.lifespan():
        made = await images.gateway.generate(request, Principal(account="me", key="me"))
        urls.status = 429
        with pytest.raises(RateLimitError):
            await images.gateway.generate(request, Principal(account="me", key="me"))

    assert made.channel == "a"
    assert base.asked == []
