"""The admin app, asked over a real socket as an operator's tools do."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2  # noqa: TID251, the test's client
import pytest
import websockets.sync.client
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus

from amux_asgi import AuthMiddleware, ChannelConfig, ConfigError, Database, Principal, admin_app, anyone, images_app
from amux_asgi.admin_verbs import paths
from tests.children import unmeasured
from tests.serve import serve

SECRET = "operators-example-secret"
BEARER = {"authorization": f"Bearer {SECRET}"}


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/amux.db"


@contextmanager
def asking(database: str) -> Generator[httpx2.Client]:
    with serve(admin_app(database, secret=SECRET)) as url, httpx2.Client(base_url=url, headers=BEARER) as client:
        yield client


def done(answer: httpx2.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def test_keys_and_accounts_are_managed_over_http(database: str) -> None:
    """From the first key to the report, every verb."""
    with asking(database) as client:
        account = done(client.post("/accounts", json={"name": "shop", "balance": "10"}), 201)
        made = done(client.post("/keys", json={"name": "web", "account": "shop", "budget": "2"}), 201)
        key = made["info"]["id"]
        allowed = done(client.patch(f"/keys/{key}", json={"models": ["gpt-*"], "budget": None}))
        rolled = done(client.post(f"/keys/{key}/roll", json={"overlap": 60}), 201)
        revoked = done(client.post(f"/keys/{key}/revoke"))
        shown = done(client.get(f"/keys/{key}"))
        listed = done(client.get("/keys", params={"account": "shop", "limit": 1}))
        rest = done(client.get("/keys", params={"after": listed["next"]}))
        topped = [done(client.post("/accounts/shop/topup", json={"amount": "5", "id": "t1"})) for _ in range(2)]
        limited = done(client.put("/accounts/shop/credit", json={"credit": None}))
        accounts = done(client.get("/accounts"))
        one = done(client.get("/accounts/shop"))
        history = done(client.get("/accounts/shop/history", params={"limit": 2}))
        more = done(client.get("/accounts/shop/history", params={"before": history["next"]}))
        usage = done(client.get("/usage", params={"by": "day", "since": "2026-01-01", "until": "2026-01-01T00:00:00Z"}))

    assert made["key"].startswith(f"amx_{key}_")
    assert (made["unlimited"], account["credit"]) == (False, "0.00")
    assert (allowed["models"], allowed["budget"]) == (["gpt-*"], None)
    assert rolled["info"]["models"] == ["gpt-*"]
    assert revoked == shown
    assert shown["state"] == "revoked"
    assert {listed["data"][0]["id"], *(info["id"] for info in rest["data"])} == {key, rolled["info"]["id"]}
    assert [top["repeated"] for top in topped] == [False, True]
    assert limited == one == accounts["data"][0]
    assert (Decimal(one["available"]), one["credit"]) == (15, None)
    assert sum(Decimal(entry["amount"]) for entry in history["data"] + more["data"]) == 15
    assert usage == {"data": []}


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer " + SECRET[:-1])],
        [("authorization", "Basic " + SECRET)],
        [("authorization", "Bearer " + SECRET), ("authorization", "Bearer " + SECRET)],
    ],
)
def test_nobody_comes_in_without_the_secret(headers: list[tuple[str, str]], file: str) -> None:
    """Nor learns which paths there are; a name like the document's opens nothing."""
    with serve(admin_app(file, secret=SECRET)) as url:
        answers = [
            httpx2.request(method, url + path, headers=headers)
            for method, path in (
                ("GET", "/keys"),
                ("POST", "/keys"),
                ("DELETE", "/keys"),
                ("GET", "/nothing"),
                ("GET", "/keys/openapi.json"),
                ("GET", "/openapi.json/"),
                ("GET", "//openapi.json"),
            )
        ]
        document = httpx2.get(f"{url}/openapi.json", headers=headers)

    assert {answer.status_code for answer in answers} == {401}
    assert {answer.json()["error"]["code"] for answer in answers} == {"invalid_api_key"}
    assert document.status_code == 200


def test_a_client_of_the_gateway_is_no_operator(file: str) -> None:
    """Mounted behind the clients' own door by mistake, it still asks for its secret."""

    async def let_in(_connection: object) -> Principal:
        return Principal(account="shop", key="web")

    app = AuthMiddleware(admin_app(file, secret=SECRET), authenticate=let_in)
    with serve(app) as url:
        answer = httpx2.get(f"{url}/keys")

    assert answer.status_code == 401


@pytest.mark.parametrize("secret", ["", "x" * 19, "x" * 513, "a secret with blanks in it", "schlüssel-des-betreibers"])
def test_a_secret_that_could_be_guessed_or_never_be_sent_is_refused(secret: str, file: str) -> None:
    """When it is constructed."""
    with pytest.raises(ConfigError, match="secret"):
        admin_app(file, secret=secret)


def test_constructing_opens_nothing(tmp_path: Path) -> None:
    """A server may fork afterwards; a URL that is none is refused at once."""
    admin_app(f"sqlite:///{tmp_path}/amux.db", secret=SECRET)

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="URL"):
        admin_app("amux.db", secret=SECRET)


def test_the_gateway_never_answers_for_it() -> None:
    """It is mounted by nobody unasked."""
    sandbox = ChannelConfig(name="sandbox", adapter="sandbox", models=("gpt-image-2",))
    with serve(images_app(channels=[sandbox], authenticate=anyone)) as url:
        answers = [httpx2.get(url + path, headers=BEARER) for path in ("/keys", "/v1/keys", "/admin/keys", "/usage")]

    assert {answer.status_code for answer in answers} == {404}


BAD: list[tuple[str, str, bytes, int, str, str | None]] = [
    ("POST", "/keys", b"{", 400, "invalid_json", None),
    ("POST", "/keys", b"[]", 400, "invalid_json", None),
    ("POST", "/keys", b'{"name":"a","name":"b"}', 400, "duplicate_key", "name"),
    ("POST", "/keys", b"{}", 400, "missing_required_parameter", "name"),
    ("POST", "/keys", b'{"name":"a","nmae":1}', 400, "unknown_parameter", "nmae"),
    ("POST", "/keys", b'{"name":"a","a\\nb`":1}', 400, "unknown_parameter", "a\nb`"),
    ("POST", "/keys", b'{"name":null}', 400, "invalid_type", "name"),
    ("POST", "/keys", b'{"name":"a","models":[1]}', 400, "invalid_type", "models"),
    ("POST", "/keys", b'{"name":"a","models":"gpt-*"}', 400, "invalid_type", "models"),
    ("POST", "/keys", b'{"name":"a","expires":"2027-01-01T00:00:00"}', 400, "invalid_type", "expires"),
    ("POST", "/keys", b'{"name":"a","budget":5}', 400, "invalid_type", "budget"),
    ("POST", "/keys", b'{"name":"a b"}', 400, "invalid_value", "name"),
    ("POST", "/keys", b'{"name":"' + b"a" * 70_000 + b'"}', 413, "request_too_large", None),
    ("POST", "/keys?x=1", b'{"name":"a"}', 400, "unknown_parameter", "x"),
    ("GET", "/keys?limit=0", b"", 400, "invalid_value", "limit"),
    ("GET", "/keys?limit=ten", b"", 400, "invalid_type", "limit"),
    ("GET", "/keys?limit=1&limit=2", b"", 400, "duplicate_key", None),
    ("GET", "/keys?account=%FF", b"", 400, "invalid_value", None),
    ("GET", "/keys?account=%00", b"", 400, "invalid_value", "account"),
    ("GET", "/usage?by=moon", b"", 400, "invalid_value", "by"),
    ("GET", "/usage?since=yesterday", b"", 400, "invalid_value", "since"),
    ("GET", "/usage?since=2027-01-01T00:00:00", b"", 400, "invalid_value", "since"),
    ("GET", "/usage?until=0001-01-01", b"", 400, "invalid_value", "until"),
    ("GET", "/usage?key=%00", b"", 400, "invalid_value", "key"),
    ("GET", "/keys/none", b"", 404, "not_found", "key"),
    ("GET", "/accounts/none", b"", 404, "not_found", "name"),
    ("GET", "/accounts/none%00/history", b"", 404, "not_found", "name"),
    ("GET", "/nothing", b"", 404, "not_found", None),
    ("GET", "/keys/", b"", 404, "not_found", None),
    ("DELETE", "/keys/none", b"", 405, "method_not_allowed", None),
    ("HEAD", "/keys", b"", 405, "method_not_allowed", None),
    ("POST", "/openapi.json", b"", 405, "method_not_allowed", None),
]


def test_what_cannot_be_is_refused_in_the_form_of_all_errors(file: str) -> None:
    """With the field at fault, and nothing is made."""
    with asking(file) as client:
        answers = [
            client.request(method, path, content=body, headers={"content-type": "application/json"})
            for method, path, body, *_ in BAD
        ]
        plain = client.post("/keys", content=b'{"name":"a"}', headers={"content-type": "text/plain"})
        listed = done(client.get("/keys"))

    assert (listed["data"], plain.status_code) == ([], 415)
    for answer, (method, path, body, status, code, param) in zip(answers, BAD, strict=True):
        assert answer.status_code == status, (method, path, body, answer.text)
        if method != "HEAD":
            error = answer.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert (error["code"], error["param"]) == (code, param), (method, path, body, answer.text)
    assert answers[-1].headers["allow"] == "GET"


def test_a_websocket_is_refused(file: str) -> None:
    """Nothing answers to it, with the secret or without."""
    with serve(admin_app(file, secret=SECRET)) as url, pytest.raises(InvalidStatus) as caught:
        websockets.sync.client.connect(f"ws{url.removeprefix('http')}/keys", additional_headers=BEARER).close()

    assert caught.value.response.status_code == 404


def test_a_database_that_cannot_be_used_is_a_503(tmp_path: Path) -> None:
    """Nothing of where it is goes to whoever asks."""
    (tmp_path / "amux.db").write_text("this is no database, although it is a file with some text in it")
    app = Starlette(routes=[Mount("/admin", admin_app(f"sqlite:///{tmp_path}/amux.db", secret=SECRET))])
    with serve(app) as url:
        answer = httpx2.get(f"{url}/admin/keys", headers=BEARER)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert str(tmp_path) not in answer.text


def test_mounted_it_says_so_in_its_document_and_joins_the_hosts_database(file: str) -> None:
    """One database is open once, whoever uses it; without any lifespan, for each request."""
    database = Database(file)
    mounts = [Mount("/admin", admin_app(database, secret=SECRET))]
    for app in (Starlette(routes=mounts, lifespan=database.lifespan), Starlette(routes=mounts)):
        with serve(app) as url:
            document = httpx2.get(f"{url}/admin/openapi.json").json()
            answer = httpx2.get(f"{url}/admin/keys", headers=BEARER)

        assert document["servers"] == [{"url": "/admin"}]
        assert answer.json() == {"data": [], "next": None}


def test_every_verb_is_documented(file: str) -> None:
    """With its errors; what it says of types is what the code checks with."""
    with serve(admin_app(file, secret=SECRET)) as url:
        document = httpx2.get(f"{url}/openapi.json").json()

    documented = {path: set(methods) for path, methods in document["paths"].items()}
    assert documented == {path: {method.lower() for method in methods} for path, methods in paths().items()}
    assert document["components"]["schemas"]["KeyOrder"]["additionalProperties"] is False


@pytest.mark.parametrize("seed", ["1"])
def test_the_app_keeps_to_its_document_whatever_it_is_asked(seed: str, database: str, tmp_path: Path) -> None:
    """A stranger's tool makes requests of the document, good ones and bad ones, and judges every answer."""
    tool = Path(sys.executable).with_name("schemathesis")
    with serve(admin_app(database, secret=SECRET)) as url:
        command: list[str | Path] = [tool, "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {SECRET}"]
        # That a name is taken, or a date has passed, no schema can say: such requests are refused although they fit it.
        options = ["--exclude-checks", "positive_data_acceptance", "--max-examples", "15", "--seed", seed]
        quiet = ["--generation-database", "none", "--no-color", "--warnings", "off", "--continue-on-failure"]
        ran = subprocess.run(
            [*command, *options, *quiet], cwd=tmp_path, check=False, capture_output=True, text=True, env=unmeasured()
        )

    assert ran.returncode == 0, ran.stdout
    assert "13 selected / 13 total" in ran.stdout
