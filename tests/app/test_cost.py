"""What a client is told of money, over a real socket."""

from collections.abc import Generator
from typing import Any

import httpx2  # noqa: TID251, the test's client
import pytest

from amux_asgi import ChannelConfig, Config, GatewayConfig, KeyConfig, images_app
from tests.serve import serve

KEY = "cost-key-of-the-tests-1"
POOR = "poor-key-of-the-tests-1"
PROMPT = "a red paper lantern"
HIGH = 7024 * 30_000  # nano-dollars: the tokens of a high 1024x1024 picture, by the published formula and price


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx2.Client]:
    config = Config(
        gateway=GatewayConfig(database=f"sqlite:///{tmp_path_factory.mktemp('cost')}/amux.db"),
        channels=(ChannelConfig(name="sandbox", adapter="sandbox", models=("gpt-image-2", "dall-e-3")),),
        keys=(
            KeyConfig(name="rich", key=KEY, balance="25"),
            KeyConfig(name="poor", key=POOR, balance="0.000000001"),
        ),
    )
    with (
        serve(images_app(config)) as url,
        httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as asking,
    ):
        yield asking


def ask(client: httpx2.Client, path: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return client.post(path, json={"model": "gpt-image-2", "prompt": PROMPT, **fields}, headers=headers)


def test_every_answer_says_what_it_cost(client: httpx2.Client) -> None:
    """In dollars, as charged by the usage that the answer tells."""
    answer = ask(client, "/v1/images/generations", quality="low", size="1024x1024")

    usage = answer.json()["usage"]
    nano = usage["input_tokens"] * 5_000 + usage["output_tokens"] * 30_000
    assert answer.headers["x-amux-cost"] == f"{nano / 10**9:.9f}".rstrip("0")


def test_an_error_cost_nothing_and_says_so(client: httpx2.Client) -> None:
    """Also one of the upstream."""
    refused = ask(client, "/v1/images/generations", prompt="[[fault:moderation]]")
    invalid = ask(client, "/v1/images/generations", n=11)

    assert [(answer.status_code, answer.headers["x-amux-cost"]) for answer in (refused, invalid)] == [
        (403, "0"),
        (400, "0"),
    ]


def test_who_cannot_pay_is_told_so_without_figures(client: httpx2.Client) -> None:
    """429 `insufficient_quota`, as of OpenAI, and no SDK tries again."""
    answer = ask(client, "/v1/images/generations", {"authorization": f"Bearer {POOR}"})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (429, "insufficient_quota", "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    assert not any(character.isdigit() for character in error["message"])


@pytest.mark.parametrize("path", ["/v1/images/estimate", "/images/estimate", "/images/estimate/"])
def test_an_estimate_costs_nothing_and_asks_nobody(client: httpx2.Client, path: str) -> None:
    """The range in dollars, and the request as it would be sent."""
    answer = ask(client, path, quality="high", size="1024x1024", n=2)

    told = answer.json()
    assert answer.status_code == 200
    assert float(told["least"]) * 10**9 == pytest.approx(HIGH)
    assert 2 * HIGH < float(told["most"]) * 10**9 <= 2 * (HIGH + 2 * (len(PROMPT) + 1024) * 10_000)
    assert told["request"] == {"model": "gpt-image-2", "prompt": PROMPT, "n": 2, "size": "1024x1024", "quality": "high"}
    assert (told["object"], told["currency"]) == ("image.estimate", "USD")


def test_an_estimate_refuses_what_a_generation_would_refuse(client: httpx2.Client) -> None:
    """With the same error; and reports what would be changed."""
    invalid = ask(client, "/v1/images/estimate", size="17x17")
    adapted = ask(client, "/v1/images/estimate", partial_images=1)
    method = client.get("/v1/images/estimate")

    assert (invalid.status_code, invalid.json()["error"]["param"]) == (400, "size")
    assert adapted.headers["x-amux-adapted"] == "partial_images: dropped"
    assert method.status_code == 405


def test_a_client_may_say_how_much_is_too_much(client: httpx2.Client) -> None:
    """`x-amux-max-cost` refuses what could cost more, before anything is spent."""
    too_dear = ask(client, "/v1/images/generations", {"x-amux-max-cost": "0.01"}, quality="high")
    fine = ask(client, "/v1/images/generations", {"x-amux-max-cost": "0.10"}, model="dall-e-3")

    error = too_dear.json()["error"]
    assert (too_dear.status_code, error["code"], error["param"]) == (400, "cost_above_max", "x-amux-max-cost")
    assert (fine.status_code, fine.headers["x-amux-cost"]) == (200, "0.04")


@pytest.mark.parametrize("value", ["", "much", "-1", "1e3", "0.0000000001", "9" * 30])
def test_a_maximum_that_is_no_amount_is_refused(client: httpx2.Client, value: str) -> None:
    """A slip must not spend money."""
    answer = ask(client, "/v1/images/generations", {"x-amux-max-cost": value})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-amux-max-cost")
