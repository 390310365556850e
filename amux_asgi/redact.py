"""Foreign text made fit for a client or a log: no key, host, signed URL or stack trace."""

import re
from collections.abc import Iterable
from typing import Final

from amux_asgi.errors import GatewayError

LONGEST: Final = 500  # characters
HIDDEN: Final = "[hidden]"

# A host by its well-known endings only, so that file names and dotted field names stay readable.
_SECRETS: Final = re.compile(
    r"""
    \b[a-z][a-z0-9+.-]*://\S+                                                   # URLs
  | \b(?:[a-z0-9_-]+\.)+(?:com|cn|net|org|io|ai|dev|app|cloud|internal|local|svc)\b(?::\d+)?(?:/\S*)?
  | \b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d+)?                                        # IPv4
  | \[?\b(?:[0-9a-f]{1,4}:){3,7}(?::?[0-9a-f]{1,4})\b\]?(?::\d+)?               # IPv6
  | \b(?:bearer|basic)\s+\S+
  | \b(?:sk|rk|pk|amx|org|proj|key)[-_][\w*.-]{6,}
  | \bAIza[\w-]{20,}
  | [\w/+=-]{40,}                                                               # anything as long as a credential
    """,
    re.IGNORECASE | re.VERBOSE,
)


def hide(error: GatewayError, secrets: Iterable[str]) -> None:
    """Take from an upstream's words whatever is known to be secret: it may say our own credential again."""
    for secret in secrets:
        error.message = error.message.replace(secret, HIDDEN)
        for name in ("param", "code", "type", "upstream_code"):
            text: str | None = getattr(error, name)
            if text is not None and secret in text:
                setattr(error, name, text.replace(secret, HIDDEN))


def redact(text: str) -> str:
    """Keep the first line of a foreign text, with all that could be a secret masked.

    At most `LONGEST` characters, all printable.
    """
    lines = text.strip().splitlines()
    line = "".join(character for character in lines[0] if character.isprintable()) if lines else ""
    return _SECRETS.sub(HIDDEN, line[: 4 * LONGEST])[:LONGEST]
