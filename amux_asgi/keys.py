"""Who calls: what an API key stands for, the port that knows keys, and its form in memory with fixed keys."""

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Callable, Iterable
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

from amux_asgi.admission import Rule
from amux_asgi.errors import AuthenticationError


class Principal(Struct, frozen=True, kw_only=True):
    """Whom an API key stands for. `models` and `passthrough` are globs; `models=None` allows all of them.

    `budget` names the key's own budget in the ledger, if it has one; `networks` are those it may be used from; `limits`
    are its own, `limits=None` those that every key has.
    """

    account: str
    key: str  # the key's name, never the key
    models: tuple[str, ...] | None = None
    passthrough: tuple[str, ...] = ()
    budget: str | None = None
    networks: tuple[str, ...] | None = None
    limits: tuple[Rule, ...] | None = None

    def may_use(self, model: str) -> bool:
        """Tell whether this model is one of the principal's."""
        return self.models is None or any(fnmatchcase(model, glob) for glob in self.models)

    def may_pass(self, name: str) -> bool:
        """Tell whether a passthrough of this name is one of the principal's."""
        return any(fnmatchcase(name, glob) for glob in self.passthrough)


@runtime_checkable
class KeyStore(Protocol):
    """The port that knows API keys."""

    async def authenticate(self, key: str, peer: str | None = None) -> Principal:
        """Say whom the key stands for. `peer` is the client's address, so that guessing can be made slow.

        Raises:
            AuthenticationError: nobody, or somebody whose key has expired or is disabled.
            RateLimitError: this client was wrong too often.
            StorageUnavailableError: nobody can tell at present.
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
    return f"{body}_{_checksum(body)}"


def key_id_of(key: str) -> str | None:
    """Give the id that a key of ours begins with; `None` if it is none, or its checksum is wrong. Asks nobody."""
    found = _KEY.fullmatch(key)
    if found is None or _checksum(found["body"]) != found["checksum"]:
        return None
    return found["id"]


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), 6)


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

    async def authenticate(self, key: str, peer: str | None = None) -> Principal:  # noqa: ARG002, guessing costs nothing
        """Say whom the key stands for.

        Raises:
            AuthenticationError: nobody, or somebody whose key has expired.
        """
        found = self._keys.get(digest_of(key))
        if found is None:
            raise unknown_key()
        if found.expires is not None and found.expires <= self._now():
            raise AuthenticationError("the API key has expired", code=EXPIRED)
        return found.principal


class KeysInTurn:
    """Several stores as one: the first that knows a key decides."""

    def __init__(self, *stores: KeyStore) -> None:
        self._stores = stores

    async def authenticate(self, key: str, peer: str | None = None) -> Principal:
        """Say whom the key stands for.

        Raises:
            AuthenticationError: no store knows it, or the first that does refuses it.
            RateLimitError: this client was wrong too often.
            StorageUnavailableError: nobody can tell at present.
        """
        error: AuthenticationError | None = None
        for store in self._stores:
            try:
                return await store.authenticate(key, peer)
            except AuthenticationError as refused:
                if refused.code != UNKNOWN:
                    raise
                error = refused
        raise error or unknown_key()


def unknown_key() -> AuthenticationError:
    """Refuse a key that is nobody's."""
    return AuthenticationError("the API key is not valid here", code=UNKNOWN)


UNKNOWN: Final = "invalid_api_key"
EXPIRED: Final = "api_key_expired"
DISABLED: Final = "api_key_disabled"
_KEY: Final = re.compile(r"(?P<body>amx_(?P<id>[0-9A-Za-z]{8})_[0-9A-Za-z]{32})_(?P<checksum>[0-9A-Za-z]{6})")
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
