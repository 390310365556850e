"""What an upstream's words about waiting and about itself come to."""

import pytest
from msgspec import Struct

from amux_asgi.errors import End, GatewayError, UpstreamBadResponseError, UpstreamError, UpstreamIncompleteError
from amux_asgi.faults import PATIENCE, Fault, Verdict, failure, fault_of, judged, retry_after
from amux_asgi.wire import FAILURES, DeadlineError, HttpRequest, HttpResponse, get, poll, read


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


class Task(Struct, frozen=True):
    state: str


def play(answers: list[HttpResponse | GatewayError], *, cancel: HttpRequest | None = None) -> Task:
    """Poll with these answers."""
    asking = poll(
        Task,
        get("https://upstream.example/task"),
        until=lambda task: task.state == "done",
        first=1,
        every=2,
        longest=3,
        cancel=cancel,
    )
    next(asking)
    try:
        for answer in answers:
            if isinstance(answer, GatewayError):
                asking.throw(answer)
            else:
                asking.send(answer)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it asks for more")


DONE = HttpResponse(status=200, body=b'{"state":"done"}')
RUNS = HttpResponse(status=200, body=b'{"state":"what is this"}')
CUT = UpstreamIncompleteError("the connection to the upstream was cut")


@pytest.mark.parametrize(
    "between",
    [
        [RUNS] * 20,
        [CUT] * FAILURES,
        [*[CUT] * FAILURES, RUNS, *[CUT] * FAILURES],
        [HttpResponse(status=429, body=b'{"error":"slower"}')],
        [HttpResponse(status=503, body=b"<html>")],
        [HttpResponse(status=200, body=b"{")],
    ],
)
def test_work_is_waited_for_through_failures(between: list[HttpResponse | GatewayError]) -> None:
    """An unknown state is a running one, and a few failed questions are asked again."""
    assert play([*between, DONE]).state == "done"


@pytest.mark.parametrize(
    "answers",
    [
        [CUT] * (FAILURES + 1),
        [HttpResponse(status=404, body=b'{"error":{"message":"m","code":"gone"}}')],
        [HttpResponse(status=400, body=b'{"error":"no"}')],
    ],
)
def test_work_that_nobody_tells_of_may_have_been_paid(answers: list[HttpResponse | GatewayError]) -> None:
    """The client gets a server's error, and nothing is sent again."""
    with pytest.raises(UpstreamError) as caught:
        play(answers)

    assert (caught.value.status, caught.value.end, caught.value.retry) == (502, End.UNKNOWN, False)


@pytest.mark.parametrize(
    ("said", "end"),
    [
        (HttpResponse(status=200, body=b'{"state":"called off"}'), End.REFUSED),
        (HttpResponse(status=200, body=b'{"state":"too late"}'), End.UNKNOWN),
    ],
)
def test_work_is_called_off_only_if_the_vendor_agrees(said: HttpResponse, end: End) -> None:
    """A status of success around a refusal is none: the work goes on, and will be paid."""
    late = DeadlineError("too late")
    cancel = get("https://upstream.example/cancel")
    asking = poll(
        Task,
        get("https://upstream.example/task"),
        until=bool,
        first=1,
        every=2,
        longest=3,
        cancel=cancel,
        agreed=lambda task: task.state == "called off",
    )
    next(asking)

    assert asking.throw(late).url == cancel.url
    with pytest.raises(DeadlineError) as caught:
        asking.send(said)

    assert (caught.value, caught.value.end) == (late, end)


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_is_an_error_that_says_what_may_follow(verdict: Verdict) -> None:
    """Vendors' words are shown only to who is at fault; a refusal may go elsewhere, the rest nowhere."""
    error = judged(verdict, Fault(message="see https://secret.example", code="1214"), {"retry-after": "7"})

    assert error.upstream_code == "1214"
    assert "secret" not in error.message
    assert error.end is not None
    assert error.retry_after == (7 if verdict in (Verdict.RATE, Verdict.BUSY) else None)


def test_a_verdict_can_be_worded_and_timed_by_the_adapter() -> None:
    """Its own message and field, and the wait that a vendor writes elsewhere."""
    worded = judged(Verdict.PARAM, Fault(message="theirs"), message="ours", param="size")
    timed = judged(Verdict.RATE, Fault(), retry_after=46.7)

    assert (worded.message, worded.param, worded.status) == ("ours", "size", 400)
    assert (timed.retry_after, timed.status) == (46.7, 429)
    assert judged(Verdict.RATE, Fault(), retry_after=-1).retry_after == PATIENCE
