"""redis-server: plain, with a password, over TLS, with little memory, behind a unix socket."""

import shutil
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .certs import Certificate, certificate
from .process import HOST, MissingServer, Server

INSTALL = """redis-server is not installed. `make test` installs it where there is apt; elsewhere:
  dnf install redis | brew install redis | apk add redis | conda install -c conda-forge redis-server
COGCACHE_TEST_WITHOUT=redis leaves out the tests that need it."""


def program() -> tuple[str, str]:
    """The name to run redis-server by, and the file to run.

    Debian's redis-tools brings the whole server as redis-check-rdb, which looks at the name it is
    run by; so no package has to be installed that starts a server on the machine.
    """
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            return name, path
    path = shutil.which("redis-check-rdb")
    if path:
        return "redis-server", path
    raise MissingServer(INSTALL)


class RedisServer(Server):
    """One redis-server.

    Args:
        password: what clients must say.
        tls: the port speaks TLS only; `certificate` is its own authority.
        maxmemory: limit in Redis' words, such as "8mb".
        policy: what goes when memory is full.
        append_only: keep every write over a kill (fsync on each).
    """

    name = "redis-server"

    def __init__(
        self,
        *,
        password: str | None = None,
        tls: bool = False,
        maxmemory: str | None = None,
        policy: str = "noeviction",
        append_only: bool = False,
    ) -> None:
        super().__init__()
        self.password, self.tls = password, tls
        self.maxmemory, self.policy, self.append_only = maxmemory, policy, append_only
        self.certificate: Certificate | None = None

    def commands_exist(self) -> None:
        program()

    def prepare(self) -> None:
        lines = [
            f"bind {HOST}",
            f"dir {self.folder}",
            f"unixsocket {self.socket}",
            "daemonize no",
            'save ""',
            f"appendonly {'yes' if self.append_only else 'no'}",
            "appendfsync always",
            f"maxmemory-policy {self.policy}",
        ]
        if self.maxmemory:
            lines.append(f"maxmemory {self.maxmemory}")
        if self.password:
            quoted = self.password.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'requirepass "{quoted}"')
        if self.tls:
            self.certificate = certificate(self.folder)
            lines += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {self.certificate.chain}",
                f"tls-key-file {self.certificate.key}",
                "tls-auth-clients no",
            ]
        else:
            lines.append(f"port {self.port}")
        Path(self.folder, "redis.conf").write_text("\n".join(lines) + "\n")

    def commands(self) -> list[dict[str, Any]]:
        name, path = program()
        return [{"argv": [name, "redis.conf"], "executable": path}]

    def answers(self) -> bool:
        import redis

        try:
            with self.client(socket_timeout=2) as client:
                return bool(client.info("server")["process_id"] == self.pids[0])
        except redis.RedisError:
            return False

    @property
    def socket(self) -> str:
        """The path of its unix socket (no TLS there)."""
        return str(self.folder / "redis.sock")

    @property
    def url(self) -> str:
        """``redis://`` or ``rediss://`` with the password in it."""
        who = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"{'rediss' if self.tls else 'redis'}://{who}{HOST}:{self.port}/0"

    def client(self, **settings: Any) -> Any:
        """A plain synchronous redis-py client, to look behind the back of what is tested."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        known: dict[str, Any] = {"host": HOST, "port": self.port, "password": self.password}
        known["retry"] = Retry(NoBackoff(), 0)
        if self.certificate is not None:
            known |= {"ssl": True, "ssl_ca_certs": self.certificate.chain}
        return redis.Redis(**(known | settings))

    def ssl_context(self) -> ssl.SSLContext:
        """A context that trusts this server alone."""
        assert self.certificate is not None
        return ssl.create_default_context(cafile=self.certificate.chain)
