"""What an operator's words must be: names, sums, globs, networks, times."""

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Final, cast, get_args

from amux_asgi.errors import InvalidRequestError
from amux_asgi.manage import MOST_AT_ONCE, Group
from amux_asgi.pricing import dollars, parse_dollars
from amux_asgi.reservation import DEAREST

MOST: Final = 100  # globs or networks of one key
LONGEST: Final = 200  # characters of one of them
LONGEST_NOTE: Final = 500


def name(text: str, param: str = "name") -> str:
    """Give a name that is one.

    Raises:
        InvalidRequestError: it is none.
    """
    if not is_name(text):
        raise InvalidRequestError(f"'{param}' is 1 to 64 letters, digits, '.', '_' or '-'", param=param)
    return text


def is_name(text: str) -> bool:
    """Tell whether a key or an account may be called so."""
    return _NAME.fullmatch(text) is not None


def money(text: str, param: str) -> int:
    """Read a sum that is zero or more, at most a thousand million dollars; in nano-dollars.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        nano = parse_dollars(text)
    except ValueError as exc:
        raise _no_money(param) from exc
    if not 0 <= nano <= DEAREST:
        raise _no_money(param)
    return nano


def change(text: str, param: str = "amount") -> int:
    """Read a sum that is not zero, below zero with a minus before it; in nano-dollars.

    Raises:
        InvalidRequestError: it is none.
    """
    nano = money(text.removeprefix("-"), param)
    if not nano:
        raise InvalidRequestError(f"'{param}' is zero, which changes nothing", param=param)
    return -nano if text.startswith("-") else nano


def shown(nano: int) -> str:
    """Write a sum exactly, with two decimals or more, so that sums below each other are read easily."""
    whole, _, decimals = dollars(nano).partition(".")
    return f"{whole}.{decimals:0<2}"


def globs(texts: tuple[str, ...], param: str) -> tuple[str, ...]:
    """Give globs that are some.

    Raises:
        InvalidRequestError: one is none, or there are too many.
    """
    if len(texts) > MOST or not all(0 < len(text) <= LONGEST and text.isprintable() for text in texts):
        raise InvalidRequestError(
            f"'{param}' is at most {MOST} globs, each of 1 to {LONGEST} printable characters", param=param
        )
    return texts


def some(texts: tuple[str, ...] | None, param: str) -> tuple[str, ...] | None:
    """Give globs, or all of them; never none at all.

    Raises:
        InvalidRequestError: there is none, or one is none.
    """
    if texts == ():
        raise InvalidRequestError(f"'{param}' is empty, so nothing would be allowed; leave it out for all", param=param)
    return texts and globs(texts, param)


def networks(texts: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Give networks, each written in its usual way, or all of them.

    Raises:
        InvalidRequestError: there is none, or one is none.
    """
    try:
        told = some(texts, "networks")
        return told and tuple(str(ip_network(text)) for text in told)
    except ValueError as exc:
        raise InvalidRequestError(
            "'networks' are written as '10.0.0.0/8' or '2001:db8::/32', with no bit set behind the prefix",
            param="networks",
        ) from exc


def moment(text: str, param: str) -> datetime:
    """Read a time with its offset, or a date, which begins at midnight UTC.

    Raises:
        InvalidRequestError: it is neither.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise _no_moment(param) from exc
    if found.tzinfo is None and len(text) > len("2027-01-31"):
        raise _no_moment(param)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def groups(text: str) -> tuple[Group, ...]:
    """Read what to add up by: words with commas between them.

    Raises:
        InvalidRequestError: this is nothing that is known of a request.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not set(names) <= set(GROUPS):
        raise InvalidRequestError(f"'by' is some of {', '.join(GROUPS)}, with commas between them", param="by")
    return cast("tuple[Group, ...]", names)


def milliseconds(time: datetime, param: str) -> int:
    """Give a time as Unix time in milliseconds.

    Raises:
        InvalidRequestError: it is before 1970 or after 9998.
    """
    found = (time - EPOCH) // timedelta(milliseconds=1)
    if not 0 <= found < LAST:
        raise InvalidRequestError(f"'{param}' is before 1970 or after 9998", param=param)
    return found


def time_of(milliseconds: int) -> datetime:
    """Give Unix time in milliseconds as a time."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def note(text: str) -> str:
    """Give a note that can be written down.

    Raises:
        InvalidRequestError: it cannot.
    """
    if len(text) > LONGEST_NOTE or not (text.isprintable()):
        raise InvalidRequestError(f"'note' is at most {LONGEST_NOTE} printable characters, on one line", param="note")
    return text


def grant_id(text: str) -> str:
    """Give the id of a top-up that is one.

    Raises:
        InvalidRequestError: it is none.
    """
    if not _ID.fullmatch(text):
        raise InvalidRequestError("'id' is 1 to 128 letters, digits, '.', '_' or '-'", param="id")
    return text


def asked(text: str, param: str, *, longest: int = LONGEST) -> str:
    """Give what is to be looked for, if any database can be asked for it.

    Raises:
        InvalidRequestError: it cannot be there.
    """
    if len(text) > longest or not text.isprintable():
        raise InvalidRequestError(f"'{param}' is at most {longest} printable characters", param=param)
    return text


def limit(number: int) -> int:
    """Give how many rows a page may have.

    Raises:
        InvalidRequestError: none, or too many.
    """
    if not 1 <= number <= MOST_AT_ONCE:
        raise InvalidRequestError(f"'limit' is from 1 to {MOST_AT_ONCE}", param="limit")
    return number


def _no_moment(param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"'{param}' is a date, as 2027-01-31, or a time with its offset, as 2027-01-31T12:00:00Z", param=param
    )


def _no_money(param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"'{param}' is in US dollars, written as '12.50', at most {DEAREST // 10**9} of them, with at most 9 decimals",
        param=param,
    )


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = (datetime(9999, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)
GROUPS: Final[tuple[str, ...]] = get_args(Group)
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
