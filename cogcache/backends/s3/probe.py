"""What a store can do, found out by asking it: names and versions of stores do not tell.

One small object under ``<prefix>/.probe/`` is created, created again, looked at and deleted, before
the first write of a process. (What reading needs to know shows in the answers themselves.)
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from dataclasses import dataclass
from typing import Any, Final, Literal

from cogcache.backends.faults import AbsentError, MisconfiguredError, RefusedError, RemoteError
from cogcache.backends.lanes import Call
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.download import TOKEN
from cogcache.backends.s3.errors import ChangedError, NotSupportedError, OvertakenError
from cogcache.backends.s3.payload import Payload

__all__ = ["Abilities", "copies_of", "crc32", "probe"]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the store was seen to do.

    Attributes:
        create_once: ``If-None-Match: *`` refuses to replace an object. (Some stores do not know it,
            some take it and replace.)
        checksums: It takes a CRC-32 in a header.
        metadata: The write token in the metadata comes back.
        match_delete: ``If-Match`` keeps another generation from being deleted.
    """

    create_once: bool
    checksums: bool
    metadata: bool
    match_delete: bool


def crc32(body: Payload) -> str:
    """The CRC-32 of a body as its header wants it."""
    return base64.b64encode(body.crc32().to_bytes(4, "big")).decode()


_BODY: Final = b"cogcache"
_NEVER: Final = '"00000000000000000000000000000000"'


def probe(client: S3Client, call: Call, prefix: str) -> Abilities:
    """Ask the store; six small requests. Blocks.

    Raises:
        RemoteError: It does not work at all, or does not let us write.
    """
    name = f"{prefix}{secrets.token_hex(16)}"
    token = secrets.token_hex(8)
    plain: dict[str, Any] = {"Key": name, "Body": Payload([_BODY]), "Metadata": {TOKEN: token}}
    checksum = (
        {"ChecksumCRC32": crc32(Payload([_BODY]))}
        if client.knows("PutObject", "ChecksumCRC32")
        else {}
    )
    once = {"IfNoneMatch": "*"} if client.knows("PutObject", "IfNoneMatch") else {}
    tried: list[dict[str, Any]] = []
    for extra in ({**checksum, **once}, checksum, once, {}):
        if extra in tried:
            continue
        tried.append(extra)
        try:
            _put(client, call, plain | extra)
        except (NotSupportedError, RefusedError) as error:
            if not extra:
                raise MisconfiguredError(
                    f"{error}: the endpoint does not take objects; correct endpoint_url"
                ) from error
        else:
            break
    taken = tried[-1]
    try:
        return Abilities(
            create_once="IfNoneMatch" in taken and _refuses_again(client, call, plain | taken),
            checksums="ChecksumCRC32" in taken,
            metadata=_keeps_token(client, call, name, token),
            match_delete=_refuses_to_delete(client, call, name),
        )
    finally:
        with contextlib.suppress(RemoteError):
            client.send(call, client.small, "delete_object", Key=name)


def copies_of(client: S3Client, call: Call, prefix: str) -> Literal["guarded", "plain", "none"]:
    """Whether the store copies an object onto itself, and ``If-Match`` keeps that from replacing
    another generation; three or four small requests. Blocks.

    Raises:
        RemoteError: It does not work at all, or does not let us write.
    """
    name = f"{prefix}{secrets.token_hex(16)}"
    itself = {"Bucket": client.bucket, "Key": name}
    copy: dict[str, Any] = {"CopySource": itself, "MetadataDirective": "REPLACE"}
    guard = {"IfMatch": _NEVER} if client.knows("CopyObject", "IfMatch") else {}
    _put(client, call, {"Key": name, "Body": Payload([_BODY])})
    try:
        for extra in (guard, {}) if guard else ({},):
            try:
                client.send(call, client.small, "copy_object", Key=name, **copy, **extra)
            except ChangedError:
                return "guarded"
            except (NotSupportedError, RefusedError):
                continue
            return "plain"
        return "none"
    finally:
        with contextlib.suppress(RemoteError):
            client.send(call, client.small, "delete_object", Key=name)


def _put(client: S3Client, call: Call, params: dict[str, Any]) -> None:
    try:
        client.send(call, client.small, "put_object", **params)
    except ChangedError:
        if "IfNoneMatch" not in params:
            raise
        # Our own first try arrived although its answer was lost: a random name has no other owner.
    except OvertakenError:
        pass  # nor has anybody a newer one: a store that never says what it kept


def _refuses_again(client: S3Client, call: Call, params: dict[str, Any]) -> bool:
    try:
        client.send(call, client.small, "put_object", **params)
    except ChangedError:
        return True
    except (NotSupportedError, RefusedError, OvertakenError):
        return False
    return False


def _keeps_token(client: S3Client, call: Call, name: str, token: str) -> bool:
    answer = client.send(call, client.small, "head_object", Key=name)
    return bool(answer.get("Metadata", {}).get(TOKEN) == token)


def _refuses_to_delete(client: S3Client, call: Call, name: str) -> bool:
    if not client.knows("DeleteObject", "IfMatch"):
        return False
    try:
        client.send(call, client.small, "delete_object", Key=name, IfMatch=_NEVER)
    except ChangedError:
        return True
    except (NotSupportedError, RefusedError, AbsentError):
        return False
    return False
