"""The pure parts of the benchmark that counts instructions: what it reads, and what it holds against a change."""

import pytest

from benchmarks.floor import BASELINES, GROWS, LONG, QUICK, counted, faults, table

DUMP = "part: 1\nfn=(1) main\n3 1000\n\nsummary: 7\ntotals: 90646235\n"


def test_the_sum_of_a_file_of_callgrind_is_read() -> None:
    """The whole count is the sum of its lines; what it calls a summary is not, once more than one was written."""
    assert counted(DUMP) == 90_646_235


def test_a_file_without_a_count_is_none_of_callgrind() -> None:
    """Nothing is taken for zero."""
    with pytest.raises(ValueError, match="callgrind"):
        counted("")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"bare": 1000}, []),
        ({"bare": 1079}, []),
        ({"bare": 1081}, ["bare: 1,081 thousand instructions a request, +8.1%"]),
        ({"bare": 100}, []),
        ({"new": 5000}, []),
        ({"limits": 100, "keys": 105}, []),
        ({"limits": 100, "keys": 106}, ["keys: +6.0% of what a request is with few"]),
    ],
)
def test_more_work_is_told_and_less_is_not(found: dict[str, int], said: list[str]) -> None:
    """Beyond its tolerance each case is told, and a request's work may not grow with what it does not ask for."""
    told = faults(found, {"bare": 1000})

    assert [text[: len(start)] for text, start in zip(told, said, strict=True)] == said


def test_the_table_is_written_as_it_stands_in_the_file() -> None:
    """What `--accept` prints is put in the place of the old lines."""
    assert table({"bare": 1416, "keys": 213}) == '        "bare": 1416,\n        "keys": 213,\n'


def test_what_is_compared_is_counted_in_one_run() -> None:
    """Few and many of a thing are counted together, so that nothing else is between the two; all cases have a count."""
    for groups in (QUICK, LONG):
        cases = {case for group in groups for case in group}
        assert all(few in cases for many, few in GROWS.items() if many in cases)
    assert all(set(known) == {case for group in LONG for case in group} for known in BASELINES.values())
