"""What an S3 store says instead of an answer, and which fault that is.

Beside those of ``backends.faults`` a store has

::

    RemoteError
    ├── ChangedError             a condition does not hold: another generation is there, or none
    │   └── NotModifiedError     it is still the one that we know
    ├── OutOfRangeError          the range lies outside of the object
    ├── NotSupportedError        the store does not know what was asked for
    └── ConflictError            somebody else is at it: try again
        └── OvertakenError       what the store kept is newer than this write, or its removal is
"""

from __future__ import annotations

from typing import Any, Final

from cogcache.backends.faults import (
    AbsentError,
    MisconfiguredError,
    RefusedError,
    RemoteError,
    UnavailableError,
)

__all__ = [
    "ChangedError",
    "ConflictError",
    "NotModifiedError",
    "NotSupportedError",
    "OutOfRangeError",
    "OvertakenError",
    "error_of",
    "error_of_answer",
]


class ChangedError(RemoteError):
    """A condition of the request does not hold."""


class NotModifiedError(ChangedError):
    """The object is still the one that the request asked to be spared of (304)."""


class OutOfRangeError(RemoteError):
    """The range lies outside of the object."""


class NotSupportedError(RemoteError):
    """The store does not know this kind of request."""


class ConflictError(RemoteError):
    """Another request is changing the same object now."""


class OvertakenError(ConflictError):
    """The store answers a write without saying what it has: it kept a newer object of that name, or
    the absence of one that was removed later.
    """


_ABSENT: Final = frozenset({"NoSuchKey", "NoSuchUpload", "NoSuchVersion"})
_BUSY: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestTimeout"}
)
_EXPIRED: Final = frozenset({"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException"})
_REMEDIES: Final = {
    "NoSuchBucket": "create the bucket, or correct the name in the configuration",
    "InvalidAccessKeyId": "correct access_key",
    "SignatureDoesNotMatch": "correct secret_key (and see that no proxy changes requests)",
    "InvalidToken": "correct session_token",
    "RequestTimeTooSkewed": "set this machine's clock: it is minutes off the store's",
    "RequestExpired": "set this machine's clock: it is minutes off the store's",
    "PermanentRedirect": "set region to the bucket's",
    "AuthorizationHeaderMalformed": "set region to the bucket's",
    "IllegalLocationConstraintException": "set region to the bucket's",
    "AccessDenied": "grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket "
    "(without s3:ListBucket an absent object looks like a forbidden one)",
    "AllAccessDisabled": "ask the owner of the account",
    "InvalidBucketName": "correct the name of the bucket",
}
_NOT_S3: Final = "does not answer as an S3 store does; correct endpoint_url"


def error_of(error: Any, operation: str) -> RemoteError:
    """The fault that an exception of botocore (or of the network below it) stands for. The text of
    credentials never gets into its message.
    """
    if isinstance(error, RemoteError):
        return error
    from botocore import exceptions as b
    from botocore.parsers import ResponseParserError

    if isinstance(error, b.ClientError):
        response: Any = getattr(error, "response", {})
        return error_of_answer(response, operation)
    if isinstance(
        error, b.NoCredentialsError | b.PartialCredentialsError | b.CredentialRetrievalError
    ):
        return MisconfiguredError(
            "no credentials were found: give access_key and secret_key, or set up the environment, "
            "a profile or a role as boto3 knows them"
        )
    if isinstance(error, b.ProfileNotFound | b.NoRegionError | b.InvalidRegionError):
        return MisconfiguredError(f"{error}")
    if isinstance(error, ResponseParserError):
        return MisconfiguredError(f"{operation}: the endpoint {_NOT_S3}")
    if isinstance(error, b.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error) or "WRONG_VERSION_NUMBER" in str(error):
            return MisconfiguredError(
                f"{operation}: no trusted TLS connection: correct endpoint_url (http or https), or "
                "name the store's authority in AWS_CA_BUNDLE"
            )
        return UnavailableError(f"{operation}: the TLS connection broke", unreachable=True)
    if isinstance(error, b.ParamValidationError | b.UnknownParameterError):
        return NotSupportedError(f"{operation}: not known to this botocore: {error}")
    if isinstance(error, b.HTTPClientError | b.ConnectionError):
        return UnavailableError(f"{operation}: {_kind(error)}", unreachable=_is_unreachable(error))
    if isinstance(error, RecursionError):  # botocore follows redirects that lead nowhere
        return MisconfiguredError(
            f"{operation}: endless redirects: {_REMEDIES['PermanentRedirect']}"
        )
    if isinstance(error, OSError | b.BotoCoreError):
        return UnavailableError(f"{operation}: {_kind(error)}")
    # urllib3's, where a body is read below botocore
    return UnavailableError(f"{operation}: {_kind(error)}: {error}")


def _kind(error: Any) -> str:
    return type(error).__name__


def _is_unreachable(error: Exception) -> bool:
    from botocore import exceptions as b

    known = (
        b.EndpointConnectionError,
        b.ConnectTimeoutError,
        b.ReadTimeoutError,
        b.ProxyConnectionError,
    )
    return isinstance(error, known)


def error_of_answer(response: dict[str, Any], operation: str) -> RemoteError:
    """The fault that an answer stands for, in the shape that boto3 gives it."""
    detail = response.get("Error", {})
    code = str(detail.get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{operation}: {status} {code}: {_short(detail.get('Message', ''))}"
    if status == 404:
        return _absent_or_not_s3(code, operation, said)
    if status == 304:
        return NotModifiedError(said)
    if status == 412 or code == "PreconditionFailed":
        return ChangedError(said)
    if status == 416:
        return OutOfRangeError(said)
    if status == 409:
        return ConflictError(said)
    if status == 405 and code in ("", "405"):  # a store would have named its reason
        return MisconfiguredError(f"{said}: the endpoint {_NOT_S3}")
    if status == 501 or code in ("NotImplemented", "MethodNotAllowed"):
        return NotSupportedError(said)
    if status in (429, 500, 502, 503, 504) or code in _BUSY:
        return UnavailableError(said)
    if code in _EXPIRED:
        return MisconfiguredError(f"{said}: the credentials have expired; renew session_token")
    if code in _REMEDIES:
        region = (
            response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        )
        hint = f" ({region})" if region and "region" in _REMEDIES[code] else ""
        denied = code in ("AccessDenied", "AllAccessDisabled")
        return MisconfiguredError(f"{said}: {_REMEDIES[code]}{hint}", denied=denied)
    if status in (301, 302, 307, 308):
        return MisconfiguredError(f"{said}: {_REMEDIES['PermanentRedirect']}")
    if status in (401, 403):
        return MisconfiguredError(f"{said}: {_REMEDIES['AccessDenied']}", denied=status == 403)
    if status < 400 and code not in ("InternalError", "ServiceUnavailable"):
        return MisconfiguredError(f"{said}: the endpoint {_NOT_S3}")
    if status < 400:
        return UnavailableError(said)  # Complete may say 200 and then that it failed
    return RefusedError(said)


def _absent_or_not_s3(code: str, operation: str, said: str) -> RemoteError:
    if code == "NoSuchBucket":
        return MisconfiguredError(f"{said}: {_REMEDIES['NoSuchBucket']}")
    # An answer to HEAD has no body to name a code, and to delete what is absent may be a 404.
    if code in _ABSENT or operation in ("head_object", "delete_object", "abort_multipart_upload"):
        return AbsentError(said)
    if code.startswith("NoSuch"):  # NoSuchLifecycleConfiguration and their like
        return AbsentError(said)
    return MisconfiguredError(f"{said}: the endpoint {_NOT_S3}")


def is_expired_token(error: Exception) -> bool:
    """Whether newer credentials from the same place may help."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return False
    return error.response.get("Error", {}).get("Code", "") in _EXPIRED


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 200 else line[:200] + "..."
