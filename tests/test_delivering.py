"""Pictures are fetched and hosted as the client wants them, several at a time, and what was made is delivered."""

import base64
import logging
from collections.abc import Awaitable, Callable, Generator

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec import UNSET, Raw

from amux_asgi.delivering import AT_ONCE, Deliverer
from amux_asgi.delivery import Wish
from amux_asgi.encoding import STEP
from amux_asgi.errors import (
    StorageUnavailableError,
    UpstreamBadResponseError,
    UpstreamTimeoutError,
)
from amux_asgi.schema import NOTHING, Image, ImagesResponse
from amux_asgi.transport.fetch import Fetcher
from tests.picture_server import PictureServer, picture_server
from tests.samples import JPEG, PNG
from tests.stub import sending

pytestmark = pytest.mark.anyio
LONG = 30.0  # seconds
Host = Callable[[bytes], Awaitable[str]]


def picture(data: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


SCRIPTS = {
    "/png": sending(picture(PNG)),
    "/jpeg": sending(picture(JPEG)),
    "/cut": sending(picture(PNG)[:-1]),
    "/html": sending(picture(b"<html></html>")),
}


@pytest.fixture(scope="module")
def server() -> Generator[PictureServer]:
    with picture_server(SCRIPTS) as running:
        yield running


class Shelf:
    """A place for pictures."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def host(self, data: bytes) -> str:
        await checkpoint()
        url = f"https://here.example.com/pictures/{len(self.held)}"
        self.held[url] = data
        return url


def deliverer(server: PictureServer, host: Host | None = None) -> Deliverer:
    return Deliverer(fetcher=Fetcher(server.policy), host=host, cap=2**20, id="gen_1")


def wish(form: str | None, *, rehost: bool = False, hosted: bool = True) -> Wish:
    return Wish(form=form, rehost=rehost, url_life=3600, hosted=hosted)


def at(server: PictureServer, *paths: str) -> ImagesResponse:
    data = tuple(Image(url=server.url + path, revised_prompt=path, extra={"seed": Raw(b"7")}) for path in paths)
    return ImagesResponse(data=data, created=7, usage=Raw(b"{}"))


def in_base64(*pictures: bytes) -> ImagesResponse:
    return ImagesResponse(data=tuple(Image(b64_json=Raw(b'"' + base64.b64encode(data) + b'"')) for data in pictures))


async def test_urls_become_base64(server: PictureServer) -> None:
    """Every byte is there, in order, with what the vendor said of each."""
    answer = await deliverer(server).deliver(at(server, "/png", "/jpeg"), wish("b64_json"), timeout=LONG)

    assert [image.read() for image in answer.data] == [PNG, JPEG]
    assert [image.url for image in answer.data] == [UNSET, UNSET]
    assert [image.revised_prompt for image in answer.data] == ["/png", "/jpeg"]
    assert answer.data[0].extra == {"seed": Raw(b"7")}
    assert (answer.created, answer.usage, answer.extra) == (7, Raw(b"{}"), {})


async def test_base64_becomes_urls(server: PictureServer) -> None:
    """What is hosted is the picture byte for byte, and its kind is told."""
    shelf = Shelf()

    answer = await deliverer(server, shelf.host).deliver(in_base64(PNG, PNG), wish("url"), timeout=LONG)

    assert [shelf.held[str(image.url)] for image in answer.data] == [PNG, PNG]
    assert [image.b64_json for image in answer.data] == [NOTHING, NOTHING]
    assert answer.extra == {"output_format": Raw(b'"png"')}


async def test_urls_that_must_not_be_seen_are_hosted(server: PictureServer) -> None:
    """Nothing of the vendor's address is left."""
    shelf = Shelf()

    answer = await deliverer(server, shelf.host).deliver(at(server, "/jpeg"), wish("url", rehost=True), timeout=LONG)

    assert shelf.held[str(answer.data[0].url)] == JPEG
    assert str(answer.data[0].url).startswith("https://here.example.com/")


@pytest.mark.parametrize("form", ["url", None])
async def test_what_is_right_is_left_alone(server: PictureServer, form: str | None) -> None:
    """No fetch, no copy."""
    before = len(server.stub.requests)
    images = at(server, "/png")

    assert await deliverer(server).deliver(images, wish(form, hosted=False), timeout=LONG) == images
    assert len(server.stub.requests) == before


async def test_base64_that_is_wanted_is_not_touched(server: PictureServer) -> None:
    """Not even decoded; a vendor's URL beside it is not shown."""
    images = in_base64(b"no picture at all")
    both = ImagesResponse(data=(Image(url="https://a.example/", b64_json=images.data[0].b64_json),))

    for given in (images, both):
        assert await deliverer(server).deliver(given, wish("b64_json"), timeout=LONG) == images


async def test_base64_is_hosted_and_its_url_not_fetched(server: PictureServer) -> None:
    """If the vendor gave both, and its URL must not be seen."""
    shelf = Shelf()
    image = Image(url="https://nowhere.invalid/", b64_json=in_base64(PNG).data[0].b64_json)

    await deliverer(server, shelf.host).deliver(ImagesResponse(data=(image,)), wish("url", rehost=True), timeout=LONG)

    assert list(shelf.held.values()) == [PNG]


async def test_what_was_made_is_delivered_though_some_is_missing(
    server: PictureServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator is told which, and not the vendor's address."""
    images = at(server, "/cut", "/png", "/html", "/jpeg")

    answer = await deliverer(server).deliver(images, wish("b64_json"), timeout=LONG)

    assert [image.read() for image in answer.data] == [PNG, JPEG]
    assert len(caplog.records) == 2
    assert "gen_1 picture 0 cannot be delivered: upstream_incomplete" in caplog.text
    assert "gen_1 picture 2 cannot be delivered: upstream_bad_response" in caplog.text
    assert "example.com" not in caplog.text


async def test_if_nothing_is_left_the_first_failure_is_the_answer(server: PictureServer) -> None:
    """And it is not to be tried again: the pictures may have been paid."""
    with pytest.raises(UpstreamBadResponseError) as caught:
        await deliverer(server).deliver(at(server, "/html", "/cut"), wish("b64_json"), timeout=LONG)

    assert caught.value.retry is False


@pytest.mark.parametrize(
    "image", [Image(b64_json=Raw(b'"****"')), Image(b64_json=Raw(b'"aGVsbG8="')), Image()], ids=["odd", "text", "none"]
)
async def test_what_is_no_picture_is_not_hosted(server: PictureServer, image: Image) -> None:
    """Whatever an upstream says that it is."""
    shelf = Shelf()
    with pytest.raises(UpstreamBadResponseError) as caught:
        await deliverer(server, shelf.host).deliver(ImagesResponse(data=(image,)), wish("url"), timeout=LONG)

    assert caught.value.retry is False
    assert not shelf.held


async def test_a_form_that_cannot_be_had_after_all_is_an_error(server: PictureServer) -> None:
    """An upstream that promised URLs gave base64, and there is no place for it."""
    with pytest.raises(UpstreamBadResponseError, match="not asked for") as caught:
        await deliverer(server).deliver(in_base64(PNG), wish("url", hosted=False), timeout=LONG)

    assert caught.value.retry is False


async def test_a_store_that_is_away_or_slow_is_said(server: PictureServer) -> None:
    """The client is told not to try again, and nobody waits for ever."""

    async def away(_data: bytes) -> str:
        await checkpoint()
        raise StorageUnavailableError("away", retry_after=5)

    async def never(_data: bytes) -> str:
        await anyio.sleep_forever()
        return ""

    for host, timeout in ((away, LONG), (never, 0.1)):
        with pytest.raises(StorageUnavailableError) as caught:
            await deliverer(server, host).deliver(in_base64(PNG), wish("url"), timeout=timeout)
        assert caught.value.retry is False


async def test_a_bug_of_one_picture_is_not_the_others(server: PictureServer, caplog: pytest.LogCaptureFixture) -> None:
    """It is shown to the operator whole; alone, it is raised as it was."""

    async def broken(data: bytes) -> str:
        await checkpoint()
        if data == PNG:
            raise RuntimeError("oops")
        return "https://here.example.com/"

    answer = await deliverer(server, broken).deliver(in_base64(PNG, JPEG), wish("url"), timeout=LONG)
    with pytest.raises(RuntimeError, match="oops"):
        await deliverer(server, broken).deliver(in_base64(PNG), wish("url"), timeout=LONG)

    assert [image.url for image in answer.data] == ["https://here.example.com/"]
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR] * 2


async def test_no_time_left_is_a_timeout(server: PictureServer) -> None:
    """Nothing is asked any more."""
    before = len(server.stub.requests)
    with pytest.raises(UpstreamTimeoutError):
        await deliverer(server).deliver(at(server, "/png"), wish("b64_json"), timeout=-1)

    assert len(server.stub.requests) == before


async def test_some_at_a_time_and_not_all(server: PictureServer) -> None:
    """Ten pictures do not mean ten at once in memory."""
    now, most = 0, 0
    shelf = Shelf()

    async def counting(data: bytes) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.wait_all_tasks_blocked()
        now -= 1
        return await shelf.host(data)

    answer = await deliverer(server, counting).deliver(in_base64(*[PNG] * 10), wish("url"), timeout=LONG)

    assert len(answer.data) == len(shelf.held) == 10
    assert 1 < most <= AT_ONCE


async def test_large_pictures_leave_the_event_loop_its_turns(server: PictureServer) -> None:
    """Sixteen megabytes there and back: others are asked after every step of it, however long all of it takes."""
    large = PNG + bytes(2**24 - len(PNG))
    url = "data:image/png;base64," + base64.b64encode(large).decode()
    shelf = Shelf()
    turns = 0
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            nonlocal turns
            while True:
                await checkpoint()
                turns += 1

        tasks.start_soon(watch)
        given = ImagesResponse(data=(Image(url=url),))
        answer = await Deliverer(fetcher=Fetcher(server.policy), host=None, cap=2**24).deliver(
            given, wish("b64_json"), timeout=LONG
        )
        await deliverer(server, shelf.host).deliver(answer, wish("url"), timeout=LONG)
        tasks.cancel_scope.cancel()

    assert turns >= 3 * (len(large) // STEP)  # decoded, encoded, and decoded once more
    assert large in shelf.held.values()


async def test_what_is_there_in_both_forms_is_hosted_only_where_it_must_be(server: PictureServer) -> None:
    """A URL stays the upstream's, base64 becomes one of ours, in their order."""
    shelf = Shelf()
    given = ImagesResponse(data=(Image(url="https://theirs.example.com/1"), *in_base64(PNG).data))

    answer = await deliverer(server, shelf.host).deliver(given, wish("url"), timeout=LONG)

    assert [image.url for image in answer.data] == ["https://theirs.example.com/1", *shelf.held]
