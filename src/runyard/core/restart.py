"""When an ended run is started again, and how long to wait before."""

from __future__ import annotations

from runyard.model.job import Restart, RestartPolicy


def restart_delay(rule: Restart, *, success: bool, uptime: float, restarts: int) -> tuple[float, int] | None:
    """Seconds to wait and the new count of restarts in a row, or None if the run is not to be started again.

    `uptime` is how long the run was up (seconds); `restarts` counts the restarts in a row before it.
    """
    if rule.policy is RestartPolicy.NEVER or (rule.policy is RestartPolicy.ON_FAILURE and success):
        return None
    if uptime >= rule.reset_after:
        restarts = 0
    if rule.max is not None and restarts >= rule.max:
        return None
    # Past 64 doublings the cap holds anyway; the bound keeps the power finite.
    return min(rule.max_delay, rule.delay * rule.backoff ** min(restarts, 64)), restarts + 1
