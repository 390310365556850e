"""All emulated vendors at once, each at an address of its own, for what is the same or must stay apart between them."""

import json
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import anyio.lowlevel
import httpx2  # noqa: TID251, a stranger's client
from msgspec import Struct

from amux_asgi import ChannelConfig, ImagesApp, KeyConfig, ModelConfig, images_app
from amux_asgi.config import Config, GatewayConfig
from amux_asgi.transport.fetch import FetchPolicy
from tests.serve import serve
from tests.vendors import emulate_azure, emulate_dashscope, emulate_gemini, emulate_google, emulate_zhipu
from tests.vendors.staged import STAGED
from tests.vendors.token_desk import TokenDesk

CLIENT: Final = "all-vendors-key-of-the-tests"
GPT: Final = "gpt-image-2"
DALLE: Final = "dall-e-3"
INSIDE: Final = FetchPolicy(allowed=bool, schemes={"http"}, ports=range(2**16))
"""The vendors' pictures lie on this machine, where only a test may fetch from."""


class Vendors(Struct, frozen=True, kw_only=True):
    """The emulators; `places` tells of each adapter what its channels need."""

    zhipu: emulate_zhipu.Zhipu
    zai: emulate_zhipu.Zhipu
    dashscope: emulate_dashscope.DashScope
    gemini: emulate_gemini.Emulator
    google: emulate_google.Google
    azure: emulate_azure.Azure
    places: Mapping[str, Mapping[str, Any]]

    def channel(self, adapter: str, models: Sequence[ModelConfig | str], **told: Any) -> ChannelConfig:
        """Write a channel to the vendor of an adapter."""
        fields: dict[str, Any] = {"name": adapter, **self.places[adapter], **told}
        return ChannelConfig(adapter=adapter, models=tuple(models), **fields)

    def asked(self, adapter: str, words: str = "") -> list[dict[str, Any]]:
        """Give the bodies that an adapter's vendor was sent with these words in them."""
        match adapter:
            case "zhipu" | "zai":
                bodies = (self.zhipu if adapter == "zhipu" else self.zai).asks
            case "dashscope":
                orders = emulate_dashscope.PATHS.values()
                bodies = [ask.body for ask in self.dashscope.asks if ask.path in orders]
            case "gemini" | "google-openai":
                bodies = self.gemini.asks
            case "imagen" | "vertex":
                bodies = self.google.asks
            case _:
                bodies = [dict(ask.body) for ask in self.azure.asks]
        return [body for body in bodies if words in json.dumps(body)]


@contextmanager
def all_vendors() -> Generator[Vendors]:
    """Serve them."""
    zhipu, zai = emulate_zhipu.Zhipu(), emulate_zhipu.Zhipu(emulate_zhipu.INTERNATIONAL)
    dashscope, gemini = emulate_dashscope.DashScope(), emulate_gemini.Emulator()
    google, azure = emulate_google.Google(TokenDesk()), emulate_azure.Azure({GPT: GPT, DALLE: DALLE})
    with ExitStack() as stack:
        urls = [stack.enter_context(serve(one.app)) for one in (zhipu, zai, dashscope, gemini, google, azure)]
        dashscope.host = urls[2]
        yield Vendors(
            zhipu=zhipu,
            zai=zai,
            dashscope=dashscope,
            gemini=gemini,
            google=google,
            azure=azure,
            places={
                "zhipu": _place(urls[0] + emulate_zhipu.PATH, emulate_zhipu.KEY),
                "zai": _place(urls[1] + emulate_zhipu.PATH, emulate_zhipu.KEY),
                "dashscope": _place(urls[2], emulate_dashscope.KEY),
                "gemini": _place(f"{urls[3]}/v1beta", emulate_gemini.KEY),
                "google-openai": _place(f"{urls[3]}/v1beta/openai", emulate_gemini.KEY),
                "imagen": _place(f"{urls[4]}/v1beta", emulate_google.API_KEY),
                "vertex": _place(f"{urls[4]}/v1", emulate_google.TOKEN, options={"project": "some-project"}),
                "azure": _place(f"{urls[5]}/openai/v1", emulate_azure.KEY),
                "azure-deployment": _place(urls[5], emulate_azure.ENTRA),
            },
        )


def gateway(channels: Sequence[ChannelConfig], *keys: KeyConfig, database: str | None = None) -> ImagesApp:
    """Make the gateway in front of them; it waits for nothing, and shows what a picture costs."""
    config = Config(
        gateway=GatewayConfig(reveal=("channel", "cost", "attempts"), database=database),
        channels=tuple(channels),
        keys=(KeyConfig(name="all", key=CLIENT), *keys),
    )
    return images_app(config, adapters=STAGED, sleep=hurry, fetch=INSIDE)


async def hurry(_seconds: float) -> None:
    """Wait for nothing but the others' turn."""
    await anyio.lowlevel.checkpoint()


def named(adapter: str, *models: str, **told: Any) -> list[ModelConfig]:
    """Name models by adapter, as "zhipu/glm-image"; each is what its own name says."""
    return [ModelConfig(name=f"{adapter}/{model}", upstream=model, **told) for model in models]


def fetched(urls: Sequence[str]) -> list[httpx2.Response]:
    """Fetch pictures as a stranger does, without a key."""
    with httpx2.Client() as client, ThreadPoolExecutor(8) as threads:
        return list(threads.map(client.get, urls))


def _place(base_url: str, credential: str, **told: Any) -> dict[str, Any]:
    return {"base_url": base_url, "credentials": (credential,), **told}
