"""`/healthz` and `/readyz`, as load balancers see them."""

from typing import Any

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from amux_asgi import ChannelConfig, ImagesApp, KeyConfig, images_app
from amux_asgi.errors import StorageUnavailableError
from amux_asgi.quota import MemoryLedger
from amux_asgi.wallets import Wallet
from tests.serve import serve
from tests.stub import sending, upstream, whole

KEY = "probes-key-of-the-tests"
NO = b'{"error":{"message":"no","type":"invalid_request_error","code":"invalid_api_key"}}'


def images(url: str = "asgi://nowhere/v1", **parts: Any) -> ImagesApp:
    async def nowhere(*_: object) -> None:
        await anyio.lowlevel.checkpoint()

    channel = ChannelConfig(
        name="up", adapter="openai-compatible", base_url=url, models=("m",), credentials=("sk-probes-secret-1234",)
    )
    told: dict[str, Any] = {
        "channels": [channel],
        "keys": [KeyConfig(name="me", key=KEY)],
        "apps": {"nowhere": nowhere},
    }
    return images_app(**told | parts)


def ready(url: str) -> tuple[int, list[str]]:
    answer = httpx2.get(f"{url}/readyz")
    return answer.status_code, [reason["code"] for reason in answer.json().get("reasons", [])]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/healthz", "/v1/readyz"])
@pytest.mark.parametrize("mount", ["", "/ai"])
def test_probes_need_no_key_wherever_the_app_is(path: str, mount: str) -> None:
    """GET and HEAD; nothing else."""
    app = images()
    host = Starlette(routes=[Mount(mount, app)], lifespan=app.lifespan) if mount else app

    with serve(host) as url:
        got = httpx2.get(url + mount + path)
        head = httpx2.head(url + mount + path)
        posted = httpx2.post(url + mount + path)

    assert (got.status_code, got.json()["status"]) == (200, "ok" if "healthz" in path else "ready")
    assert (head.status_code, head.content) == (200, b"")
    assert got.headers["cache-control"] == "no-store"
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


def test_without_its_lifespan_it_is_healthy_and_not_ready() -> None:
    """And says the mend."""
    with serve(images(), lifespan="off") as url:
        healthy = httpx2.get(f"{url}/healthz").status_code
        answer = httpx2.get(f"{url}/readyz")

    assert (healthy, answer.status_code) == (200, 503)
    assert answer.json() == {
        "status": "not ready",
        "reasons": [{"code": "not_started", "message": "the gateway was never started: its lifespan was not entered"}],
    }


def test_told_to_stop_it_is_not_ready_and_serves_on() -> None:
    """Until its server closes; a second life is ready again."""
    app = images()

    with serve(app) as url:
        before = ready(url)
        app.stop()
        after = ready(url)
        served = httpx2.get(f"{url}/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code
    with serve(app) as url:
        again = ready(url)

    assert (before, after, served, again) == ((200, []), (503, ["stopping"]), 200, (200, []))
    assert app.probed


class Away(MemoryLedger):
    async def get(self, wallet: str) -> Wallet | None:
        raise StorageUnavailableError(f"away: {wallet}")


def test_without_its_store_it_is_healthy_and_not_ready() -> None:
    """A restart would not bring the store back."""
    with serve(images(ledger=Away())) as url:
        assert httpx2.get(f"{url}/healthz").status_code == 200
        assert ready(url) == (503, ["storage_unavailable"])


def test_with_every_upstream_benched_it_is_not_ready_until_one_is_back() -> None:
    """The answer names no channel, no host and no credential."""
    now = [1000.0]
    with (
        upstream(scripts={"/no": sending(whole(NO, "401 Unauthorized", "connection: close"))}) as stub,
        serve(images(f"{stub.url}/no", clock=lambda: now[0])) as url,
    ):
        before = ready(url)
        headers = {"authorization": f"Bearer {KEY}"}
        httpx2.post(f"{url}/v1/images/generations", json={"model": "m", "prompt": "a"}, headers=headers)
        same = ready(url)
        now[0] += 1
        told = httpx2.get(f"{url}/readyz")
        now[0] += 100_000
        after = ready(url)

    assert (before, same, after) == ((200, []), (200, []), (200, []))
    assert (told.status_code, [reason["code"] for reason in told.json()["reasons"]]) == (503, ["upstream_unavailable"])
    assert "127.0.0.1" not in told.text
    assert "1234" not in told.text
