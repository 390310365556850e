"""What an upstream's words about waiting and about itself come to."""

import pytest

from amux_asgi.errors import UpstreamBadResponseError
from amux_asgi.wire import PATIENCE, Fault, HttpResponse, failure, fault_of, read, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "240", "retry-after": "9"}, 0.24),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:30 GMT", "date": "Tue, 24 Nov 2026 12:00:00 GMT"}, 30),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:30 GMT"}, PATIENCE),
        ({"retry-after": "Tue, 24 Nov 2026 11:00:30 GMT", "date": "Tue, 24 Nov 2026 12:00:00 GMT"}, PATIENCE),
        ({"retry-after": "soon"}, PATIENCE),
        ({"retry-after": "nan"}, PATIENCE),
        ({"retry-after": "inf"}, PATIENCE),
        ({"retry-after": "-1"}, PATIENCE),
        ({}, PATIENCE),
    ],
)
def test_waiting_times_are_read_in_every_form(headers: dict[str, str], seconds: float) -> None:
    """Seconds, milliseconds or a date: what the upstream asks for; otherwise a moment of our own."""
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (
            b'{"error":{"message":"m","type":"t","param":"p","code":"c","inner":{}}}',
            Fault(message="m", type="t", param="p", code="c"),
        ),
        (b'{"error":{"message":"m","code":404}}', Fault(message="m", code="404")),
        (b'{"error":"text"}', Fault(message="text")),
        (b'{"error":""}', None),
        (b'{"error":{}}', None),
        (b'{"error":null}', None),
        (b'{"error":[1]}', None),
        (b"{}", None),
        (b"nonsense", None),
        (b'{"error":"\xff"}', None),
        (b'{"error":' + b"[" * 100_000, None),
    ],
)
def test_a_vendors_error_is_found_in_every_form(body: bytes, fault: Fault | None) -> None:
    """An error object, an error text, or no error at all."""
    assert fault_of(body) == fault


def test_odd_codes_are_not_passed_on() -> None:
    """A code that holds a host or an essay is dropped, not shown."""
    error = failure(400, Fault(message="m", code="see https://x.example/" + "x" * 100, type="y" * 65), {})

    assert error.upstream_code is None
    assert error.type == "invalid_request_error"


def test_an_answer_of_another_shape_is_refused() -> None:
    """JSON that does not fit the promised type is no answer."""
    with pytest.raises(UpstreamBadResponseError):
        read(dict[str, int], HttpResponse(status=200, body=b'{"a":"b"}'))
