"""Records of uploads under way: who may go on, with what, and what a kill or garbage leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogcache import _core
from cogcache.backends.s3.payload import Payload
from cogcache.backends.s3.resume import Part, Record, Records
from cogcache.keys import key_bytes

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
KEY = key_bytes("key")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[_core.Store]:
    store = _core.Store(str(tmp_path / "store"))
    yield store
    store.close()


@pytest.fixture
def records(store: _core.Store) -> Records:
    return Records(store, "0123456789abcdef")


def begun(records: Records, key: bytes = KEY, *, spent: bool = False) -> Record:
    record = records.make(key)
    assert record is not None
    assert record.begin("v1/object", "upload-7", 77, spent=spent)
    return record


def test_what_was_begun_is_found_when_it_is_released(records: Records) -> None:
    record = begun(records)
    assert records.find(KEY) is None  # ours
    assert records.make(KEY) is None
    record.release()
    found = records.find(KEY)
    assert found is not None
    assert (found.object, found.upload, found.mark, found.token) == (
        "v1/object",
        "upload-7",
        77,
        77,
    )
    found.done()
    assert records.find(KEY) is None


def test_where_nothing_can_be_locked_no_record_is_left(
    records: Records, store: _core.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr("cogcache.backends.s3.resume.fcntl.flock", no_locks)
        assert records.make(KEY) is None
        assert os.listdir(Path(store.root, "spool")) == []
    begun(records).done()


@pytest.mark.parametrize("way", ["begun so", "spent later"])
def test_a_spent_token_stays_spent(records: Records, way: str) -> None:
    record = begun(records, spent=way == "begun so")
    record.spend()
    record.release()
    found = records.find(KEY)
    assert found is not None and (found.token, found.mark) == (None, 77)
    found.renew()
    found.release()
    again = records.find(KEY)
    assert again is not None and again.token == 77


def test_a_token_that_cannot_be_spent_is_forgotten(records: Records, store: _core.Store) -> None:
    record = begun(records)
    assert record._fd is not None
    read_only = os.open(records._path(record.name), os.O_RDONLY)
    os.dup2(read_only, record._fd)  # as a disk that takes nothing any more
    os.close(read_only)
    record.spend()
    assert not os.path.exists(records._path(record.name))


def test_a_killed_process_leaves_its_record_to_others(records: Records) -> None:
    ready_out, ready_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            record = begun(records)
            os.write(ready_in, b".")
            signal.pause()
        finally:
            os._exit(record.mark)
    os.read(ready_out, 1)
    assert records.find(KEY) is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found = records.find(KEY)
    assert found is not None and found.upload == "upload-7"
    for fd in (ready_out, ready_in):
        os.close(fd)


def test_a_child_neither_keeps_nor_ends_the_record_of_its_parent(records: Records) -> None:
    record = begun(records)
    end_out, end_in = os.pipe()
    ready_out, ready_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            record.done()
            record.release()
            status = 0 if records.find(KEY) is None else 2
            os.write(ready_in, b".")
            os.read(end_out, 1)
        finally:
            os._exit(status)
    os.read(ready_out, 1)
    assert records.find(KEY) is None
    record.release()
    assert records.find(KEY) is not None  # although the child lives
    os.write(end_in, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (end_out, end_in, ready_out, ready_in):
        os.close(fd)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2}',
        b'{"version": 1, "upload": "x"}',
        b"\0" * 4096,
        b"\xff" * 9,
    ],
)
def test_garbage_is_a_record_without_an_upload(records: Records, garbage: bytes) -> None:
    record = begun(records)
    Path(records._path(record.name)).write_bytes(garbage)
    record.release()
    found = records.find(KEY)
    assert found is not None and (found.upload, found.token) == (None, None)
    assert found.begin("v1/object", "upload-8", 78, spent=False)
    found.release()
    found = records.find(KEY)
    assert found is not None and found.upload == "upload-8"


def test_the_oldest_and_the_old_are_left_over(records: Records) -> None:
    for number in range(6):
        record = begun(records, key_bytes(f"key:{number}"))
        record.release()
        os.utime(records._path(record.name), (1e9 + number, 1e9 + number))
    held = records.find(key_bytes("key:0"))
    assert held is not None
    few = [record.name for record in records.left_over(1e12, 3)]
    assert few == [records.name_of(key_bytes(f"key:{number}")) for number in (1, 2)]
    assert len(list(records.left_over(60, 100))) == 5
    held.release()
    other = Records(records._store, "fedcba9876543210")
    assert list(other.left_over(0, 0)) == []


def test_a_record_that_nobody_holds_any_more_is_free(records: Records) -> None:
    record = begun(records)
    del record
    assert records.find(KEY) is not None


def test_records_count_in_the_limit_of_the_store(records: Records, store: _core.Store) -> None:
    before = store.stats()["used_bytes"]
    record = begun(records)
    assert store.stats()["used_bytes"] > before
    assert os.stat(records._path(record.name)).st_size == 4096
    record.done()
    assert store.stats()["used_bytes"] == before


def test_parts_are_compared_by_length_and_digest() -> None:
    body = Payload([b"some ", b"bytes"])
    digest = hashlib.md5(b"some bytes", usedforsecurity=False).hexdigest()
    assert Part(10, f'"{digest}"').is_of(body) and Part(10, digest).is_of(body)
    assert not Part(9, digest).is_of(body)
    assert not Part(10, digest[::-1]).is_of(body)
    assert not Part(10, "").is_of(body)
