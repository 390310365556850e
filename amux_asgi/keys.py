"""Who calls: what an API key stands for, the port that knows keys, and its form in memory with fixed keys."""

import hashlib
import secrets
import string
import zlib
from collections.abc import Callable, Iterable
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

from amux_asgi.errors import AuthenticationError


class Principal(Struct, frozen=True, kw_only=True):
    """Whom an API key stands for. `models` and `passthrough` are globs; `models=None` allows all of them."""

    account: str
    key: str  # the key's name, never the key
    models: tuple[str, ...] | None = None
    passthrough: tuple[str, ...] = ()

    def may_use(self, model: str) -> bool:
        """Tell whether this model is one of the principal's."""
        return self.models is None or any(fnmatchcase(model, glob) for glob in self.models)

    def may_pass(self, name: str) -> bool:
        """Tell whether a passthrough of this name is one of the principal's."""
        return any(fnmatchcase(name, glob) for glob in self.passthrough)


@runtime_checkable
class KeyStore(Protocol):
    """The port that knows API keys."""

    async def authenticate(self, key: str) -> Principal:
        """Say whom the key stands for.

        Raises:
            AuthenticationError: nobody, or somebody whose key has expired.
        """
        ...


class FixedKey(Struct, frozen=True, kw_only=True):
    """One key of the configuration: only its SHA-256 is kept."""

    digest: bytes
    principal: Principal
    expires: datetime | None = None  # aware


def digest_of(key: str) -> bytes:
    """Hash a key for keeping; a plain hash suffices for keys that nobody can guess."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def make_key() -> str:
    """Make a key: `amx_`, an id of 8, 32 random characters (190 bits), and a checksum that shows a slip of the pen."""
    body = f"amx_{_random(8)}_{_random(32)}"
    return f"{body}_{_base62(zlib.crc32(body.encode()), 6)}"


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def _base62(number: int, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


class FixedKeys:
    """Keys that never change while the process runs.

    They are found by their digest, so that neither their number nor a shared beginning with a real key shows in the
    time a refusal takes.
    """

    def __init__(self, keys: Iterable[FixedKey], *, now: Callable[[], datetime]) -> None:
        self._keys = {key.digest: key for key in keys}
        self._now = now

    async def authenticate(self, key: str) -> Principal:
        """Say whom the key stands for.

        Raises:
            AuthenticationError: nobody, or somebody whose key has expired.
        """
        found = self._keys.get(digest_of(key))
        if found is None:
            raise AuthenticationError("the API key is not valid here")
        if found.expires is not None and found.expires <= self._now():
            raise AuthenticationError("the API key has expired", code="api_key_expired")
        return found.principal


_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
