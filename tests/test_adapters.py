"""Every recorded conversation is replayed: each ask must equal the recorded one, the end must equal the promise."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.adapters import ADAPTERS, VENDOR_FIELDS
from amux_asgi.adapters._base import Adapter
from amux_asgi.errors import GatewayError
from amux_asgi.schema import FIELDS, GenerationRequest, ImagesResponse, encode_response
from amux_asgi.wire import HttpRequest, HttpResponse, Target

WIRE: Final = Path(__file__).parent / "wire"
SAMPLES: Final = sorted(WIRE.glob("*/*.json"))


def ids(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def request_of(fields: dict[str, Any]) -> GenerationRequest:
    extra = {name: Raw(msgspec.json.encode(value)) for name, value in fields.pop("extra", {}).items()}
    return GenerationRequest(**fields, extra=extra)


def target_of(adapter: Adapter, *, options: dict[str, Any] | None = None, **fields: Any) -> Target:
    return Target(**fields, options=msgspec.convert(options or {}, adapter.options) if adapter.options else None)


def answer_of(recorded: dict[str, Any]) -> HttpResponse:
    body = recorded["body"]
    text = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return HttpResponse(status=recorded["status"], headers=recorded.get("headers", {}), body=text)


def replay(adapter: Adapter, sample: dict[str, Any]) -> ImagesResponse:
    """Play the upstream's part of a sample, checking each ask."""
    flow: Generator[HttpRequest, HttpResponse, ImagesResponse] = adapter.generate(
        target_of(adapter, **sample["target"]), request_of(sample["request"])
    )
    ask = next(flow)
    for exchange in sample["exchanges"]:
        expected = exchange["ask"]
        body = json.loads(ask.body) if ask.body else None
        assert (ask.method, ask.url, body) == (expected["method"], expected["url"], expected["body"])
        assert expected.get("headers", {}).items() <= dict(ask.headers).items()
        try:
            ask = flow.send(answer_of(exchange["answer"]))
        except StopIteration as stop:
            return stop.value
    raise AssertionError("the flow asks for more than the sample holds")


@pytest.mark.parametrize("path", SAMPLES, ids=ids)
def test_recorded_conversations_end_as_promised(path: Path) -> None:
    """What an upstream once answered gives the pictures, or the error, that the sample promises."""
    sample = json.loads(path.read_text(encoding="utf-8"))
    adapter = ADAPTERS[path.parent.name]

    if "result" in sample:
        response = replay(adapter, sample)

        assert json.loads(encode_response(response)) == sample["result"]
        assert msgspec.json.decode(encode_response(response)) == sample["result"]
    else:
        with pytest.raises(GatewayError) as caught:
            replay(adapter, sample)

        error = caught.value
        promised = sample["error"]
        seen = {
            "status": error.status,
            "type": error.type,
            "code": error.code,
            "param": error.param,
            "end": error.end.value if error.end else None,
        }
        extras = {"message": error.message, "retry_after": error.retry_after}
        assert seen | {name: extras[name] for name in promised.keys() & extras.keys()} == promised


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_has_a_recorded_success(name: str) -> None:
    """No vendor ships without a sample that shows its request and its answer."""
    assert (WIRE / name / "ok.json").exists()


def test_every_dialect_has_recorded_failures() -> None:
    """Each conversation is shown a vendor's error, a refusal and an odd body."""
    dialects: dict[str, set[str]] = {}
    for adapter in ADAPTERS.values():
        module = getattr(adapter.generate, "func", adapter.generate).__module__
        cases = {path.stem.partition("-")[0] for path in (WIRE / adapter.name).glob("*.json")}
        dialects.setdefault(module, set()).update(cases)

    for cases in dialects.values():
        assert cases >= {"ok", "error", "refusal", "odd"}


def test_no_adapter_declares_openai_fields_as_its_own() -> None:
    """A field is either OpenAI's or a vendor's."""
    assert not VENDOR_FIELDS & FIELDS
    assert all(adapter.ignores <= FIELDS - {"prompt", "model"} for adapter in ADAPTERS.values())


@pytest.mark.parametrize("name", ADAPTERS)
@given(
    status=st.one_of(
        st.sampled_from([200, 400, 401, 402, 403, 404, 408, 413, 429, 500, 502, 503, 504, 529]), st.integers(100, 999)
    ),
    body=st.one_of(
        st.binary(max_size=64),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["error", "data", "created", "url", "b64_json", "code", "message"]),
                    inner,
                    max_size=4,
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "content-encoding", "date"]), st.text(max_size=12)
    ),
)
def test_any_answer_ends_in_pictures_or_an_error_of_ours(
    name: str, status: int, body: bytes, headers: dict[str, str]
) -> None:
    """Whatever an upstream answers, the conversation ends in pictures or in an error whose end is known."""
    flow = ADAPTERS[name].generate(
        Target(base_url="https://upstream.example", model="m"), GenerationRequest(prompt="a cat")
    )
    next(flow)

    try:
        flow.send(HttpResponse(status=status, headers=headers, body=body))
    except StopIteration as stop:
        assert stop.value.data
        assert encode_response(stop.value)
    except GatewayError as error:
        assert error.end is not None
        assert error.message
