"""What DashScope answers: pictures in messages or in a list, tasks, and faults in any of these."""

from collections.abc import Iterator
from typing import Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from amux_asgi.adapters.dashscope_faults import IN_BAND, refused
from amux_asgi.errors import UpstreamBadResponseError, UpstreamError
from amux_asgi.faults import Fault, Verdict, judged
from amux_asgi.schema import Image, ImagesResponse

FAILED: Final = "FAILED"
LOST: Final = frozenset({"CANCELED", "UNKNOWN"})
ENDED: Final = frozenset({"SUCCEEDED", FAILED}) | LOST
"""Any other status, also one that is not known today, is work that goes on."""


Code = str | int | None


class Content(Struct, frozen=True):
    """A picture, or text beside it: the prompt as the model worded it anew."""

    image: str | None = None
    text: str | None = None


class Message(Struct, frozen=True):
    """Pictures, one or several."""

    content: tuple[Content, ...] = ()


class Choice(Struct, frozen=True):
    """A message of the model."""

    message: Message = Message()


class Result(Struct, frozen=True):
    """A picture of the older models, or why it is not there."""

    url: str | None = None
    actual_prompt: str | None = None
    code: Code = None
    message: str | None = None


class Output(Struct, frozen=True):
    """A task, or what came of it."""

    task_id: str | None = None
    task_status: str | None = None
    code: Code = None
    message: str | None = None
    choices: tuple[Choice, ...] | None = None
    results: tuple[Result, ...] | None = None


class Answer(Struct, frozen=True):
    """What every address answers; a code may stand there although the status is that of success."""

    output: Output | None = None
    code: Code = None
    message: str | None = None

    def result(self) -> Output:
        """Give the task or what came of it, with the code wherever it stands."""
        output = self.output or Output()
        return output if output.code else replace(output, code=self.code, message=self.message)


def pictures(output: Output) -> ImagesResponse:
    """Read the pictures; one that is missing beside others is passed over.

    Raises:
        GatewayError: there is none, and why.
    """
    images = tuple(_images(output))
    if images:
        return ImagesResponse(data=images)
    for said in (*(output.results or ()), output):
        if said.code:
            raise refused(IN_BAND, Fault(code=str(said.code), message=said.message or ""))
    if output.task_status == FAILED:
        raise judged(Verdict.FAILED, Fault())
    if output.task_status in LOST:
        raise UpstreamError("the upstream does not know the task any more, or called it off", retry=False)
    raise UpstreamBadResponseError("the upstream answered without a picture")


def _images(output: Output) -> Iterator[Image]:
    for choice in output.choices or ():
        content = choice.message.content
        revised = next((part.text for part in content if part.text), None)
        yield from (_image(part.image, revised) for part in content if part.image)
    yield from (_image(result.url, result.actual_prompt) for result in output.results or () if result.url)


def _image(url: str, revised: str | None) -> Image:
    return Image(url=url, revised_prompt=revised or UNSET)
