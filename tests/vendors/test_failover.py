"""One name for models of several vendors: who serves, what each is asked, what it costs and what is told of it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pytest
from msgspec import Struct

from amux_asgi import KeyConfig, ModelConfig
from tests.serve import serve
from tests.vendors.all_vendors import CLIENT, Vendors, all_vendors, gateway
from tests.vendors.sdks import Answer, Case, case, node_answers, python_answers

SERVING: Final = {
    "zhipu": "glm-image",
    "gemini": "gemini-3.1-flash-image",
    "dashscope": "qwen-image-2.0",
    "imagen": "imagen-4.0-generate-001",
    "azure": "gpt-image-2",
}
ORDERS: Final = {  # who is asked first, by the client's name of the model
    "picture": ("zhipu", "gemini", "dashscope"),
    "image": ("dashscope", "imagen", "zhipu"),
    "painting": ("gemini", "azure", "dashscope"),
    "photo": ("imagen", "gemini"),
    "drawing": ("azure", "gemini"),
}
BUSY: Final = {  # words at which a vendor refuses, and another may be asked
    "zhipu": "answer 429 1302",
    "gemini": "[[minute]]",
    "dashscope": "throttled",
}
SAFETY: Final = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "threshold": "BLOCK_ONLY_HIGH"}]
SINGLE: Final[dict[str, Any]] = {  # a field of each kind, whoever understands it
    "aspect_ratio": "16:9",
    "image_size": "2K",
    "negative_prompt": "blur",
    "person_generation": "allow_adult",
    "prompt_extend": False,
    "safety_settings": SAFETY,
    "seed": 7,
    "sensitive_word_check": {"type": "ALL", "status": "DISABLE"},
    "thinking_level": "high",
    "user_id": "tenant-42-user-7",
    "watermark": False,
}
MINE: Final = {  # which of them a vendor is told
    "zhipu": {"sensitive_word_check", "user_id", "watermark"},
    "gemini": {"aspect_ratio", "image_size", "safety_settings", "seed", "thinking_level"},
    "dashscope": {"negative_prompt", "prompt_extend", "seed", "watermark"},
    "imagen": {"aspect_ratio", "image_size", "person_generation"},
    "azure": set[str](),
}
OBJECTS: Final[dict[str, Any]] = {  # of two vendors, under one name
    "parameters": {"prompt_extend": False, "watermark": False, "aspectRatio": "16:9", "language": "de", "n": 2},
    "input": {"negative_prompt": "blur"},
}
FINAL: Final = {  # what the first says to a prompt that nobody else is then asked for, by the name that it serves
    ("picture", "refuse the prompt"): (403, "moderation_blocked"),
    ("picture", "refuse the picture"): (403, "moderation_blocked"),
    ("picture", "answer 400 1214"): (400, "invalid_value"),
    ("picture", "answer 400 1231"): (502, "upstream_error"),
    ("image", "forbidden"): (403, "moderation_blocked"),
    ("painting", "[[unsafe-picture]]"): (403, "moderation_blocked"),
    ("painting", "[[unsafe-prompt]]"): (403, "moderation_blocked"),
    ("painting", "[[words]]"): (400, "no_image_generated"),
    ("painting", "[[no-image]]"): (400, "no_image_generated"),
    ("painting", "[[cut]]"): (400, "max_tokens_reached"),
    ("painting", "[[odd]]"): (502, "upstream_bad_response"),
    ("photo", "blocked"): (403, "moderation_blocked"),
    ("photo", "nothing"): (403, "moderation_blocked"),
    ("photo", "refused"): (403, "moderation_blocked"),
    ("drawing", "[[moderation]]"): (403, "moderation_blocked"),
    ("drawing", "[[short block]]"): (403, "content_policy_violation"),
    ("drawing", "[[bad request]]"): (400, "invalid_value"),
    ("drawing", "[[late]]"): (504, "upstream_timeout"),
}
OPEN: Final = (  # what the first says when it did nothing and charges nothing: another one is asked
    ("picture", "answer 429 1113"),
    ("picture", "answer 401 1002"),
    ("picture", "answer 400 1211"),
    ("picture", "answer 429 1312"),
    ("picture", "answer 500 1234"),
    ("picture", "task fails"),
    ("image", "arrears"),
    ("image", "overloaded"),
    ("image", "failing"),
    ("image", "in band"),
    ("painting", "[[day]]"),
    ("painting", "[[abroad]]"),
    ("painting", "[[other]]"),
)
PRICES: Final = {"zhipu": 0.015, "dashscope": 0.035, "imagen": 0.04}
POOR: Final = KeyConfig(name="poor", key="failover-key-of-the-poor", balance="0.09")
RICH: Final = KeyConfig(name="rich", key="failover-key-of-the-rich", balance="0.1")


def turns() -> Iterator[tuple[str, str, int]]:
    """Give a name, who serves it, and how many refused before."""
    for name, order in ORDERS.items():
        served = {"picture": 3, "image": 2, "painting": 2}.get(name, 1)
        yield from ((name, adapter, turn) for turn, adapter in enumerate(order[:served]))


TURNS: Final = tuple(turns())


def prompt_of(name: str, turn: int, kind: str) -> str:
    """Make those before refuse."""
    return " ".join([f"{kind} {name} {turn}", *(BUSY[adapter] for adapter in ORDERS[name][:turn])])


def wishes() -> Iterator[Case]:
    for name, _, turn in TURNS:
        yield case(f"all {name} {turn}", model=name, prompt=prompt_of(name, turn, "all"), **SINGLE)
        yield case(f"body {name} {turn}", model=name, prompt=prompt_of(name, turn, "body"), extra_body=SINGLE)
        yield case(f"three {name} {turn}", model=name, prompt=prompt_of(name, turn, "three"), n=3)
    for turn in (0, 1):
        yield case(f"objects {turn}", model="image", prompt=prompt_of("image", turn, "objects"), **OBJECTS)
        yield case(f"inside {turn}", model="image", prompt=prompt_of("image", turn, "inside"), extra_body=OBJECTS)
    yield case("no object", model="image", prompt="no object", extra_body={"parameters": 7})
    for name, words in (*FINAL, *OPEN):
        alone = name == "photo"  # whose vendor looks at the whole prompt
        yield case(f"{name}: {words}", model=name, prompt=words if alone else f"{name}: {words}")
    strict = {"x-amux-strict": "true"}
    after = BUSY["zhipu"]
    yield case("strict user", model="picture", prompt=f"u {after}", user="tenant-42", extra_headers=strict)
    yield case("lax user", model="picture", prompt=f"v {after}", user="tenant-42")
    yield case("strict size", model="picture", prompt=f"s {after}", size="1280x1280", extra_headers=strict)
    yield case("strict style", model="picture", prompt="strict style", style="vivid", extra_headers=strict)
    yield case("cannot", model="picture", prompt="cannot first", size="16:9")
    yield case("two", model="image", prompt="two", n=4, extra_body={"parameters": {"n": 2}})
    yield case("cheap", model="picture", prompt="cheap", extra_headers={"x-amux-max-cost": "0.02"})
    yield case("dear", model="picture", prompt="dear", extra_headers={"x-amux-max-cost": "0.1"})


class Seen(Struct, frozen=True):
    """What one SDK saw, and the vendors."""

    answers: dict[str, Answer]
    poor: Answer
    rich: Answer
    vendors: Vendors


@pytest.fixture(scope="module", params=[python_answers, node_answers], ids=["python", "node"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Ask for everything with one SDK."""
    database = f"sqlite:///{tmp_path_factory.mktemp('failover')}/amux.db"
    answers_of: Callable[[str, str, Sequence[Case]], dict[str, Answer]] = request.param
    with all_vendors() as vendors:
        channels = [
            vendors.channel(
                adapter,
                [ModelConfig(name=name, upstream=SERVING[adapter])],
                name=f"{name}-{adapter}",
                priority=-turn,
            )
            for name, order in ORDERS.items()
            for turn, adapter in enumerate(order)
        ]
        with serve(gateway(channels, POOR, RICH, database=database)) as base:
            url = f"{base}/v1"
            answers = answers_of(url, CLIENT, tuple(wishes()))
            one = case("one", model="picture", prompt=f"held {BUSY['zhipu']} {BUSY['gemini']}")
            poor, rich = (answers_of(url, key.key, [one])["one"] for key in (POOR, RICH))
            yield Seen(answers, poor, rich, vendors)


@pytest.mark.parametrize(("name", "adapter", "turn"), TURNS)
def test_the_next_vendor_serves_when_one_refuses(seen: Seen, name: str, adapter: str, turn: int) -> None:
    """One ask each, as many attempts as vendors, and the last of them is named."""
    for kind in ("all", "body"):
        answer = seen.answers[f"{kind} {name} {turn}"]
        assert (answer.status, len(answer.data)) == (200, 1), answer.error
        assert answer.headers["x-amux-channel"] == f"{name}-{adapter}"
        assert answer.headers["x-amux-attempts"] == str(turn + 1)


@pytest.mark.parametrize(("name", "adapter", "turn"), TURNS)
@pytest.mark.parametrize("kind", ["all", "body"])
def test_no_vendor_is_told_another_ones_fields(seen: Seen, name: str, adapter: str, turn: int, kind: str) -> None:
    """Each is asked just what it understands of them, whoever was asked before, and the report is of who served."""
    for one in ORDERS[name][: turn + 1]:
        bodies = seen.vendors.asked(one, f"{kind} {name} {turn}")
        assert bodies == [wire(one, prompt_of(name, turn, kind))]
    dropped = {f"{field}: dropped" for field in SINGLE if field not in MINE[adapter]}
    assert set((seen.answers[f"{kind} {name} {turn}"].adapted or "").split("; ")) == dropped


def wire(adapter: str, prompt: str) -> dict[str, Any]:
    """Say what a vendor is asked when a client says all."""
    match adapter:
        case "zhipu":
            told = {"user_id": "tenant-42-user-7", "watermark_enabled": False}
            check = {"sensitive_word_check": SINGLE["sensitive_word_check"]}
            return {"model": SERVING[adapter], "prompt": prompt, **told, **check}
        case "gemini":
            return {
                "model": SERVING[adapter],
                "contents": [{"role": "user", "parts": [{"text": prompt}]}],
                "generationConfig": {
                    "responseModalities": ["TEXT", "IMAGE"],
                    "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
                    "seed": 7,
                    "thinkingConfig": {"thinkingLevel": "high"},
                },
                "safetySettings": SAFETY,
            }
        case "dashscope":
            told = {name: SINGLE[name] for name in MINE[adapter]}
            return {
                "model": SERVING[adapter],
                "input": {"messages": [{"role": "user", "content": [{"text": prompt}]}]},
                "parameters": {"n": 1, **told},
            }
        case "imagen":
            told = {"aspectRatio": "16:9", "sampleImageSize": "2K", "personGeneration": "allow_adult"}
            return {
                "instances": [{"prompt": prompt}],
                "parameters": {"includeRaiReason": True, "sampleCount": 1, **told},
            }
        case _:
            return {"model": SERVING[adapter], "prompt": prompt}


@pytest.mark.parametrize("kind", ["objects", "inside"])
def test_what_two_vendors_call_alike_is_told_apart_inside(seen: Seen, kind: str) -> None:
    """Both have `parameters`; neither is told what only the other knows in it, and the number counts for both."""
    dashscope, imagen = (seen.answers[f"{kind} {turn}"] for turn in (0, 1))

    assert [body["parameters"] for body in seen.vendors.asked("dashscope", f"{kind} image")] == [
        {"n": 2, "negative_prompt": "blur", "prompt_extend": False, "watermark": False}
    ] * 2
    assert [body["parameters"] for body in seen.vendors.asked("imagen", f"{kind} image")] == [
        {"aspectRatio": "16:9", "includeRaiReason": True, "language": "de", "sampleCount": 2}
    ]
    assert dashscope.adapted == "parameters.aspectRatio: dropped; parameters.language: dropped"
    assert imagen.adapted == "; ".join(
        f"{field}: dropped" for field in ("input", "parameters.prompt_extend", "parameters.watermark")
    )
    assert (len(dashscope.data), len(imagen.data)) == (2, 2)
    nonsense = seen.answers["no object"]
    assert (nonsense.headers["x-amux-channel"], nonsense.adapted) == ("image-zhipu", "parameters: dropped")


@pytest.mark.parametrize(("name", "adapter", "turn"), TURNS)
def test_several_pictures_come_from_whoever_serves_and_cost_what_they_cost_there(
    seen: Seen, name: str, adapter: str, turn: int
) -> None:
    """A vendor that makes one at a time and one that makes several: three pictures, at the price of who made them."""
    answer = seen.answers[f"three {name} {turn}"]

    assert (answer.status, len(answer.data)) == (200, 3), answer.error
    assert answer.headers["x-amux-channel"] == f"{name}-{adapter}"
    cost = float(answer.headers["x-amux-cost"])
    if adapter in PRICES:
        assert cost == pytest.approx(3 * PRICES[adapter])
    else:
        assert (answer.usage or {})["output_tokens"] == 3 * {"gemini": 1120 + 88 + 160, "azure": 1056}[adapter]
        assert cost > 3 * 0.03


@pytest.mark.parametrize(("name", "adapter", "turn"), TURNS)
def test_the_form_is_that_of_the_model_which_was_asked_for(seen: Seen, name: str, adapter: str, turn: int) -> None:
    """Whoever serves: a model whose first channel shows URLs always does."""
    (picture,) = seen.answers[f"all {name} {turn}"].data

    wants_url = ORDERS[name][0] in ("zhipu", "dashscope")
    assert (picture.url is not None, picture.sha256 is not None) == (wants_url, not wants_url)
    assert adapter in ("zhipu", "dashscope") or not wants_url or "/pictures/" in str(picture.url)


@pytest.mark.parametrize(("name", "words"), FINAL)
def test_what_is_refused_for_good_is_asked_of_nobody_else(seen: Seen, name: str, words: str) -> None:
    """A blocked prompt, a mistake of the client's, what may have been paid: nobody pays for it a second time."""
    answer = seen.answers[f"{name}: {words}"]

    assert (answer.status, (answer.error or {})["code"]) == FINAL[name, words]
    assert (answer.headers["x-amux-attempts"], answer.headers["x-amux-cost"]) == ("1", "0")
    for other in ORDERS[name][1:]:
        assert seen.vendors.asked(other, f'"{words}"' if name == "photo" else f"{name}: {words}") == []


@pytest.mark.parametrize(("name", "words"), OPEN)
def test_what_is_no_fault_of_the_client_is_asked_of_the_next(seen: Seen, name: str, words: str) -> None:
    """An empty account, a wrong key, too much to do, a failure that is not charged."""
    answer = seen.answers[f"{name}: {words}"]

    assert (answer.status, len(answer.data)) == (200, 1), answer.error
    assert answer.headers["x-amux-channel"] == f"{name}-{ORDERS[name][1]}"
    assert answer.headers["x-amux-attempts"] == "2"


def test_strict_counts_for_whoever_serves(seen: Seen) -> None:
    """A vendor that would have to change something is passed over, or nobody serves; lax, the change is reported."""
    user, lax, size = (seen.answers[name] for name in ("strict user", "lax user", "strict size"))

    assert (user.status, (user.error or {})["code"], user.headers["x-amux-attempts"]) == (
        429,
        "rate_limit_exceeded",
        "1",
    )
    assert (lax.status, lax.headers["x-amux-channel"], lax.adapted) == (200, "picture-gemini", "user: dropped")
    assert (size.status, size.headers["x-amux-channel"], size.adapted) == (200, "picture-dashscope", None)
    assert seen.vendors.asked("gemini", f"s {BUSY['zhipu']}") == []
    style = seen.answers["strict style"]
    assert (style.status, (style.error or {})["param"]) == (400, "style")


def test_a_vendor_that_cannot_be_asked_this_is_passed_over(seen: Seen) -> None:
    """Only Gemini knows a ratio for a size; it is the first attempt."""
    answer = seen.answers["cannot"]

    assert (answer.status, answer.headers["x-amux-channel"], answer.headers["x-amux-attempts"]) == (
        200,
        "picture-gemini",
        "1",
    )
    assert seen.vendors.asked("zhipu", "cannot first") == []


def test_two_different_counts_are_refused_by_all(seen: Seen) -> None:
    """No vendor is found that would take one of them."""
    answer = seen.answers["two"]

    assert (answer.status, (answer.error or {})["param"]) == (400, "n")


def test_the_hold_covers_the_dearest_who_may_serve(seen: Seen) -> None:
    """Glm-image costs 0.015, but Gemini may have to serve: up to 0.092 must be there. What is paid is what was made."""
    cheap, dear = seen.answers["cheap"], seen.answers["dear"]

    assert (cheap.status, (cheap.error or {})["code"]) == (400, "cost_above_max")
    assert (dear.status, dear.headers["x-amux-cost"]) == (200, "0.015")
    assert (seen.poor.status, (seen.poor.error or {})["code"]) == (429, "insufficient_quota")
    assert (seen.rich.status, seen.rich.headers["x-amux-cost"]) == (200, "0.035")
