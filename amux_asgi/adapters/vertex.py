"""Google's Vertex AI: Gemini by `:generateContent`, Imagen by `:predict`.

Source: https://docs.cloud.google.com/vertex-ai/generative-ai/docs, googleapis/python-genai google/genai/models.py
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from amux_asgi.adapters import _imagen_fit, gemini, imagen
from amux_asgi.adapters._base import Adapter, Fitted
from amux_asgi.adapters._gemini_answer import pictures
from amux_asgi.adapters._gemini_fit import FIELDS as GEMINI_FIELDS
from amux_asgi.adapters._gemini_fit import fit as gemini_fit
from amux_asgi.adapters._google import opened
from amux_asgi.adapters._service_account import exchange
from amux_asgi.schema import GenerationRequest, Json
from amux_asgi.wire import Flow, HttpRequest, Target, post

API: Final = "https://aiplatform.googleapis.com/v1"
KEYS: Final = ("AIza", "AQ.")  # how an API key begins


class Options(Struct, frozen=True, kw_only=True):
    """Whose models are asked, and where; `express` says that the credential is an API key, which knows its project."""

    project: Annotated[str, Meta(pattern=r"^[a-z0-9](?:[a-z0-9.:-]*[a-z0-9])?\Z")] | None = None
    location: Annotated[str, Meta(pattern=r"^[a-z]+(?:-[a-z]+[0-9]+)?\Z")] = "global"
    express: bool = False

    def __post_init__(self) -> None:
        """Say what is missing."""
        if (self.project is None) is not self.express:
            raise ValueError("say either the 'project', or 'express = true' where the credential is an API key")


def sign(_request: HttpRequest, credential: str) -> tuple[tuple[str, str], ...]:
    """Show an API key, or an access token."""
    if credential.startswith(KEYS):
        return (("x-goog-api-key", credential),)
    return (("authorization", f"Bearer {credential}"),)


def fit(model: str, request: GenerationRequest) -> Fitted:
    """Fit a request to a model of either kind; the other kind's fields are dropped.

    Raises:
        InvalidRequestError: it says what the model cannot be asked.
    """
    known, fitting = (_IMAGEN_FIELDS, _imagen_fit.vertex_fit) if _is_imagen(model) else (_GEMINI_FIELDS, _gemini_fit)
    dropped = [name for name in request.extra if name in FIELDS - known]
    if "parameters" in dropped:  # which may say how many
        request = _imagen_fit.counted(request, _imagen_fit.parameters_of(request))
    extra = {name: value for name, value in request.extra.items() if name not in dropped}
    fitted = fitting(model, replace(request, extra=extra))
    return replace(fitted, changes=(*(f"{name}: dropped" for name in dropped), *fitted.changes))


def generate(target: Target, request: GenerationRequest) -> Flow:
    """Ask once: Imagen for up to four pictures, Gemini for one."""
    target = replace(target, base_url=_publisher(target))
    by_predict = "parameters" in request.extra or _is_imagen(target.rules or target.model)
    return (yield from (imagen.generate if by_predict else _gemini)(target, request))


def _gemini(target: Target, request: GenerationRequest) -> Flow:
    body = order(target, request)
    answer = yield post(f"{target.base_url}/models/{target.model}:generateContent", body)
    return pictures(opened(answer, request.extra), answer.body)


def order(target: Target, request: GenerationRequest) -> dict[str, Json]:
    """Write what Gemini is asked here: it can be told more of a picture than on its own interface."""
    more = {theirs: request.extra[ours] for ours, theirs in _MORE.items() if ours in request.extra}
    extra = {name: value for name, value in request.extra.items() if name not in _MORE}
    body = gemini.order(target, replace(request, extra=extra))
    if more:
        config = body["generationConfig"]
        config["imageConfig"] = config.get("imageConfig", {}) | more
    return body


def _gemini_fit(model: str, request: GenerationRequest) -> Fitted:
    told = {name: value for name, value in request.extra.items() if name in _MORE and bytes(value) != b"null"}
    options, dropped = _imagen_fit.file_options(request, told.pop("image_output_options", None))
    if options:
        told["image_output_options"] = Raw(msgspec.json.encode(options))
    rest = {name: value for name, value in request.extra.items() if name not in _MORE}
    plain = replace(request, output_format=None, output_compression=None, extra=rest)
    fitted = gemini_fit(model, plain, people=True)
    written = replace(fitted.request, extra={**fitted.request.extra, **told})
    return replace(fitted, request=written, changes=(*fitted.changes, *dropped))


def _publisher(target: Target) -> str:
    """Say where the models are: with an API key at one address, otherwise by project and location."""
    options: Options = target.options or Options(express=True)
    if options.project is None:
        return f"{target.base_url}/publishers/google"
    place = options.location
    base = _regional(place) if target.base_url == API else target.base_url
    return f"{base}/projects/{options.project}/locations/{place}/publishers/google"


def _regional(place: str) -> str:
    if place == "global":
        return API
    host = f"{place}-aiplatform" if "-" in place else f"aiplatform.{place}.rep"
    return f"https://{host}.googleapis.com/v1"


def _is_imagen(model: str) -> bool:
    return model.startswith("imagen")


_MORE: Final = {"image_output_options": "imageOutputOptions", "prominent_people": "prominentPeople"}
_IMAGEN_FIELDS: Final = _imagen_fit.VERTEX_FIELDS
_GEMINI_FIELDS: Final = GEMINI_FIELDS | frozenset(_MORE)
COUNTS: Final = _imagen_fit.COUNTS | gemini.COUNTS
FIELDS: Final = _IMAGEN_FIELDS | _GEMINI_FIELDS | COUNTS

VERTEX: Final = Adapter(
    name="vertex",
    base_url=API,
    hosts=("googleapis.com",),
    sign=sign,
    exchange=exchange,
    generate=generate,
    fit=fit,
    options=Options,
    fields=FIELDS,
    counts=COUNTS,
    objects=_imagen_fit.OBJECTS,
    ignores=imagen.IGNORES,
    closed=True,
    max_images=4,
    forms=("b64_json",),
)

ROWS: Final = (VERTEX,)
