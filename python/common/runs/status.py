"""What a run says about itself, and what became of it when it says nothing any more."""

import json
import socket
from contextlib import suppress
from pathlib import Path

from common.runs import processes
from common.runs.folders import MANIFEST_FILE
from common.runs.lock import is_held, read_holder
from common.runs.log import LOG_FILE, last_lines

STATUS_FILE = "status.json"
STOP_REQUEST_FILE = "stop-request"
FINAL_STATES = ("stopped", "failed", "completed")
STATES = ("starting", "training", "evaluating", "saving", *FINAL_STATES)  # `crashed` is found out, never written
_ESTIMATES = ("eta_s", "next_save_s")  # seconds from when they were written
_OF_PROCESSES = ("pid", "session", "launch")
_SILENCE_S = 900.0  # the longest step of a 7B on two cores is a few minutes


def read_status(folder: Path | str, log_lines: int = 3) -> dict:
    """Return status.json of the run in ``folder`` with what only an observer can add. Never raises for a bad run.

    Added: ``running`` (somebody holds the lock), ``state`` (`crashed` when nobody does and no end was recorded),
    ``reason`` (why it does not run, in words), ``elapsed_s`` of the last attempt, ``last_log_lines``.
    """
    folder = Path(folder)
    status = _load(folder / STATUS_FILE)
    if status.get("folder_inode", inode := _inode(folder)) != inode:  # of a copied run: they are the original's
        status = {key: value for key, value in status.items() if key not in _OF_PROCESSES}
    recorded = status.get("state")
    running = is_held(folder)
    if running and recorded in (None, *FINAL_STATES):  # the lock is taken, its first status not yet written
        status = {**read_holder(folder), "state": "starting"}
    elif not running and recorded not in FINAL_STATES:
        status["state"] = "crashed"
    status["name"] = folder.name
    status["running"] = running
    status["reason"] = _explain_running(status) if running else _explain_end(status)
    if running:
        written_s, status["elapsed_s"] = status.get("elapsed_s"), _live_elapsed_s(status)
        _grow_older(status, written_s)
        if leader := _living_leader(status):
            status["rss_gib"] = processes.rss_gib(leader.pid) or status.get("rss_gib")
    else:
        for estimate in _ESTIMATES:
            status.pop(estimate, None)
    status["stop_requested"] = running and (folder / STOP_REQUEST_FILE).exists()
    status["recipe"] = _load(folder / MANIFEST_FILE).get("recipe")
    status["last_log_lines"] = last_lines(folder / LOG_FILE, log_lines)
    return status


def read_end(folder: Path) -> str | None:
    """Return the final state that the last attempt recorded, None when it recorded none."""
    state = _load(folder / STATUS_FILE).get("state")
    return state if state in FINAL_STATES else None


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _load(path: Path) -> dict:
    """Return the JSON object in ``path``, {} when it is missing or damaged, as after a power cut."""
    with suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    return {}


def _grow_older(status: dict, written_s: float | None) -> None:
    """Count the estimates down by the time that has passed since they were written."""
    age_s = (status["elapsed_s"] or 0.0) - (written_s or 0.0)
    for estimate in _ESTIMATES:
        if isinstance(status.get(estimate), int | float):
            status[estimate] = round(max(0.0, status[estimate] - age_s), 1)


def _live_elapsed_s(status: dict) -> float | None:
    began_s = status.get("started_boot_clock_s")
    if began_s is None or status.get("boot_id") != processes.boot_id():
        return status.get("elapsed_s")
    return round(max(0.0, processes.boot_clock_s() - began_s), 1)


def _living_leader(status: dict) -> processes.Identity | None:
    """Return the process that wrote ``status``, None when it is not one of this machine that lives."""
    leader = processes.Identity.from_json(status)
    return leader if leader and leader.is_alive() else None


def _explain_running(status: dict) -> str:
    leader = _living_leader(status)
    process = leader and processes.read_process(leader.pid)
    if process and process.state in ("T", "t"):
        return f"suspended: kill -CONT {process.pid} lets it go on"
    elapsed_s, live_s = status.get("elapsed_s"), _live_elapsed_s(status)
    if elapsed_s is not None and live_s is not None and live_s - elapsed_s > _SILENCE_S:
        return f"no sign of progress for {(live_s - elapsed_s) / 60:.0f} minutes"
    return ""


def _explain_end(status: dict) -> str:
    name, state = status["name"], status["state"]
    if state == "stopped":
        return f"stopped on request; make resume RUN={name} continues it"
    if state == "failed":
        return f"exit code {status.get('exit_code')}: {status.get('error')}"
    if state == "crashed":
        return f"{_explain_crash(status)}; last sign of life {status.get('updated_at', 'unknown')}"
    return ""


def _explain_crash(status: dict) -> str:
    if "pid" not in status and "folder_inode" in status:
        return "its folder was copied or moved to another disk since, so nothing is known of its process"
    if "pid" not in status:
        return "left no readable status"
    if status.get("boot_id") != processes.boot_id():
        if status.get("host") != socket.gethostname():
            return f"ran on another machine ({status.get('host')}) and does not run there under this lock any more"
        return "the machine was restarted"
    before = status.get("oom_kills") or {}
    now = processes.count_oom_kills(before["source"]) if before.get("source") else None
    if now is not None and now > before["count"]:
        rise = f"oom_kill in {before['source']} rose from {before['count']} to {now} since it began"
        return f"killed, most likely for lack of memory ({rise}; peak {status.get('peak_rss_gib')} GiB)"
    return f"process {status['pid']} was killed from outside (no end was recorded, no out-of-memory kill was counted)"
