"""`amux-asgi doctor`, as an operator reads it."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from amux_asgi import ChannelConfig, Config, KeyConfig, PriceConfig
from amux_asgi.adapters import ADAPTERS
from amux_asgi.build_channels import channels_of
from amux_asgi.build_prices import prices_of
from amux_asgi.config import GatewayConfig
from amux_asgi.doctor import Finding, Way, findings
from amux_asgi.doctor_stores import database_findings, limit_findings, picture_findings
from amux_asgi.models import CATALOGUE, PRICED
from tests.command import run
from tests.limit_stores import store
from tests.test_credentials import URI
from tests.vendors.token_desk import account

TODAY = date(2026, 11, 25)
HERE = Way()
REAL = "sk-proj-Zq8rT1mB5vN2kL7wX3yC9dF4"


def channel(**told: Any) -> ChannelConfig:
    usual: dict[str, Any] = {"name": "up", "adapter": "openai", "models": ("gpt-image-2",), "credentials": (REAL,)}
    return ChannelConfig(**usual | told)


def found(*channels: ChannelConfig, way: Way = HERE, prices: Any = None, **gateway: Any) -> list[Finding]:
    config = Config(
        gateway=GatewayConfig(**gateway),
        channels=channels or (channel(),),
        prices=prices or {},
        keys=(KeyConfig(name="me", key="0123456789-0123456789"),),
    )
    return list(findings(config, channels_of(config, ADAPTERS), prices_of(config), way, TODAY))


def said(check: str, told: list[Finding]) -> str:
    return "\n".join(f"{one.state}: {one.message}" for one in told if one.check == check)


@pytest.mark.parametrize(
    ("credential", "fault"),
    [
        ("sk-xxxxxxxxxxxxxxxxxxxx", "looks like a placeholder"),
        ("sk-your-key-goes-here-please", "looks like a placeholder"),
        ("<OPENAI_API_KEY-of-yours>", "looks like a placeholder"),
        ("sk-...0123456789abcdef", "looks like a placeholder"),
        ("sk-short", "has only 8 characters"),
        ("Zq8rT1mB5vN2kL7wX3yC9dF4", "does not begin with 'sk-'"),
    ],
)
def test_a_credential_that_cannot_be_one_is_wrong_and_is_not_shown(credential: str, fault: str) -> None:
    """Only which one of them it is."""
    told = said("channel up", found(channel(credentials=(REAL, credential))))

    assert told == f"wrong: credential 2 {fault}: the upstream will refuse it"


def test_credible_credentials_are_counted() -> None:
    """A server that is not the vendor's own has shapes of its own; some want no credential."""
    told = found(
        channel(credentials=(REAL, "sk-xXxAmxxxB5vN2kL7wX3yC9dF4")),
        channel(name="own", base_url="https://images.internal/v1", credentials=("Zq8rT1mB5vN2kL7wX3yC9dF4",)),
        channel(name="sandbox", adapter="sandbox", credentials=()),
        channel(name="vertex", adapter="vertex", credentials=(account(URI),), options={"project": "some-project"}),
    )

    assert said("channel up", told) == "ok: 2 of a credible shape"
    assert said("channel own", told) == "ok: 1 of a credible shape"
    assert said("channel vertex", told) == "ok: 1 of a credible shape"
    assert said("channel sandbox", told) == ""


def test_prices_that_are_old_or_missing_are_named() -> None:
    """One that the configuration says is the operator's own."""
    models = ("gpt-image-2", "glm-image", "who-knows")
    up = channel(adapter="openai-compatible", base_url="https://x.internal/v1", models=models)

    told = said("prices", found(up))
    own = said("prices", found(up, prices={"glm-image": PriceConfig(image="1"), "who-knows": PriceConfig(image="1")}))

    assert told == (
        "note: no price is known for who-knows: refused to accounts with a balance\n"
        "note: those of glm-image are of 2026-07-31; compare the vendor's, or say [prices]"
    )
    assert own == "ok: each model has one, not older than 30 days"


def test_every_model_says_when_its_price_was_looked_up() -> None:
    """No row is without a date."""
    assert PRICED.keys() == CATALOGUE.keys()


def test_times_and_sizes_are_held_against_what_proxies_do() -> None:
    """And against each other."""
    told = found(channel(timeout=300), timeout=200, grace=100, max_body=2_000_000)
    quiet = found(channel(timeout=30), timeout=60, grace=60)

    assert "a request may take 200 s; many proxies give up after 60 s" in said("timeouts", told)
    assert "the timeout of up is never reached" in said("timeouts", told)
    assert "'grace' is 100 s" in said("timeouts", told)
    assert "client_max_body_size" in said("sizes", told)
    assert said("timeouts", quiet) + said("sizes", quiet) == ""


@pytest.mark.parametrize(
    ("way", "gateway", "notes"),
    [
        (Way(host="localhost"), {"public_url": "https://x.example"}, 0),
        (HERE, {}, 1),
        (Way(host="0.0.0.0"), {"public_url": "https://x.example"}, 2),
        (Way(host="images.internal"), {"trusted_proxies": ("10.0.0.0/8",)}, 2),
    ],
)
def test_what_is_reached_from_outside_wants_a_proxy(way: Way, gateway: dict[str, Any], notes: int) -> None:
    """With TLS, named, and with the address that clients use."""
    assert len([one for one in found(way=way, **gateway) if one.check == "serving"]) == notes


def test_the_database_is_reached_and_its_clock_compared(database: str) -> None:
    """A clock of ours that is an hour off is wrong; SQLite has ours."""
    config = Config(gateway=GatewayConfig(database=database))
    if database.startswith("sqlite"):
        Path(database.removeprefix("sqlite:///")).touch()

    right = [(one.check, one.state) for one in database_findings(config)]
    off = list(database_findings(config, now=lambda: datetime.now(UTC).timestamp() - 3600))

    assert right == [("database", "ok"), ("clock", "ok")]
    assert said("clock", off).startswith(
        "ok" if database.startswith("sqlite") else "wrong: ours and the database's are 3"
    )


@pytest.mark.parametrize(
    ("url", "state", "message"),
    [
        (None, "note", "there is none"),
        ("sqlite:///{folder}/new.db", "note", "new.db does not exist; the first start makes it"),
        ("sqlite:///{folder}/missing/new.db", "wrong", "but not its folder"),
        ("sqlite:///{folder}", "wrong", "it cannot be reached: "),
        ("postgresql://me:secret-word@127.0.0.1:1/x", "wrong", "it cannot be reached: "),
    ],
)
def test_a_database_that_is_not_there_is_said(tmp_path: Path, url: str | None, state: str, message: str) -> None:
    """No password is shown, and nothing is made."""
    config = Config(gateway=GatewayConfig(database=None if url is None else url.format(folder=tmp_path)))

    told = list(database_findings(config))

    assert [one.state for one in told] == [state]
    assert message in told[0].message
    assert "secret-word" not in told[0].message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pictures", "workers", "state"),
    [
        (None, 1, "note"),
        (None, 2, "wrong"),
        ("file:{folder}/pictures", 2, "ok"),
        ("file:/dev/null/pictures", 1, "wrong"),
    ],
)
async def test_hosted_pictures_are_tried(tmp_path: Path, pictures: str | None, workers: int, state: str) -> None:
    """Those in memory are nobody else's."""
    config = Config(gateway=GatewayConfig(pictures=pictures and pictures.format(folder=tmp_path)))

    told = await picture_findings(config, workers)

    assert [one.state for one in told] == [state]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_store_of_limits_is_reached(tmp_path: Path) -> None:
    """And missed, when it is gone."""
    with store(tmp_path) as server:
        config = Config(gateway=GatewayConfig(limits=server.url))
        there = await limit_findings(config, 2)
    gone = await limit_findings(config, 2)

    assert [one.state for one in (*there, *gone)] == ["ok", "wrong"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("workers", "nodes", "state"), [(1, 1, "note"), (2, 1, "wrong"), (2, 2, "ok")])
async def test_workers_that_count_apart_must_know_how_many_they_are(workers: int, nodes: int, state: str) -> None:
    """Otherwise each admits all of a limit."""
    config = Config(
        gateway=GatewayConfig(nodes=nodes),
        keys=(KeyConfig(name="me", key="0123456789-0123456789", limits=("4 concurrent",)),),
    )

    assert [one.state for one in await limit_findings(config, workers)] == [state]


CONFIG = """
[[channels]]
name = "openai"
adapter = "openai"
credentials = ["sk-proj-Zq8rT1mB5vN2kL7wX3yC9dF4"]
models = ["gpt-image-2"]
[[keys]]
name = "me"
key = "doctor-key-of-the-tests"
"""


@pytest.mark.parametrize(
    ("config", "code", "first"),
    [
        (CONFIG, 0, ("configuration", "ok", "it can work; channels: 1, keys: 1")),
        (CONFIG.replace("sk-proj-Zq8", "sk-xxx-"), 1, ("configuration", "ok", "it can work; channels: 1, keys: 1")),
        ("[[chanels]]", 1, ("configuration", "wrong", "there is no such section; do you mean 'channels'?")),
    ],
)
def test_the_command_ends_with_1_if_something_is_wrong(
    tmp_path: Path, config: str, code: int, first: tuple[str, str, str]
) -> None:
    """A table for people, JSON for programs; no secret in either."""
    file = tmp_path / "amux.toml"
    file.write_text(config)

    table, listed = run("doctor", "--config", file), run("doctor", "--config", file, "--json")

    told = json.loads(listed.stdout)
    assert (table.returncode, listed.returncode) == (code, code)
    assert (told[0]["check"], told[0]["state"]) == first[:2]
    assert first[2] in told[0]["message"]
    assert first[2] in table.stdout
    assert "T1mB5vN2kL7wX3yC9dF4" not in table.stdout + listed.stdout
