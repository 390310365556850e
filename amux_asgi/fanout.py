"""Several asks for one request: how it is split, and how the answers become one again."""

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
from msgspec.structs import replace

from amux_asgi.errors import End, GatewayError
from amux_asgi.schema import NOTHING, ImagesResponse, TokensDetails, Usage


def shares(count: int, most: int) -> list[int]:
    """Split a number of pictures into asks of at most `most`."""
    if count <= most:
        return [count]
    return [min(most, count - done) for done in range(0, count, most)]


def joined(answers: Sequence[ImagesResponse]) -> ImagesResponse:
    """Make one answer of several, the pictures in order.

    Their tokens are added up; if one does not tell its own, nobody knows the sum. All else is the first one's.
    """
    first = answers[0]
    if len(answers) == 1:
        return first
    counted = [answer.tokens() for answer in answers]
    known = [usage for usage in counted if usage is not None]
    return replace(
        first,
        data=tuple(chain.from_iterable(answer.data for answer in answers)),
        usage=msgspec.Raw(msgspec.json.encode(_added(known))) if len(known) == len(counted) else NOTHING,
    )


def divided(usage: Usage, count: int) -> list[Usage]:
    """Share tokens out among so many pictures; what does not go up goes to the first ones."""
    inputs, outputs = usage.input_tokens_details, usage.output_tokens_details
    parts = zip(
        _details_divided(usage.input_tokens, inputs, count),
        _details_divided(usage.output_tokens, outputs, count),
        strict=True,
    )
    return [
        Usage(
            total_tokens=got[0] + made[0],
            input_tokens=got[0],
            output_tokens=made[0],
            input_tokens_details=got[1],
            output_tokens_details=made[1],
        )
        for got, made in parts
    ]


def worst(errors: Iterable[Exception]) -> Exception:
    """Choose the error that most forbids sending the request again, a bug of ours before all; the first of its kind."""
    return min(errors, key=lambda error: _WORST.index(error.end if isinstance(error, GatewayError) else None))


def _added(usages: Iterable[Usage]) -> Usage:
    usages = tuple(usages)
    return Usage(
        total_tokens=sum(usage.total_tokens for usage in usages),
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        input_tokens_details=_details([usage.input_tokens_details for usage in usages]),
        output_tokens_details=_details([usage.output_tokens_details for usage in usages]),
    )


def _details(all_of_them: Sequence[TokensDetails | msgspec.UnsetType]) -> TokensDetails | msgspec.UnsetType:
    known = [details for details in all_of_them if details is not msgspec.UNSET]
    if len(known) < len(all_of_them):
        return msgspec.UNSET
    return TokensDetails(
        text_tokens=sum(details.text_tokens for details in known),
        image_tokens=sum(details.image_tokens for details in known),
    )


def _details_divided(
    total: int, details: TokensDetails | msgspec.UnsetType, count: int
) -> list[tuple[int, TokensDetails | msgspec.UnsetType]]:
    """Divide a sum and what it is made of, so that each part is the sum of its own."""
    if details is msgspec.UNSET or details.text_tokens + details.image_tokens != total:
        return [(part, msgspec.UNSET) for part in _divided(total, count)]
    texts, images = _divided(details.text_tokens, count), _divided(details.image_tokens, count)
    return [(text + image, TokensDetails(text, image)) for text, image in zip(texts, images, strict=True)]


def _divided(number: int, count: int) -> list[int]:
    each, rest = divmod(number, count)
    return [each + (i < rest) for i in range(count)]


_WORST = (None, End.UNKNOWN, End.FINAL, End.REFUSED, End.NEVER_SENT)
