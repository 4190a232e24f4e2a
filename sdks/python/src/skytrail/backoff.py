"""Decides whether to reconnect, and when. Pure, apart from the random numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

# Unknown plugin, registration rejected, older generation, taken over by a newer socket.
FINAL = frozenset({4003, 4004, 4005, 4007})
# After these codes the server no longer has the session.
FORGOTTEN = frozenset({1000, 1009, 1012, 1013, 4002, 4008})
RESTART = 1012
PROTOCOL_ERROR = 4002
TOO_MANY_WORKERS = 1013

FIRST = 1.0
LONGEST = 30.0
# The server keeps a lost session for some seconds only, and clients wait for a plugin that is away: in
# the first minute pauses are no longer than this.
LONGEST_AT_FIRST = 2.0
AT_FIRST = 60.0
# After a restart the workers spread, so that they do not all come at once.
SPREAD_PER_WORKER = 0.02
LONGEST_SPREAD = 5.0
# For so long a server that restarts is tried again and again, at most this often.
RESTARTING = 15.0
RETRY = 0.2
# For a bug or a wrong key, which do not go away quickly.
SLOWLY = 30.0


@dataclass(frozen=True)
class Ending:
    """How a connection ended: a close code, the HTTP status of a refusal, or neither."""

    close_code: int | None = None
    status: int | None = None
    reason: str = ""
    retry_after: float = 0.0
    """How many seconds a refusal asked to wait."""

    @property
    def is_final(self) -> bool:
        """Whether the server would give the same answer again."""
        return self.close_code in FINAL

    @property
    def is_key_refused(self) -> bool:
        """Whether the server rejects the key."""
        return self.status in (401, 403)

    @property
    def is_session_lost(self) -> bool:
        """Whether there is nothing to resume."""
        return self.close_code in FORGOTTEN


def retry_after(header: str) -> float:
    """Returns the seconds of a `Retry-After` header; 0 for a date, which proxies can send."""
    return float(header) if header.isascii() and header.isdecimal() else 0.0


@dataclass
class Backoff:
    """Pauses between 0 and a limit that doubles; call `reset` after a connection that worked."""

    dice: random.Random = field(default_factory=random.Random)
    limit: float = FIRST
    num_workers: int | None = None
    """How many workers reconnect after the server has restarted, if it has said so."""
    restarting: float = 0.0
    """How much longer the server is taken to be restarting."""
    waited: float = 0.0
    """How long the server has been away."""

    def reset(self) -> None:
        self.limit = FIRST
        self.num_workers = None
        self.restarting = 0.0
        self.waited = 0.0

    def pause(self, ending: Ending) -> float:
        """Returns how many seconds to wait before the next attempt."""
        if ending.close_code == RESTART:
            if self.num_workers is not None:
                self.restarting = RESTARTING
            return self.dice.uniform(0, self._spread)
        if ending.close_code == PROTOCOL_ERROR or ending.status in (401, 403, 426):
            return self.dice.uniform(SLOWLY, 1.5 * SLOWLY)
        asked = min(ending.retry_after, LONGEST)
        if self.restarting > 0:
            longest = max(RETRY, self._spread)
            # At least half of it, or a pause of no length would be tried over and over.
            pause = self.dice.uniform(longest / 2, longest) + asked
            self.restarting -= pause
            return pause
        pause = self.dice.uniform(0, self.limit)
        self.waited += pause + asked
        longest = LONGEST_AT_FIRST if self.waited < AT_FIRST else LONGEST
        self.limit = min(2 * self.limit, longest)
        return pause + asked

    @property
    def _spread(self) -> float:
        """How far the workers spread after a restart. A single one need not wait for others."""
        if self.num_workers is None:
            return LONGEST_SPREAD
        return min(max(self.num_workers - 1, 0) * SPREAD_PER_WORKER, LONGEST_SPREAD)
