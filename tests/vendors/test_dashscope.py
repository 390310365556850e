"""The running gateway in front of a strict DashScope, asked with the official SDKs."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import anyio.lowlevel
import pytest
from msgspec import Struct

from amux_asgi import ChannelConfig, Config, GatewayConfig, KeyConfig, ModelConfig, images_app
from amux_asgi.transport.fetch import FetchPolicy
from tests.serve import serve
from tests.vendors.dashscope_rules import MODELS
from tests.vendors.emulate_dashscope import KEY, PATHS, PNG, REFUSALS, Ask, DashScope
from tests.vendors.sdks import Answer, Case, case, node_answers, python_answers
from tests.vendors.staged import STAGED

CLIENT_KEY: Final = "dashscope-key-of-the-tests"
SIZES: Final = ("1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792", "256x256", "1000x1000", "auto")
QUALITIES: Final = ("auto", "low", "medium", "high", "hd", "standard")
OF_ALL: Final = ("qwen-image-3.0", "qwen-image-max", "wan2.7-image-pro", "wan2.6-t2i", "wan2.2-t2i-flash")
FIELDS: Final = {"watermark": True, "negative_prompt": "blurry", "prompt_extend": False, "seed": 7}
OWN: Final = {"parameters": {"n": 2, "size": "1024*1024", "seed": 9, "watermark": True}, "input": {"prompt": "a cat"}}
WHAT_WE_DROP: Final = {"style": "vivid", "user": "u-1", "background": "opaque", "output_format": "webp"}
NAMES: Final = tuple(name for name in MODELS if name not in ("wan9-image", "qwen-image-2.9-async", "ep-0123"))
CASES: Final = (
    *(case(f"{model} {size}", model=model, prompt=f"{model} {size}", size=size) for model in NAMES for size in SIZES),
    *(case(f"n {model} {n}", model=model, prompt=f"n {model} {n}", n=n) for model in OF_ALL for n in range(1, 11)),
    *(
        case(f"q {model} {quality}", model=model, prompt=f"q {model} {quality}", quality=quality)
        for model in OF_ALL
        for quality in QUALITIES
    ),
    *(case(f"top {model}", model=model, prompt=f"top {model}", n=5, **FIELDS) for model in NAMES),
    *(case(f"body {model}", model=model, prompt=f"body {model}", n=5, extra_body=FIELDS) for model in NAMES),
    case("own", model="wan2.6-t2i", prompt="own", **OWN),
    case("own body", model="wan2.6-t2i", prompt="own body", extra_body=OWN),
    case("dropped", model="qwen-image-3.0", prompt="dropped", extra_body={"watermark_enabled": True}, **WHAT_WE_DROP),
    case("url", model="z-image-turbo", prompt="url", response_format="url"),
    *(
        case(f"b64 {model} {n}", model=model, prompt=f"b64 {model} {n}", n=n, response_format="b64_json")
        for model in OF_ALL
        for n in range(1, 11)
    ),
    case("all gone", model="wan2.6-t2i", prompt="all gone", n=2, response_format="b64_json"),
    case("one gone", model="wan2.6-t2i", prompt="one gone", n=2, response_format="b64_json"),
    case("tier", model="wan2.7-image", prompt="tier", size="4K"),
    case("story", model="wan2.7-image", prompt="story", n=10, extra_body={"enable_sequential": True}),
    case("extended", model="pretty", prompt="extended", n=2, extra_body={"prompt_extend": True}),
    case("half old", model="wan2.5-t2i-preview", prompt="half old", n=4),
    case("half new", model="wan2.7-image", prompt="half new", n=4),
    case("later", model="qwen-image-2.9-async", prompt="later", n=7),
    case("unheard of", model="wan9-image", prompt="unheard of", n=2),
    case("liked", model="liked", prompt="liked", n=5, size="1024x1536"),
    case("other workspace", model="elsewhere", prompt="other workspace"),
    case("hiccups", model="wan2.2-t2i-flash", prompt="hiccups"),
    *(
        case(f"{model} {script}", model=model, prompt=f"{model} {script}")
        for model in ("qwen-image-2.0", "wan2.5-t2i-preview")
        for script in ("forbidden", "arrears", "throttled", "overloaded", "failing", "in band")
    ),
    case("lost", model="wan2.5-t2i-preview", prompt="lost"),
    case("stuck", model="hurried", prompt="stuck"),
    case("endless", model="hurried", prompt="endless"),
    case("wrong key", model="stranger", prompt="wrong key"),
    case("no such model", model="gone", prompt="no such model"),
    case("twice", model="wan2.6-t2i", prompt="twice", n=3, extra_body={"parameters": {"n": 2}}),
    case("no size", model="wan2.6-t2i", prompt="no size", size="0x0"),
    case("strict", model="qwen-image-max", prompt="strict", size="1024x1024", extra_headers={"x-amux-strict": "true"}),
    case("empty", model="z-image-turbo", prompt=""),
    case("many", model="z-image-turbo", prompt="many", n=11),
    case("too long", model="z-image-turbo", prompt="x" * 801),
)


INSIDE: Final = FetchPolicy(allowed=bool, schemes={"http"}, ports=range(2**16))
"""The pictures lie at the emulator, which only a test may fetch from."""


class Seen(Struct, frozen=True):
    """What one SDK saw, and what the vendor was asked for it."""

    answers: Mapping[str, Answer]
    vendor: DashScope

    def asked(self, name: str) -> list[dict[str, Any]]:
        """Give the parameters of every ask for a prompt."""
        return [ask.body["parameters"] for ask in self.vendor.orders(name)]


async def hurry(_seconds: float) -> None:
    """Wait for nothing but the others' turn."""
    await anyio.lowlevel.checkpoint()


def config(url: str) -> Config:
    def channel(name: str, models: Sequence[str | ModelConfig], **told: Any) -> ChannelConfig:
        fields: dict[str, Any] = {"adapter": "dashscope", "base_url": url, "credentials": (KEY,), "models": models}
        return ChannelConfig(name=name, **(fields | told))

    usual = (
        *MODELS,
        ModelConfig(name="pretty", upstream="z-image-turbo"),
        ModelConfig(name="liked", upstream="ep-0123", like="wan2.2-t2i-flash"),
        ModelConfig(name="gone", upstream="wan2.7-"),
    )
    return Config(
        gateway=GatewayConfig(reveal=("cost", "attempts")),
        channels=(
            channel("usual", usual),
            channel(
                "elsewhere",
                (ModelConfig(name="elsewhere", upstream="wan2.2-t2i-flash"),),
                options={"workspace": "llm-ws1"},
                base_url=f"{url}/api/v1",
            ),
            channel("hurried", (ModelConfig(name="hurried", upstream="wan2.2-t2i-flash"),), timeout=0.5),
            channel("stranger", (ModelConfig(name="stranger", upstream="qwen-image-2.0"),), credentials=("sk-wrong",)),
        ),
        keys=(KeyConfig(name="app", key=CLIENT_KEY),),
    )


@pytest.fixture(scope="module", params=[python_answers, node_answers], ids=["python", "node"])
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Send the whole matrix with one SDK."""
    answers_of: Callable[[str, str, Sequence[Case]], dict[str, Answer]] = request.param
    vendor = DashScope()
    with serve(vendor.app) as upstream:
        vendor.host = upstream
        with serve(images_app(config(upstream), adapters=STAGED, sleep=hurry, fetch=INSIDE)) as url:
            yield Seen(answers_of(f"{url}/v1", CLIENT_KEY, CASES), vendor)


def routes(asks: Sequence[Ask]) -> set[str]:
    return {name for name, path in PATHS.items() for ask in asks if ask.path == path}


def test_every_size_reaches_every_model_as_one_that_it_makes(seen: Seen) -> None:
    """Whatever OpenAI size a client asks for, the vendor accepts what it is asked, and one picture comes."""
    for name in (f"{model} {size}" for model in NAMES for size in SIZES):
        answer = seen.answers[name]
        assert (answer.status, len(answer.data)) == (200, 1), (name, answer.error)
        assert str(answer.data[0].url).startswith(seen.vendor.host)
        assert len(seen.asked(name)) == 1


def test_a_changed_size_is_reported_and_a_size_that_is_made_is_not(seen: Seen) -> None:
    """The report says which size was asked for instead."""
    assert seen.answers["qwen-image-max 1024x1024"].adapted == "size: 1024x1024 -> 1328x1328"
    assert seen.answers["wan2.5-t2i-preview 1792x1024"].adapted == "size: 1792x1024 -> 1696x960"
    assert seen.answers["qwen-image-2.0 1000x1000"].adapted is None
    assert seen.answers["qwen-image-2.0 auto"].adapted is None
    assert seen.asked("qwen-image-2.0 1792x1024") == [{"n": 1, "size": "1792*1024"}]


@pytest.mark.parametrize(
    ("model", "most"),
    [("qwen-image-3.0", 6), ("qwen-image-max", 1), ("wan2.7-image-pro", 4), ("wan2.6-t2i", 4), ("wan2.2-t2i-flash", 4)],
)
def test_as_many_pictures_come_as_were_asked_for(seen: Seen, model: str, most: int) -> None:
    """Any number from one to ten: at once as far as the model can, side by side beyond."""
    for n in range(1, 11):
        name = f"n {model} {n}"
        assert (seen.answers[name].status, len(seen.answers[name].data)) == (200, n), seen.answers[name].error
        assert len({picture.url for picture in seen.answers[name].data}) == n
        counts = [parameters.get("n", 1) for parameters in seen.asked(name)]
        assert (sum(counts), max(counts), len(counts)) == (n, min(n, most), -(-n // most))


def test_a_model_that_makes_one_picture_is_told_no_number(seen: Seen) -> None:
    """There `n` would be refused."""
    assert all("n" not in parameters for n in range(1, 11) for parameters in seen.asked(f"n qwen-image-max {n}"))


def test_a_quality_is_a_resolution_where_there_is_one_and_reported_elsewhere(seen: Seen) -> None:
    """Only Wan 2.7 makes low and high; the dearest resolution is never chosen for a client."""
    wan = {quality: seen.asked(f"q wan2.7-image-pro {quality}")[0].get("size") for quality in QUALITIES}
    assert wan == {"auto": None, "low": "1K", "medium": None, "high": "2K", "hd": "2K", "standard": None}
    for model in OF_ALL:
        for quality in QUALITIES:
            answer = seen.answers[f"q {model} {quality}"]
            honoured = quality == "auto" or (model == "wan2.7-image-pro" and quality in ("low", "high", "hd"))
            assert (answer.status, answer.adapted) == (200, None if honoured else "quality: dropped")


def test_vendor_fields_arrive_where_each_model_takes_them(seen: Seen) -> None:
    """At the top level or in `extra_body`, they come to the same; what a model does not take is reported."""
    for model in NAMES:
        for where in ("top", "body"):
            answer = seen.answers[f"{where} {model}"]
            assert (answer.status, len(answer.data)) == (200, 5), (model, answer.error)
            orders = seen.vendor.orders(f"{where} {model}")
            dropped = {change.partition(":")[0] for change in (answer.adapted or "").split("; ")}
            inside = orders[0].body["parameters"] | orders[0].body["input"]
            assert {name for name in FIELDS if name not in inside} == dropped - {""}
    assert seen.answers["top z-image-turbo"].adapted == "negative_prompt: dropped; watermark: dropped"
    assert seen.vendor.orders("top wan2.5-t2i-preview")[0].body["input"]["negative_prompt"] == "blurry"
    assert seen.vendor.orders("top wan2.6-t2i")[0].body["parameters"]["negative_prompt"] == "blurry"


def test_every_picture_of_a_request_has_a_seed_of_its_own(seen: Seen) -> None:
    """Asks side by side go on where the others end."""
    assert sorted(parameters["seed"] for parameters in seen.asked("top qwen-image-max")) == [7, 8, 9, 10, 11]
    assert sorted((parameters["seed"], parameters["n"]) for parameters in seen.asked("top wan2.6-t2i")) == [
        (7, 4),
        (11, 1),
    ]


def test_the_vendors_own_objects_win_and_lose_neither_count_nor_size(seen: Seen) -> None:
    """`parameters` is laid over what was computed: two pictures are asked for, not the vendor's default of four."""
    for name in ("own", "own body"):
        assert len(seen.answers[name].data) == 2
    orders = seen.vendor.orders("a cat")
    assert [order.body["parameters"] for order in orders] == [
        {"n": 2, "size": "1280*1280", "seed": 9, "watermark": True}
    ] * 2


def test_what_no_model_of_the_vendor_can_be_told_is_reported(seen: Seen) -> None:
    """OpenAI's other fields and other vendors' fields are named."""
    answer = seen.answers["dropped"]

    assert answer.status == 200
    assert answer.adapted == "; ".join(f"{name}: dropped" for name in (*sorted(WHAT_WE_DROP), "watermark_enabled"))
    assert seen.asked("dropped") == [{"n": 1}]


def test_a_url_is_handed_on_unharmed(seen: Seen) -> None:
    """A signature with `&` in it stays as it is, and no other field of the vendor's answer comes along."""
    answer = seen.answers["url"]

    assert str(answer.data[0].url).endswith("?Expires=1&Signature=a%2Bb")
    assert answer.extra.keys() == {"created"}
    assert answer.data[0].extra == {}


def test_pictures_come_as_base64_if_they_are_asked_for_so(seen: Seen) -> None:
    """The vendor has only URLs: the gateway fetches them, each with its signature and without a key."""
    digest = hashlib.sha256(PNG).hexdigest()

    for name in (f"b64 {model} {n}" for model in OF_ALL for n in range(1, 11)):
        answer = seen.answers[name]
        assert (answer.status, answer.adapted) == (200, None), (name, answer.error)
        assert [(picture.sha256, picture.url) for picture in answer.data] == [(digest, None)] * int(name.split()[-1])
        assert all("response_format" not in parameters for parameters in seen.asked(name))


def test_a_picture_that_cannot_be_fetched_is_no_empty_entry(seen: Seen) -> None:
    """It is left out and costs nothing; if there is no other, that is an error."""
    assert (seen.answers["all gone"].status, seen.answers["all gone"].data) == (502, ())
    assert [picture.kind for picture in seen.answers["one gone"].data] == ["png"]
    assert seen.answers["one gone"].headers["x-amux-cost"] == "0.03"


def test_a_resolution_can_be_asked_for_by_name(seen: Seen) -> None:
    """Wan 2.7 makes 1K and 2K, its dearer sister 4K too."""
    assert seen.asked("tier") == [{"n": 1, "size": "2K"}]
    assert seen.answers["tier"].adapted == "size: 4K -> 2K"


def test_a_sequence_is_one_ask(seen: Seen) -> None:
    """Pictures that tell a story are made together."""
    assert len(seen.answers["story"].data) == 10
    assert seen.asked("story") == [{"n": 10, "enable_sequential": True}]


def test_a_prompt_that_is_worded_anew_costs_more_and_is_told(seen: Seen) -> None:
    """z-image-turbo, under any name, costs twice as much with `prompt_extend`."""
    answer = seen.answers["extended"]

    assert [picture.revised_prompt for picture in answer.data] == ["extended, at dusk"] * 2
    assert answer.headers["x-amux-cost"] == "0.06"
    assert seen.answers["url"].headers["x-amux-cost"] == "0.015"


@pytest.mark.parametrize(("name", "cost"), [("half old", "0.09"), ("half new", "0.09")])
def test_a_picture_that_failed_is_neither_shown_nor_charged(seen: Seen, name: str, cost: str) -> None:
    """Three of four are delivered and paid."""
    answer = seen.answers[name]

    assert (answer.status, len(answer.data), answer.headers["x-amux-cost"]) == (200, 3, cost)


def test_a_model_is_asked_by_its_upstream_name_and_otherwise_if_it_says_so(seen: Seen) -> None:
    """A renamed model is asked as what it is; one that is not asked like that, the other way, once."""
    assert routes(seen.vendor.orders("extended")) == {"sync"}
    assert routes(seen.vendor.orders("later")) == {"sync", "async"}
    assert [len(seen.answers[name].data) for name in ("later", "unheard of")] == [7, 2]
    assert [parameters["n"] for parameters in seen.asked("unheard of")] == [1, 1]
    assert routes(seen.vendor.orders("n wan2.2-t2i-flash 1")) == {"async-old"}


def test_a_name_that_says_nothing_is_asked_as_the_model_that_it_is_like(seen: Seen) -> None:
    """Route, size, number and price are those of the model that the operator names."""
    answer = seen.answers["liked"]

    assert (len(answer.data), answer.adapted) == (5, "size: 1024x1536 -> 832x1248")
    assert routes(seen.vendor.orders("liked")) == {"async-old"}
    assert sorted(parameters["n"] for parameters in seen.asked("liked")) == [1, 4]
    assert answer.headers["x-amux-cost"] == "0.125"


def test_a_workspace_goes_with_every_ask(seen: Seen) -> None:
    """Otherwise the vendor does not know the task."""
    assert seen.answers["other workspace"].status == 200


def test_a_task_that_cannot_be_asked_for_a_while_is_not_lost(seen: Seen) -> None:
    """A few failed questions are waited out."""
    assert seen.answers["hiccups"].status == 200
    assert len(seen.asked("hiccups")) == 1


@pytest.mark.parametrize("model", ["qwen-image-2.0", "wan2.5-t2i-preview"])
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ("forbidden", 403, "moderation_blocked"),
        ("arrears", 503, "upstream_unavailable"),
        ("throttled", 429, "rate_limit_exceeded"),
        ("overloaded", 503, "upstream_unavailable"),
        ("failing", 502, "upstream_error"),
    ],
)
def test_a_refusal_is_the_same_from_an_answer_and_from_a_task(
    seen: Seen, model: str, script: str, status: int, code: str
) -> None:
    """A task fails with HTTP 200; the client is told what it means."""
    answer = seen.answers[f"{model} {script}"]

    assert (answer.status, (answer.error or {})["code"]) == (status, code)
    assert answer.headers["x-amux-upstream-code"] == REFUSALS[script][1]
    assert {"message", "type", "param", "code"} == (answer.error or {}).keys()


def test_an_error_in_an_answer_of_success_is_an_error(seen: Seen) -> None:
    """The status is no proof."""
    assert seen.answers["qwen-image-2.0 in band"].status == 429


def test_a_task_that_is_not_known_any_more_may_have_been_paid(seen: Seen) -> None:
    """It is never ordered again."""
    assert seen.answers["lost"].status == 502
    assert len(seen.asked("lost")) == 1


def test_a_task_that_has_not_begun_in_time_is_called_off(seen: Seen) -> None:
    """At the deadline, work that waits is cancelled; work that has begun goes on, and nobody hears of it."""
    tasks = {task.script: task for task in seen.vendor.tasks.values()}

    assert [seen.answers[name].status for name in ("stuck", "endless")] == [504, 504]
    assert (tasks["stuck"].status, tasks["endless"].status) == ("CANCELED", "RUNNING")


@pytest.mark.parametrize(
    ("name", "status", "code", "param"),
    [
        ("wrong key", 502, "upstream_auth_failed", None),
        ("no such model", 404, "model_not_found", "model"),
        ("twice", 400, "duplicate_key", "n"),
        ("no size", 400, "invalid_value", "size"),
        ("strict", 400, "invalid_value", "size"),
        ("empty", 400, "empty_string", "prompt"),
        ("many", 400, "integer_above_max_value", "n"),
        ("too long", 400, "string_above_max_length", "prompt"),
    ],
)
def test_what_cannot_be_done_says_why(seen: Seen, name: str, status: int, code: str, param: str | None) -> None:
    """In OpenAI's words, about OpenAI's fields."""
    answer = seen.answers[name]
    error = answer.error or {}

    assert (answer.status, error["code"], error["param"]) == (status, code, param)


def test_nothing_is_paid_that_was_not_delivered(seen: Seen) -> None:
    """As many pictures were made as clients got, save the three that could not be fetched."""
    assert seen.vendor.made == sum(len(answer.data) for answer in seen.answers.values()) + 3
