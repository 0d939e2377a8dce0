"""Settings from code, URLs, the environment and a file: which one counts, where it is said to come
from, and what is refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support_cache import DictConfig, DictTier

from cogcache import (
    CacheBackendRegistry,
    CacheConfig,
    ChunkingConfig,
    CogcacheWarning,
    ConfigError,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
    S3CacheConfig,
    Settings,
)
from cogcache.settingsfile import _lines_of, read_settings


def _load(directory: Path, text: str = "", **named: Any) -> Settings:
    file = directory / "cogcache.toml"
    file.write_text(text)
    return Settings.load(directory=directory, **{"environ": {}, **named})


def _origin(settings: Settings, name: str) -> str:
    return next(row.origin for row in settings.effective if row.name == name)


def _value(settings: Settings, name: str) -> Any:
    return next(row.value for row in settings.effective if row.name == name)


def test_the_defaults_are_those_of_the_classes(tmp_path: Path) -> None:
    settings = Settings.load(directory=tmp_path, environ={})
    assert settings.file is None
    assert settings.cache == CacheConfig((FilesystemCacheConfig("~/.cache/cogcache"),))
    assert (settings.profile, settings.identity, settings.memo) == (None, "stat", True)
    assert settings.ttl == {"*": "7d"}
    origins = {row.origin for row in settings.effective}
    assert origins == {"default", "order of the tiers"}
    assert {f"chunking.{f.name}" for f in dataclasses.fields(ChunkingConfig)} <= {
        row.name for row in settings.effective
    }


TEXT = """\
tiers = ["/data?not-a-query", "s3://bucket/pre?region=url"]
profile = "file"

[s3]
region = "file"
hedge_reads = true
endpoint_url = "http://file"
profile = "file"
"""


def test_code_counts_more_than_url_environment_file_and_default(tmp_path: Path) -> None:
    environ = {
        "COGCACHE_S3_REGION": "env",
        "COGCACHE_S3_PROFILE": "env",
        "COGCACHE_S3_ENDPOINT": "http://env",
    }
    settings = _load(tmp_path, TEXT, environ=environ, s3={"endpoint": "http://code"})
    config = settings.cache.backends[1]
    assert isinstance(config, S3CacheConfig)
    assert (config.bucket, config.clean_prefix) == ("bucket", "pre")
    told = {name: _origin(settings, f"tiers[1].{name}") for name in config.to_dict()}
    file = tmp_path / "cogcache.toml"
    assert (config.endpoint_url, told["endpoint_url"]) == ("http://code", "code")
    assert (config.region, told["region"]) == ("url", f"{file}:1 in the URL")
    assert (config.profile, told["profile"]) == ("env", "$COGCACHE_S3_PROFILE")
    assert (config.hedge_reads, told["hedge_reads"]) == (True, f"{file}:6")
    assert (config.direct_requests, told["direct_requests"]) == (True, "default")
    assert settings.cache.backends[0] == FilesystemCacheConfig("/data?not-a-query", priority=0)


def test_each_single_name_and_each_life_has_its_own_origin(tmp_path: Path) -> None:
    text = 'profile = "file"\ndefault_ttl = "1h"\nmemo = false\n[ttl]\nkeyframes = "30d"\n"*" = 5\n'
    environ = {"COGCACHE_DEFAULT_TTL": "2h", "COGCACHE_TTL_TRANSCRIPT": "3d"}
    settings = _load(tmp_path, text, environ=environ, profile="code", identity="content")
    file = tmp_path / "cogcache.toml"
    assert (settings.profile, settings.cache.default_ttl) == ("code", "2h")
    assert (settings.memo, settings.identity) == (False, "content")
    assert settings.ttl == {"*": 5, "keyframes": "30d", "transcript": "3d"}
    for name, origin in (
        ("profile", "code"),
        ("default_ttl", "$COGCACHE_DEFAULT_TTL"),
        ("memo", f"{file}:3"),
        ("ttl.keyframes", f"{file}:5"),
        ("ttl.*", f"{file}:6"),
        ("ttl.transcript", "$COGCACHE_TTL_TRANSCRIPT"),
    ):
        assert _origin(settings, name) == origin
    assert "default_ttl  " in str(settings) and "$COGCACHE_DEFAULT_TTL" in str(settings)
    # One life for all is for all, whatever weaker places say of some.
    assert _load(tmp_path, text, environ={"COGCACHE_TTL": "1d"}).ttl == {"*": "1d"}


def test_a_cache_is_opened_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "team.toml"
    file.write_text(
        'tiers = ["near"]\nprofile = "team"\nidentity = "sha256"\n[ttl]\nkeyframes = 60\n'
        '[chunking]\nchunk_size = "1MiB"\n[filesystem]\nmax_size = "1GB"\n'
    )
    cache = PipelineArtifactCache.from_config(file, memo=False)
    try:
        assert (cache.profile, cache.identity, cache.memo) == ("team", "sha256", False)
        assert cache.ttl == {"*": "7d", "keyframes": 60}
        config = cache.cache.backends[0].config
        assert config == FilesystemCacheConfig(str(tmp_path / "near"), 1000)
        assert cache.cache.config.chunking == ChunkingConfig(chunk_size=1 << 20)
        assert CacheConfig.load(file) == cache.cache.config
    finally:
        cache.sync.aclose()
    with pytest.raises(TypeError, match="no further options"):
        PipelineArtifactCache.from_config(Settings.load(file), profile="x")


def test_open_without_tiers_reads_the_settings_and_with_tiers_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[tool.cogcache]\nprofile = "file"\ntiers = ["memory://"]\n'
    )
    cache = PipelineArtifactCache.open(identity="content")
    assert (cache.profile, cache.identity) == ("file", "content")
    assert cache.cache.backends[0].config == MemoryCacheConfig()
    given = PipelineArtifactCache.open("memory://?max_size=5MB")
    assert (given.profile, given.identity, given.ttl) == (None, "stat", "7d")
    assert given.cache.backends[0].config == MemoryCacheConfig(5)
    (tmp_path / "pyproject.toml").write_text("[tool.cogcache]\nprofile = 5\n")
    with pytest.raises(ConfigError, match=r"pyproject.toml:2: profile must be a string"):
        PipelineArtifactCache.open()


def test_the_nearest_file_counts_and_others_projects_do_not(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "cogcache.toml").write_text('profile = "top"\n')
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\n  broken = = 5\n")
    (deep / "pyproject.toml").write_text("[project]\n# tool.cogcache is not used here\n")
    found = Settings.load(directory=deep, environ={})
    assert (found.profile, found.file) == ("top", tmp_path / "cogcache.toml")
    (deep / "pyproject.toml").write_text('tool.cogcache.profile = "near"\n')
    near = Settings.load(directory=deep, environ={})
    assert (near.profile, _origin(near, "profile")) == ("near", f"{deep / 'pyproject.toml'}:1")
    named = Settings.load(directory=deep, environ={"COGCACHE_CONFIG": str(found.file)})
    assert named.profile == "top"
    assert Settings.load(directory=deep, environ={"COGCACHE_CONFIG": os.devnull}).profile is None


def test_a_strangers_file_in_a_public_directory_is_passed_over(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    file = public / "cogcache.toml"
    file.write_text('tiers = ["redis://theirs"]\n')
    os.chown(file, 12345, 12345)
    with pytest.warns(CogcacheWarning, match=r"is passed over: everybody may write to .*public"):
        assert Settings.load(directory=public, environ={}).file is None
    public.chmod(0o755)
    assert Settings.load(directory=public, environ={}).file == file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profile = = 5", r"cogcache\.toml:1:11: Invalid value"),
        ('a = 1\nb = "open', r"cogcache\.toml:2:\d+: "),
        ("x = [", r"cogcache\.toml:1:\d+: "),
        ('\nproflie = "x"', r"toml:2: unknown name 'proflie'; did you mean 'profile'\?"),
        ("[s3]\nreigon = 'x'", r"toml:2: unknown option 'reigon' of s3; did you mean 'region'"),
        ("[ttl]\nkeyframe = 5", r"toml:2: ttl: unknown artifact 'keyframe'; did you mean"),
        ("[ttl]\nkeyframes = -5", r"toml:2: ttl of keyframes must not be negative"),
        ("ttl = true", r"toml:1: ttl of \* must be seconds"),
        ("default_ttl = 'soon'", r"toml:1: default_ttl: cannot read 'soon'"),
        ("default_ttl = 2026-01-01", r"toml:1: default_ttl must be seconds"),
        ("identity = 'stats'", r"toml:1: identity: unknown value 'stats'; did you mean 'stat'"),
        ("memo = 1", r"toml:1: memo must be True or False"),
        ("enable_stats = 'yes'", r"toml:1: enable_stats must be True or False"),
        ("chunking = 5", r"toml:1: chunking must be a table"),
        ("[chunking]\n\nchunk_size = -5", r"toml:3: chunk_size must be a finite number of at l"),
        ("[chunking]\nchunk_size = '5 parsecs'", r"toml:2: chunk_size: cannot read the size"),
        ("[chunking]\nchunk_size = 1\nchunkSize = 1", r"toml:3: chunking.chunk_size is said twice"),
        ("backends = []\ntiers = []", r"toml:1: 'backends' and 'tiers' are the same"),
        ("tiers = []", r"toml:1: tiers is empty"),
        ("tiers = 'x'", r"toml:1: tiers must be a list"),
        ("tiers = [5]", r"toml:1: tiers\[0\] must be a directory, a URL or a table"),
        ("\ntiers = ['s3://b?max_siez=5']", r"toml:2: s3 URL: unknown option 'max_siez'"),
        ("tiers = ['redi://h']", r"toml:1: tier redi://\.\.\.: .*; did you mean 'redis'"),
        ("[[tiers]]\nregion = 'x'", r"toml:1: backend_type is missing"),
        ("[[tiers]]\nbackend_type = 's33'", r"toml:2: backend_type: unknown value 's33'; did "),
        ("[[tiers]]\nurl = 's3://b'\nregoin = 'x'", r"toml:3: unknown option 'regoin' of the tier"),
        ("[[tiers]]\nbase_path = 'x'\n[[tiers]]\nbase_path = ''", r"toml:4: base_path must be"),
        ("[[tiers]]\nurl = 'file:///x'\nmax_size = 50", r"toml:3: max_size needs a text with a un"),
        ("[[tiers]]\nurl = 'file:///x'\nmax_size = '50'", r"toml:3: max_size: '50' needs a unit"),
        ("[[tiers]]\nurl = 'file:///x'\nmax_size = '5MB'", r"toml:3: max_size_mb must be at lea"),
        ("[[tiers]]\nurl = 'file:///x'\nshared = true", r"toml:3: shared must be False or 'group"),
    ],
)
def test_a_fault_of_the_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        _load(tmp_path, text)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("COGCACHE_PROFLIE", "x", "no such variable; did you mean 'COGCACHE_PROFILE'"),
        ("COGCACHE_TIRES", "x", "did you mean 'COGCACHE_TIERS'"),
        ("COGCACHE_S3_REGOIN", "x", "unknown option 'regoin' of s3; did you mean 'region'"),
        ("COGCACHE_CHUNKING_CHUNK_SIZE", "many", "chunk_size: cannot read the size 'many'"),
        ("COGCACHE_CHUNKING_TIMEOUT_MS", "1.5", "timeout_ms must be a number, not '1.5'"),
        ("COGCACHE_ENABLE_STATS", "maybe", "enable_stats must be true or false, not 'maybe'"),
        ("COGCACHE_ENABLE_COMPRESSION", "atuo", "enable_compression must be True, False or 'auto'"),
        ("COGCACHE_DEFAULT_TTL", "-1", "default_ttl must not be negative"),
        ("COGCACHE_IDENTITY", "etag", "identity: unknown value 'etag'"),
        ("COGCACHE_MEMO", "2", "memo must be true or false"),
        ("COGCACHE_TIERS", "file:///d?max_size_mb=5", "max_size_mb must be at least 17"),
        ("COGCACHE_TIERS", "file:///d?max_size_mb=x", "cannot read the size 'x'"),
        ("COGCACHE_TIERS", "memory://host", "no host"),
        ("COGCACHE_DIR", "file://host/x", "of this host"),
        ("COGCACHE_FILESYSTEM_MAX_SIZE", "5", "needs a unit"),
    ],
)
def test_a_fault_of_a_variable_is_named_with_it(
    tmp_path: Path, variable: str, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(directory=tmp_path, environ={variable: text})
    assert str(caught.value).startswith(f"${variable}")
    assert said in str(caught.value)
    assert (caught.value.origin or "").startswith(f"${variable}")


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    environ = {
        "COGCACHE_TORTURE": "1",
        "COGCACHE_TEST_WITHOUT": "redis",
        "COGCACHE_PORT": "tcp://10.0.0.7:80",  # as Kubernetes sets them
        "COGCACHE_SERVICE_HOST": "10.0.0.7",
        "COGCACHE_SERVICE_PORT_HTTP": "80",
        "COGCACHE_PORT_80_TCP_ADDR": "10.0.0.7",
        "COGCACHEX": "x",
    }
    assert Settings.load(directory=tmp_path, environ=environ).profile is None


def test_a_variable_takes_what_the_option_takes(tmp_path: Path) -> None:
    environ = {
        "COGCACHE_TIERS": "/c",
        "COGCACHE_ENABLE_COMPRESSION": "Yes",
        "COGCACHE_DEFAULT_TTL": "none",
        "COGCACHE_CHUNKING_CHUNK_SIZE": "8 MiB",
        "COGCACHE_CHUNKING_EDGE_CACHE_TTL": "1.5",
        "COGCACHE_FILESYSTEM_MAX_SIZE_MB": "2.5TB",
        "COGCACHE_FILESYSTEM_MIN_FREE_MB": "500",
        "COGCACHE_FILESYSTEM_SHARED": "group",
        "COGCACHE_FILESYSTEM_READ_ONLY": "auto",
        "COGCACHE_FILESYSTEM_MAX_VALUE_SIZE": "none",
        "COGCACHE_FILESYSTEM_ENABLED": "on",
    }
    cache = Settings.load(directory=tmp_path, environ=environ).cache
    assert (cache.enable_compression, cache.default_ttl) == (True, None)
    assert cache.chunking == ChunkingConfig(chunk_size=8 << 20, edge_cache_ttl=1.5)
    assert cache.backends[0] == FilesystemCacheConfig(
        "/c", 2_500_000, min_free_mb=500, shared="group", read_only="auto"
    )


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    text = """
    [[tiers]]
    url = "redis://whoever:s3cret@host/1?slice_size=1MiB"
    [[tiers]]
    backend_type = "s3"
    bucket = "b"
    access_key = "s3cret1"
    """
    environ = {"COGCACHE_S3_SECRET_KEY": "s3cret2", "COGCACHE_REDIS_PASSWORD": "s3cret3"}
    settings = _load(tmp_path, text, environ=environ)
    redis, s3 = settings.cache.backends
    assert isinstance(s3, S3CacheConfig)
    assert (s3.access_key, s3.secret_key) == ("s3cret1", "s3cret2")
    shown = str(settings) + repr(settings) + repr(redis)
    assert "s3cret" not in shown and "whoever" not in shown
    assert _value(settings, "tiers[0].url") == "redis://host/1"
    assert _value(settings, "tiers[0].password") == "(set, not shown)"
    assert _origin(settings, "tiers[0].password") == "$COGCACHE_REDIS_PASSWORD"
    for wrong in (
        "redis://u:s3cret@[::1",
        "redis://u:s3c?ret@h",
        "redis://u:s3cret@h:bad",
        "rdis://u:s3cret@h",
        "s3://k:s3cret@bucket",
        "s3://bucket?secret_key=s3cret",
        "file://u:s3cret@h/x",
        "memory://u:s3cret@h",
        "redis://u:s3cret@h#x",
    ):
        with pytest.raises(ConfigError) as caught:
            Settings.load(directory=tmp_path, environ={"COGCACHE_TIERS": f"'{wrong}'"})
        assert "s3c" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_directory_with_the_query_of_a_url_is_told_to_be_one(tmp_path: Path) -> None:
    odd = tmp_path / "odd?name=yes"
    odd.mkdir()
    assert Settings.load(tiers=[str(odd)]).cache.backends
    with pytest.raises(ConfigError, match=r"a directory has no options; .*file:.*max_size=\.\.\."):
        Settings.load(tiers=[f"{tmp_path}?max_size=50GB"])


def test_redis_url_is_named_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@there:1/2")
    settings = _load(tmp_path, "[[tiers]]\nbackend_type = 'redis'\n")
    assert _value(settings, "tiers[0].url") == "redis://there:1/2"
    assert _origin(settings, "tiers[0].url") == "$REDIS_URL"


def test_settings_of_a_kind_that_no_tier_has_are_warned_about(tmp_path: Path) -> None:
    with pytest.warns(CogcacheWarning, match=r"cogcache.toml:2: s3.region has no effect"):
        _load(tmp_path, "[s3]\nregion = 'x'\n")


def test_json_with_the_names_of_older_configurations(tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    backends = [{"backend_type": "structured_filesystem", "base_path": "rel", "max_size_mb": 50}]
    values = {"backends": backends, "kvChunking": {"parallelFetches": 5}, "default_ttl": 60}
    file.write_text(json.dumps(values, indent=1))
    settings = Settings.load(file, environ={})
    assert settings.cache.backends[0].base_path == str(tmp_path / "rel")  # type: ignore[union-attr]
    assert settings.cache.chunking == ChunkingConfig(parallel_fetches=5)
    assert _origin(settings, "default_ttl") == str(file)
    for text, said in (
        ('{\n "a": }', r"cache.json:2:7: "),
        ("[]", "must hold names and values"),
        ("[" * 100_000, "cache.json: cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            Settings.load(file, environ={})


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: cannot be read: No such file"):
        Settings.load(tmp_path / "no.toml")
    file = tmp_path / "cogcache.toml"
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"cogcache\.toml:2: is not UTF-8 text"):
        Settings.load(directory=tmp_path)
    file.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="at most 1,048,576 bytes"):
        Settings.load(directory=tmp_path)
    file.write_text("a = " + "[" * 50_000)
    with pytest.raises(ConfigError, match="cogcache.toml"):
        Settings.load(directory=tmp_path)


def test_every_name_of_a_file_has_its_line() -> None:
    text = """\
a = 1
"b c".d = '''
e = 2
'''
f = [  # g = 3
  {h = 1},
  "i = [",
]
[j."k"]  # l
m = {n = 1}
[[o]]
p = 1
[[o]]
p = 2
q = \"\"\"r = 1\"\"\"
s . t = 5
"""
    tomllib.loads(text)
    assert _lines_of(text) == {
        ("a",): 1,
        ("b c", "d"): 2,
        ("f",): 5,
        ("j", "k"): 9,
        ("j", "k", "m"): 10,
        ("o", 0): 11,
        ("o", 0, "p"): 12,
        ("o", 1): 13,
        ("o", 1, "p"): 14,
        ("o", 1, "q"): 15,
        ("o", 1, "s", "t"): 16,
    }


def test_the_file_of_the_documentation_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    settings = _load(tmp_path, text)
    files, s3 = settings.cache.backends
    assert files == FilesystemCacheConfig(str(tmp_path / "cache"), 50_000, priority=0)
    assert s3 == S3CacheConfig(
        "team-artifacts", "/prod", region="eu-central-1", hedge_reads=True, priority=1
    )
    assert settings.ttl == {"*": "7d", "keyframes": "30d"}
    assert _origin(settings, "tiers[0].max_size_mb") == f"{tmp_path / 'cogcache.toml'}:16"


def test_an_origin_falls_back_to_the_table_around_it(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("\nchunking = { chunk_size = 5000 }\n")
    assert read_settings(file).origin("chunking", "chunk_size") == f"{file}:2"
    assert read_settings(file).origin("other") == str(file)


def test_tiers_of_other_kinds_take_their_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        CacheBackendRegistry, "_classes", {**CacheBackendRegistry._classes, "dict": DictTier}
    )
    settings = _load(tmp_path, "[[tiers]]\nbackend_type = 'dict'\npriority = 7\n")
    config = settings.cache.backends[0]
    assert isinstance(config, DictConfig)
    assert (config.backend_type, config.priority) == ("dict", 7)


def test_configurations_in_the_code_are_taken_as_they_are(tmp_path: Path) -> None:
    tiers = [MemoryCacheConfig(5), {"url": "s3://b", "region": "x"}, tmp_path / "files"]
    settings = Settings.load(directory=tmp_path, environ={"COGCACHE_TIERS": "/no"}, tiers=tiers)
    memory, s3, files = settings.cache.backends
    assert memory == MemoryCacheConfig(5, priority=0)
    assert s3 == S3CacheConfig("b", region="x", priority=1)
    assert files == FilesystemCacheConfig(str(tmp_path / "files"), priority=2)
    assert _origin(settings, "tiers[0].max_size_mb") == "code"
