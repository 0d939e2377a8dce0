"""OpenStack Swift behind its s3api: the second family, which says openly what it cannot do.

Of Debian only python3-swift is needed, the library without the packages that start services; its
four servers run from here with rings of one replica on one folder.
"""

import array
import getpass
import gzip
import hashlib
import http.client
import json
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .process import HOST, MissingServer
from .s3 import S3Server

INSTALL = """OpenStack Swift is not installed. `make test` installs it where there is apt, else:
  pip install swift into any Python and name that one in COGCACHE_TEST_SWIFT_PYTHON.
COGCACHE_TEST_WITHOUT=swift leaves out the tests that need it."""

RUN = """
import json, os, sys
from swift.common.utils import parse_options, set_swift_dir
from swift.common.storage_policy import reload_storage_policies
from swift.common.wsgi import run_wsgi
kind = sys.argv.pop(1)
set_swift_dir(os.path.dirname(sys.argv[1]))
reload_storage_policies()

class Cache:  # in the place of memcached; there is one proxy, which clears what it changes
    def __init__(self):
        self.kept = {}

    def get(self, key, **_):
        return json.loads(self.kept.get(key, "null"))

    def set(self, key, value, **_):
        self.kept[key] = json.dumps(value)

    def delete(self, key, **_):
        self.kept.pop(key, None)

def cache_factory(*_, **__):
    def put_in(app, cache=Cache()):
        def handle(env, start_response):
            env["swift.cache"] = cache
            return app(env, start_response)
        return handle
    return put_in

conf, options = parse_options()
if kind == "object":
    from swift.obj.server import global_conf_callback
    options["global_conf_callback"] = global_conf_callback
sys.exit(run_wsgi(conf, kind + "-server", **options))
"""

STORAGE = """[DEFAULT]
bind_ip = {host}
bind_port = {port}
bind_timeout = 1
swift_dir = {folder}
devices = {folder}/data
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
workers = 0
user = {user}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

PROXY = """[DEFAULT]
bind_ip = {host}
bind_port = {port}
bind_timeout = 1
swift_dir = {folder}
workers = 0
user = {user}
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth bulk slo dlo \
proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:cache]
use = call:__main__:cache_factory
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
"""
HASH_SUFFIX = "cogcache"
PART_POWER = 3
PLAIN_FILTERS = (
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "listing_formats",
    "bulk",
    "slo",
    "dlo",
)


def python_with_swift() -> str:
    """The Python that has Swift: Debian's own, mostly not the one that runs the tests."""
    seek = "import importlib.util, sys; sys.exit(importlib.util.find_spec('swift') is None)"
    name = os.environ.get("COGCACHE_TEST_SWIFT_PYTHON", "/usr/bin/python3")
    if Path(name).exists():
        found = subprocess.run([name, "-c", seek], cwd="/", check=False, timeout=60)
        if found.returncode == 0:
            return name
    raise MissingServer(INSTALL)


class SwiftServer(S3Server):
    """Swift's proxy, account, container and object server."""

    name = "swift"
    # Its object server lists a folder for the newest file, then opens that; a write that has just
    # put a newer one beside it removes it in between. With one replica there is no other to ask.
    misses_while_replaced = True
    port_names = ("proxy", "account", "container", "object")

    def __init__(self) -> None:
        super().__init__()
        self.access_key = "test:tester"

    def commands_exist(self) -> None:
        self._python = python_with_swift()

    def prepare(self) -> None:
        known = {"host": HOST, "folder": self.folder, "user": getpass.getuser()}
        Path(self.folder, "data", "d1").mkdir(parents=True, exist_ok=True)
        self._write("swift.conf", f"[swift-hash]\nswift_hash_path_suffix = {HASH_SUFFIX}\n")
        for kind in self.port_names:
            text = PROXY if kind == "proxy" else STORAGE
            known |= {"port": self.ports[kind], "kind": kind, "secret": self.secret_key}
            self._write(f"{kind}.conf", text.format(**known))
            if kind != "proxy":
                write_ring(self.folder / f"{kind}.ring.gz", self.ports[kind])
        filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in PLAIN_FILTERS)
        with Path(self.folder, "proxy.conf").open("a") as proxy:
            proxy.write(filters)

    def commands(self) -> list[dict[str, Any]]:
        return [
            {"argv": [self._python, "-c", RUN, kind, str(self.folder / f"{kind}.conf"), "-v"]}
            for kind in self.port_names
        ]

    def answers(self) -> bool:
        for port in self.ports.values():
            with socket.create_connection((HOST, port), 1):
                pass
        return super().answers()

    def put_stamped(self, bucket: str, name: str, body: bytes, stamp: float) -> None:
        """Have its object server keep an object as if a proxy with another clock had brought it.

        Args:
            bucket: Of the object.
            name: Of it.
            body: Of it.
            stamp: Unix seconds; of two objects the one with the later stamp is kept.
        """
        path = f"/AUTH_{self.access_key.partition(':')[0]}/{bucket}/{name}"
        digest = hashlib.md5(f"{path}{HASH_SUFFIX}".encode(), usedforsecurity=False).digest()
        part = struct.unpack(">I", digest[:4])[0] >> (32 - PART_POWER)
        connection = http.client.HTTPConnection(HOST, self.ports["object"], timeout=60)
        headers = {"X-Timestamp": f"{stamp:.5f}", "Content-Type": "binary/octet-stream"}
        connection.request("PUT", f"/d1/{part}{quote(path)}", body, headers)
        status = connection.getresponse().status
        connection.close()
        assert status == 201, status

    def _write(self, name: str, text: str) -> None:
        Path(self.folder, name).write_text(text)


def write_ring(path: Path, port: int) -> None:
    """A ring of one replica on one device, in Swift's first format."""
    device = {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "d1", "meta": ""}
    device |= {"ip": HOST, "port": port, "replication_ip": HOST, "replication_port": port}
    about = {
        "devs": [device],
        "part_shift": 32 - PART_POWER,
        "replica_count": 1,
        "byteorder": "little",
    }
    text = json.dumps(about, sort_keys=True).encode()
    parts = array.array("H", [0] * (1 << PART_POWER))
    with gzip.open(path, "wb") as ring:
        ring.write(struct.pack("!4sHI", b"R1NG", 1, len(text)) + text + parts.tobytes())
