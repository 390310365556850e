"""One picture through the whole house, over a real socket: the contract with clients."""

import base64
import json
import socket
import struct
from collections.abc import Generator
from typing import Any

import httpx2  # noqa: TID251, the test's client
import pytest

from amux_asgi import ChannelConfig, Config, GatewayConfig, KeyConfig, ModelConfig, images_app
from tests.serve import serve
from tests.stub import Stub, upstream

KEY = "app-key-of-the-tests-01"
NARROW = "narrow-key-of-the-tests"
MODELS = ("gpt-image-2", "gpt-image-1-mini", "dall-e-3", "gpt-image-2.5-flare")


@pytest.fixture(scope="module")
def stub() -> Generator[Stub]:
    with upstream() as running:
        yield running


def config(stub: Stub) -> Config:
    return Config(
        gateway=GatewayConfig(reveal=("attempts", "channel"), body_timeout=0.5, max_body=100_000, max_answer=1_000_000),
        channels=(
            ChannelConfig(name="sandbox", adapter="sandbox", models=MODELS),
            ChannelConfig(
                name="stub",
                adapter="openai",
                base_url=f"{stub.url}/v1",
                credentials=("sk-one", "sk-two"),
                models=("stub-model", ModelConfig(name="pretty", upstream="gpt-image-2")),
                headers={"OpenAI-Project": "proj_x"},
            ),
            ChannelConfig(
                name="gone", adapter="openai-compatible", base_url="http://127.0.0.1:1/v1", models=("gone", "rescued")
            ),
            ChannelConfig(
                name="second", adapter="openai-compatible", base_url=f"{stub.url}/v1", models=("rescued",), priority=-1
            ),
            ChannelConfig(
                name="picky",
                adapter="openai-compatible",
                base_url=f"{stub.url}/v1",
                models=("picky",),
                unknown_fields="reject",
            ),
        ),
        keys=(KeyConfig(name="app", key=KEY), KeyConfig(name="narrow", key=NARROW, models=("dall-*",))),
    )


@pytest.fixture(scope="module")
def client(stub: Stub) -> Generator[httpx2.Client]:
    with (
        serve(images_app(config(stub))) as url,
        httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as asking,
    ):
        yield asking


@pytest.fixture(autouse=True)
def _forget(stub: Stub) -> None:
    stub.requests.clear()


def generate(client: httpx2.Client, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return client.post(
        "/v1/images/generations",
        json={"model": "gpt-image-2", "prompt": "a red paper lantern", **fields},
        headers=headers,
    )


def png_size(text: str) -> tuple[int, int]:
    raw = base64.b64decode(text)
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", raw[16:24])


def sent_to(stub: Stub) -> dict[str, Any]:
    return json.loads(stub.requests[-1].partition(b"\r\n\r\n")[2])


def test_a_minimal_request_makes_one_picture(client: httpx2.Client) -> None:
    """`created`, one item with `b64_json` alone, facts that are resolved, and usage that adds up."""
    answer = generate(client)
    body = answer.json()

    assert answer.status_code == 200
    assert isinstance(body["created"], int)
    assert [item.keys() for item in body["data"]] == [{"b64_json"}]
    assert png_size(body["data"][0]["b64_json"]) == (1024, 1024)
    assert (body["size"], body["quality"], body["background"], body["output_format"]) == (
        "1024x1024",
        "medium",
        "opaque",
        "png",
    )
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-amux-attempts"] == "1"
    assert answer.headers["x-amux-channel"] == "sandbox"


@pytest.mark.parametrize(
    "path", ["/v1/images/generations", "/images/generations", "/v1/images/generations/", "/images/generations/"]
)
def test_both_forms_of_the_path_answer(client: httpx2.Client, path: str) -> None:
    """With and without `/v1`, with and without a slash, never a redirect."""
    assert client.post(path, json={"model": "gpt-image-2", "prompt": "a"}, follow_redirects=False).status_code == 200


def test_n_pictures_cost_n_times_the_input(client: httpx2.Client) -> None:
    """Three differ, and are counted."""
    one, three = generate(client).json(), generate(client, n=3).json()

    assert len({item["b64_json"] for item in three["data"]}) == 3
    assert three["usage"]["input_tokens"] == 3 * one["usage"]["input_tokens"]


def test_sizes_and_formats_are_what_was_asked(client: httpx2.Client) -> None:
    """The bytes are what the answer says they are."""
    wide = generate(client, size="1536x1024").json()
    jpeg = generate(client, output_format="jpeg", output_compression=10).json()["data"][0]["b64_json"]
    better = generate(client, output_format="jpeg", output_compression=90).json()["data"][0]["b64_json"]
    clear = generate(client, background="transparent").json()

    assert png_size(wide["data"][0]["b64_json"]) == (1536, 1024)
    assert base64.b64decode(jpeg)[:2] == b"\xff\xd8"
    assert len(jpeg) < len(better)
    assert base64.b64decode(clear["data"][0]["b64_json"])[25] == 6  # PNG's colour type with alpha


def test_dalle_answers_in_either_form(client: httpx2.Client) -> None:
    """One of the two, never both, and the revised prompt."""
    by_url = generate(client, model="dall-e-3").json()["data"][0]
    by_bytes = generate(client, model="dall-e-3", response_format="b64_json").json()["data"][0]

    assert by_url.keys() == {"url", "revised_prompt"}
    assert by_bytes.keys() == {"b64_json", "revised_prompt"}


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"prompt": None}, 400, "invalid_type", "prompt"),
        ({"n": 11}, 400, "integer_above_max_value", "n"),
        ({"model": "nobody's", "n": 11}, 404, "model_not_found", "model"),
        ({"model": ""}, 404, "model_not_found", "model"),
        ({"model": None}, 400, "missing_required_parameter", "model"),
        ({"stream": 1}, 400, "invalid_type", "stream"),
        ({"brand_new": 1, "model": "picky"}, 400, "unknown_parameter", "brand_new"),
        ({"prompt": "[[fault:moderation]]"}, 403, "moderation_blocked", None),
        ({"prompt": "[[fault:content-policy]]"}, 403, "content_policy_violation", None),
        ({"prompt": "[[fault:rate-limited 9]]"}, 429, "rate_limit_exceeded", None),
        ({"prompt": "[[fault:quota]]"}, 503, "upstream_unavailable", None),
        ({"prompt": "[[fault:unauthorized]]"}, 502, "upstream_auth_failed", None),
        ({"prompt": "[[fault:forbidden]]"}, 502, "upstream_auth_failed", None),
        ({"prompt": "[[fault:server-error]]"}, 502, "upstream_error", None),
        ({"prompt": "[[fault:overloaded]]"}, 503, "upstream_unavailable", None),
        ({"prompt": "[[fault:bad-gateway]]"}, 502, "upstream_bad_response", None),
        ({"prompt": "[[fault:cut]]"}, 502, "upstream_incomplete", None),
        ({"prompt": "[[fault:truncated]]"}, 502, "upstream_bad_response", None),
        ({"prompt": "[[fault:html]]"}, 502, "upstream_bad_response", None),
        ({"prompt": "[[fault:no-data]]"}, 502, "upstream_bad_response", None),
        ({"prompt": "[[fault:null-data]]"}, 502, "upstream_bad_response", None),
        ({"prompt": "[[fault:error-in-200]]"}, 502, "upstream_error", None),
        ({"prompt": "[[fault:redirect]]"}, 502, "upstream_redirect", None),
        ({"prompt": "[[fault:compressed]]"}, 502, "upstream_bad_response", None),
        ({"prompt": "[[fault:huge 3]]"}, 502, "upstream_too_large", None),
        ({"model": "gone"}, 502, "upstream_unreachable", None),
    ],
)
def test_every_fault_has_its_answer(
    client: httpx2.Client, fields: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    """One envelope, four keys, one status, the request id in the header."""
    answer = generate(client, **fields)
    error = answer.json()["error"]

    assert error.keys() == {"message", "type", "param", "code"}
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("fault", "retry", "wait"),
    [
        ("rate-limited 9", None, "9"),
        ("overloaded 5", None, "5"),
        ("cut", "false", None),
        ("moderation", "false", None),
        ("server-error", None, None),
    ],
)
def test_headers_say_whether_a_retry_makes_sense(
    client: httpx2.Client, fault: str, retry: str | None, wait: str | None
) -> None:
    """What may have been paid is not asked for again by a stock SDK."""
    answer = generate(client, prompt=f"[[fault:{fault}]]")

    assert (answer.headers.get("x-should-retry"), answer.headers.get("retry-after")) == (retry, wait)


def test_fewer_pictures_than_asked_are_delivered(client: httpx2.Client) -> None:
    """What was made is not thrown away."""
    assert len(generate(client, n=3, prompt="[[fault:fewer]]").json()["data"]) == 2


def test_what_is_dropped_is_reported_and_strict_mode_refuses_it(client: httpx2.Client) -> None:
    """Nothing is lost silently."""
    loose = generate(client, negative_prompt="blur", extra_body={"watermark": False})
    strict = generate(client, {"x-amux-strict": "true"}, negative_prompt="blur")

    assert loose.headers["x-amux-adapted"] == "negative_prompt: dropped; watermark: dropped"
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "negative_prompt")
    assert generate(client, {"x-amux-strict": "0"}).status_code == 200
    assert generate(client, {"x-amux-strict": "maybe"}).status_code == 400


def test_a_stream_ends_as_its_client_wants_it(client: httpx2.Client) -> None:
    """OpenAI says nothing after the last picture; some clients wait for a word."""
    plain = generate(client, stream=True)
    done = generate(client, {"x-amux-done": "true"}, stream=True)
    odd = generate(client, {"x-amux-done": "perhaps"}, stream=True)

    assert b"[DONE]" not in plain.content
    assert done.content.endswith(b"}\n\ndata: [DONE]\n\n")
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "x-amux-done")


def test_the_upstream_gets_its_own_model_our_credential_and_the_clients_fields(
    client: httpx2.Client, stub: Stub
) -> None:
    """And nothing of the client's key, query or headers."""
    answer = client.post(
        "/v1/images/generations?api-version=1&key=stolen",
        json={
            "model": "pretty",
            "prompt": "a",
            "n": None,
            "size": "1024x1024",
            "brand_new": 1.5,
            "extra_body": {"other": [None]},
        },
        headers={"x-private": "mine", "cookie": "a=b", "openai-organization": "theirs"},
    )
    head = stub.requests[0].partition(b"\r\n\r\n")[0].decode().lower()

    assert answer.json()["data"] == [{"b64_json": "aGVsbG8="}]
    assert sent_to(stub) == {
        "model": "gpt-image-2",
        "prompt": "a",
        "size": "1024x1024",
        "brand_new": 1.5,
        "other": [None],
    }
    assert head.startswith("post /v1/images/generations http/1.1\r\n")
    assert "authorization: bearer sk-" in head
    assert "openai-project: proj_x" in head
    assert "x-amux-hop: 1" in head
    for secret in (KEY, "stolen", "mine", "theirs", "cookie"):
        assert secret not in head


def test_credentials_take_turns(client: httpx2.Client, stub: Stub) -> None:
    """Several are used alike."""
    for _ in range(4):
        generate(client, model="stub-model")

    heads = [request.partition(b"\r\n\r\n")[0] for request in stub.requests]
    assert sorted(b"sk-one" in head for head in heads) == [False, False, True, True]


def test_what_was_never_sent_goes_to_the_next_channel(client: httpx2.Client, stub: Stub) -> None:
    """One picture, two attempts, one POST."""
    answer = generate(client, model="rescued")

    assert (answer.status_code, answer.headers["x-amux-attempts"], answer.headers["x-amux-channel"]) == (
        200,
        "2",
        "second",
    )
    assert stub.posts == 1


def test_the_model_comes_before_other_faults_and_the_key_before_everything(client: httpx2.Client) -> None:
    """401, then 404 or 403, then 400."""
    narrow = {"authorization": f"Bearer {NARROW}"}

    assert generate(client, {"authorization": "Bearer x"}, model="nobody's").status_code == 401
    assert generate(client, narrow, n=99).json()["error"]["code"] == "model_not_allowed"
    assert generate(client, narrow, model="nobody's").status_code == 404
    assert generate(client, narrow, model="dall-e-3").status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-type": "application/json; charset=utf-16"}, 415),
        (b"{}", {"content-type": "application/json", "content-encoding": "gzip"}, 415),
        (b"nonsense", {"content-type": "application/json"}, 400),
        (b"", {"content-type": "application/json"}, 400),
        (b"[]", {"content-type": "application/json"}, 400),
        (b'{"prompt":"a","prompt":"b"}', {"content-type": "application/json"}, 400),
        (b" " * 100_001, {"content-type": "application/json"}, 413),
    ],
)
def test_a_body_that_is_no_plain_json_object_is_refused(
    client: httpx2.Client, content: bytes, headers: dict[str, str], status: int
) -> None:
    """Before anything is asked of anybody."""
    answer = client.post("/v1/images/generations", content=content, headers=headers)

    assert (answer.status_code, answer.json()["error"].keys()) == (status, {"message", "type", "param", "code"})


def test_a_body_that_does_not_come_is_given_up(client: httpx2.Client) -> None:
    """408 after the body's own deadline, and the connection is closed."""
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as slow:
        slow.sendall(f"{head}content-type: application/json\r\ncontent-length: 10\r\n\r\n{{".encode())
        answer = b"".join(iter(lambda: slow.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/images/generations", 405, "method_not_allowed"),
        ("PUT", "/images/generations", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/models/gpt-image-2", 405, "method_not_allowed"),
        ("POST", "/V1/images/generations", 404, "not_found"),
        ("POST", "//v1/images/generations", 404, "not_found"),
        ("POST", "/v1/images%2fgenerations", 404, "not_found"),
        ("POST", "/v1/images/variations", 404, "not_found"),
        ("GET", "/v1/models/nobody's", 404, "model_not_found"),
        ("GET", "/", 404, "not_found"),
    ],
)
def test_other_paths_and_methods_answer_in_the_same_form(
    client: httpx2.Client, method: str, path: str, status: int, code: str
) -> None:
    """And never skip the key."""
    url = httpx2.URL(client.base_url).copy_with(raw_path=path.encode())
    known = client.request(method, url, json={"model": "gpt-image-2", "prompt": "a"})
    unknown = client.request(method, url, headers={"authorization": "Bearer x"})

    assert (known.status_code, known.json()["error"]["code"]) == (status, code)
    assert ("allow" in known.headers) is (status == 405)
    assert unknown.status_code == 401


def test_models_are_those_that_the_key_may_name(client: httpx2.Client) -> None:
    """The list, and each one of it, also with a slash in its name."""
    every = [model["id"] for model in client.get("/v1/models").json()["data"]]
    narrow = [
        model["id"] for model in client.get("/models/", headers={"authorization": f"Bearer {NARROW}"}).json()["data"]
    ]

    assert every == [*MODELS, "stub-model", "pretty", "gone", "rescued", "picky"]
    assert narrow == ["dall-e-3"]
    card = client.get("/v1/models/dall-e-3").json()
    told = card.pop("x_amux")
    assert card == {"id": "dall-e-3", "object": "model", "created": 0, "owned_by": "amux"}
    assert (told["n"], told["price"]) == ({"max": 1, "native": 1}, {"least": "0.04", "most": "0.12"})
    assert all("x_amux" in model for model in client.get("/v1/models").json()["data"])
    assert client.get("/v1/models/dall-e-3/").status_code == 200
    assert client.get("/models/gpt-image-2", headers={"authorization": f"Bearer {NARROW}"}).status_code == 404


@pytest.mark.parametrize(
    ("hops", "status"), [("0", 200), ("1", 200), ("2", 400), ("99", 400), ("9" * 5000, 400), ("x", 400)]
)
def test_a_request_that_goes_in_circles_is_stopped(client: httpx2.Client, hops: str, status: int) -> None:
    """Two gateways may stand in a row; a third is a loop."""
    answer = generate(client, {"x-amux-hop": hops})

    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["code"] == "loop_detected"
