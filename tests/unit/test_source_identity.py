"""What a source is: every case that the identity of a file, a name or a URI has to decide.

Cases that this machine cannot make (NFS, FAT, bind mounts, image layers, a failing disk) run
through a stand-in for the machine and are named so."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.fakesystem import HOME_ON_NFS, LOCAL, FakeSystem, NoSystem
from support_user import place_for_others

from cogcache.keys import Key
from cogcache.sources import SourceRef, SourceUnavailableError, capture, file_digest

ROOT = Path(__file__).parents[2]
OLD = 1_600_000_000_123_456_789


def make(path, data=b"a video", mtime_ns=OLD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def transcript(source, **how):
    return Key("", capture(source, **how), "transcript", {"model": "base", "lang": "auto"})


# --- identities -----------------------------------------------------------------------------------

PROGRAM = """
import sys
from cogcache.keys import Key
from cogcache.sources import capture
for kind in ("stat", "content", "sampled", "sha256"):
    print(Key("", capture(sys.argv[1], kind), "a"))
"""


def test_the_same_file_is_one_key_in_every_process(tmp_path):
    video = make(tmp_path / "v.mp4")
    here = [
        str(Key("", capture(video, kind), "a")) for kind in ("stat", "content", "sampled", "sha256")
    ]

    for seed in ("0", "99"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, video],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        )
        assert done.stdout.split() == here


@pytest.mark.parametrize("identity", ["stat", "content", "sampled", "sha256"])
def test_one_byte_more_is_another_key(tmp_path, identity):
    video = make(tmp_path / "v.mp4")
    before = transcript(video, identity=identity)

    make(video, b"a video!")

    assert transcript(video, identity=identity) != before


def test_the_same_name_in_two_directories_is_two_keys(tmp_path):
    one, two = make(tmp_path / "a" / "v.mp4"), make(tmp_path / "b" / "v.mp4")

    assert transcript(one) != transcript(two)


def test_stat_is_uri_size_and_mtime(tmp_path):
    video = make(tmp_path / "v.mp4")
    ref = capture(video)

    assert ref.kind == "stat"
    assert ref.identity == ["stat", f"file://{video}", 7, OLD]
    assert (ref.size, ref.mtime_ns, ref.digest, ref.etag) == (7, OLD, None, None)
    os.utime(video, ns=(OLD, OLD + 1))
    assert capture(video) != ref


def test_digests_share_copies_and_tell_contents_apart(tmp_path):
    data = os.urandom(3_000_000)
    video, copy = make(tmp_path / "v.mp4", data), make(tmp_path / "w.mp4", data, OLD + 5)
    middle = bytearray(data)
    middle[1_400_000] ^= 1
    edited = make(tmp_path / "x.mp4", bytes(middle))

    for identity in ("content", "sampled", "sha256"):
        assert transcript(video, identity=identity) == transcript(copy, identity=identity)
    for identity in ("content", "sha256"):
        assert transcript(video, identity=identity) != transcript(edited, identity=identity)
    assert (
        len({capture(video, i).fingerprint for i in ("stat", "content", "sampled", "sha256")}) == 4
    )


def test_samples_cover_both_ends_and_the_spread_between(tmp_path):
    size = 64 * 65_536
    base = capture(make(tmp_path / "v", bytes(size)), "sampled").fingerprint
    seen = []
    for at in range(0, size, 65_536):
        data = bytearray(size)
        data[at : at + 65_536] = b"\1" * 65_536
        seen.append(capture(make(tmp_path / "v", bytes(data)), "sampled").fingerprint != base)

    assert seen[0]
    assert seen[-1]
    assert 16 <= sum(seen) <= 32


def test_a_sample_of_a_small_file_is_all_of_it(tmp_path):
    for size in (0, 1, 65_536, 16 * 65_536):
        one = capture(make(tmp_path / "v", bytes(size)), "sampled")
        whole = capture(tmp_path / "v", "content")
        assert one.digest == whole.digest


def test_an_empty_file_has_an_identity(tmp_path):
    video = make(tmp_path / "v.mp4", b"")

    assert {capture(video, i).size for i in ("stat", "content", "sampled", "sha256")} == {0}


def test_a_copy_without_times_is_new_under_stat_and_known_under_content(tmp_path):
    video = make(tmp_path / "v.mp4")
    before = {i: transcript(video, identity=i) for i in ("stat", "content")}
    shutil.copyfile(video, tmp_path / "copy")
    os.replace(tmp_path / "copy", video)

    assert transcript(video) != before["stat"]
    assert transcript(video, identity="content") == before["content"]


def test_a_copy_with_times_to_another_path_likewise(tmp_path):
    video = make(tmp_path / "v.mp4")
    shutil.copy2(video, tmp_path / "w.mp4")

    assert capture(tmp_path / "w.mp4").mtime_ns == capture(video).mtime_ns
    assert transcript(tmp_path / "w.mp4") != transcript(video)
    assert transcript(tmp_path / "w.mp4", identity="content") == transcript(
        video, identity="content"
    )


def test_a_pointer_file_is_the_identity_of_its_text(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

    assert transcript(make(tmp_path / "p.mp4", pointer), identity="content") != transcript(
        make(tmp_path / "v.mp4"), identity="content"
    )


# --- names of files -------------------------------------------------------------------------------


def test_a_symlink_is_its_target(tmp_path):
    video = make(tmp_path / "real" / "v.mp4")
    (tmp_path / "link.mp4").symlink_to(video)
    (tmp_path / "folder").symlink_to(tmp_path / "real")

    for name in ("link.mp4", "folder/v.mp4", "real/../folder/v.mp4"):
        assert capture(tmp_path / name) == capture(video)
        assert capture(tmp_path / name, system=SlowNames()) == capture(video)


class SlowNames(FakeSystem):
    """A machine without O_PATH or /proc, such as macOS."""

    def probe(self, path):
        return self._probe_by_name(path)


def test_names_and_digests_need_no_help_of_linux(tmp_path, monkeypatch):
    video = make(tmp_path / "v.mp4", os.urandom(3_000_000))
    monkeypatch.setenv("COGCACHE_PLAIN_POSIX", "1")
    plain = FakeSystem()
    monkeypatch.delattr(os, "O_PATH", raising=False)
    monkeypatch.delattr(os, "preadv", raising=False)

    for identity in ("stat", "content", "sampled", "sha256"):
        assert capture(video, identity, system=plain) == capture(video, identity)

    assert capture(video, system=SlowNames()) == capture(video)
    assert capture(tmp_path / "none", system=SlowNames()) == capture(tmp_path / "none")


def test_a_symlink_to_another_video_is_a_change(tmp_path):
    make(tmp_path / "a.mp4"), make(tmp_path / "b.mp4")
    link = tmp_path / "current.mp4"
    link.symlink_to("a.mp4")
    ref = capture(link)
    assert not ref.changed()

    link.unlink()
    link.symlink_to("b.mp4")

    assert ref.changed()


def test_a_hard_link_is_another_key_under_stat_and_one_under_content(tmp_path):
    video = make(tmp_path / "v.mp4")
    os.link(video, tmp_path / "w.mp4")

    assert transcript(video) != transcript(tmp_path / "w.mp4")
    assert transcript(video, identity="content") == transcript(
        tmp_path / "w.mp4", identity="content"
    )


def test_a_bind_mount_is_another_path_on_a_stand_in(tmp_path):
    video = make(tmp_path / "v.mp4")
    system = FakeSystem()
    system.names[os.fsencode(video)] = b"/bound/v.mp4"

    assert capture(video, system=system).uri == "file:///bound/v.mp4"
    assert capture(video, system=system).fingerprint != capture(video).fingerprint
    assert (
        capture(make(tmp_path / "w.mp4"), "content", system=system).fingerprint
        == capture(video, "content").fingerprint
    )


def test_layers_that_change_inode_and_device_keep_the_key_on_a_stand_in(tmp_path):
    video = make(tmp_path / "v.mp4", mtime_ns=1_600_000_000 * 10**9)
    system = FakeSystem()
    before = capture(video, system=system)
    system.facts[os.fsencode(video)] = {"st_ino": 7, "st_dev": 99, "st_ctime_ns": 5}

    assert capture(video, system=system) == before
    assert not before.changed(system=system)


def test_a_relative_path_is_anchored_at_the_call(tmp_path, monkeypatch):
    video = make(tmp_path / "a" / "v.mp4")
    monkeypatch.chdir(tmp_path / "a")
    ref = capture("v.mp4")
    monkeypatch.chdir(tmp_path)

    assert ref == capture(video) == capture("a/v.mp4") == capture("./a//../a/v.mp4")
    assert not ref.changed()


PROGRAM_WITHOUT_DIRECTORY = """
import os, sys, tempfile
from cogcache.sources import SourceUnavailableError, capture
os.chdir(tempfile.mkdtemp())
os.rmdir(os.getcwd())
print(capture(sys.argv[1]).kind)
try:
    capture("v.mp4")
except FileNotFoundError as error:
    print(type(error).__name__)
"""


def test_a_relative_path_without_a_working_directory_is_an_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM_WITHOUT_DIRECTORY, make(tmp_path / "v.mp4")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert done.stdout.split() == ["stat", "FileNotFoundError"]


def test_a_tilde_is_a_name_like_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert capture("~/v.mp4").uri == f"file://{tmp_path}/~/v.mp4"


def test_one_path_is_one_key_however_it_is_spelled(tmp_path):
    video = make(tmp_path / "é v%20.mp4")
    text = str(video)
    quoted = video.as_uri()

    refs = [
        capture(given)
        for given in (video, text, os.fsencode(text), Path(text), quoted, quoted.encode())
    ]
    assert len(set(refs)) == 1
    assert refs[0].stem == "é v%20"


def test_a_name_that_is_no_utf_8_has_an_escaped_uri(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xff\xfe%.mp4"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    ref = capture(raw)

    assert ref.kind == "stat"
    assert ref.uri == f"file://{tmp_path}/%FF%FE%25.mp4"
    assert ref == capture(os.fsdecode(raw)) == capture(ref.uri)
    assert ref.stem == os.fsdecode(b"\xff\xfe%")
    assert pickle.loads(pickle.dumps(ref)) == ref
    json.dumps(ref.uri)


def test_neither_unicode_form_nor_case_is_folded(tmp_path):
    names = ["\u00e9.mp4", "e\u0301.mp4", "A.mp4", "a.mp4"]
    refs = {capture(make(tmp_path / name)).fingerprint for name in names}

    assert len(refs) == len(list(tmp_path.iterdir()))


def test_a_name_with_control_characters_shows_none(tmp_path):
    ref = capture(make(tmp_path / "a\n\x1b[31m\x85.mp4"))

    assert ref.uri.endswith("/a%0A%1B[31m%C2%85.mp4")


@pytest.mark.parametrize(
    "source", ["", b"", Path("a\0b"), "a\0b", b"a\0b", "file://", "s3://a\0b", "file:///a%00b"]
)
def test_what_is_no_path_is_a_value_error(source):
    with pytest.raises(ValueError, match="empty|NUL"):
        capture(source)


@pytest.mark.parametrize("source", [None, 5, 1.5, ["v.mp4"], object(), True])
def test_what_is_no_source_is_a_type_error(source):
    with pytest.raises(TypeError, match=type(source).__name__):
        capture(source)


# --- file:// --------------------------------------------------------------------------------------


def test_a_file_uri_is_a_path(tmp_path):
    video = make(tmp_path / "v é.mp4")

    for uri in (
        f"file://{video}",
        f"file://localhost{video}",
        f"FILE://LocalHost{video}",
        video.as_uri(),
    ):
        assert capture(uri) == capture(video)


def test_a_file_uri_of_another_host_is_never_opened():
    assert capture("file://NAS/v.mp4", system=NoSystem()).identity == ["opaque", "file://nas/v.mp4"]


def test_question_mark_and_hash_mean_nothing_in_a_file_uri(tmp_path):
    video = make(tmp_path / "what?v=1#2.mp4")

    assert capture(f"file://{video}") == capture(video)


def test_an_unescaped_path_behind_file_is_taken_when_only_it_exists(tmp_path):
    literal = make(tmp_path / "a%20b.mp4")

    assert capture(f"file://{literal}") == capture(literal)
    assert not capture(f"file://{literal}").changed()


def test_a_percent_decoded_path_is_taken_otherwise(tmp_path):
    make(tmp_path / "a b.mp4")

    assert capture(f"file://{tmp_path}/a%20b.mp4") == capture(tmp_path / "a b.mp4")
    assert capture(f"file://{tmp_path}/no%20ne").identity == ["absent", f"file://{tmp_path}/no ne"]


def test_a_file_uri_that_names_two_files_is_an_error(tmp_path):
    make(tmp_path / "a b.mp4"), make(tmp_path / "a%20b.mp4")

    with pytest.raises(ValueError, match="both exist; pass a path"):
        capture(f"file://{tmp_path}/a%20b.mp4")


def test_only_the_start_of_a_text_makes_it_a_uri(tmp_path):
    video = make(tmp_path / "x" / "s3:" / "b")

    assert capture(f"{tmp_path}/x/s3://b") == capture(video)
    assert capture(Path("s3://b/k")).kind == "absent"
    for text in ("1s3://b", "-x://b", "s3:/b", "s_3://b"):
        assert capture(text).uri.startswith("file:///")


# --- opaque URIs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["stat", "content", "sampled", "sha256"])
def test_a_uri_with_a_scheme_is_never_opened(identity):
    ref = capture("S3://Bucket/Key.mp4", identity, system=NoSystem())

    assert ref.identity == ["opaque", "s3://bucket/Key.mp4"]
    assert not ref.changed(system=NoSystem())
    assert ref.settle(system=NoSystem())
    assert ref.stem == "Key"


def test_scheme_and_host_have_no_case_and_the_rest_has():
    assert capture("HTTPS://Example.ORG/V.mp4?A=b").uri == "https://example.org/V.mp4?A=b"
    assert capture("https://h/a") != capture("https://h/A")
    assert capture("https://h/%41") != capture("https://h/A")


SECRETS = [
    "https://user:hunter2@example.org/v.mp4",
    "https://b.s3.amazonaws.com/v.mp4?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2"
    "&X-Amz-Security-Token=hunter2&X-Amz-Date=20251121T000000Z&X-Amz-Expires=900",
    "https://d.cloudfront.net/v.mp4?Expires=1763700000&Signature=hunter2&Key-Pair-Id=hunter2",
    "https://a.blob.core.windows.net/c/v.mp4?sv=2022-11-02&se=2025-11-21&sr=b&sp=r&sig=hunter2",
    "https://storage.googleapis.com/b/v.mp4?X-Goog-Signature=hunter2&X-Goog-Expires=900",
    "https://example.org/v.mp4?access_token=hunter2",
    "https://example.org/v.mp4?api_key=hunter2&password=hunter2",
    "rtsp://admin:hunter2@camera/stream",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_no_secret_of_a_uri_is_in_identity_key_or_text(uri):
    ref = capture(uri)
    key = Key("", ref, "transcript", {"model": "base"})
    shown = [
        repr(ref),
        str(ref.identity),
        str(ref.facts()),
        str(key),
        repr(key),
        str(key.explain()),
    ]

    assert not any("hunter2" in text for text in shown)
    assert b"hunter2" not in key.encoded
    assert b"hunter2" not in pickle.dumps(ref) + pickle.dumps(key)


def test_a_uri_signed_again_is_the_same_source():
    signed = "https://b.s3.amazonaws.com/v.mp4?versionId=7&X-Amz-Date={}&X-Amz-Signature={}"

    assert capture(signed.format(1, "a")) == capture(signed.format(2, "b"))
    assert capture(signed.format(1, "a")).uri == "https://b.s3.amazonaws.com/v.mp4?versionId=7"


def test_a_parameter_that_may_select_content_stays():
    assert capture("https://h/v?Expires=1") != capture("https://h/v?Expires=2")
    assert capture("https://h/v?se=1") != capture("https://h/v?se=2")
    assert capture("https://h/v?token=a") != capture("https://h/v?token=b")


# --- etag and source_id ---------------------------------------------------------------------------


def test_an_etag_is_the_identity_with_the_uri(tmp_path):
    one, two = (capture("s3://b/k", etag=tag) for tag in ('"1"', '"2"'))

    assert one.identity == ["etag", "s3://b/k", '"1"']
    assert one.etag == '"1"'
    assert one.fingerprint != two.fingerprint != capture("s3://b/k").fingerprint
    assert capture("s3://b/other", etag='"1"').fingerprint != one.fingerprint


def test_a_source_id_is_the_identity_without_the_uri(tmp_path):
    video = make(tmp_path / "v.mp4")
    refs = [capture(s, source_id="episode 7") for s in (video, "s3://b/k", tmp_path / "none")]

    assert {ref.fingerprint for ref in refs} == {refs[0].fingerprint}
    assert refs[0].identity == ["source_id", "episode 7"]
    assert refs[0].uri == f"file://{video}"
    assert capture(video, source_id=b"episode 7").fingerprint != refs[0].fingerprint
    make(video, b"another")
    assert not refs[0].changed()
    assert "episode" not in repr(refs[0])


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"source_id": ""}, ValueError),
        ({"source_id": b""}, ValueError),
        ({"etag": ""}, ValueError),
        ({"source_id": 5}, TypeError),
        ({"etag": b"x"}, TypeError),
        ({"source_id": "a", "etag": "b"}, ValueError),
        ({"source_id": "a\0"}, ValueError),
        ({"identity": "contents"}, ValueError),
        ({"identity": None}, ValueError),
        ({"identity": "STAT"}, ValueError),
    ],
)
def test_arguments_that_make_no_identity_are_refused(tmp_path, how, error):
    with pytest.raises(error) as caught:
        capture(make(tmp_path / "v.mp4"), **how)
    assert next(iter(how)) in str(caught.value) or "NUL" in str(caught.value)


def test_an_unknown_identity_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean content"):
        capture("v.mp4", "contnet")


def test_a_ref_is_returned_as_it_is_and_takes_no_other_identity(tmp_path):
    ref = capture(make(tmp_path / "v.mp4"))

    assert capture(ref) is ref
    assert capture(ref, "content") is ref
    with pytest.raises(ValueError, match="already"):
        capture(ref, source_id="a")


# --- what is not a readable file ------------------------------------------------------------------


def test_a_missing_file_has_the_identity_absent(tmp_path):
    for identity in ("stat", "content", "sampled", "sha256"):
        ref = capture(tmp_path / "none" / "v.mp4", identity)
        assert ref.identity == ["absent", f"file://{tmp_path}/none/v.mp4"]
        assert not ref.changed()
    assert transcript(tmp_path / "none.mp4") == transcript(tmp_path / "none.mp4")


def test_a_file_below_a_file_and_a_dangling_link_are_missing(tmp_path):
    make(tmp_path / "v.mp4")
    (tmp_path / "dangling").symlink_to("gone.mp4")

    assert capture(tmp_path / "v.mp4" / "x").kind == "absent"
    assert capture(tmp_path / "dangling").identity == ["absent", f"file://{tmp_path}/gone.mp4"]
    assert capture("x" * 5000).kind == "absent"


def test_appearing_and_disappearing_are_changes(tmp_path):
    absent = capture(tmp_path / "v.mp4")
    video = make(tmp_path / "v.mp4")
    assert absent.changed()
    there = {i: capture(video, i) for i in ("stat", "content", "sampled", "sha256")}
    assert not any(ref.changed() for ref in there.values())

    video.unlink()

    assert all(ref.changed() for ref in there.values())
    assert not absent.changed()


def test_a_kept_ref_still_names_the_artifacts_of_a_deleted_file(tmp_path):
    video = make(tmp_path / "v.mp4")
    ref = capture(video)
    before = Key("", ref, "transcript")
    video.unlink()

    assert Key("", pickle.loads(pickle.dumps(ref)), "transcript") == before
    assert transcript(video) != before


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "socket"])
def test_what_is_no_regular_file_is_a_value_error_that_names_the_way_out(tmp_path, kind):
    import socket

    target = tmp_path / "v.mp4"
    opened = None
    if kind == "directory":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "socket":
        opened = socket.socket(socket.AF_UNIX)
        opened.bind(str(target))
    else:
        target = Path("/dev/null")
    try:
        for identity in ("stat", "content"):
            with pytest.raises(ValueError, match="source_id="):
                capture(target, identity)
        assert capture(target, source_id="live").identity == ["source_id", "live"]
    finally:
        if opened:
            opened.close()


def test_a_fifo_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path):
    video = make(tmp_path / "v.mp4")

    class Swapping(FakeSystem):
        def open(self, path):
            video.unlink()
            os.mkfifo(video)
            return super().open(path)

    with pytest.raises(SourceUnavailableError):
        capture(video, "content", system=Swapping())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENOMEM])
def test_a_source_that_cannot_be_looked_at_is_unavailable_on_a_stand_in(tmp_path, code):
    video = make(tmp_path / "v.mp4")
    system = FakeSystem()
    ref = capture(video, system=system)
    system.errors[os.fsencode(video)] = code

    for identity in ("stat", "content"):
        with pytest.raises(SourceUnavailableError) as caught:
            capture(video, identity, system=system)
        assert caught.value.errno == code
        assert "v.mp4" not in str(caught.value)
    with pytest.raises(SourceUnavailableError):
        ref.changed(system=system)
    assert capture(video, source_id="a", system=system).uri == f"file://{video}"


def test_a_loop_of_symlinks_is_unavailable(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(SourceUnavailableError):
        capture(tmp_path / "a")


PROGRAM_UNPRIVILEGED = """
import sys
from support_user import stop_being_root
from cogcache.sources import SourceUnavailableError, capture
stop_being_root()
for source, identity in ((sys.argv[1], "stat"), (sys.argv[2], "stat"), (sys.argv[2], "content")):
    try:
        print(capture(source, identity).kind)
    except SourceUnavailableError as error:
        print(error.errno)
"""


def test_a_source_without_permission_is_unavailable():
    with place_for_others() as place:
        locked = make(place / "locked" / "v.mp4")
        unreadable = make(place / "v.mp4")
        unreadable.chmod(0)
        (place / "locked").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM_UNPRIVILEGED, locked, unreadable],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        )
        (place / "locked").chmod(0o700)

    # Looking needs no permission on the file itself; reading does.
    assert done.stdout.split() == [str(errno.EACCES), "stat", str(errno.EACCES)]


# --- young files ----------------------------------------------------------------------------------


def young(system, video, age_ns):
    system.now = os.stat(video).st_mtime_ns + age_ns
    return capture(video, system=system)


def test_a_young_mtime_takes_a_digest_that_is_not_in_the_key(tmp_path):
    video = make(tmp_path / "v.mp4")
    system = FakeSystem()
    old = capture(video, system=system)
    ref = young(system, video, 9_000_000)

    assert old.young_digest is None
    assert ref.young_digest is not None
    assert ref == old
    assert ref.fingerprint == old.fingerprint
    assert Key("", ref, "a") == Key("", old, "a")
    assert young(system, video, 10_000_000).young_digest is None


@pytest.mark.parametrize("case", ["remote", "coarse"])
def test_times_of_servers_and_without_fine_digits_are_young_for_two_seconds(tmp_path, case):
    video = make(
        tmp_path / "v.mp4", mtime_ns=OLD if case == "remote" else 1_600_000_000_123_000_000
    )
    system = FakeSystem()
    system.remote = case == "remote"

    assert young(system, video, 1_999_999_999).young_digest is not None
    assert young(system, video, 2_000_000_000).young_digest is None
    assert young(system, video, -5_000_000_000).young_digest is not None  # a clock that is ahead


def test_a_second_edit_in_one_tick_is_seen_when_the_file_was_young(tmp_path):
    video = make(tmp_path / "v.mp4", b"first ")
    system = FakeSystem()
    ref = young(system, video, 1)
    assert not ref.changed(system=system)

    make(video, b"second", OLD)

    assert capture(video, system=system).fingerprint == ref.fingerprint
    assert ref.changed(system=system)
    assert not ref.settle(system=system, sleep=lambda seconds: None)


def test_settling_waits_out_the_window_and_no_longer(tmp_path):
    video = make(tmp_path / "v.mp4")
    system = FakeSystem()
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        system.now += round(seconds * 1e9)

    for age, remote in ((1_000_000, False), (500_000_000, True), (-(10**15), True)):
        system.remote = remote
        ref = young(system, video, age)
        assert ref.settle(system=system, sleep=sleep)
        assert ref.settle(system=system, sleep=sleep)  # by now there is nothing to wait for
    assert waits == [0.009, 0.0, 1.5, 0.0, 2.0, 0.0]
    system.remote = False
    assert capture(video, system=FakeSystem()).settle(sleep=pytest.fail)


def test_an_old_file_is_settled_without_being_looked_at(tmp_path):
    system = FakeSystem()
    ref = capture(make(tmp_path / "v.mp4"), system=system)
    before = len(system.calls)

    assert ref.settle(system=system, sleep=pytest.fail)
    assert len(system.calls) == before
    assert ref.settle_seconds == 0.0


def test_a_file_that_ages_while_it_is_looked_at_was_young(tmp_path):
    video = make(tmp_path / "v.mp4")

    class Slow(FakeSystem):
        def probe(self, path):
            answer = super().probe(path)
            self.now = OLD + 10**12
            return answer

    system = Slow()
    system.now = OLD + 1

    assert capture(video, system=system).young_digest is not None


def test_a_file_that_changes_while_it_is_captured_is_captured_again(tmp_path):
    video = make(tmp_path / "v.mp4", b"old")

    class Meanwhile(FakeSystem):
        def open(self, path):
            if self.called("open") == 0:
                make(video, b"newer", OLD + 1)
            return super().open(path)

    ref = capture(video, "content", system=Meanwhile())

    assert ref == capture(video, "content")
    assert ref.size == 5
    assert not ref.changed()


def test_a_file_that_never_holds_still_is_captured_and_changed(tmp_path):
    video = make(tmp_path / "v.mp4", b"x")

    class Growing(FakeSystem):
        def open(self, path):
            with video.open("ab") as out:
                out.write(b"x")
            return super().open(path)

    system = Growing()
    ref = capture(video, "content", system=system)

    assert system.called("open") == 3
    assert ref.changed()


def test_changes_of_size_time_and_content_are_seen_by_the_kinds_that_can(tmp_path):
    video = make(tmp_path / "v.mp4", b"first ")
    refs = {i: capture(video, i) for i in ("stat", "content", "sampled", "sha256")}

    make(video, b"second", OLD)  # same size, mtime set back: ctime moves all the same
    assert {i: ref.changed() for i, ref in refs.items()} == {
        "stat": False,
        "content": True,
        "sampled": True,
        "sha256": True,
    }
    make(video, b"first ", OLD + 1)  # touched: the content is what it was
    assert {i: ref.changed() for i, ref in refs.items()} == {
        "stat": True,
        "content": False,
        "sampled": False,
        "sha256": False,
    }
    make(video, b"longer than before", OLD)
    assert all(ref.changed() for ref in refs.values())
    video.unlink()
    video.mkdir()
    assert all(ref.changed() for ref in refs.values())


# --- refs -----------------------------------------------------------------------------------------


def test_a_ref_is_frozen_hashable_and_picklable(tmp_path):
    ref = capture(make(tmp_path / "v.mp4"), "content")

    with pytest.raises(AttributeError):
        ref.uri = "other"
    back = pickle.loads(pickle.dumps(ref))
    assert back == ref
    assert hash(back) == hash(ref)
    assert back.fingerprint == ref.fingerprint
    assert back.path == os.fsencode(tmp_path / "v.mp4")
    assert not back.changed()


def test_the_uri_gives_the_hash_whatever_the_identity(tmp_path):
    video = make(tmp_path / "v.mp4")
    refs = [capture(video), capture(video, "content"), capture(video, source_id="x")]

    assert len({ref.uri_hash for ref in refs}) == 1
    assert 0 < refs[0].uri_hash < 2**64
    assert capture(tmp_path / "other").uri_hash != refs[0].uri_hash


def test_a_ref_comes_back_from_what_an_entry_keeps(tmp_path):
    video = make(tmp_path / "v.mp4")
    for ref in (
        *(capture(video, i) for i in ("stat", "content", "sampled", "sha256")),
        capture(video, etag="e"),
        capture(video, source_id=b"i"),
        capture("s3://b/k"),
        capture(tmp_path / "none"),
    ):
        back = SourceRef.from_identity(ref.identity, uri=ref.uri)
        assert back is not None
        assert back.fingerprint == ref.fingerprint
        assert back.kind == ref.kind
        assert not back.changed()
    for junk in (None, [], ["stat"], ["new kind", 1], ["stat", 1, 2, 3, 4], "stat"):
        assert SourceRef.from_identity(junk, uri="file:///v") is None


def test_file_digest_is_of_the_content(tmp_path):
    one, two = make(tmp_path / "a.pt", b"w" * 2_500_000), make(tmp_path / "b.pt", b"w" * 2_500_000)

    assert file_digest(one) == file_digest(str(two)) == capture(one, "content").digest.hex()
    assert file_digest(one) != file_digest(make(tmp_path / "c.pt", b"w"))
    with pytest.raises(ValueError, match="regular"):
        file_digest(tmp_path)
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "none")


# --- mounts ---------------------------------------------------------------------------------------


def test_the_table_of_mounts_tells_remote_from_local_paths():
    system = FakeSystem(
        HOME_ON_NFS
        + b"31 30 8:2 / /mnt/team\\040share/local rw - xfs /dev/sdb rw\n"
        + b"32 24 0:41 / /mnt/s3 rw shared:1 - fuse.s3fs s3fs rw\n"
        + b"33 24 8:3 / /mnt/ntfs rw - fuseblk /dev/sdc rw\n"
        + b"34 24 0:42 / /over rw - cifs //srv/x rw\n"
        + b"35 34 8:4 / /over rw - ext4 /dev/sdd rw\n"
        + b"broken line\n"
    )
    remote = [b"/mnt/team share", b"/mnt/team share/a/v.mp4", b"/mnt/s3/b"]
    local = [b"/", b"/v.mp4", b"/mnt", b"/mnt/team share/local/v", b"/mnt/team sharex/v"]

    assert all(map(system.is_remote, remote))
    assert not any(map(system.is_remote, [*local, b"/mnt/ntfs/v", b"/over/v", b"relative"]))
    assert not FakeSystem(LOCAL).is_remote(remote[0])


def test_a_local_symlink_into_a_remote_file_system_may_block(tmp_path):
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "link").symlink_to(share)
    (tmp_path / "deep").symlink_to("link/x")
    (tmp_path / "loop").symlink_to("loop")
    table = LOCAL + b"30 24 0:40 / " + os.fsencode(share) + b" rw - nfs4 server:/export rw\n"
    system = FakeSystem(table)

    for name in ("share/v", "link/v", "deep/v", "none/../link/v", "share", "link"):
        assert system.may_block(os.fsencode(tmp_path / name)), name
    for name in ("v", "none/v", "loop/v", "share/../v"):
        blocks = system.may_block(os.fsencode(f"{tmp_path}/{name}"))
        assert blocks == (name == "share/../v"), name
    assert FakeSystem(None).may_block(b"/v")
    assert FakeSystem(None).is_remote(b"/v")
    assert not FakeSystem(LOCAL).may_block(b"/v")
