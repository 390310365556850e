"""What the benchmark makes of what it reads: figures, tables, goals."""

import math

import msgspec
import pytest

from benchmarks.peers.alone import Finding
from benchmarks.peers.answers import answer, events
from benchmarks.peers.cells import BODIES, MOST_IN_FLIGHT, SMALL, STREAM, URL, Body, Cell, quick, usual, whole
from benchmarks.peers.checking import wrong
from benchmarks.peers.contestants import DIRECT, FULL, LITELLM
from benchmarks.peers.figures import Load, Row, posts_a_call, share, summaries
from benchmarks.peers.goals import BUSY, ONE, WAITING, goals, goals_table
from benchmarks.peers.load import read
from benchmarks.peers.tables import cell_table, csv_text, findings_table, number, posts_table, table
from benchmarks.peers.upstream import requests_of

LINE = '{"requests":90,"sent":100,"seconds":2.0,"bytes":9,"p50":0.001,"p95":0.002,"p99":0.003,"failed":1}'
PAGE = "Active connections: 3 \nserver accepts handled requests\n 10 10 4711 \nReading: 0 Writing: 1 Waiting: 2 \n"
TEXT = "text/event-stream"
JSON = "application/json"


def row(contestant: str, *, cell: Cell = BUSY, rate: float = 100, p50: float = 0.002, posts: float = 1) -> Row:
    return Row(
        cell=cell.name,
        contestant=contestant,
        round=0,
        rate=rate,
        p50=p50,
        p95=p50 * 2,
        p99=p50 * 3,
        first=None,
        cpu=None if contestant == DIRECT else 1000 / rate,
        idle=None if contestant == DIRECT else 50 * 2**20,
        peak=None if contestant == DIRECT else 60 * 2**20,
        in_flight=cell.in_flight,
        posts=posts,
        failed=0,
    )


def test_the_last_line_of_a_load_holds_its_figures() -> None:
    """Whatever wrk says before, the script's line is read."""
    said = f"Running 2s test\n  1 threads\n{LINE}\n"

    found = read(said)

    assert (found.requests, found.sent, found.p99, found.first) == (90, 100, 0.003, msgspec.UNSET)


@pytest.mark.parametrize("said", ["", "unable to connect to 127.0.0.1:1 Connection refused", "{}"])
def test_a_load_that_failed_has_no_figures(said: str) -> None:
    """What is not there is not made up."""
    with pytest.raises(msgspec.DecodeError):
        read(said)


@pytest.mark.parametrize(
    ("seen", "posts"), [(100, 1), (95, 1), (90, 1), (200, 2), (45, 0.5), (0, 0)], ids=lambda value: f"{value}"
)
def test_posts_are_told_by_call(seen: int, posts: float) -> None:
    """Of a hundred calls ten were cut off at the end: they may have reached the upstream, or not."""
    load = msgspec.json.decode(LINE, type=Load)

    assert posts_a_call(seen, load) == posts


def test_a_share_of_values_is_not_exceeded() -> None:
    """Percentiles are values that were seen; of nothing they are zero."""
    assert [share([3, 1, 2, 4], part) for part in (0, 0.5, 0.99, 1)] == [1, 3, 4, 4]
    assert share([], 0.5) == 0


def test_both_kinds_of_counts_are_read() -> None:
    """Our upstream says a number, nginx a page."""
    assert (requests_of("17"), requests_of(PAGE)) == (17, 4711)
    with pytest.raises(ValueError, match="no count"):
        requests_of("<html>")


def test_times_are_added_to_those_of_the_direct_line() -> None:
    """The middle round counts; the direct line's own times stay as they are."""
    rows = [
        row(DIRECT, p50=0.001),
        *(row(FULL, p50=p50, rate=r) for p50, r in ((0.002, 5.0), (0.003, 7.0), (0.01, 9.0))),
    ]

    direct, ours = summaries(BUSY, [*rows, row(FULL, cell=ONE)], DIRECT)

    assert math.isclose(direct.added50, 0.001)
    assert math.isclose(ours.added50, 0.002)
    assert math.isclose(ours.added99, 0.006)
    assert (ours.rate, direct.cpu) == (7, None)


def test_the_worst_is_told_of_what_should_not_be() -> None:
    """One round with two POSTs a call is not hidden by two good ones."""
    (found,) = summaries(BUSY, [row(FULL), row(FULL, posts=2), row(FULL)], DIRECT)

    assert found.posts == 2


def test_a_table_is_straight_in_a_terminal() -> None:
    """All lines are as wide, names to the left and figures to the right."""
    lines = table(("", "answers/s"), [("direct", "12,345"), ("we", "1")]).splitlines()

    assert lines[1:] == ["| ------ | --------: |", "| direct |    12,345 |", "| we     |         1 |"]
    assert len({len(line) for line in lines}) == 1


def test_a_cell_says_who_does_not_do_its_work() -> None:
    """A contestant that is not measured has its reason below the table."""
    told = cell_table(BUSY, summaries(BUSY, [row(DIRECT), row(FULL)], DIRECT), {LITELLM: "it answers no stream"})

    assert told.startswith("**1 KB, 32 connections**, 0.0 MB in flight\n\n|")
    assert told.endswith("\nLiteLLM: it answers no stream.")


def test_every_round_stands_in_the_csv() -> None:
    """Absent figures are empty."""
    head, direct, ours = csv_text([row(DIRECT), row(FULL)]).splitlines()

    assert head.split(",")[:3] == ["cell", "contestant", "round"]
    assert direct.endswith(",,,,,22400,1,0")
    assert ours.endswith(",,10.0,52428800,62914560,22400,1,0")


def test_what_was_found_of_us_alone_is_a_table() -> None:
    """So are the POSTs to failing upstreams."""
    assert "| keys            | 1 and 2 |" in findings_table([Finding(name="keys", value=2, text="1 and 2")])
    assert posts_table({FULL: [3, 1.25]}).splitlines()[2].split("|")[2:4] == [" 3.0 ", " 1.2 "]


def test_numbers_have_three_digits_or_no_fraction() -> None:
    """Nobody reads more."""
    assert [number(value) for value in (12345.6, 99.94, 0.1234)] == ["12,346", "99.9", "0.123"]


def test_goals_are_told_as_far_as_the_run_knows() -> None:
    """Ratios by rate and by work, costs, and what only we were asked."""
    rows = [row(DIRECT), row(FULL, rate=500), row(LITELLM, rate=10), row(FULL, cell=ONE), row(FULL, cell=WAITING)]
    told = [one for cell in (BUSY, ONE, WAITING) for one in summaries(cell, rows, DIRECT)]
    alone = [Finding(name="import", value=0.2, text=""), Finding(name="two workers", value=1.5, text="")]

    found = {goal.name: goal for goal in goals(told, alone)}

    assert list(found) == [
        "1 KB: times LiteLLM",
        "added p50, 1 connection",
        "resident when idle",
        "2,000 that wait: each",
        "import amux_asgi",
        "two workers, times one",
    ]
    assert (found["1 KB: times LiteLLM"].reached, found["1 KB: times LiteLLM"].work) == (50, 50)
    assert math.isclose(found["2,000 that wait: each"].reached, 5.12)
    assert [goal.met for goal in found.values()] == [True, False, True, True, True, False]
    assert "|     50x |    >= 45x | yes |               50x |" in goals_table(goals(told, alone))


def test_the_usual_run_has_every_body_every_delay_and_every_number_of_connections() -> None:
    """Nothing that the whole has is missing in it altogether, and the quick one is a part of it."""
    told = usual()

    assert {cell.body for cell in told} == set(BODIES)
    assert {cell.delay for cell in told} == {cell.delay for cell in whole()}
    assert {cell.connections for cell in told} == {cell.connections for cell in whole()}
    assert set(quick()) < set(told)
    assert max(cell.in_flight for cell in whole()) <= MOST_IN_FLIGHT


@pytest.mark.parametrize("body", [body for body in BODIES if body.path != "16m"], ids=lambda body: f"{body.path}")
def test_the_upstreams_own_answers_are_what_is_asked_for(body: Body) -> None:
    """The canned answers pass the look that contestants' answers get."""
    said = b"".join(events(body)) if body.stream else answer(body)

    assert wrong(TEXT if body.stream else JSON, said, body) is None


@pytest.mark.parametrize(
    ("kind", "said", "body", "reason"),
    [
        (JSON, b"{}", STREAM, "it answers application/json where a stream was asked for"),
        (TEXT, b"".join(events(STREAM)[1:]), STREAM, "it sends 3 of 4 events"),
        (JSON, b'{"error": {}}', SMALL, "its answer is no answer: Object missing required field `data`"),
        (JSON, b'{"data": [{"url": "x"}]}', SMALL, "it gives 1 pictures"),
        (JSON, b'{"data": [{"b64_json": "x"}]}', URL, "it gives no URL"),
    ],
    ids=["no stream", "an event is missing", "an error", "no picture", "no URL"],
)
def test_other_answers_are_noticed(kind: str, said: bytes, body: Body, reason: str) -> None:
    """Who does other work is not measured."""
    assert wrong(kind, said, body) == reason
