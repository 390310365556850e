"""Every failure a client or an operator can meet, named once.

A class knows its HTTP status and OpenAI's `type` and `code`; an error that ends an attempt at an upstream knows how it
ended, and so what another attempt may do.
"""

from enum import Enum
from typing import Final

INTERNAL: Final = "an internal error; the request id finds it in the operator's log"
LONGEST_TEXT: Final = 2000  # characters; a client can name a field by a whole megabyte


class End(Enum):
    """How an attempt at an upstream ended, and so what another attempt may do."""

    NEVER_SENT = "never sent"  # no byte of the request left: may go elsewhere
    REFUSED = "refused"  # a complete, unbilled no: may go elsewhere
    FINAL = "final"  # the request itself is at fault: nowhere else
    UNKNOWN = "unknown"  # may have been paid: nowhere else, unless the channel says so


class ConfigError(Exception):
    """A configuration that cannot work; the message names the place and the mend."""


class GatewayError(Exception):
    """A failure with its answer: one status, one `{"error": {message, type, param, code}}`.

    `message` is fit for a client's eyes. `retry_after` is in seconds. `retry` is what `x-should-retry` says: `None`
    leaves it to the client. `upstream_code` is the vendor's own code, if it gave one. `headers` go out with the answer.
    """

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    end: End | None = None
    retry: bool | None = None
    headers: tuple[tuple[str, str], ...] = ()
    attempts: int = 0  # at upstreams, this one the last
    channel: str | None = None  # of the last attempt
    generation: str | None = None  # our own id, which finds it in the log and in the usage
    told: bool = False  # `retry_after` is the upstream's own word
    unread: bool = False  # the rest of the request stays where it is

    def __init__(  # noqa: PLR0913, the fields of one answer
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,  # noqa: A002, the protocol's name
        end: End | None = None,
        retry_after: float | None = None,
        retry: bool | None = None,
        upstream_code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.type = type or self.type
        self.end = end or self.end
        self.retry_after = retry_after
        self.retry = self.retry if retry is None else retry
        self.upstream_code = upstream_code

    def envelope(self) -> dict[str, str | None]:
        """Give what stands below `error`: four keys, always, none of them long; half a character becomes a `?`."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {name: text and text[:LONGEST_TEXT].encode(errors="replace").decode() for name, text in fields.items()}


class InvalidRequestError(GatewayError):
    """The request says something that cannot be done; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"
    end: End | None = End.FINAL


class AuthenticationError(GatewayError):
    """No API key, or one that does not count: wrong, expired or disabled."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    headers: tuple[tuple[str, str], ...] = (("www-authenticate", 'Bearer realm="amux"'),)


class PermissionDeniedError(GatewayError):
    """A valid API key that may not do this."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class ContentPolicyError(GatewayError):
    """A content policy, ours or any vendor's, blocked the prompt or the picture."""

    status = 403
    type = "image_generation_user_error"
    code = "moderation_blocked"
    end: End | None = End.FINAL
    retry: bool | None = False


class NotFoundError(GatewayError):
    """Nothing answers at this path."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """A model that no channel serves, or that the upstream does not know (then it ends the attempt: refused)."""

    code = "model_not_found"
    end: End | None = End.REFUSED


class MethodNotAllowedError(GatewayError):
    """The path is right, the method is not; `allow` lists those that are."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class RequestTimeoutError(GatewayError):
    """The request's body did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class RequestTooLargeError(GatewayError):
    """The request's body is larger than the gateway reads."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaTypeError(GatewayError):
    """The request's body is not plain, uncompressed JSON."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class RateLimitError(GatewayError):
    """A limit is reached, ours or every upstream's."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    end: End | None = End.REFUSED


class QuotaError(GatewayError):
    """The account's money, or the key's own budget, does not cover what this could cost."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    retry: bool | None = False


class IdempotencyConflictError(GatewayError):
    """A request with the same idempotency key is still being worked on."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_in_progress"


class IdempotencyMismatchError(GatewayError):
    """The idempotency key was used with another request."""

    status = 422
    type = "invalid_request_error"
    code = "idempotency_mismatch"
    retry: bool | None = False


class InternalError(GatewayError):
    """Our own bug; the cause is in the operator's log, never in the answer. A retry could be paid a second time."""

    retry: bool | None = False


class UpstreamError(GatewayError):
    """The upstream failed, or nothing surer can be said of it; the base of all that goes wrong there."""

    status = 502
    code = "upstream_error"
    end: End | None = End.UNKNOWN


class UpstreamUnreachableError(UpstreamError):
    """No connection: refused, no such host, TLS failed, no free connection in time."""

    code = "upstream_unreachable"
    end: End | None = End.NEVER_SENT


class UpstreamAuthError(UpstreamError):
    """The upstream refuses *our* credential; the client can do nothing about it."""

    code = "upstream_auth_failed"
    end: End | None = End.REFUSED
    retry: bool | None = False


class UpstreamDeniedError(UpstreamAuthError):
    """The upstream knows our account, and does not allow it this."""


class UpstreamRedirectError(UpstreamError):
    """The upstream sends us elsewhere; a paid request with a credential is never redirected."""

    code = "upstream_redirect"


class UpstreamIncompleteError(UpstreamError):
    """The connection was cut before the whole answer was there."""

    code = "upstream_incomplete"


class UpstreamTooLargeError(UpstreamError):
    """The answer is larger than we hold."""

    code = "upstream_too_large"


class UpstreamBadResponseError(UpstreamError):
    """An answer that is none: not HTTP, not JSON, no picture in it, or compressed although we asked for plain bytes."""

    code = "upstream_bad_response"


class UpstreamUnavailableError(UpstreamError):
    """No candidate is open, the upstream is overloaded, or *our* account there is empty."""

    status = 503
    code = "upstream_unavailable"
    end: End | None = End.REFUSED


class UpstreamEmptyError(UpstreamUnavailableError):
    """The upstream says that *our* account there is empty; the client can do nothing about it."""

    retry: bool | None = False


class StorageUnavailableError(GatewayError):
    """The store of money and keys cannot be asked, so nothing that must be paid is begun."""

    status = 503
    code = "storage_unavailable"


class ModelUnpricedError(GatewayError):
    """Nobody said what this costs, and the account may not spend without end."""

    status = 503
    code = "model_unpriced"
    retry: bool | None = False


class OverloadedError(GatewayError):
    """There is more to do than can be done in time, or held in memory; nothing was begun."""

    status = 503
    code = "overloaded"
    end: End | None = End.NEVER_SENT


class NotStartedError(GatewayError):
    """The app's lifespan never ran, and this event loop cannot do without."""

    status = 503
    code = "not_started"
    retry: bool | None = False


class UpstreamTimeoutError(UpstreamError):
    """The deadline passed."""

    status = 504
    code = "upstream_timeout"
