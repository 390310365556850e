"""The configuration: what works, and how what cannot work is refused."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapters import ADAPTERS
from amux_asgi.app import images_app
from amux_asgi.build_channels import channels_of
from amux_asgi.build_checks import check_gateway
from amux_asgi.build_keys import check_priced, keys_of, openings_of
from amux_asgi.build_pictures import bytes_of, check_workers, pictures_of
from amux_asgi.build_prices import prices_of
from amux_asgi.catalogue._base import ImagePrices, TokenPrices
from amux_asgi.config import ChannelConfig, Config, KeyConfig, ModelConfig, PriceConfig, load
from amux_asgi.errors import AuthenticationError, ConfigError
from amux_asgi.models import CATALOGUE
from amux_asgi.pricing import NANO
from amux_asgi.toml_lines import Lines

GOOD = """
[gateway]
default_model = "gpt-image-2"
timeout = 100
drain = 0
grace = 0
trusted_proxies = ["10.0.0.0/8"]
reveal = ["attempts", "channel"]

[[channels]]
name = "openai"
adapter = "openai"
credentials = ["${CREDENTIAL}"]
models = ["gpt-image-2", { name = "pretty", upstream = "gpt-image-1" }]
priority = 10
weight = 2
headers = { "OpenAI-Project" = "$$proj" }

[[channels]]
name = "own"
adapter = "openai-compatible"
base_url = "http://127.0.0.1:9000/v1/"
models = ["own"]
unknown_fields = "drop"
on_unknown = "retry"
rehost = false

[[keys]]
name = "team-a"
key = "${TEAM_A_KEY}"
models = ["gpt-*"]
passthrough = ["speech"]
expires = 2027-01-01T00:00:00Z
"""
ENVIRONMENT = {"CREDENTIAL": "sk-secret", "TEAM_A_KEY": "team-a-key-0123456789"}


def written(folder: Path, text: str) -> Path:
    path = folder / "amux.toml"
    path.write_text(text)
    return path


def fault(folder: Path, text: str, environment: dict[str, str] = ENVIRONMENT) -> str:
    """Give the refusal of a configuration, without its folder."""
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        build(path, environment)
    return str(caught.value).removeprefix(f"{folder}/")


def build(path: Path, environment: dict[str, str]) -> None:
    config = load(path, environment)
    check_gateway(config)
    channels = channels_of(config, ADAPTERS)
    keys_of(config, lambda: datetime.now(UTC))
    openings_of(config)
    check_priced(config, channels, prices_of(config))
    pictures_of(config, now=lambda: 0)


@pytest.mark.anyio
async def test_a_good_file_becomes_channels_and_keys(tmp_path: Path) -> None:
    """Variables are filled in, addresses and names are made uniform, keys are hashed."""
    config = load(written(tmp_path, GOOD), ENVIRONMENT)
    check_gateway(config)
    openai, own = channels_of(config, ADAPTERS)
    keys = keys_of(config, lambda: datetime(2026, 1, 1, tzinfo=UTC))

    assert (openai.credentials, openai.base_url) == (("sk-secret",), "https://api.openai.com/v1")
    assert openai.models == {"gpt-image-2": "gpt-image-2", "pretty": "gpt-image-1"}
    assert (openai.priority, openai.weight, openai.headers) == (10, 2, {"openai-project": "$proj"})
    assert (own.base_url, own.unknown_fields, own.on_unknown) == ("http://127.0.0.1:9000/v1", "drop", "retry")
    principal = await keys.authenticate("team-a-key-0123456789")
    assert (principal.account, principal.models, principal.passthrough) == ("team-a", ("gpt-*",), ("speech",))
    assert "team-a-key" not in str(vars(keys))
    with pytest.raises(AuthenticationError):
        await keys_of(config, lambda: datetime(2027, 1, 1, tzinfo=UTC)).authenticate("team-a-key-0123456789")


PRICES = """
[prices."gpt-image-2"]
image_out = "33.5"

[prices.own]
text_in = "1"
image_out = "2"

[prices.flat]
image = "0.04"

[prices."rows"]
image."1024x1024".high = "0.211"
image."1024x1024".low = "0"
"""


def test_prices_of_the_file_stand_before_the_catalogues(tmp_path: Path) -> None:
    """By token or by picture; what a table leaves out is the catalogue's, or follows from what it says."""
    config = load(written(tmp_path, PRICES), {})

    prices = prices_of(config)

    known = CATALOGUE["gpt-image-2"].prices
    assert isinstance(known, TokenPrices)
    assert prices.find("gpt-image-2", "x") == replace(known, image_out=33_500_000_000)
    assert prices.find("own", "x") == TokenPrices(
        text_in=NANO, cached_text_in=NANO, image_in=NANO, cached_image_in=NANO, image_out=2 * NANO
    )
    assert prices.find("flat", "x") == ImagePrices(flat=40_000_000)
    rows = {("1024x1024", "high"): 211_000_000, ("1024x1024", "low"): 0}
    assert prices.find("x", "rows") == ImagePrices(prices=rows)


def test_prices_can_be_written_in_code() -> None:
    """The same structs, without a file."""
    good = Config(prices={"m": PriceConfig(image={"1x1": {"low": "0.5"}})})
    bad = Config(prices={"m": PriceConfig(image="dear")})

    found = prices_of(good).find("m", "m")

    assert found == ImagePrices(prices={("1x1", "low"): NANO // 2})
    with pytest.raises(ConfigError, match=r"^\[prices\.m\.image\] "):
        prices_of(bad)


CHANNEL = '[[channels]]\nname = "a"\nadapter = "openai"\ncredentials = ["k"]\nmodels = ["m"]\n'
PICTURES = CHANNEL + "[gateway]\n"
DATABASE = "[gateway]\ndatabase = 'sqlite:///x'\n"
KEY = '[[keys]]\nname = "k"\nkey = "0123456789012345678901"\n'


@pytest.mark.parametrize(
    ("text", "start", "part"),
    [
        ("x = ", "amux.toml:1: ", "not TOML"),
        ("[gateway", "amux.toml:1: ", "not TOML"),
        ("[gatway]\n", "amux.toml:1: [gatway] ", "'gateway'"),
        ("gateway = 1\n", "amux.toml:1: [gateway] ", "[gateway]"),
        ("[channels]\nname = 'a'\n", "amux.toml:1: [channels] ", "[[channels]]"),
        ("channels = [1]\n", "amux.toml:1: [channels.0] ", "[[channels]]"),
        ("[gateway]\ntimout = 1\n", "amux.toml:2: [gateway.timout] ", "'timeout'"),
        ("[gateway]\nzzz = 1\n", "amux.toml:2: [gateway.zzz] ", "known are"),
        ("[gateway]\ntimeout = 'x'\n", "amux.toml:2: [gateway.timeout] ", "expected `float`"),
        ("[gateway]\ntimeout = 0\n", "amux.toml:2: [gateway.timeout] ", "above zero"),
        ("[gateway]\nmax_body = -1\n", "amux.toml:2: [gateway.max_body] ", "above zero"),
        ("[gateway]\ngrace = -1\n", "amux.toml:2: [gateway.grace] ", "above zero"),
        ("[gateway]\ndrain = -1\n", "amux.toml:2: [gateway.drain] ", "above zero"),
        ("[gateway]\n\ntransport = 'pigeon'\n", "amux.toml:3: [gateway.transport] ", "pigeon"),
        ("[gateway]\ntrusted_proxies = ['nowhere']\n", "amux.toml:2: [gateway.trusted_proxies.0] ", "no network"),
        ("[gateway]\ndefault_model = 'm'\n", "amux.toml:2: [gateway.default_model] ", "no channel serves"),
        ("[gateway]\nreveal = ['costs']\n", "amux.toml:2: [gateway.reveal.0] ", "costs"),
        ("[gateway]\nmax_in_flight = 0\n", "amux.toml:2: [gateway.max_in_flight] ", "above zero"),
        ("[gateway]\ndefault_model = '${NOT_SET}'\n", "amux.toml:2: [gateway.default_model] ", "NOT_SET"),
        ("", "amux.toml:1: [channels] ", "no channel"),
        (CHANNEL + "concurrency = 0\n", "amux.toml:6: [channels.0.concurrency] ", "must be from 1"),
        (CHANNEL + CHANNEL, "amux.toml:7: [channels.1.name] ", "must differ"),
        (CHANNEL.replace('"openai"', '"opnai"'), "amux.toml:3: [channels.0.adapter] ", "'openai'"),
        (CHANNEL.replace('"openai"', '"zzz"'), "amux.toml:3: [channels.0.adapter] ", "known are"),
        (CHANNEL.replace('"a"', '"a b"'), "amux.toml:2: [channels.0.name] ", "letters, digits"),
        (CHANNEL.replace('["k"]', "[]"), "amux.toml:4: [channels.0.credentials] ", "needs a credential"),
        (CHANNEL.replace('["k"]', '["a b"]'), "amux.toml:4: [channels.0.credentials] ", "blank"),
        (CHANNEL.replace('["m"]', "[]"), "amux.toml:5: [channels.0.models] ", "no model"),
        (CHANNEL.replace('["m"]', '["m", "m"]'), "amux.toml:5: [channels.0.models] ", "twice"),
        (CHANNEL.replace('["m"]', '[" m"]'), "amux.toml:5: [channels.0.models] ", "blanks"),
        (CHANNEL.replace("models", "model"), "amux.toml:5: [channels.0.model] ", "'models'"),
        (CHANNEL.replace('models = ["m"]\n', ""), "amux.toml:1: [channels.0] ", "the key `models` is missing"),
        (CHANNEL + "weight = 0\n", "amux.toml:6: [channels.0.weight] ", "from 1 to"),
        (CHANNEL + f"weight = {10**400}\n", "amux.toml:6: [channels.0.weight] ", "from 1 to"),
        (CHANNEL + "timeout = inf\n", "amux.toml:6: [channels.0.timeout] ", "at most 86400"),
        ("[gateway]\ngrace = inf\n", "amux.toml:2: [gateway.grace] ", "at most 86400"),
        ("[gateway]\ntimeout = nan\n", "amux.toml:2: [gateway.timeout] ", "above zero"),
        (CHANNEL + "timeout = 0.0\n", "amux.toml:6: [channels.0.timeout] ", "above zero"),
        (
            CHANNEL.replace('["m"]', '[{ name = "m", upstream = "mine", like = "gpt-imag-2" }]'),
            "amux.toml:5: [channels.0.models] ",
            "'gpt-image-2'",
        ),
        (
            CHANNEL.replace('["m"]', '[{ name = "m", upstream = "mine", like = "zzz" }]'),
            "amux.toml:5: [channels.0.models] ",
            "leave 'like' out",
        ),
        (CHANNEL + "options = { a = 1 }\n", "amux.toml:6: [channels.0.options] ", "no options"),
        (CHANNEL + "base_url = 'ftp://x'\n", "amux.toml:6: [channels.0.base_url] ", "no base URL"),
        (CHANNEL + "base_url = 'https://u:p@x/'\n", "amux.toml:6: [channels.0.base_url] ", "no base URL"),
        (CHANNEL + "base_url = 'https://x/?a=b'\n", "amux.toml:6: [channels.0.base_url] ", "no base URL"),
        (CHANNEL + "base_url = 'https://x:65536/'\n", "amux.toml:6: [channels.0.base_url] ", "no base URL"),
        (CHANNEL + "base_url = 'https://x:0/'\n", "amux.toml:6: [channels.0.base_url] ", "no base URL"),
        (CHANNEL + "base_url = 'https://[::1/'\n", "amux.toml:6: [channels.0.base_url] ", "no base URL"),
        (CHANNEL + "base_url = 'https://x/#a'\n", "amux.toml:6: [channels.0.base_url] ", "no base URL"),
        (CHANNEL + "base_url = 'http://api.example.com/v1'\n", "amux.toml:4: [channels.0.credentials] ", "unencrypted"),
        (CHANNEL + "base_url = 'http://8.8.8.8/v1'\n", "amux.toml:4: [channels.0.credentials] ", "unencrypted"),
        (
            CHANNEL + "headers = { Authorization = 'x' }\n",
            "amux.toml:6: [channels.0.headers.Authorization] ",
            "gateway's own",
        ),
        (CHANNEL + "headers = { 'a b' = 'x' }\n", "amux.toml:6: [channels.0.headers.a b] ", "no header's name"),
        (CHANNEL + 'headers = { a = "x\\r\\ny: z" }\n', "amux.toml:6: [channels.0.headers.a] ", "does not allow"),
        (
            CHANNEL.replace('adapter = "openai"', 'adapter = "openai-compatible"'),
            "amux.toml:1: [channels.0.base_url] ",
            "say which server",
        ),
        (CHANNEL + KEY.replace("0123456789012345678901", "short"), "amux.toml:8: [keys.0.key] ", "20 printable"),
        (
            CHANNEL + KEY.replace("0123456789012345678901", "0123456789 0123456789"),
            "amux.toml:8: [keys.0.key] ",
            "blank",
        ),
        (CHANNEL + KEY.replace('"k"', '""'), "amux.toml:7: [keys.0.name] ", "letters, digits"),
        (CHANNEL + KEY + KEY.replace("01234", "98765"), "amux.toml:10: [keys.1.name] ", "must differ"),
        (CHANNEL + KEY + KEY.replace('"k"', '"l"'), "amux.toml:6: [keys] ", "the same"),
        (CHANNEL + KEY + "expires = 2027-01-01T00:00:00\n", "amux.toml:9: [keys.0.expires] ", "offset"),
        (CHANNEL + KEY + "balance = '5'\n", "amux.toml:9: [keys.0.balance] ", "needs a database"),
        (CHANNEL + KEY + "budget = '5'\n", "amux.toml:9: [keys.0.budget] ", "needs a database"),
        (CHANNEL + KEY + "networks = ['here']\n", "amux.toml:9: [keys.0.networks.0] ", "no network"),
        (DATABASE + CHANNEL + KEY + "balance = 'much'\n", "amux.toml:11: [keys.0.balance] ", "as a decimal"),
        (
            DATABASE + CHANNEL + KEY + "balance = '5'\n",
            "amux.toml:11: [keys.0.balance] ",
            "nobody can tell",
        ),
        (DATABASE + CHANNEL + KEY + "budget = '5'\n", "amux.toml:11: [keys.0.budget] ", "nobody can tell"),
        (
            DATABASE
            + CHANNEL
            + KEY
            + "account = 'a'\nbalance = '5'\n"
            + KEY.replace('"k"', '"l"').replace("01234", "98765")
            + "account = 'a'\nbalance = '6'\n",
            "amux.toml:17: [keys.1.balance] ",
            "say it once",
        ),
        (PICTURES + "pictures = 'file:'\n", "amux.toml:7: [gateway.pictures] ", "'file:FOLDER'"),
        (PICTURES + "pictures = ''\n", "amux.toml:7: [gateway.pictures] ", "'file:FOLDER'"),
        (PICTURES + "pictures = 'file://host/x'\n", "amux.toml:7: [gateway.pictures] ", "'file:FOLDER'"),
        (PICTURES + "pictures = 'memory'\n", "amux.toml:7: [gateway.pictures] ", "'memory://'"),
        (PICTURES + "pictures = 'memory://x'\n", "amux.toml:7: [gateway.pictures] ", "'memory://'"),
        (PICTURES + "pictures = 'ftp://x'\n", "amux.toml:7: [gateway.pictures] ", "'s3://BUCKET/PREFIX'"),
        (PICTURES + "pictures = 's3://'\n", "amux.toml:7: [gateway.pictures] ", "'s3://BUCKET/PREFIX'"),
        (PICTURES + "pictures = 's3://b?x=y'\n", "amux.toml:7: [gateway.pictures] ", "'s3://BUCKET/PREFIX'"),
        (PICTURES + "pictures = 's3://u:p@b/x'\n", "amux.toml:7: [gateway.pictures] ", "'s3://BUCKET/PREFIX'"),
        (PICTURES + "pictures = 's3://b//x'\n", "amux.toml:7: [gateway.pictures] ", "'s3://BUCKET/PREFIX'"),
        (PICTURES + "pictures = 's3://b/../x'\n", "amux.toml:7: [gateway.pictures] ", "'s3://BUCKET/PREFIX'"),
        (PICTURES + "pictures = 5\n", "amux.toml:7: [gateway.pictures] ", "expected `str | null`"),
        (PICTURES + "pictures_max = '10 Gib of it'\n", "amux.toml:7: [gateway.pictures_max] ", "'10 GiB'"),
        (PICTURES + "pictures_max = '0'\n", "amux.toml:7: [gateway.pictures_max] ", "above zero"),
        (PICTURES + "pictures_max = -1\n", "amux.toml:7: [gateway.pictures_max] ", "above zero"),
        (PICTURES + "pictures_max = ''\n", "amux.toml:7: [gateway.pictures_max] ", "above zero"),
        (PICTURES + "pictures_max = 1.5\n", "amux.toml:7: [gateway.pictures_max] ", "got `float`"),
        (PICTURES + "pictures_max = '1.5 GiB'\n", "amux.toml:7: [gateway.pictures_max] ", "'10 GiB'"),
        (PICTURES + "public_url = 'api.example.com'\n", "amux.toml:7: [gateway.public_url] ", "'https://host/path'"),
        (PICTURES + "public_url = 'https://'\n", "amux.toml:7: [gateway.public_url] ", "'https://host/path'"),
        (PICTURES + "public_url = 'https://x/'\n", "amux.toml:7: [gateway.public_url] ", "a slash at its end"),
        (PICTURES + "public_url = 'https://x/a//b'\n", "amux.toml:7: [gateway.public_url] ", "'https://host/path'"),
        (PICTURES + "public_url = 'https://x?a=b'\n", "amux.toml:7: [gateway.public_url] ", "without user, query"),
        (PICTURES + "public_url = 'https://x/#a'\n", "amux.toml:7: [gateway.public_url] ", "without user, query"),
        (PICTURES + "public_url = 'https://u:p@x'\n", "amux.toml:7: [gateway.public_url] ", "without user, query"),
        (PICTURES + "public_url = 'https://x:0'\n", "amux.toml:7: [gateway.public_url] ", "'https://host/path'"),
        (PICTURES + "public_url = 'https://x:65536'\n", "amux.toml:7: [gateway.public_url] ", "'https://host/path'"),
        (PICTURES + "public_url = 'ftp://x'\n", "amux.toml:7: [gateway.public_url] ", "'https://host/path'"),
        ("prices = 1\n", "amux.toml:1: [prices] ", '[prices."'),
        ("[prices]\n", "amux.toml:1: [prices] ", '[prices."'),
        ("[prices]\nm = 5\n", "amux.toml:2: [prices.m] ", '[prices."'),
        (CHANNEL + "[prices.m]\n", "amux.toml:6: [prices.m] ", "there is no price"),
        (CHANNEL + "[prices.m]\nimage = {}\n", "amux.toml:6: [prices.m] ", "there is no price"),
        ("[prices.m]\ntxt_in = '5'\n", "amux.toml:2: [prices.m.txt_in] ", "'text_in'"),
        ("[prices.gpt-2.5-x]\ntext_in = '5'\n", "amux.toml:1: [prices.gpt-2.5-x] ", "in quotes"),
        ("[prices.m]\ntext_in = 5\n", "amux.toml:2: [prices.m.text_in] ", "as a text"),
        ("[prices.m]\nimage = 0.04\n", "amux.toml:2: [prices.m.image] ", "as a text"),
        ("[prices.m]\nimage.1x1 = '1'\n", "amux.toml:2: [prices.m.image.1x1] ", "size and quality"),
        ("[prices.m]\nimage.1x1.low = 1\n", "amux.toml:2: [prices.m.image.1x1.low] ", "as a text"),
        (CHANNEL + "[prices.m]\nimage = '-1'\n", "amux.toml:7: [prices.m.image] ", "plain decimal"),
        (CHANNEL + "[prices.m]\nimage.1x1.low = '1e3'\n", "amux.toml:7: [prices.m.image.1x1.low] ", "plain decimal"),
        (CHANNEL + "[prices.m]\nimage.auto.low = '1'\n", "amux.toml:7: [prices.m.image.auto.low] ", "dearest"),
        (CHANNEL + "[prices.m]\nimage = '1000001'\n", "amux.toml:7: [prices.m.image] ", "too large"),
        (CHANNEL + "[prices.m]\nimage = '9999999999'\n", "amux.toml:7: [prices.m.image] ", "too large"),
        (CHANNEL + "[prices.m]\nimage = '1'\ntext_in = '1'\n", "amux.toml:7: [prices.m.image] ", "by its tokens or"),
        (CHANNEL + "[prices.m]\n\ntext_in = '1'\n", "amux.toml:6: [prices.m] ", "'image_out' is missing"),
        (CHANNEL + "[prices.m]\nimage_out = '1'\n", "amux.toml:6: [prices.m] ", "'text_in' is missing"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place_and_mend(tmp_path: Path, text: str, start: str, part: str) -> None:
    """File, line, key, reason: on one line."""
    message = fault(tmp_path, text)

    assert message.startswith(start)
    assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("told", "most"),
    [
        ("1", 1),
        ("268435456", 2**28),
        ("10 GiB", 10 * 2**30),
        ("500 MB", 500_000_000),
        ("500MB", 500_000_000),
        (" 7 kb ", 7_000),
        ("7 KiB", 7 * 1024),
        ("1 tib", 2**40),
        ("3 TB", 3 * 10**12),
        ("12 B", 12),
        ("GiB", None),
        ("1 PiB", None),
        ("1 iB", None),
        ("1e9", None),
        ("-1", None),
        ("1_000", None),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(told: str, most: int | None) -> None:
    """Powers of 1000 or of 1024, as usual."""
    assert bytes_of(told) == most


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("file:amux-pictures", "file:{folder}/amux-pictures"),
        ("file:/srv/pictures", "file:/srv/pictures"),
        ("file:///srv/pictures", "file:/srv/pictures"),
        ("memory://", "memory://"),
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix"),
        ("gs://bucket", "gs://bucket"),
        ("az://container/x/", "az://container/x/"),
    ],
)
def test_a_folder_of_pictures_is_beside_the_configuration(tmp_path: Path, told: str, read: str) -> None:
    """Like the file of a database; other stores are where they are. Nothing is opened yet."""
    text = f"[gateway]\npictures = '{told}'\npictures_max = '1 GiB'\npublic_url = 'https://[::1]:8443/ai/v1'\n"
    config = load(written(tmp_path, text), {})

    pictures_of(config, now=lambda: 0)

    assert config.gateway.pictures == read.format(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["amux.toml"]


@pytest.mark.parametrize("told", ["", "pictures = 'memory://'\n"])
def test_pictures_in_memory_are_for_one_worker(tmp_path: Path, told: str) -> None:
    """The others would not find them: refused with the mend, also where nobody said where they are."""
    config = load(written(tmp_path, "[gateway]\n" + told), {})
    check_workers(config, 1)

    with pytest.raises(ConfigError) as caught:
        check_workers(config, 2)

    place = f"{tmp_path}/amux.toml:{1 + bool(told)}: [gateway.pictures] hosted pictures are in memory"
    assert str(caught.value).startswith(place)
    assert '[gateway] pictures = "file:amux-pictures"' in str(caught.value)
    check_workers(load(written(tmp_path, "[gateway]\npictures = 'file:x'\n"), {}), 2)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """A refusal names the place, not what stands there."""
    shown = [
        fault(tmp_path, CHANNEL.replace('["k"]', '["${CREDENTIAL}"]'), {"CREDENTIAL": "sk secret"}),
        fault(tmp_path, CHANNEL + KEY.replace("0123456789012345678901", "${SHORT}"), {"SHORT": "my-secret"}),
        fault(tmp_path, CHANNEL + 'headers = { a = "${CREDENTIAL}" }\n', {"CREDENTIAL": "secret\n"}),
    ]

    assert not [message for message in shown if "secret" in message]


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    """Missing, or not text."""
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")

    for name, part in [("missing.toml", "No such file"), ("binary.toml", "utf-8")]:
        with pytest.raises(ConfigError, match=part):
            load(tmp_path / name)


def test_without_a_file_the_place_is_the_objects() -> None:
    """Objects in code have no lines."""
    config = Config(channels=(ChannelConfig(name="a", adapter="openai", models=("m",)),))

    with pytest.raises(ConfigError, match=r"^\[channels\.0\.credentials\] "):
        channels_of(config, ADAPTERS)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.1.2.3", "[fd00::1]", "vllm", "gpu.internal", "x.svc.cluster.local"]
)
def test_plain_http_is_fine_nearby(host: str) -> None:
    """A credential may cross this machine or a private network."""
    channel = ChannelConfig(
        name="a", adapter="openai", base_url=f"http://{host}:8000/v1", credentials=("k",), models=("m",)
    )

    assert channels_of(Config(channels=(channel,)), ADAPTERS)[0].base_url.startswith("http://")


def test_an_app_made_of_a_bad_app_url_says_so() -> None:
    """An upstream in this process is imported when the app is made."""
    channel = ChannelConfig(name="a", adapter="openai-compatible", base_url="asgi://nowhere.app/v1", models=("m",))

    with pytest.raises(ConfigError, match="nowhere"):
        images_app(channels=[channel], keys=[KeyConfig(name="k", key="0123456789012345678901")])


NAMES = st.sampled_from(["a", "b", "c", "d-e", "f g"])
VALUES: Any = st.recursive(
    st.sampled_from([1, True, 1.5, "text", "two\nlines", datetime(2026, 1, 1, tzinfo=UTC)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=2),
)
DOCUMENTS: Any = st.dictionaries(NAMES, VALUES, max_size=3)


@given(DOCUMENTS)
def test_every_key_is_found_on_a_line_that_names_it(document: dict[str, Any]) -> None:
    """Tables, arrays of tables, inline tables, several lines: the line of a key holds it, or what is around it."""
    text = msgspec.toml.encode(document).decode()
    lines = Lines(text)
    source = text.split("\n")

    for path in paths(tomllib.loads(text)):
        names = [part for part in path if isinstance(part, str)]
        assert any(name in source[lines.find(path) - 1] for name in names)


def test_lines_of_nested_arrays_of_tables_are_exact() -> None:
    """A table belongs to the newest element of the array around it."""
    text = "[[a]]\nx = 1\n[[a.b]]\ny = 1\n[[a.b]]\ny = 2\n[a.c]\nz = 1\n[[a]]\n[[a.b]]\ny = [\n 3,\n]\n# end\nw = 4\n"
    lines = Lines(text)

    found = {
        path: lines.find(path)
        for path in [("a", 0, "b", 1, "y"), ("a", 0, "c", "z"), ("a", 1, "b", 0, "y"), ("a", 1, "b", 0, "w")]
    }

    assert list(found.values()) == [6, 8, 11, 15]
    assert lines.find(("nowhere",)) == 1


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    match value:
        case dict():
            inside = cast("dict[str, Any]", value).items()
        case list():
            inside = enumerate(cast("list[Any]", value))
        case _:
            return []
    return [found for key, inner in inside for found in [(*path, key), *paths(inner, (*path, key))]]


def test_a_model_of_any_name_can_be_said_to_be_one_of_the_catalogue() -> None:
    """What it takes and costs is then known, whatever the upstream calls it; upper case makes no other model."""
    models = (ModelConfig(name="ours", upstream="deployment-7", like="gpt-image-2"), "GPT-Image-1", "unheard-of")
    told = ChannelConfig(name="a", adapter="openai-compatible", base_url="https://a.example/v1", models=models)

    (channel,) = channels_of(Config(channels=(told,)), ADAPTERS)

    assert channel.rules == {"ours": "gpt-image-2", "GPT-Image-1": "gpt-image-1"}
    assert channel.models["ours"] == "deployment-7"


def test_where_models_are_named_by_the_operator_the_clients_name_says_what_they_are() -> None:
    """A deployment is called anything."""
    adapter = replace(ADAPTERS["openai-compatible"], name="free", free_names=True)
    told = ChannelConfig(
        name="a",
        adapter="free",
        base_url="https://a.example/v1",
        models=(ModelConfig(name="gpt-image-2", upstream="mine"), ModelConfig(name="x", upstream="gpt-image-1")),
    )

    (channel,) = channels_of(Config(channels=(told,)), {"free": adapter})

    assert channel.rules == {"gpt-image-2": "gpt-image-2"}


class Options(Struct, frozen=True):
    version: str
    deep: int = 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"versoin": "1"}, r"\[channels.0.options.versoin\] there is no such option; known are deep, version"),
        ({}, r"\[channels.0.options\] object missing required field `version`"),
        ({"version": 1}, r"\[channels.0.options.version\] expected `str`, got `int`"),
    ],
)
def test_an_adapters_options_are_typed(options: dict[str, Any], message: str) -> None:
    """A wrong one is refused at start."""
    adapters = {"typed": replace(ADAPTERS["openai-compatible"], name="typed", options=Options)}
    told = ChannelConfig(
        name="a", adapter="typed", base_url="https://a.example/v1", models=("m",), options={"version": "2"}
    )

    (channel,) = channels_of(Config(channels=(told,)), adapters)
    with pytest.raises(ConfigError, match=message):
        channels_of(Config(channels=(replace(told, options=options),)), adapters)

    assert channel.options == Options("2")
