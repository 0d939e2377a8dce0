"""A breaker: when a server does not answer, stop asking it for a while, and notice when it is back.

A remote tier asks ``enter`` before each call and reports what came of it. While the breaker is open
``enter`` answers ``None`` at once, so that an outage costs microseconds and not a time-out a call.
After a pause that doubles from 1 to 30 seconds *one* call is let through as a probe: it closes the
breaker or begins the next pause.

What counts as a failure is whether the server does its work, not whether it likes the request: an
object that is absent (404), a condition that does not hold (412) and a range past the end (416) are
successes. A refusal of the credentials or an unknown bucket is neither: no retry helps until
somebody changes the configuration, so it opens the breaker in the state ``"configuration"``, with
longer pauses.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from random import SystemRandom
from typing import Final, Literal

from cogcache._fork import renew_after_fork

__all__ = ["Attempt", "Breaker", "State"]

State = Literal["closed", "open", "half-open", "configuration"]

WINDOW_SECONDS: Final = 10.0
LEAST_CALLS: Final = 20  # in the window, before a rate says anything
FAILURE_RATE: Final = 0.5
UNREACHABLE_IN_A_ROW: Final = 5
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
FIRST_CONFIGURATION_PAUSE_SECONDS: Final = 60.0
LONGEST_CONFIGURATION_PAUSE_SECONDS: Final = 300.0
PROBE_SECONDS: Final = 30.0  # a probe that has not reported by then has another one beside it
_JITTER: Final = 0.2  # a pause is shortened by up to this share, never lengthened
_BUCKETS: Final = 10


class Attempt:
    """One call that was let through. The first report counts, later ones do nothing; ``dropped`` is
    for a call that says nothing about the server (cancelled, or it never began).
    """

    __slots__ = ("_breaker", "_era", "_open", "_probe")

    def __init__(self, breaker: Breaker, era: int, probe: int) -> None:
        self._breaker = breaker
        self._era = era
        self._open = True
        self._probe = probe

    @property
    def is_probe(self) -> bool:
        """Whether it was let through although the breaker is open."""
        return self._probe > 0

    def succeeded(self) -> None:
        """The server did its work."""
        self._report("success")

    def failed(self, *, unreachable: bool = False) -> None:
        """The server did not do its work.

        Args:
            unreachable: Not a byte of an answer came: refused, no route, or nothing in time.
        """
        self._report("unreachable" if unreachable else "failure")

    def misconfigured(self) -> None:
        """The server refuses what only a change of the configuration can mend."""
        self._report("configuration")

    def dropped(self) -> None:
        """Nothing is known."""
        self._report("nothing")

    def _report(self, outcome: str) -> None:
        if self._open:
            self._open = False
            self._breaker._report(self._era, self._probe, outcome)


class Breaker:
    """Opens at 50 % failures of at least 20 calls in 10 seconds, or at five calls in a row that
    reached nobody.

    Usable from any thread. After a fork the child keeps the state and forgets the calls under way.
    Memory is bounded: ten counters for the window and nothing per call.

    Args:
        clock: Monotonic seconds.
        random: Uniform in [0, 1), for the jitter of pauses. The default is safe across forks.
        unreachable_in_a_row: Instead of five.

    Attributes:
        opened: How often it has opened from closed.
        rejected: Calls that were not let through.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] | None = None,
        unreachable_in_a_row: int = UNREACHABLE_IN_A_ROW,
    ) -> None:
        self._clock = clock
        self._most_unreachable = unreachable_in_a_row
        self._random = SystemRandom().random if random is None else random
        self._lock = threading.Lock()
        self._era = 0  # reports of calls that were let through in an earlier era say nothing now
        self._window: deque[list[int]] = deque(maxlen=_BUCKETS)  # [second, calls, failures]
        self._unreachable = 0
        self._why: Literal["closed", "open", "configuration"] = "closed"
        self._pause = 0.0
        self._next_probe = 0.0
        self._probe = 0  # the number of the last one
        self._probe_ends: float | None = None
        self.opened = 0
        self.rejected = 0
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside, and its calls are not ours."""
        self._lock = threading.Lock()
        self._era += 1
        self._probe_ends = None

    @property
    def state(self) -> State:
        """``closed``, ``open``, ``half-open`` (a probe may go or is under way), or
        ``configuration``.
        """
        with self._lock:
            if self._why != "open":
                return self._why
            probing = self._probe_ends is not None or self._clock() >= self._next_probe
            return "half-open" if probing else "open"

    @property
    def retry_seconds(self) -> float:
        """How long until a call is let through; 0 when closed."""
        with self._lock:
            if self._why == "closed":
                return 0.0
            at = self._next_probe if self._probe_ends is None else self._probe_ends
            return max(0.0, at - self._clock())

    def enter(self) -> Attempt | None:
        """Ask to make a call; ``None`` means that the tier is not to be asked now."""
        with self._lock:
            if self._why == "closed":
                return Attempt(self, self._era, 0)
            now = self._clock()
            taken = self._probe_ends is not None and now < self._probe_ends
            if taken or now < self._next_probe:
                self.rejected += 1
                return None
            self._probe += 1
            self._probe_ends = now + PROBE_SECONDS
            return Attempt(self, self._era, self._probe)

    def refuses(self) -> bool:
        """Whether ``enter`` would answer ``None`` now; counted as rejected if so. For asking before
        the work of a call begins, when ``enter`` comes later in another thread.
        """
        with self._lock:
            if self._why == "closed":
                return False
            now = self._clock()
            taken = self._probe_ends is not None and now < self._probe_ends
            refused = taken or now < self._next_probe
            self.rejected += refused
            return refused

    # --- inside -----------------------------------------------------------------------------------

    def _report(self, era: int, probe: int, outcome: str) -> None:
        with self._lock:
            if era != self._era:
                return
            if probe:
                # One that was given up for lost has only good news to tell: it took long.
                if probe == self._probe or outcome == "success":
                    self._end_probe(outcome)
            elif outcome != "nothing":
                self._count(outcome)

    def _end_probe(self, outcome: str) -> None:
        self._probe_ends = None
        if outcome == "success":
            self._why = "closed"
            self._pause = 0.0
            self._era += 1
            self._reset_window()
        elif outcome == "nothing":
            return  # the next caller is the probe
        else:
            self._begin_pause(outcome)

    def _count(self, outcome: str) -> None:
        if outcome == "configuration":
            self._open(outcome)
            return
        failed = outcome != "success"
        self._unreachable = self._unreachable + 1 if outcome == "unreachable" else 0
        now = self._clock()
        width = WINDOW_SECONDS / _BUCKETS
        number = int(now / width)
        while self._window and self._window[0][0] <= number - _BUCKETS:
            self._window.popleft()
        if not self._window or self._window[-1][0] != number:
            self._window.append([number, 0, 0])
        self._window[-1][1] += 1
        self._window[-1][2] += failed
        if not failed:
            return
        calls = sum(bucket[1] for bucket in self._window)
        failures = sum(bucket[2] for bucket in self._window)
        if self._unreachable >= self._most_unreachable or (
            calls >= LEAST_CALLS and failures >= FAILURE_RATE * calls
        ):
            self._open(outcome)

    def _open(self, outcome: str) -> None:
        self.opened += 1
        self._era += 1
        self._pause = 0.0
        self._begin_pause(outcome)

    def _begin_pause(self, outcome: str) -> None:
        first, longest = FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
        why: Literal["open", "configuration"] = "open"
        if outcome == "configuration":
            first, longest = FIRST_CONFIGURATION_PAUSE_SECONDS, LONGEST_CONFIGURATION_PAUSE_SECONDS
            why = "configuration"
        doubled = self._pause * 2 if self._why == why else 0.0
        self._why = why
        self._pause = min(longest, max(first, doubled))
        shortened = self._pause * (1 - _JITTER * self._random())
        self._next_probe = self._clock() + shortened

    def _reset_window(self) -> None:
        self._window.clear()
        self._unreachable = 0
