"""Stores that all tests of a process share."""

import gc
import warnings
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.limit_stores import REDIS, VALKEY, Store, cluster, store


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, str]]:
    """Run one of each, and give their URLs."""
    folder: Path = tmp_path_factory.mktemp("stores")
    with (
        store(folder) as one,
        store(folder, VALKEY) as other,
        cluster(folder) as nodes,
        cluster(folder, program=VALKEY) as more,
    ):
        yield {
            "redis": one.url,
            "valkey": other.url.replace("redis:", "valkey:"),
            "redis cluster": _cluster_url(nodes),
            "valkey cluster": _cluster_url(more).replace("redis+", "valkey+"),
        }


@pytest.fixture(params=["redis", "valkey", "redis cluster", "valkey cluster"])
def place(request: pytest.FixtureRequest, stores: dict[str, str]) -> str:
    """Give the URL of each."""
    return stores[request.param]


@pytest.fixture
def own(tmp_path: Path) -> Generator[Store]:
    """Run a server of the test's own, to be killed."""
    with store(tmp_path, REDIS) as server:
        yield server


@pytest.fixture(autouse=True)
def _collected(request: pytest.FixtureRequest) -> Generator[None]:
    """Collect what the client of a cluster leaves open of nodes that it no longer knows, before others' tests run."""
    yield
    if "cluster" in request.node.name:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def _cluster_url(nodes: list[Store]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:2])
