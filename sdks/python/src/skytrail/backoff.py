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
SPREAD_OF_RESTART = 5.0
# For a bug or a wrong key, which do not go away quickly.
SLOWLY = 30.0


@dataclass(frozen=True)
class Ending:
    """How a connection ended: a close code, the HTTP status of a refusal, or neither."""

    close_code: int | None = None
    status: int | None = None
    reason: str = ""

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


@dataclass
class Backoff:
    """Pauses between 0 and a limit that doubles; call `reset` after a connection that worked."""

    dice: random.Random = field(default_factory=random.Random)
    limit: float = FIRST

    def reset(self) -> None:
        self.limit = FIRST

    def pause(self, ending: Ending) -> float:
        """Returns how many seconds to wait before the next attempt."""
        if ending.close_code == RESTART:
            return self.dice.uniform(0, SPREAD_OF_RESTART)
        if ending.close_code == PROTOCOL_ERROR or ending.status in (401, 403, 426):
            return self.dice.uniform(SLOWLY, 1.5 * SLOWLY)
        pause = self.dice.uniform(0, self.limit)
        self.limit = min(2 * self.limit, LONGEST)
        return pause
