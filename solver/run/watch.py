"""When the supervisor gives a worker up: silence, or work that goes on past its deadline."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Watch:
    """When a worker counts as lost."""

    heartbeat: float  # seconds of silence, at most; less for work that is expected to take little
    grace: float  # seconds past the deadline of its item

    def verdict(self, now: float, heard: float, deadline_at: float | None, silence: float = float("inf")) -> str | None:
        """Why a worker last heard at `heard` and working until `deadline_at` has to be killed at `now`; None: let it be.

        `silence` is what its work allows, in seconds.
        """
        if now - heard > min(self.heartbeat, silence):
            return f"silent for {now - heard:.0f} s"
        if deadline_at is not None and now > deadline_at + self.grace:
            return f"{now - deadline_at:.0f} s past the deadline of its work"
        return None

    def next_look(self, heard: float, deadline_at: float | None, silence: float = float("inf")) -> float:
        """The earliest time at which `verdict` may change."""
        silent = heard + min(self.heartbeat, silence)
        return silent if deadline_at is None else min(silent, deadline_at + self.grace)
