"""What comes of asking a remote tier instead of an answer, told apart by what is to be done.

Each kind of tier adds what only its server says.

::

    OSError
    └── RemoteError
        ├── AbsentError              there is no such thing: a miss
        ├── RefusedError             the server will never do this; says why
        └── UnavailableError         no usable answer now; ``unreachable``: not a byte of one
            ├── NotAskedError        the breaker is open: nothing was sent
            ├── MismatchError        an answer to something else than what was asked
            └── MisconfiguredError   only a change of the configuration helps; names the remedy
"""

from __future__ import annotations

__all__ = [
    "AbsentError",
    "BusyError",
    "MisconfiguredError",
    "MismatchError",
    "NotAskedError",
    "RefusedError",
    "RemoteError",
    "UnavailableError",
]


class RemoteError(OSError):
    """A request did not do what was asked."""


class AbsentError(RemoteError):
    """There is no such thing."""


class RefusedError(RemoteError):
    """The server refuses this request for good."""


class UnavailableError(RemoteError):
    """No usable answer now.

    Attributes:
        unreachable: Not a byte of an answer came.
    """

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class NotAskedError(UnavailableError):
    """Nothing was sent."""


class BusyError(NotAskedError):
    """No thread of ours was free for it: that says nothing about the server."""


class MismatchError(UnavailableError):
    """The answer belongs to something else than what was asked for."""


class MisconfiguredError(UnavailableError):
    """Nothing helps but another configuration; the message names the remedy.

    Attributes:
        denied: The credentials are good, but may not do this.
    """

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied
