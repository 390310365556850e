"""What Google's errors mean, in all the shapes that they come in."""

import base64
import json
from typing import Any, Final

import msgspec
import pytest
from msgspec import Raw

from amux_asgi.adapters._google import kind_of, opened
from amux_asgi.errors import End, GatewayError
from amux_asgi.wire import HttpResponse

TYPE: Final = "type.googleapis.com/google.rpc."
MINUTE: Final = {"@type": f"{TYPE}QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerMinutePerModel"}]}
DAY: Final = {"@type": f"{TYPE}QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDayPerModel"}]}
NONE: Final = {"@type": f"{TYPE}QuotaFailure", "violations": [{"quotaId": "X", "quotaValue": "0"}]}
KEY: Final = {"@type": f"{TYPE}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}


def delay(text: str) -> dict[str, str]:
    return {"@type": f"{TYPE}RetryInfo", "retryDelay": text}


def at_fault(path: str) -> dict[str, Any]:
    return {"@type": f"{TYPE}BadRequest", "fieldViolations": [{"field": path, "description": "no"}]}


def error(code: Any, status: str, message: str = "no", *details: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def raised(status: int, body: Any, *said: str, **headers: str) -> GatewayError:
    """Give the error that an answer is."""
    text = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(GatewayError) as caught:
        opened(HttpResponse(status=status, headers=headers, body=text.encode()), said)
    return caught.value


@pytest.mark.parametrize(
    ("http", "name", "promised"),
    [
        (400, "INVALID_ARGUMENT", (400, "invalid_value", End.FINAL)),
        (400, "OUT_OF_RANGE", (400, "invalid_value", End.FINAL)),
        (400, "FAILED_PRECONDITION", (502, "upstream_auth_failed", End.REFUSED)),
        (401, "UNAUTHENTICATED", (502, "upstream_auth_failed", End.REFUSED)),
        (403, "PERMISSION_DENIED", (502, "upstream_auth_failed", End.REFUSED)),
        (404, "NOT_FOUND", (404, "model_not_found", End.REFUSED)),
        (409, "ABORTED", (502, "upstream_error", End.REFUSED)),
        (409, "ALREADY_EXISTS", (502, "upstream_error", End.REFUSED)),
        (429, "RESOURCE_EXHAUSTED", (429, "rate_limit_exceeded", End.REFUSED)),
        (499, "CANCELLED", (504, "upstream_timeout", End.UNKNOWN)),
        (500, "INTERNAL", (502, "upstream_error", End.REFUSED)),
        (501, "UNIMPLEMENTED", (502, "upstream_error", End.REFUSED)),
        (503, "UNAVAILABLE", (503, "upstream_unavailable", End.REFUSED)),
        (504, "DEADLINE_EXCEEDED", (504, "upstream_timeout", End.UNKNOWN)),
        (418, "SOMETHING_NEW", (502, "upstream_error", End.UNKNOWN)),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_each_status_of_google_means_one_thing(
    http: int, name: str, promised: tuple[int, str, End], *, wrapped: bool
) -> None:
    """Whatever Google calls its trouble, I get the error that fits, also when it comes in an array."""
    body = error(http, name)

    seen = raised(http, [body] if wrapped else body)

    assert (seen.status, seen.code, seen.end) == promised
    assert seen.upstream_code == name


def test_a_wrong_key_is_not_the_clients_fault() -> None:
    """Google calls our bad key a 400; I am not told that my request is wrong."""
    seen = raised(400, error(400, "INVALID_ARGUMENT", "API key not valid.", KEY))

    assert (seen.status, seen.code, seen.upstream_code) == (502, "upstream_auth_failed", "API_KEY_INVALID")


@pytest.mark.parametrize(
    ("message", "details"),
    [
        ("no", [DAY, delay("3.2s")]),
        ("Quota exceeded, limit: 0, model: x. Please retry in 9s.", [MINUTE]),
        ("no", [NONE]),
    ],
)
def test_a_used_up_day_is_not_waited_for(message: str, details: list[dict[str, Any]]) -> None:
    """An empty account does not tell me to come back in three seconds."""
    seen = raised(429, error(429, "RESOURCE_EXHAUSTED", message, *details))

    assert (seen.status, seen.code, seen.retry, seen.retry_after) == (503, "upstream_unavailable", False, None)


@pytest.mark.parametrize(
    ("message", "details", "headers", "seconds"),
    [
        ("no", [MINUTE, delay("46.7s")], {}, 47),
        ("Please retry in 46.7s.", [MINUTE], {}, 47),
        ("Please retry in 1h2m3.5s.", [], {}, 3724),
        ("Please retry in 860.72ms.", [], {}, 1),
        ("limit: 05", [], {"retry-after": "7"}, 7),
        ("no", [], {}, 5),
        ("no", [delay("soon")], {}, 5),
        ("no", [delay("99999999s")], {}, 5),
        ("no", ["odd", {"violations": 3}, delay("2s")], {}, 2),
    ],
)
def test_the_wait_is_the_one_that_google_tells(
    message: str, details: list[Any], headers: dict[str, str], seconds: float
) -> None:
    """I am told to wait as long as Google says, in whole seconds, wherever it says it."""
    seen = raised(429, error(429, "RESOURCE_EXHAUSTED", message, *details), **headers)

    assert (seen.status, seen.retry_after) == (429, seconds)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("generation_config.image_config.image_size", "image_size"),
        ("generationConfig.imageConfig.aspectRatio", "aspect_ratio"),
        ("contents[0]", "prompt"),
        ("parameters.sampleCount", "n"),
        ("generation_config.response_modalities", None),
    ],
)
def test_a_bad_value_names_my_field(path: str, param: str | None) -> None:
    """The error names the field as I wrote it."""
    assert raised(400, error(400, "INVALID_ARGUMENT", "no", at_fault(path))).param == param


def test_an_unknown_field_is_mine_or_the_gateways() -> None:
    """A field that I made up is my fault; one that the gateway wrote is not."""
    body = error(400, "INVALID_ARGUMENT", 'Invalid JSON payload received. Unknown name "sparkle": Cannot find field.')

    mine, ours = raised(400, body, "sparkle"), raised(400, body)

    assert (mine.status, mine.param, mine.end) == (400, "sparkle", End.FINAL)
    assert (ours.status, ours.param, ours.end) == (502, None, End.UNKNOWN)


@pytest.mark.parametrize(
    ("http", "body", "status", "code"),
    [
        (200, error(503, "UNAVAILABLE"), 503, "upstream_unavailable"),
        (200, [error(429, "RESOURCE_EXHAUSTED")], 429, "rate_limit_exceeded"),
        (200, error(429, "NEW"), 429, "rate_limit_exceeded"),
        (200, error("odd", "NEW"), 502, "upstream_error"),
        (200, {"error": "no"}, 502, "upstream_error"),
        (200, [], 502, "upstream_bad_response"),
        (200, "<html>", 502, "upstream_bad_response"),
        (400, "<html>", 502, "upstream_bad_response"),
        (400, [], 502, "upstream_bad_response"),
        (400, {"error": None}, 502, "upstream_bad_response"),
        (400, {"error": {"code": "400", "message": None, "status": None, "details": None}}, 400, "invalid_value"),
        (302, error(400, "INVALID_ARGUMENT"), 502, "upstream_redirect"),
        (503, {"error": "busy"}, 503, "upstream_unavailable"),
    ],
)
def test_odd_errors_are_errors_too(http: int, body: Any, status: int, code: str) -> None:
    """An error in a 200, a number as text, no words at all: I get one honest answer."""
    seen = raised(http, body)

    assert (seen.status, seen.code) == (status, code)


def test_a_good_answer_is_taken_apart() -> None:
    """Pictures are pictures, also beside an error that is null."""
    fields = opened(HttpResponse(status=200, body=b' {"error": null, "data": [1]}'))

    assert fields["data"] == Raw(b"[1]")


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n0000", "png"),
        (b"\xff\xd8\xff\xe0" + b"\xff" * 20, "jpeg"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 ", "webp"),
        (b"GIF89a123456", "gif"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"hello, world", None),
        (b"", None),
    ],
)
def test_a_pictures_kind_is_told_by_its_first_bytes(begin: bytes, kind: str | None) -> None:
    """A JPEG is called a JPEG, whatever the vendor calls it, and however its slashes are written."""
    plain = msgspec.json.encode(base64.b64encode(begin).decode())

    assert kind_of(Raw(plain)) == kind
    assert kind_of(Raw(plain.replace(b"/", b"\\/"))) == kind


@pytest.mark.parametrize("picture", [b"3", b"null", b'"iVBOR', b'"A'])
def test_what_is_no_base64_has_no_kind(picture: bytes) -> None:
    """Nonsense is not taken for a picture."""
    assert kind_of(Raw(picture)) is None
