"""Google's Imagen 4, asked by `:predict`.

Source: https://ai.google.dev/gemini-api/docs/imagen, googleapis/python-genai google/genai/models.py
"""

import re
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Raw, Struct

from amux_asgi.adapters._base import Adapter, header
from amux_asgi.adapters._google import kind_of, opened
from amux_asgi.adapters._imagen_fit import COUNTS, FIELDS, OBJECTS, fit
from amux_asgi.errors import GatewayError, UpstreamBadResponseError
from amux_asgi.faults import Fault, Verdict, fault_of, judged
from amux_asgi.redact import redact
from amux_asgi.schema import BAD_JSON, NOTHING, GenerationRequest, Image, ImagesResponse, Json, fields_of
from amux_asgi.schema import FIELDS as OPENAI_FIELDS
from amux_asgi.wire import Flow, HttpResponse, Target, post

SAID: Final = frozenset({"model", "n", "prompt", "quality", "size", "output_compression", "output_format"})
IGNORES: Final = OPENAI_FIELDS - SAID - {"partial_images", "response_format", "stream"}


class Prediction(Struct, frozen=True, rename="camel"):
    """A picture, or why there is none, or what was found in the prompt."""

    bytes_base64_encoded: Raw = NOTHING
    prompt: Json = None  # as the vendor worded it anew
    rai_filtered_reason: Json = None

    def begins(self) -> bytes:
        """Give the first two characters of the picture's JSON: a quote and another, if it is one."""
        return bytes(memoryview(self.bytes_base64_encoded)[:2])


def generate(target: Target, request: GenerationRequest) -> Flow:
    """Ask once, for up to four pictures."""
    url = f"{target.base_url}/models/{quote(target.model, safe='@')}:predict"
    body = order(target, request)
    answer = yield post(url, body)
    return pictures(answer, frozenset(request.extra) | frozenset(body["parameters"]))


def order(target: Target, request: GenerationRequest) -> dict[str, Json]:
    """Write the ask. The count is always said: the vendor's own is four."""
    rest = dict(request.extra)
    parameters: dict[str, Json] = dict(fields_of(rest.pop("parameters", b"{}")))
    if "seed" in rest:  # each ask of a request its own, or it would make the same pictures again
        parameters["seed"] = _moved(rest.pop("seed"), target.offset)
    parameters["sampleCount"] = request.n or 1
    return {**rest, "instances": [{"prompt": request.prompt}], "parameters": parameters}


def pictures(answer: HttpResponse, said: frozenset[str] = frozenset()) -> ImagesResponse:
    """Take the pictures that were made, fewer than asked perhaps; `said` names the client's own fields.

    Raises:
        GatewayError: there is none.
    """
    if (refusal := _refused(answer)) is not None:
        raise refusal
    predictions = _predictions(opened(answer, said))
    data = tuple(_image(one) for one in predictions if one.begins() not in _NONE)
    if not data:
        reasons = (one.rai_filtered_reason for one in predictions)
        raise _withheld(next((reason for reason in reasons if isinstance(reason, str)), ""))
    if not answer.body.isascii():
        _check_text(answer.body)
    kind = kind_of(data[0].b64_json)
    return ImagesResponse(data=data, extra={} if kind is None else {"output_format": Raw(f'"{kind}"'.encode())})


def _predictions(fields: dict[str, Raw]) -> list[Prediction]:
    """Read the list; everything filtered may also be an answer without one."""
    told = fields.get("predictions", b"null" if fields.keys() <= _BESIDE else b"")
    try:
        found = msgspec.json.decode(told, type=list[Prediction] | None)
    except BAD_JSON as exc:
        raise UpstreamBadResponseError("the upstream answered without a picture") from exc
    if any(one.begins()[:1] != b'"' and one.begins() not in _NONE for one in found or ()):
        raise UpstreamBadResponseError("the upstream answered with a picture that is none")
    return found or []


def _image(prediction: Prediction) -> Image:
    prompt = prediction.prompt
    return Image(
        b64_json=prediction.bytes_base64_encoded,
        revised_prompt=prompt if isinstance(prompt, str) and prompt else UNSET,
    )


def _refused(answer: HttpResponse) -> GatewayError | None:
    """Recognise a refused prompt: a 400 as for any fault, told apart by its support code alone."""
    fault = fault_of(answer.body) if answer.status == _AT_FAULT else None
    if fault is None or not _CODE.search(fault.message):
        return None
    return _withheld(fault.message)


def _withheld(reason: str) -> GatewayError:
    code = _CODE.search(reason)
    words = redact(reason)[:_SHORT]
    return judged(
        Verdict.BLOCKED,
        Fault(code=code[1] if code else None),
        message=f"the upstream's content policy withheld the picture: {words}" if words else None,
    )


def _moved(seed: Raw, offset: int) -> Json:
    told: Json = msgspec.json.decode(seed)
    return (told + offset - 1) % _SEEDS + 1 if isinstance(told, int) and offset else seed


def _check_text(body: bytes) -> None:
    try:
        body.decode()  # pictures are handed on undecoded, so nobody else would notice
    except UnicodeDecodeError as exc:
        raise UpstreamBadResponseError("the upstream's answer is not what its protocol promises") from exc


_NONE: Final = (b"", b"nu", b'""')  # absent, null and empty
_AT_FAULT: Final = 400
_CODE: Final = re.compile(r"[Ss]upport codes?:? *([0-9]{8})\b")
_SHORT: Final = 200  # characters
_SEEDS: Final = 2**31 - 1  # the largest; the smallest is 1
_BESIDE: Final = frozenset({"deployedModelId", "metadata", "model", "modelDisplayName", "modelVersionId"})

IMAGEN: Final = Adapter(
    name="imagen",
    base_url="https://generativelanguage.googleapis.com/v1beta",
    sign=header("x-goog-api-key"),
    generate=generate,
    fit=fit,
    fields=FIELDS,
    counts=COUNTS,
    objects=OBJECTS,
    ignores=IGNORES,
    closed=True,
    max_images=4,
    forms=("b64_json",),
)

ROWS: Final = (IMAGEN,)
