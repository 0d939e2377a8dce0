"""The memo of content digests: the second look is a stat, and losing the memo costs time only."""

import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.fakesystem import FakeSystem
from support_user import place_for_others

from cogcache import sources
from cogcache.memo import DigestMemo
from cogcache.sources import capture

ROOT = Path(__file__).parents[2]
RECORD, HEAD = 64, 32


class Later(FakeSystem):
    """A machine on which all files of the test are old already."""

    def now_ns(self):
        return super().now_ns() + 10**10


def make(path, data=b"a video"):
    path.write_bytes(data)
    return path


def records(memo):
    size = memo.path.stat().st_size - HEAD
    assert size % RECORD == 0
    return size // RECORD


@pytest.fixture
def video(tmp_path):
    return make(tmp_path / "v.mp4", os.urandom(3_000_000))


@pytest.fixture
def memo(tmp_path):
    return DigestMemo(tmp_path / "memo")


@pytest.mark.parametrize("identity", ["content", "sha256"])
def test_the_second_capture_reads_nothing(video, memo, identity):
    system = Later()
    first = capture(video, identity, memo=memo, system=system)
    assert system.called("read") >= 3
    again = Later()

    assert capture(video, identity, memo=memo, system=again) == first
    assert again.called("read") == again.called("open") == 0
    assert first.fingerprint == capture(video, identity).fingerprint


def test_another_process_finds_what_one_recorded(video, memo):
    first = capture(video, "content", memo=memo, system=Later())
    again = Later()

    assert capture(video, "content", memo=DigestMemo(memo.path), system=again) == first
    assert again.called("open") == 0
    open_one = DigestMemo(memo.path)
    other = make(video.with_name("w.mp4"), b"other")
    capture(other, "content", memo=memo, system=Later())
    again = Later()
    capture(other, "content", memo=open_one, system=again)
    assert again.called("open") == 0


def test_kinds_do_not_mix(video, memo):
    system = Later()
    content = capture(video, "content", memo=memo, system=system)
    sha = capture(video, "sha256", memo=memo, system=system)

    assert len(content.digest) == 16
    assert len(sha.digest) == 32
    assert records(memo) == 2


def test_samples_are_not_remembered(video, memo):
    capture(video, "sampled", memo=memo, system=Later())

    assert not memo.path.exists()


def test_without_a_memo_every_capture_reads(video):
    system = Later()
    capture(video, "content", system=system)
    capture(video, "content", system=system)

    assert system.called("open") == 2


@pytest.mark.parametrize(
    ("changed", "local", "remote"),
    [
        ({"st_size": 1}, True, True),
        ({"st_mtime_ns": 5}, True, True),
        ({"st_ctime_ns": 5}, True, True),
        ({"st_ino": 5}, True, False),
        ({"st_dev": 5}, True, False),
        ({"st_mode": 0o100600, "st_uid": 5, "st_nlink": 2}, False, False),
    ],
    ids=str,
)
def test_what_makes_the_memo_miss_on_a_stand_in(video, memo, changed, local, remote):
    for is_remote, misses in ((False, local), (True, remote)):
        system = Later()
        system.remote = is_remote
        capture(video, "content", memo=memo, system=system)
        again = Later()
        again.remote = is_remote
        again.facts[os.fsencode(video)] = changed
        capture(video, "content", memo=memo, system=again)
        assert (again.called("open") > 0) == misses


def test_another_path_makes_the_memo_miss(video, memo):
    capture(video, "content", memo=memo, system=Later())
    os.link(video, video.with_name("w.mp4"))
    system = Later()
    capture(video.with_name("w.mp4"), "content", memo=memo, system=system)

    assert system.called("open") == 1


def test_a_digest_is_not_remembered_while_the_ctime_is_young(video, memo):
    system = FakeSystem()
    system.now = video.stat().st_ctime_ns + 9_000_000
    capture(video, "content", memo=memo, system=system)
    assert not memo.path.exists()
    system.remote = True
    system.now = video.stat().st_ctime_ns + 1_900_000_000
    capture(video, "content", memo=memo, system=system)
    assert not memo.path.exists()
    system.now += 200_000_000
    capture(video, "content", memo=memo, system=system)
    assert records(memo) == 1


def test_setting_the_mtime_back_does_not_deceive_the_memo(video, memo):
    before = capture(video, "content", memo=memo, system=Later())
    data = bytearray(video.read_bytes())
    data[1_500_000] ^= 1
    video.write_bytes(data)
    os.utime(video, ns=(before.mtime_ns, before.mtime_ns))

    after = capture(video, "content", memo=memo, system=Later())

    assert capture(video) == capture(video)
    assert after.mtime_ns == before.mtime_ns
    assert after.fingerprint != before.fingerprint


def test_an_edit_that_moves_no_time_is_seen_without_the_memo_on_a_stand_in(video, memo):
    """As a second store through a mapping is."""
    found = video.stat()
    still = {f"st_{name}_ns": getattr(found, f"st_{name}_ns") for name in ("mtime", "ctime")}
    system = Later()
    system.facts[os.fsencode(video)] = still
    before = capture(video, "content", memo=memo, system=system)
    data = bytearray(video.read_bytes())
    data[0] ^= 1
    video.write_bytes(data)

    assert capture(video, "content", memo=memo, system=system) == before
    assert capture(video, "content", system=system).fingerprint != before.fingerprint


def test_a_file_that_changed_while_it_was_read_is_not_remembered(video, memo):
    class Meanwhile(Later):
        def open(self, path):
            fd = super().open(path)
            if self.called("open") == 1:
                make(video, b"another")
            return fd

    ref = capture(video, "content", memo=memo, system=Meanwhile())

    assert ref == capture(video, "content")
    assert capture(video, "content", memo=DigestMemo(memo.path), system=Later()) == ref
    assert records(memo) == 1


# --- the file of the memo -------------------------------------------------------------------------

KEYS = [bytes([number]) * 16 for number in range(256)]
DIGEST = bytes(range(16))


def test_every_damage_is_a_memo_that_knows_less(memo):
    for key in KEYS[:4]:
        memo.put(key, DIGEST)
    good = memo.path.read_bytes()
    for at in range(len(good)):
        memo.path.write_bytes(good[:at] + bytes([good[at] ^ 0x80]) + good[at + 1 :])
        known = [DigestMemo(memo.path).get(key) for key in KEYS[:4]]
        assert all(found in (None, DIGEST) for found in known)
        assert known.count(None) == (4 if at < HEAD else 1)
    for cut in range(len(good)):
        memo.path.write_bytes(good[:cut])
        known = [DigestMemo(memo.path).get(key) for key in KEYS[:4]]
        whole = max(0, cut - HEAD) // RECORD
        assert known == [DIGEST] * whole + [None] * (4 - whole)


@pytest.mark.parametrize("junk", [b"", b"x", b"x" * 5000, b"\0" * 96], ids=len)
def test_a_foreign_or_empty_file_is_replaced_by_the_first_record(memo, junk):
    memo.path.write_bytes(junk)
    assert memo.get(KEYS[0]) is None
    memo.put(KEYS[0], DIGEST)

    assert DigestMemo(memo.path).get(KEYS[0]) == DIGEST
    assert records(memo) == 1


def test_a_torn_record_is_cleared_away_by_the_next(memo):
    memo.put(KEYS[0], DIGEST)
    with memo.path.open("ab") as out:
        out.write(b"torn")
    other = DigestMemo(memo.path)
    other.put(KEYS[1], DIGEST)

    fresh = DigestMemo(memo.path)
    assert [fresh.get(key) for key in KEYS[:3]] == [DIGEST, DIGEST, None]
    assert records(memo) == 2


def test_the_file_is_bounded_and_keeps_the_newest(tmp_path):
    memo = DigestMemo(tmp_path / "memo", max_records=10)
    sizes = []
    for key in KEYS:
        memo.put(key, DIGEST)
        sizes.append(records(memo))
    fresh = DigestMemo(memo.path, max_records=10)

    assert max(sizes) == 20
    assert all(fresh.get(key) == DIGEST for key in KEYS[-10:])
    assert fresh.get(KEYS[0]) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["memo"]


def test_a_replaced_file_is_noticed(tmp_path):
    writer, reader = (DigestMemo(tmp_path / "memo", max_records=4) for _ in range(2))
    writer.put(KEYS[0], DIGEST)
    assert reader.get(KEYS[0]) == DIGEST
    for key in KEYS[1:30]:
        writer.put(key, DIGEST)

    assert reader.get(KEYS[29]) == DIGEST


def test_a_deleted_file_comes_back_with_what_is_known(memo):
    memo.put(KEYS[0], DIGEST)
    memo.path.unlink()
    assert memo.get(KEYS[0]) == DIGEST
    memo.put(KEYS[1], DIGEST)

    fresh = DigestMemo(memo.path)
    assert [fresh.get(key) for key in KEYS[:2]] == [DIGEST, DIGEST]


@pytest.mark.parametrize("place", ["symlink", "fifo", "directory", "nowhere"])
def test_a_hostile_place_is_a_memo_in_memory_only(tmp_path, place):
    target = tmp_path / "memo"
    victim = make(tmp_path / "victim", b"precious")
    if place == "symlink":
        target.symlink_to(victim)
    elif place == "fifo":
        os.mkfifo(target)
    elif place == "directory":
        target.mkdir()
    else:
        target = tmp_path / "none" / "memo"
    memo = DigestMemo(target)

    memo.put(KEYS[0], DIGEST)

    assert memo.get(KEYS[0]) == DIGEST
    assert DigestMemo(target).get(KEYS[0]) is None
    assert victim.read_bytes() == b"precious"


def test_a_file_of_a_stranger_is_not_believed(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    memo = DigestMemo(home / "memo")
    memo.put(KEYS[0], DIGEST)
    try:
        os.chown(memo.path, 65534, 65534)
    except OSError:
        pytest.skip("not run: needs root that may give a file away")
    assert DigestMemo(memo.path).get(KEYS[0]) is None
    os.chown(home, 65534, 65534)  # the owner of the directory is trusted
    assert DigestMemo(memo.path).get(KEYS[0]) == DIGEST
    os.chown(home, 0, 65534)
    home.chmod(0o2770)  # and its group when it is shared
    assert DigestMemo(memo.path).get(KEYS[0]) == DIGEST


def test_permissions_follow_the_directory(tmp_path):
    for mode, expected in ((0o700, 0o600), (0o770, 0o660)):
        home = tmp_path / f"{mode:o}"
        home.mkdir()
        home.chmod(mode)
        DigestMemo(home / "memo").put(KEYS[0], DIGEST)
        assert (home / "memo").stat().st_mode & 0o777 == expected


def test_the_memo_lives_in_the_root_or_with_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "root" / "v1").mkdir(parents=True)

    assert DigestMemo.for_root(tmp_path / "root").path == tmp_path / "root" / "v1" / "memo"
    user = DigestMemo.for_root(tmp_path / "unwritable")
    assert user.path == DigestMemo.for_root(None).path == tmp_path / "xdg" / "cogcache" / "memo"
    user.put(KEYS[0], DIGEST)
    assert DigestMemo.for_user().get(KEYS[0]) == DIGEST
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert DigestMemo.for_user().path == tmp_path / "home" / ".cache" / "cogcache" / "memo"


PROGRAM_READ_ONLY = """
import sys
from support_user import stop_being_root
from cogcache.memo import DigestMemo
stop_being_root()
print(DigestMemo.for_root(sys.argv[1]).path)
"""


def test_a_read_only_root_puts_the_memo_with_the_user(tmp_path):
    with place_for_others() as place:
        home = place / "root" / "v1"
        home.mkdir(parents=True)
        home.chmod(0o555)
        paths = {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "XDG_CACHE_HOME": str(tmp_path / "xdg"),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM_READ_ONLY, place / "root"],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            env=os.environ | paths,
        )

    assert done.stdout.strip() == str(tmp_path / "xdg" / "cogcache" / "memo")


def test_a_memo_is_picklable_by_its_place(memo):
    memo.put(KEYS[0], DIGEST)
    back = pickle.loads(pickle.dumps(memo))

    assert (back.path, back.max_records) == (memo.path, memo.max_records)
    assert back.get(KEYS[0]) == DIGEST


def test_a_memo_needs_room_for_a_record(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        DigestMemo(tmp_path / "memo", max_records=0)


def write_many(path, worker, count):
    memo = DigestMemo(path, max_records=200)
    for number in range(count):
        memo.put(f"{worker:08d}{number:08d}".encode(), f"{worker:08d}{number:08d}".encode())


def test_many_processes_share_a_memo_without_a_wrong_digest(tmp_path):
    path = tmp_path / "memo"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(path, n, 300)) for n in range(3)]
    for worker in workers:
        worker.start()
    reader = DigestMemo(path, max_records=200)
    while any(worker.is_alive() for worker in workers):
        for number in range(300):
            key = f"{1:08d}{number:08d}".encode()
            assert reader.get(key) in (None, key)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0

    fresh = DigestMemo(path, max_records=200)
    keys = [f"{w:08d}{n:08d}".encode() for w in range(3) for n in range(300)]
    known = [fresh.get(key) for key in keys]
    assert all(found in (None, key) for found, key in zip(known, keys, strict=True))
    assert sum(found is not None for found in known) >= 200
    assert path.stat().st_size <= HEAD + 2 * 200 * RECORD + 3 * RECORD


def test_many_threads_share_a_memo(memo):
    def work(worker):
        for number in range(200):
            key = f"{worker:08d}{number:08d}".encode()
            memo.put(key, key)
            assert memo.get(key) == key

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert records(memo) == 800


# --- slow reading ---------------------------------------------------------------------------------


def test_slow_reading_over_a_network_is_told_once(video, monkeypatch, caplog):
    monkeypatch.setattr(sources, "_told_slow", False)
    caplog.set_level(logging.INFO, logger="cogcache")
    system = Later()
    system.seconds = iter([0.0, 5.1, 10.0, 10.1, 20.0, 30.0, 40.0, 60.0])
    system.remote = False
    capture(video, "content", system=system)  # slow, but local
    assert not caplog.records
    system.remote = True
    capture(video, "content", system=system)  # remote, but quick
    assert not caplog.records
    capture(video, "content", system=system)
    capture(video, "content", system=system)

    assert [record.levelname for record in caplog.records] == ["INFO"]
    message = caplog.records[0].getMessage()
    assert "sampled" in message
    assert "source_id" in message
    assert "v.mp4" not in message
