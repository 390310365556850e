"""Google's service of access tokens, as strict as it is: a signed statement in, a token out."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import anyio
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

EMAIL: Final = "painter@some-project.iam.gserviceaccount.com"
KEY_ID: Final = "key-1"
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@cache
def rsa_key(name: str = "") -> rsa.RSAPrivateKey:
    """Make a key, one for each name."""
    del name
    return rsa.generate_private_key(65537, 2048)


def pem_of(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def account(uri: str, **changes: Any) -> str:
    """Write the file that the console gives out for an account."""
    told = {
        "type": "service_account",
        "project_id": "some-project",
        "private_key_id": KEY_ID,
        "private_key": pem_of(rsa_key()),
        "client_email": EMAIL,
        "token_uri": uri,
    }
    return json.dumps(told | changes, indent=2)


class TokenDesk:
    """Gives tokens that live `seconds`; `says` is what it answers instead, once each; `gate` holds it up."""

    def __init__(
        self,
        uri: str = "https://tokens.example/token",
        *,
        seconds: float = 3600,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.uri = uri
        self.seconds = seconds
        self.asks = 0
        self.given: list[str] = []
        self.says: list[tuple[int, Any]] = []
        self.gate: anyio.Event | None = None
        self._now = now or (lambda: datetime.now(UTC).timestamp())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ask."""
        request = Request(scope, receive)
        self.asks += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.says:
            status, body = self.says.pop(0)
        elif (fault := await self._fault(request)) is not None:
            status, body = 400, {"error": fault, "error_description": f"{EMAIL} said something wrong"}
        else:
            self.given.append(f"ya29.c.token-{len(self.given)}-{'x' * 200}")
            status = 200
            body = {"access_token": self.given[-1], "expires_in": self.seconds, "token_type": "Bearer"}
        await JSONResponse(body, status)(scope, receive, send)

    async def _fault(self, request: Request) -> str | None:
        if request.method != "POST" or request.headers["content-type"] != "application/x-www-form-urlencoded":
            return "invalid_request"
        form = dict(pair.split("=", 1) for pair in (await request.body()).decode().split("&"))
        if form.keys() != {"grant_type", "assertion"} or form["grant_type"] != GRANT.replace(":", "%3A"):
            return "unsupported_grant_type"
        options: Any = {"verify_exp": False, "verify_iat": False}
        try:
            claims = jwt.decode(
                form["assertion"], rsa_key().public_key(), ["RS256"], audience=self.uri, issuer=EMAIL, options=options
            )
        except jwt.PyJWTError:
            return "invalid_grant"
        good = jwt.get_unverified_header(form["assertion"])["kid"] == KEY_ID and claims["scope"] == SCOPE
        fresh = claims["iat"] - 60 <= self._now() < claims["exp"] <= claims["iat"] + 3600
        return None if good and fresh else "invalid_grant"
