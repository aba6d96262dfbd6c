"""How much of its pass a client has done, for its owner's own log and nobody else."""

from __future__ import annotations

import logging
import time

EVERY = 10.0  # seconds at least between two lines, the first of which comes as long after the beginning
_STEP = 5  # percent: no line tells a number of examples


class Share:
    """The share of one answer that is computed.

    Args:
        log: the client's own.
        server_round: of the query.
        measurements: how many the answer takes.

    Formal guarantee: a line has fixed words, the round, and a share in steps of 5 %; there is at most one in 10 s.
    """

    def __init__(self, log: logging.Logger, server_round: int, measurements: int) -> None:
        self._log, self._round, self._measurements = log, server_round, measurements
        self._measured, self._due = 0, time.monotonic() + EVERY

    def measured(self) -> None:
        """One measurement more is over."""
        self._measured += 1

    def at(self, done: int, of: int) -> None:
        """So much of this measurement's pass over its examples is done."""
        self._say("the pass", (self._measured + _ratio(done, of)) / self._measurements)

    def features(self, done: int, of: int) -> None:
        """So much is done of the features that are computed once, before the pass."""
        self._say("the features", _ratio(done, of))

    def _say(self, what: str, share: float) -> None:
        if (now := time.monotonic()) < self._due:
            return
        self._due = now + EVERY
        self._log.info("round %d: %d %% of %s", self._round, _STEP * int(100 * share / _STEP), what)


def _ratio(done: int, of: int) -> float:
    return done / of if of else 1.0  # of no examples
