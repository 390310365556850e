"""Find the picture in a Gemini answer, or say why there is none.

Source: https://ai.google.dev/gemini-api/docs/image-generation, googleapis/python-genai google/genai/types.py
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct

from amux_asgi.adapters._google import kind_of
from amux_asgi.errors import End, GatewayError, InvalidRequestError, UpstreamBadResponseError
from amux_asgi.explain import USER_ERROR
from amux_asgi.faults import Fault, Verdict, judged
from amux_asgi.redact import redact
from amux_asgi.schema import BAD_JSON, NOTHING, Count, Image, ImagesResponse, TokensDetails, Usage

T = TypeVar("T")
NULL: Final = Raw(b"null")


class Blob(Struct, frozen=True):
    """Bytes inside an answer. Some relays write names their own way; only one of each pair is there."""

    data: Raw = NOTHING
    mime_type: str | None = None
    mimeType: str | None = None  # noqa: N815, Google's name

    def is_picture(self) -> bool:
        """Tell whether this is a picture, by what it is called or, unnamed, by what it is."""
        kind = self.mime_type or self.mimeType
        begins = bytes(memoryview(self.data)[:2])
        return begins[:1] == b'"' != begins[1:] and (
            kind.startswith("image/") if kind else kind_of(self.data) is not None
        )


class Part(Struct, frozen=True):
    """A piece of an answer: text or bytes, of the answer itself or of the thinking before it."""

    text: str | None = None
    thought: bool | None = None
    inline_data: Blob | None = None
    inlineData: Blob | None = None  # noqa: N815, Google's name

    def picture(self) -> Raw | None:
        """Give the base64 of the picture, if this is one."""
        blob = self.inlineData or self.inline_data
        return blob.data if blob is not None and blob.is_picture() else None


class Content(Struct, frozen=True):
    """The pieces, in no fixed order."""

    parts: list[Part] | None = None


class Candidate(Struct, frozen=True, rename="camel"):
    """One answer of the model, and why it ends."""

    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None

    def parts(self) -> list[Part]:
        """Give the pieces."""
        return (self.content.parts if self.content else None) or []


class Feedback(Struct, frozen=True, rename="camel"):
    """What was thought of the prompt."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class Tokens(Struct, frozen=True, rename="camel"):
    """How many tokens were of one kind."""

    modality: str | None = None
    token_count: Count = 0


class Metadata(Struct, frozen=True, rename="camel"):
    """Tokens, as Gemini counts them: the total is right, its addends overlap in a refusal."""

    prompt_token_count: Count = 0
    tool_use_prompt_token_count: Count | None = None
    total_token_count: Count = 0
    prompt_tokens_details: list[Tokens] | None = None
    candidates_tokens_details: list[Tokens] | None = None


def pictures(fields: Mapping[str, Raw], body: bytes) -> ImagesResponse:
    """Read an answer: the last picture is the result, those before it and of the thinking are drafts.

    Raises:
        GatewayError: there is no picture.
    """
    candidates = _read(_candidates, fields.get("candidates", NULL)) or []
    parts = [part for candidate in candidates for part in candidate.parts()]
    drawn = [(bool(part.thought), picture) for part in parts if (picture := part.picture()) is not None]
    final = [picture for thought, picture in drawn if not thought] or [picture for _, picture in drawn]
    if not final:
        raise _missing(candidates, parts, _read(_feedback, fields.get("promptFeedback", NULL)) or Feedback())
    if not body.isascii():
        _check(body)
    kind = kind_of(final[-1])
    return ImagesResponse(
        data=(Image(b64_json=final[-1]),),
        usage=usage_of(fields.get("usageMetadata", NOTHING)),
        extra={} if kind is None else {"output_format": Raw(msgspec.json.encode(kind))},
    )


def usage_of(raw: Raw) -> Raw:
    """Say Gemini's tokens in OpenAI's shape; `NOTHING` where they are not told or cannot be true."""
    try:
        told = _metadata.decode(raw)
    except BAD_JSON:
        return NOTHING
    inside = told.prompt_token_count + (told.tool_use_prompt_token_count or 0)
    outside = told.total_token_count - inside
    if inside < 0 or outside <= 0:
        return NOTHING
    shown, drawn = _images(told.prompt_tokens_details), _images(told.candidates_tokens_details)
    usage = Usage(
        total_tokens=told.total_token_count,
        input_tokens=inside,
        output_tokens=outside,
        input_tokens_details=TokensDetails(inside - shown, shown) if 0 <= shown <= inside else UNSET,
        output_tokens_details=TokensDetails(outside - drawn, drawn) if 0 < drawn <= outside else UNSET,
    )
    return Raw(msgspec.json.encode(usage))


def _missing(candidates: Iterable[Candidate], parts: Iterable[Part], feedback: Feedback) -> GatewayError:
    """Say why there is no picture."""
    blocked = feedback.block_reason
    if blocked and blocked != "BLOCK_REASON_UNSPECIFIED":
        said = feedback.block_reason_message or "the upstream's content policy blocked the prompt"
        return judged(Verdict.BLOCKED, Fault(message=said, code=blocked), param="prompt")
    ended = next((candidate for candidate in candidates if candidate.finish_reason), Candidate())
    reason = ended.finish_reason
    text = " ".join(part.text for part in parts if part.text and not part.thought)
    if reason in (None, "STOP", "NO_IMAGE") and (text or reason == "NO_IMAGE"):
        return _no_image(text or ended.finish_message or "", reason)
    if reason is None:
        return UpstreamBadResponseError("the upstream answered without a picture, and does not say why")
    if reason == "MAX_TOKENS":
        return InvalidRequestError(
            "the model used up its tokens before the picture was ready", code="max_tokens_reached", upstream_code=reason
        )
    verdict = _REASONS.get(reason, Verdict.FAILED)
    message = ended.finish_message or _SAID.get(verdict, "")
    return judged(verdict, Fault(message=message, code=reason), param="prompt" if verdict is Verdict.PARAM else None)


def _no_image(text: str, reason: str | None) -> GatewayError:
    """Hand on the model's own words: they often say what to change."""
    words = redact(text)[:_SHORT]
    return InvalidRequestError(
        f"the model made no picture: {words}" if words else "the model made no picture",
        type=USER_ERROR,
        code="no_image_generated",
        param="prompt",
        end=End.FINAL,
        upstream_code=reason,
    )


def _read(decoder: msgspec.json.Decoder[T], raw: Raw) -> T:
    try:
        return decoder.decode(raw)
    except BAD_JSON as exc:
        raise UpstreamBadResponseError("the upstream's answer is not what its protocol promises") from exc


def _check(body: bytes) -> None:
    """Refuse what is no text: pictures are handed on undecoded, so nobody else would notice."""
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        raise UpstreamBadResponseError("the upstream's answer is not text") from exc


def _images(details: Iterable[Tokens] | None) -> int:
    return sum(tokens.token_count for tokens in details or () if tokens.modality == "IMAGE")


_REASONS: Final[Mapping[str, Verdict]] = {
    **dict.fromkeys(
        ("SAFETY", "IMAGE_SAFETY", "PROHIBITED_CONTENT", "IMAGE_PROHIBITED_CONTENT", "BLOCKLIST", "SPII"),
        Verdict.BLOCKED,
    ),
    **dict.fromkeys(("RECITATION", "IMAGE_RECITATION"), Verdict.BLOCKED),
    "LANGUAGE": Verdict.PARAM,
}
"""Why an answer ends without a picture, where the model is not the one that failed."""

_SAID: Final[Mapping[Verdict, str]] = {
    Verdict.BLOCKED: "the upstream's content policy withheld the picture",
    Verdict.PARAM: "the model does not take prompts in this language",
}
_SHORT: Final = 200  # characters of a model's words
_candidates: Final[msgspec.json.Decoder[list[Candidate] | None]] = msgspec.json.Decoder(list[Candidate] | None)
_feedback: Final[msgspec.json.Decoder[Feedback | None]] = msgspec.json.Decoder(Feedback | None)
_metadata: Final = msgspec.json.Decoder(Metadata)
