"""Requests whose framing could be read in two ways, each with a second request hidden in it."""

from typing import Final

HIDDEN: Final = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n"
_POST: Final = b"POST / HTTP/1.1\r\nhost: x\r\n"
_CHUNKED: Final = _POST + b"transfer-encoding: chunked\r\n\r\n"

SMUGGLING: Final[dict[str, bytes]] = {
    "length and chunks": _POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": _POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": _POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\na" + HIDDEN,
    "a list of lengths": _POST + b"content-length: 1, 2\r\n\r\na" + HIDDEN,
    "a signed length": _POST + b"content-length: +1\r\n\r\na" + HIDDEN,
    "chunked, then identity": _POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "an unknown encoding": _POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a bare LF": b"POST / HTTP/1.1\nhost: x\ncontent-length: 0\n\n" + HIDDEN,
    "a bare CR": b"POST / HTTP/1.1\r\nhost: x\rcontent-length: 0\r\n\r\n" + HIDDEN,
    "a blank before the colon": _POST + b"content-length : 0\r\n\r\n" + HIDDEN,
    "folding": _POST + b"content-length:\r\n 0\r\n\r\n" + HIDDEN,
    "a folded header": _POST + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n" + HIDDEN,
    "a signed chunk": _CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "a hexadecimal chunk": _CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "a chunk without its end": _CHUNKED + b"5\r\nhelloXX0\r\n\r\n" + HIDDEN,
    "a chunk too large to count": _CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "a long extension": _CHUNKED + b"5;" + b"a" * 2**20 + b"\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "a NUL in a header": _POST + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n" + HIDDEN,
    "a blank in the target": b"GET / x HTTP/1.1\r\nhost: x\r\n\r\n" + HIDDEN,
}
