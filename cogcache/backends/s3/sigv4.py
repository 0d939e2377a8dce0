"""AWS Signature Version 4 for requests to objects of S3, as the service asks for it: the path is
signed as it is sent, and the hash of the payload (or that there is none) is a header.

Pure: nothing is sent, read or remembered here but the key of a day.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from typing import Final, Protocol
from urllib.parse import quote

__all__ = ["EMPTY", "UNSIGNED", "Credentials", "Signer", "path_of", "query_of"]

ALGORITHM: Final = "AWS4-HMAC-SHA256"
EMPTY: Final = hashlib.sha256(b"").hexdigest()  # hash of no payload
UNSIGNED: Final = "UNSIGNED-PAYLOAD"


class Credentials(Protocol):
    """What requests are signed with, of one moment; botocore's frozen ones are such."""

    @property
    def access_key(self) -> str:
        """Its name."""
        ...

    @property
    def secret_key(self) -> str:
        """Never sent."""
        ...

    @property
    def token(self) -> str | None:
        """Of temporary ones."""
        ...


def path_of(name: str) -> str:
    """The name of an object as it stands in a URL."""
    return quote(name, safe="/")


def query_of(parameters: Iterable[tuple[str, str]]) -> str:
    """Parameters as they stand in a URL, in the order in which they are signed."""
    encoded = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in parameters)
    return "&".join(f"{name}={value}" for name, value in encoded)


class Signer:
    """Signs for one region and service. Usable from any thread."""

    __slots__ = ("_key", "_moment", "_region", "_service")

    def __init__(self, region: str, service: str = "s3") -> None:
        self._region = region
        self._service = service
        self._key: tuple[str, str, bytes] = ("", "", b"")
        self._moment = (-1, "")

    def sign(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        payload: str,
        credentials: Credentials,
        when: float,
    ) -> dict[str, str]:
        """All headers of a request, the signature among them.

        Args:
            method: ``"GET"`` or the like.
            path: As it is sent, see ``path_of``.
            query: As it is sent, see ``query_of``; may be empty.
            headers: Those to sign, ``host`` among them; their names in lower case.
            payload: SHA-256 of the body in hexadecimal digits, or ``UNSIGNED``.
            credentials: Those of now.
            when: Seconds since 1970.
        """
        stamp = self._stamp(when)
        signed = {**headers, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(signed)
        listed = ";".join(names)
        lines = [f"{name}:{' '.join(signed[name].split())}" for name in names]
        canonical = "\n".join([method, path, query, *lines, "", listed, payload])
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"{ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        key = self._key_of(credentials.secret_key, stamp[:8])
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"{ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={listed}, Signature={signature}"
        )
        return signed

    def _stamp(self, when: float) -> str:
        second, stamp = self._moment
        if second != int(when):
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(when))
            self._moment = (int(when), stamp)
        return stamp

    def _key_of(self, secret: str, day: str) -> bytes:
        known, its_day, key = self._key
        if known != secret or its_day != day:
            key = f"AWS4{secret}".encode()
            for word in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._key = (secret, day, key)
        return key
