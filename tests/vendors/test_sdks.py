"""The driver of the vendors' tests shows from both SDKs the same answers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest
from msgspec.structs import replace

from amux_asgi import ChannelConfig, KeyConfig, images_app
from tests.serve import serve
from tests.vendors.sdks import Answer, Case, case, node_answers, python_answers
from tests.vendors.staged import STAGED

KEY: Final = "sdk-key-of-the-tests-0123"
GPT: Final = {"model": "gpt-image-2", "prompt": "a red paper lantern"}
DALLE: Final = GPT | {"model": "dall-e-3"}
CASES: Final = (
    case("three", n=3, size="1024x1024", quality="low", **GPT),
    case("seeds", seed=7, extra_body={"negative_prompt": "blur"}, **GPT),
    case("url", response_format="url", **DALLE),
    case("strict", extra_headers={"x-amux-strict": "true"}, extra_body={"negative_prompt": "blur"}, **GPT),
    case("too many", n=11, **GPT),
    *(case(f"many {number}", **GPT) for number in range(10)),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the gateway in front of the sandbox."""
    images = images_app(
        adapters=STAGED,
        channels=[ChannelConfig(name="sandbox", adapter="sandbox", models=("dall-e-3", "gpt-image-2"))],
        keys=[KeyConfig(name="sdk", key=KEY)],
    )
    with serve(images) as base:
        yield f"{base}/v1"


@pytest.mark.parametrize("answers_of", [python_answers, node_answers])
def test_each_sdk_sends_every_case_and_shows_what_came(
    answers_of: Callable[[str, str, Sequence[Case]], dict[str, Answer]], url: str
) -> None:
    """Pictures, what was adapted, and errors come back under the name of the case."""
    answers = answers_of(url, KEY, CASES)

    assert answers.keys() == {asked["name"] for asked in CASES}
    assert all(answer.request_id for answer in answers.values())
    three = answers["three"]
    assert (three.status, [picture.kind for picture in three.data]) == (200, ["png"] * 3)
    assert len({picture.sha256 for picture in three.data}) == 3
    assert three.usage
    assert {"created", "size"} <= three.extra.keys()
    assert answers["seeds"].adapted == "negative_prompt: dropped"
    assert (answers["url"].data[0].kind, bool(answers["url"].data[0].url)) == (None, True)
    assert [(answers[name].error or {})["param"] for name in ("strict", "too many")] == ["negative_prompt", "n"]


def test_both_sdks_show_the_same_refusal(url: str) -> None:
    """A case can be compared across the SDKs."""
    cases = [asked for asked in CASES if asked["name"] == "too many"]

    seen = [answers_of(url, KEY, cases)["too many"] for answers_of in (python_answers, node_answers)]

    first, second = (replace(answer, headers={}, request_id=None) for answer in seen)
    assert first == second
    assert first.status == 400


def test_two_cases_of_one_name_are_no_matrix() -> None:
    """An answer would hide another."""
    with pytest.raises(AssertionError, match="one name"):
        python_answers("http://127.0.0.1:1", KEY, [case("a"), case("a")])
