"""OpenAI's wire structs for images, frozen, with the decoders and the encoder made once.

Source: https://platform.openai.com/docs/api-reference/images/create
"""

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import replace

from amux_asgi.outline import Outline, outline, same

Json = Any  # whatever JSON can say
NOTHING: Final = Raw()  # a field that is not there; `Raw` cannot be in a union


class GenerationRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client asks for. `None` means omitted, as an explicit `null` does on the wire.

    `extra` holds the fields that are not OpenAI's: as JSON values or as `msgspec.Raw`; adapters are always given
    `Raw`, the JSON that they came as.
    """

    prompt: str
    model: str | None = None
    n: int | None = None
    size: str | None = None  # "WIDTHxHEIGHT" in pixels, or "auto"
    quality: str | None = None
    style: str | None = None
    response_format: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_format: str | None = None
    output_compression: int | None = None  # percent
    partial_images: int | None = None
    stream: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    complexity: str | None = None
    frame_count: int | None = None
    frame_duration_ms: int | None = None  # milliseconds
    svg: dict[str, Any] | None = None
    extra: Mapping[str, Any] = {}


FIELDS: Final = frozenset(GenerationRequest.__struct_fields__) - {"extra"}


class Image(Struct, frozen=True, kw_only=True):
    """One picture: a URL, or base64.

    `b64_json` is the JSON string it came as, quotes included: two megabytes are never copied to be looked at.
    """

    url: str | UnsetType = UNSET
    b64_json: Raw = NOTHING
    revised_prompt: str | UnsetType = UNSET
    extra: dict[str, Raw] = {}

    def read(self) -> bytes:
        """Give the picture's bytes.

        Raises:
            ValueError: the picture is only there as a URL, or its base64 is broken.
        """
        if self.b64_json is NOTHING:
            raise ValueError("this picture is only there as a URL")
        return base64.b64decode(msgspec.json.decode(self.b64_json, type=str), validate=True)


Count = Annotated[int, Meta(ge=-(2**53), le=2**53)]  # of tokens: such as can be added up and written again


class TokensDetails(Struct, frozen=True):
    """How many tokens were text and how many were picture."""

    text_tokens: Count = 0
    image_tokens: Count = 0


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens in OpenAI's shape; the inputs count once for each picture."""

    total_tokens: Count
    input_tokens: Count
    output_tokens: Count
    input_tokens_details: TokensDetails | UnsetType = UNSET
    output_tokens_details: TokensDetails | UnsetType = UNSET


class ImagesResponse(Struct, frozen=True, kw_only=True):
    """The answer.

    `created` is in Unix seconds, 0 until the gateway stamps it; `extra` holds every other field as the JSON it came as.
    `told` is the text that it was read from, where a client can be given that as long as nothing is changed.
    """

    data: tuple[Image, ...]
    created: int = 0
    usage: Raw = NOTHING
    extra: dict[str, Raw] = {}
    told: "Told | None" = None

    def tokens(self) -> Usage | None:
        """Read the usage; `None` if there is none, or none in OpenAI's shape."""
        try:
            return _usage.decode(self.usage)
        except BAD_JSON:
            return None


class Told(Struct, frozen=True):
    """A long answer as it came, and what was read of it, which is all that it says."""

    body: bytes
    read: ImagesResponse


class Preview(Struct, frozen=True, kw_only=True):
    """What a picture looks like before it is finished; `index` counts from 0, `extra` is as of an answer."""

    b64_json: Raw
    index: int
    created: int = 0
    extra: dict[str, Raw] = {}


BAD_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # all that decoding foreign bytes can raise

_object: Final = msgspec.json.Decoder(dict[str, Raw])
_objects: Final = msgspec.json.Decoder(list[dict[str, Raw]])
_text: Final = msgspec.json.Decoder(str)
_integer: Final = msgspec.json.Decoder(int)
_index: Final = msgspec.json.Decoder(Annotated[int, Meta(ge=0, le=9)])
_usage: Final = msgspec.json.Decoder(Usage)
_encoder: Final = msgspec.json.Encoder()


def fields_of(body: bytes) -> dict[str, Raw]:
    """Take a JSON object apart into its fields, each as the JSON it is.

    Raises:
        msgspec.DecodeError: it is no JSON object; any of `BAD_JSON` may come.
    """
    return _object.decode(body)


def images_response(fields: Mapping[str, Raw], body: bytes = b"") -> ImagesResponse:
    """Read an answer in OpenAI's shape; unknown fields are kept, empty ones (`null`, `""`) are absent.

    `body` is the valid JSON in UTF-8 that the fields were taken from: if it is long, they are not searched through
    once more.

    Raises:
        msgspec.DecodeError: `data` is missing, empty, or holds what is no picture; any of `BAD_JSON` may come.
    """
    short = outline(body)
    return (short and _filled(short, body)) or _read(fields)


def _filled(short: Outline, body: bytes) -> ImagesResponse | None:
    """Read an answer by its outline, if all of its pictures are where they belong."""
    images = _read(fields_of(short.text))
    if [bytes(image.b64_json) for image in images.data] != short.marks:
        return None
    if any(len(picture) <= _LONGEST_EMPTY for picture in short.pictures):  # such a one is as good as none
        return None
    pictures = zip(images.data, short.pictures, strict=True)
    whole = replace(images, data=tuple(replace(image, b64_json=picture) for image, picture in pictures))
    return replace(whole, told=Told(body, whole)) if same(short.text, encode_response(images)) else whole


def _read(fields: Mapping[str, Raw]) -> ImagesResponse:
    rest = _present(fields)
    data = tuple(map(_image, _objects.decode(rest.pop("data", NOTHING))))
    if not data:
        raise msgspec.DecodeError("`data` is empty")
    created = _created(rest.pop("created", NOTHING))
    return ImagesResponse(data=data, created=created, usage=rest.pop("usage", NOTHING), extra=rest)


def preview(fields: Mapping[str, Raw]) -> Preview:
    """Read an event that shows a picture before it is finished.

    Raises:
        msgspec.DecodeError: it shows none; any of `BAD_JSON` may come.
    """
    rest = _present(fields)
    created, index = _taken_at(rest), _index.decode(rest.pop("partial_image_index", NOTHING))
    image = _image({"b64_json": rest.pop("b64_json", NOTHING)})
    return Preview(b64_json=image.b64_json, index=index, created=created, extra=rest)


def finished(fields: Mapping[str, Raw]) -> ImagesResponse:
    """Read an event that holds a finished picture: an answer with one.

    Raises:
        msgspec.DecodeError: it holds none; any of `BAD_JSON` may come.
    """
    rest = _present(fields)
    created, usage = _taken_at(rest), rest.pop("usage", NOTHING)
    image = _image({name: rest.pop(name) for name in _OF_IMAGE if name in rest})
    return ImagesResponse(data=(image,), created=created, usage=usage, extra=rest)


def encode_response(response: ImagesResponse) -> bytes:
    """Write the answer as a client gets it: absent fields are absent, pictures are copied once.

    A long one that was not changed is given as it came.
    """
    if response.told is not None and replace(response, told=None) == response.told.read:
        return response.told.body
    fields: dict[str, Any] = {"created": response.created, "data": [image_fields(image) for image in response.data]}
    if response.usage is not NOTHING:
        fields["usage"] = response.usage
    fields.update(response.extra)
    return _encoder.encode(fields)


def _created(raw: Raw) -> int:
    """Read the time, 0 if it is none: the pictures are paid for, whatever the upstream's clock says."""
    try:
        return _integer.decode(raw)
    except BAD_JSON:
        return 0


def _taken_at(rest: dict[str, Raw]) -> int:
    """Take out of an event what says when and what it is; give the former."""
    rest.pop("type", None)
    created = rest.pop("created", NOTHING)  # Seedream's name
    return _created(rest.pop("created_at", created))


def _image(fields: Mapping[str, Raw]) -> Image:
    rest = _present(fields)
    base64_text = rest.pop("b64_json", NOTHING)
    url = _text.decode(rest.pop("url")) if "url" in rest else UNSET
    if url is UNSET and not (base64_text and memoryview(base64_text)[0] == _QUOTE):
        raise msgspec.DecodeError("an item of `data` holds no picture")
    revised = _text.decode(rest.pop("revised_prompt")) if "revised_prompt" in rest else UNSET
    return Image(url=url, b64_json=base64_text, revised_prompt=revised, extra=rest)


def image_fields(image: Image) -> dict[str, Any]:
    """Give what is told of a picture, absent fields absent."""
    fields: dict[str, Any] = {}
    if image.b64_json is not NOTHING:
        fields["b64_json"] = image.b64_json
    if image.url is not UNSET:
        fields["url"] = image.url
    if image.revised_prompt is not UNSET:
        fields["revised_prompt"] = image.revised_prompt
    fields.update(image.extra)
    return fields


def _present(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    present = dict(fields)
    for name, value in fields.items():
        if len(value) <= _LONGEST_EMPTY and bytes(value) in _EMPTY:
            del present[name]
    return present


_EMPTY: Final = (b"null", b'""')
_OF_IMAGE: Final = ("b64_json", "url", "revised_prompt")
_LONGEST_EMPTY: Final = 4
_QUOTE: Final = ord('"')
