"""Sign JSON web tokens with an RSA key, by PyJWT (extra `vertex`)."""

from collections.abc import Mapping

import jwt

from amux_asgi.schema import Json


def sign(private_key: str, key_id: str, claims: Mapping[str, Json]) -> str:
    """Give the signed token. `private_key` is PEM.

    Raises:
        ValueError: it is no private key for this; the message shows nothing of it.
    """
    try:
        return jwt.encode(dict(claims), private_key, algorithm="RS256", headers={"kid": key_id} if key_id else None)
    except (ValueError, TypeError, jwt.PyJWTError):
        raise ValueError("its 'private_key' is no RSA key in PEM") from None
