"""Names of objects: one for each key, readable, and within what every store takes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cogcache.backends.base import KeyPattern
from cogcache.backends.s3.names import Name, Names, judge
from cogcache.keys import Key

NAMES = Names("team/artifacts")
SOURCE = bytes(range(16))
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=90)
awkward = st.sampled_from(
    ["-", ".", "..", ".hidden", "a/b", "a//b", "!", "!~", "a!~", "ü" * 80, "x" * 300, "%2F", "raw"]
)
profiles = texts | awkward
artifacts = (texts | awkward).filter(bool)
params = st.dictionaries(
    st.text("abcxyz_", min_size=1, max_size=5), st.integers() | texts, max_size=3
)
pipeline_keys = st.builds(Key, profiles, st.binary(min_size=16, max_size=16), artifacts, params)
raw_keys = (texts | awkward).filter(bool).map(Key.parse)
keys = pipeline_keys | raw_keys


def test_a_name_is_what_the_documentation_says() -> None:
    key = Key("prod", SOURCE, "transcript", {"model": "base"})
    assert NAMES.of_key(key.encoded) == (
        f"team/artifacts/v1/prod/{SOURCE.hex()}/transcript-{key.digest.hex()}"
    )
    raw = Key.parse("jobs:17/état")
    assert NAMES.of_key(raw.encoded) == (
        f"team/artifacts/v1/-/raw/jobs!3A17!2F!C3!A9tat-{raw.digest.hex()}"
    )
    assert Names("").of_key(raw.encoded).startswith("v1/-/raw/jobs")


@given(keys)
def test_every_store_takes_the_name(key: Key) -> None:
    name = Names("p" * 199 + "/" + "q" * 200).of_key(key.encoded)
    assert len(name.encode()) <= 1024 and name.isascii()
    segments = name.split("/")
    assert all(0 < len(one) <= 255 and one not in (".", "..") for one in segments)
    assert not any(one.startswith(".") for one in segments)


@given(keys)
@example(Key("-", SOURCE, "-", {}))
@example(Key("", SOURCE, "raw", {}))
@example(Key("..", SOURCE, ".", {}))
def test_a_name_says_what_it_was_made_from(key: Key) -> None:
    name = NAMES.parse(NAMES.of_key(key.encoded))
    assert name is not None and name.digest == key.digest
    if key.text is not None:
        assert name.source is None and name.text in (None, key.text)
        assert name.text is not None or len(key.text.encode()) > 70
    else:
        assert name.source == key.source
        assert name.profile in (None, key.profile) and name.text in (None, key.artifact)
        assert name.profile is not None or len(key.profile.encode()) > 70
        assert name.text is not None or len(key.artifact.encode()) > 70


@given(keys, keys)
def test_two_keys_have_two_names(one: Key, other: Key) -> None:
    assert (NAMES.of_key(one.encoded) == NAMES.of_key(other.encoded)) == (one == other)


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "team/artifacts/v1",
        "team/artifacts/v1/",
        "other/v1/-/raw/a-" + "0" * 32,
        "team/artifacts/v2/-/raw/a-" + "0" * 32,
        "team/artifacts/v1/-/raw/a-" + "0" * 32,  # a digest that is not the text's
        "team/artifacts/v1/x/raw/a-" + "0" * 32,
        "team/artifacts/v1/p/" + SOURCE.hex(),
        "team/artifacts/v1/p/" + SOURCE.hex() + "/",
        "team/artifacts/v1/p/" + SOURCE.hex() + "/-" + "0" * 32,
        "team/artifacts/v1/p/" + SOURCE.hex() + "/a-" + "0" * 31,
        "team/artifacts/v1/p/" + SOURCE.hex() + "/a-" + "A" * 32,
        "team/artifacts/v1/p/" + SOURCE.hex().upper() + "/b/a-" + "0" * 32,
        "team/artifacts/v1/p/" + SOURCE.hex() + "/b/a-" + "0" * 32,
        "team/artifacts/v1/.p/" + SOURCE.hex() + "/a-" + "0" * 32,
        "team/artifacts/v1/p!2e/" + SOURCE.hex() + "/a-" + "0" * 32,
        "team/artifacts/v1/p!41/" + SOURCE.hex() + "/a-" + "0" * 32,  # we write A
        "team/artifacts/v1/p!FF/" + SOURCE.hex() + "/a-" + "0" * 32,
        "team/artifacts/v1/p q/" + SOURCE.hex() + "/a-" + "0" * 32,
    ],
)
def test_what_we_did_not_write_is_foreign(foreign: str) -> None:
    assert NAMES.parse(foreign) is None


@given(st.text())
def test_no_name_breaks_the_parser(text: str) -> None:
    for name in (text, f"team/artifacts/v1/{text}", f"team/artifacts/v1/-/raw/{text}"):
        found = NAMES.parse(name)
        assert found is None or isinstance(found, Name)


patterns = st.lists(
    st.sampled_from(["*", "video", "prof", "p%3Aq", SOURCE.hex(), "transcript", "a", "k=1", "b"]),
    min_size=1,
    max_size=6,
).map(":".join)
near_keys = st.builds(
    Key,
    st.sampled_from(["", "prof", "p:q", "video", "a"]),
    st.sampled_from([SOURCE, SOURCE[::-1]]),
    st.sampled_from(["transcript", "a", "k=1", "x" * 300]),
    st.sampled_from([{}, {"k": 1}, {"k": 1, "z": None}]),
) | st.sampled_from(
    ["a", "a:b", "a:b:transcript", "video", "video:a", "prof:video", "a" * 300 + ":b", "b:a:" * 99]
).map(Key.parse)


@given(patterns, near_keys)
def test_a_judgement_by_name_is_that_by_key(pattern: str, key: Key) -> None:
    meant = KeyPattern(pattern)
    name = NAMES.of_key(key.encoded)
    parsed = NAMES.parse(name)
    assert parsed is not None
    verdict, truth = judge(meant, parsed), meant.matches(str(key))
    assert verdict is None or verdict == truth
    if truth:  # nothing that is meant lies outside of what is listed
        assert any(name.startswith(one) for one in NAMES.list_prefixes(meant))


def test_a_video_is_listed_and_judged_without_its_objects() -> None:
    pattern = KeyPattern(f"prof:video:{SOURCE.hex()}:*")
    assert sorted(NAMES.list_prefixes(pattern)) == [
        f"team/artifacts/v1/-/raw/prof!3Avideo!3A{SOURCE.hex()}",
        f"team/artifacts/v1/prof/{SOURCE.hex()}/",
    ]
    for artifact in ("transcript", "keyframes"):
        key = Key("prof", SOURCE, artifact, {"k": 1})
        parsed = NAMES.parse(NAMES.of_key(key.encoded))
        assert parsed is not None and judge(pattern, parsed) is True


@given(pipeline_keys, st.integers(0, 2**64 - 1))
def test_a_marker_leads_from_a_uri_to_its_objects(key: Key, uri_hash: int) -> None:
    marker = NAMES.of_marker(uri_hash, key.encoded)
    assert marker is not None and marker.startswith(NAMES.markers(uri_hash))
    objects = NAMES.of_marked(marker)
    assert objects is not None and NAMES.of_key(key.encoded).startswith(objects)
    assert NAMES.of_marker(uri_hash, Key.parse("text").encoded) is None
    assert NAMES.of_marked(marker + "/x") is None and NAMES.of_marked("other") is None
    uri, _, source = marker.removeprefix(NAMES.sources).split("/")
    assert NAMES.of_marked(f"{NAMES.sources}{uri}/not ours/{source}") is None
