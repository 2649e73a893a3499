"""Ending a run from outside: ask, wait, and only then kill; never anyone but the run's own processes."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from common.runs.lock import is_held
from common.runs.processes import Identity, family_of, read_process
from common.runs.status import STOP_REQUEST_FILE

_POLL_S = 0.1
_KILL_PATIENCE_S = 10.0  # a killed process may take a while to leave the disk


def ask_to_stop(folder: Path, status: dict) -> None:
    """Leave a stop request in the run folder and signal the leader, which does the same as the request."""
    (folder / STOP_REQUEST_FILE).touch(mode=0o600)
    leader = Identity.from_json(status)
    if leader is not None and leader.send(signal.SIGTERM):
        process = read_process(leader.pid)
        if process is not None and process.state in ("T", "t"):
            leader.send(signal.SIGCONT)


def wait_for_end(folder: Path, status: dict, grace_s: float, tick: Callable[[float], None]) -> bool:
    """Wait until nobody holds the lock and the leader is gone; False after ``grace_s``. ``tick`` gets the seconds."""
    leader = Identity.from_json(status)
    began_s = time.monotonic()
    while is_held(folder) or (leader is not None and leader.is_alive()):
        waited_s = time.monotonic() - began_s
        if waited_s >= grace_s:
            return False
        tick(waited_s)
        time.sleep(_POLL_S)
    return True


def forget_request(folder: Path) -> None:
    """Take back a stop request that came too late, or that the run did not live to see."""
    (folder / STOP_REQUEST_FILE).unlink(missing_ok=True)


def find_leftovers(status: dict) -> list[Identity]:
    """Return the living processes of the run that wrote ``status``."""
    leader = Identity.from_json(status)
    return [] if leader is None else family_of(leader, status.get("session"), status.get("launch"))


def end_leftovers(status: dict) -> tuple[int, list[Identity]]:
    """Kill what is left of the run's processes; return how many there were and those that would not die."""
    deadline_s = time.monotonic() + _KILL_PATIENCE_S
    family = find_leftovers(status)
    count = len(family)
    known = {*family}
    while family and time.monotonic() < deadline_s:
        for member in family:
            member.send(signal.SIGKILL)
        time.sleep(_POLL_S)
        # Look again until none is left: one may have forked while it was being counted.
        known |= {*find_leftovers(status)}
        family = [member for member in known if member.is_alive()]
    return count, family
