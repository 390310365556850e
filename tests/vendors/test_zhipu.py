"""The running gateway in front of Zhipu's strict emulator, driven by the real OpenAI SDKs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import anyio
import pytest
from msgspec import Struct

from amux_asgi import ChannelConfig, KeyConfig, ModelConfig, images_app
from tests.serve import serve
from tests.vendors.emulate_zhipu import INTERNATIONAL, KEY, MAINLAND, PATH, Zhipu
from tests.vendors.sdks import Answer, Case, node_answers, python_answers
from tests.vendors.staged import STAGED
from tests.vendors.zhipu_cases import CASES, COG, NO_SIZES, QUALITIES, REFUSED, SIZES, UNSAID

CLIENT: Final = "sdk-key-of-the-tests-0123"


def _wrong(name: str, **fields: Any) -> ChannelConfig:
    return ChannelConfig(name=name, adapter="zhipu", models=(ModelConfig(name=name, upstream=COG),), **fields)


class Seen(Struct):
    """What an SDK saw of all cases, and what each region was asked."""

    answers: dict[str, Answer]
    mainland: Zhipu
    elsewhere: Zhipu
    waits: list[float]

    def asks(self, name: str) -> list[dict[str, Any]]:
        vendors = (self.mainland, self.elsewhere)
        return [ask for vendor in vendors for ask in vendor.asks if ask["prompt"].startswith(f"{name}: ")]

    def ask(self, name: str) -> dict[str, Any]:
        (only,) = self.asks(name)
        return only


@pytest.fixture(scope="module", params=[python_answers, node_answers])
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Send every case once with each SDK."""
    answers_of: Callable[[str, str, Sequence[Case]], dict[str, Answer]] = request.param
    vendors = Zhipu(MAINLAND), Zhipu(INTERNATIONAL)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await anyio.lowlevel.checkpoint()

    with serve(vendors[0].app) as mainland, serve(vendors[1].app) as elsewhere:
        images = images_app(
            adapters=STAGED,
            channels=[
                ChannelConfig(
                    name="mainland", adapter="zhipu", base_url=mainland + PATH, credentials=(KEY,), models=MAINLAND
                ),
                ChannelConfig(
                    name="elsewhere",
                    adapter="zai",
                    base_url=elsewhere + PATH,
                    credentials=(KEY,),
                    models=(
                        ModelConfig(name="zai-glm-image", upstream="GLM-Image"),
                        ModelConfig(name="zai-cogview-4", upstream="cogview-4"),
                    ),
                    options={"mode": "sync"},
                ),
                _wrong("wrong-key", base_url=mainland + PATH, credentials=("not-the-key.Secret",)),
                _wrong("wrong-path", base_url=mainland, credentials=(KEY,)),
            ],
            keys=[KeyConfig(name="sdk", key=CLIENT)],
            sleep=sleep,
        )
        with serve(images) as base:
            yield Seen(answers_of(f"{base}/v1", CLIENT, CASES), *vendors, waits)


def test_every_case_is_answered(seen: Seen) -> None:
    """Nothing hangs, nothing is lost."""
    assert seen.answers.keys() == {one["name"] for one in CASES}
    assert all(answer.request_id for answer in seen.answers.values())


@pytest.mark.parametrize("model", [*MAINLAND, "zai-glm-image"])
@pytest.mark.parametrize("size", SIZES)
def test_every_model_makes_a_picture_of_every_size(seen: Seen, model: str, size: str) -> None:
    """A size that the model cannot make becomes the nearest one, and the client is told so."""
    answer = seen.answers[f"{model} {size}"]
    ask = seen.ask(f"{model} {size}")

    assert (answer.status, len(answer.data)) == (200, 1)
    said = ask.get("size", "auto")
    assert answer.adapted == (None if said == size else f"size: {size} -> {said}")


@pytest.mark.parametrize("size", NO_SIZES)
def test_what_is_no_size_is_refused_before_the_vendor_is_asked(seen: Seen, size: str) -> None:
    """The client learns which field is wrong."""
    answer = seen.answers[f"no {size}"]

    assert (answer.status, (answer.error or {})["param"]) == (400, "size")
    assert not seen.asks(f"no {size}")


@pytest.mark.parametrize("model", MAINLAND)
@pytest.mark.parametrize("quality", QUALITIES)
def test_every_model_takes_every_quality(seen: Seen, model: str, quality: str) -> None:
    """A quality that the model does not have becomes the one it has."""
    answer = seen.answers[f"{model} in {quality}"]

    assert answer.status == 200
    hd = model == "glm-image" or (model == COG and quality in ("hd", "high"))
    made = "hd" if hd else "standard"
    assert answer.adapted == (None if quality in ("auto", made) else f"quality: {quality} -> {made}")
    assert seen.ask(f"{model} in {quality}").get("quality") == (made if model == COG and quality != "auto" else None)


@pytest.mark.parametrize("model", [COG, "glm-image"])
@pytest.mark.parametrize("n", range(1, 11))
def test_any_number_of_pictures_comes_of_as_many_asks(seen: Seen, model: str, n: int) -> None:
    """One ask makes one picture; the vendor is never told a number."""
    answer = seen.answers[f"n {n} {model}"]

    assert (answer.status, len({picture.url for picture in answer.data})) == (200, n)
    assert len(seen.asks(f"n {n} {model}")) == n


@pytest.mark.parametrize("model", [COG, "glm-image"])
@pytest.mark.parametrize("refusal", REFUSED)
def test_what_the_vendor_refuses_is_told_in_openais_words(seen: Seen, model: str, refusal: str) -> None:
    """Neither the vendor's account of ours nor its request ids reach the client; nothing is asked twice."""
    answer = seen.answers[f"{refusal} {model}"]

    error = answer.error or {}
    assert (answer.status, error["code"]) == REFUSED[refusal]
    assert "[" not in error["message"]
    assert len(seen.asks(f"{refusal} {model}")) == 1


def test_a_url_of_the_vendors_is_handed_on(seen: Seen) -> None:
    """It lives for a month."""
    answer = seen.answers["url"]

    assert [bool(picture.url and picture.url.endswith(".png")) for picture in answer.data] == [True]
    assert answer.usage is None
    assert answer.extra["content_filter"] == [{"role": "assistant", "level": 3}]


@pytest.mark.parametrize("where", ["", " inside", " of the vendor", " of the vendor inside"])
def test_a_watermark_can_be_refused_under_either_name(seen: Seen, where: str) -> None:
    """At the top level or in `extra_body`."""
    answer = seen.answers[f"watermark{where}"]

    assert (answer.status, answer.adapted) == (200, None)
    assert seen.ask(f"watermark{where}")["watermark_enabled"] is False
    assert not (answer.data[0].url or "watermark").endswith("_watermark.png")


def test_two_wishes_about_the_watermark_are_a_mistake(seen: Seen) -> None:
    """Nobody guesses which one counts."""
    answer = seen.answers["watermarks"]

    assert (answer.status, (answer.error or {})["param"]) == (400, "watermark")


@pytest.mark.parametrize("name", ["user", "user id", "user id inside"])
def test_the_user_is_told(seen: Seen, name: str) -> None:
    """Under OpenAI's name or under the vendor's."""
    assert seen.answers[name].status == 200
    assert seen.ask(name)["user_id"] == "tenant-42-user-7"


def test_a_users_name_that_is_too_short_is_hashed_only_where_it_is_openais(seen: Seen) -> None:
    """The vendor's own field is held to the vendor's own rule."""
    assert (seen.answers["short user"].status, seen.answers["short user"].adapted) == (200, "user: hashed")
    assert len(seen.ask("short user")["user_id"]) == 32
    assert (seen.answers["short user id"].status, seen.asks("short user id")) == (400, [])


def test_each_of_several_asks_has_a_request_id_of_its_own(seen: Seen) -> None:
    """The vendor would refuse the second."""
    assert len(seen.answers["request id"].data) == 3
    assert {ask["request_id"] for ask in seen.asks("request id")} == {"order-5", "order-5-1", "order-5-2"}


def test_the_vendors_own_fields_arrive(seen: Seen) -> None:
    """An object as it is; size and quality from wherever they stand."""
    assert seen.ask("words")["sensitive_word_check"] == {"type": "ALL", "status": "DISABLE"}
    assert (seen.ask("inside")["size"], seen.ask("inside")["quality"]) == ("512x512", "hd")


def test_what_the_vendor_has_no_word_for_is_dropped_and_reported(seen: Seen) -> None:
    """OpenAI's fields and other vendors' alike."""
    unsaid, of_others = seen.answers["unsaid"], seen.answers["of others"]

    assert (unsaid.status, of_others.status) == (200, 200)
    assert unsaid.adapted == "; ".join(f"{name}: dropped" for name in sorted(UNSAID))
    assert set((of_others.adapted or "").split("; ")) == {
        f"{name}: dropped" for name in ("aspect_ratio", "negative_prompt", "seed")
    }


@pytest.mark.parametrize(
    ("name", "param"),
    [
        ("other count", "num_images"),
        ("strict", "size"),
        ("too many", "n"),
        ("none", "n"),
        ("no prompt", "prompt"),
        ("long", "prompt"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_vendor_is_asked(seen: Seen, name: str, param: str) -> None:
    """A number under another name, a change where none is allowed, too many pictures, no prompt, one too long."""
    answer = seen.answers[name]

    assert (answer.status, (answer.error or {})["param"]) == (400, param)
    assert not seen.asks(name)


def test_a_strict_client_is_served_what_can_be_said_exactly(seen: Seen) -> None:
    """No change, no refusal."""
    answer = seen.answers["strict and exact"]

    assert (answer.status, answer.adapted) == (200, None)


@pytest.mark.parametrize("name", ["partly", "partly ordered"])
def test_the_pictures_that_were_made_are_delivered(seen: Seen, name: str) -> None:
    """Two of four asks failed: two pictures come, and nothing is asked again."""
    answer = seen.answers[name]

    assert (answer.status, len(answer.data), len(seen.asks(name))) == (200, 2, 4)


@pytest.mark.parametrize("name", ["wholly", "task fails", "task fails for a reason"])
def test_a_failure_inside_a_200_is_a_failure(seen: Seen, name: str) -> None:
    """No answer is good that holds no picture."""
    answer = seen.answers[name]

    assert (answer.status, (answer.error or {})["code"]) == (502, "upstream_error")


def test_only_slow_models_are_ordered_and_asked_for_again(seen: Seen) -> None:
    """glm-image on the channel that does not forbid it; the questions come seconds apart."""
    by_path = list(zip(seen.mainland.paths, seen.mainland.asks, strict=True))

    assert {ask["model"] for path, ask in by_path if path.startswith("/async")} == {"glm-image"}
    assert {ask["model"] for path, ask in by_path if not path.startswith("/async")} == {*MAINLAND} - {"glm-image"}
    assert set(seen.elsewhere.paths) == {"/images/generations"}
    assert all(2 <= wait <= 5 * 1.25 for wait in seen.waits)
    assert set(seen.mainland.polls.values()) == {3}


def test_the_name_of_a_model_is_sent_in_lower_case(seen: Seen) -> None:
    """The pages spell it in many ways."""
    assert {ask["model"] for ask in seen.elsewhere.asks if "cogview" not in ask["model"]} == {"glm-image"}


def test_a_picture_costs_what_the_vendor_says(seen: Seen) -> None:
    """For each picture that was made; the free model is free."""
    costs = {
        name: seen.answers[name].headers.get("x-amux-cost")
        for name in ("n 3 glm-image", f"n 3 {COG}", "partly", "free")
    }

    assert costs == {"n 3 glm-image": "0.045", f"n 3 {COG}": "0.03", "partly": "0.02", "free": "0"}


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("elsewhere only", 404, "model_not_found"),
        ("wrong key", 502, "upstream_auth_failed"),
        ("wrong path", 502, "upstream_error"),
    ],
)
def test_a_channel_that_is_set_up_wrongly_is_no_fault_of_the_client(
    seen: Seen, name: str, status: int, code: str
) -> None:
    """A model that the region does not have, a key of the other region, an address without its path."""
    answer = seen.answers[name]

    assert (answer.status, (answer.error or {})["code"]) == (status, code)
