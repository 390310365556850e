"""A Google service account: from the JSON of its key to an access token.

Source: https://developers.google.com/identity/protocols/oauth2/service-account#httprest
"""

import re
from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from amux_asgi.adapters._base import Exchange, SignJwt, Token, TokenFlow
from amux_asgi.errors import End, UpstreamAuthError
from amux_asgi.faults import fault_of
from amux_asgi.schema import BAD_JSON
from amux_asgi.wire import HttpRequest, HttpResponse

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
LIFE: Final = 3600  # seconds, the longest that may be asked for
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Account(Struct, frozen=True, kw_only=True):
    """What stands in the file that the console gives out."""

    type: str
    client_email: str
    private_key: str
    token_uri: str
    private_key_id: str = ""


class Grant(Struct, frozen=True):
    """The answer; `expires_in` is in seconds."""

    access_token: str
    expires_in: float = LIFE


def exchange(credential: str) -> Exchange | None:
    """Say how a credential becomes a token; `None` for one that is shown as it is.

    Raises:
        ValueError: it is the JSON of something else; the message shows nothing of it.
    """
    if not credential.lstrip().startswith("{"):
        return None
    try:
        account = msgspec.json.decode(credential, type=Account)
    except BAD_JSON as exc:
        raise ValueError(f"it is not the JSON of a service account: {exc}") from None
    if account.type != "service_account":
        raise ValueError("it is not the JSON of a service account: its 'type' is another one")
    if not _SAFE.fullmatch(account.token_uri):
        raise ValueError("its 'token_uri' must be an https URL")

    def begin(sign: SignJwt, now: int) -> TokenFlow:
        return granted(account, sign, now)

    return begin


def granted(account: Account, sign: SignJwt, now: int) -> TokenFlow:
    """Show a signed statement of who we are, and be given a token."""
    claims = {"iss": account.client_email, "scope": SCOPE, "aud": account.token_uri, "iat": now, "exp": now + LIFE}
    assertion = sign(account.private_key, account.private_key_id, claims)
    answer = yield HttpRequest(
        method="POST",
        url=account.token_uri,
        headers=(("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")),
        body=urlencode({"grant_type": JWT_BEARER, "assertion": assertion}).encode(),
    )
    return token_of(answer)


def token_of(answer: HttpResponse) -> Token:
    """Read the token.

    Raises:
        UpstreamAuthError: refused, or never sent: nothing was generated yet.
    """
    if answer.status in _REFUSALS:
        fault = fault_of(answer.body)
        code = fault.message if fault and _CODE.fullmatch(fault.message) else None
        raise UpstreamAuthError("the upstream refuses this gateway's service account", upstream_code=code)
    try:
        grant = msgspec.json.decode(answer.body, type=Grant)
    except BAD_JSON:
        grant = Grant("")
    if answer.status != _OK or not _VISIBLE.fullmatch(grant.access_token) or grant.expires_in <= 0:
        raise UpstreamAuthError("the upstream gave this gateway no access token", end=End.NEVER_SENT, retry=True)
    return Token(value=grant.access_token, seconds=grant.expires_in)


_OK: Final = 200
_REFUSALS: Final = (400, 401, 403)
_SAFE: Final = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]+)?/[A-Za-z0-9._~/-]*")
_CODE: Final = re.compile(r"[a-z_]{1,64}")
_VISIBLE: Final = re.compile(r"[!-~]+")
