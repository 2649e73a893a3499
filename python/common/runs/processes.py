"""Who a process is. A pid alone says nothing: the kernel hands it on to strangers, and reboots start afresh.

Linux is read from /proc; where there is none (macOS) the same facts come from ps(1) and sysctl(8).
"""

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")
HAS_PROC = (PROC / "self" / "stat").exists()
DEAD_STATES = ("Z", "X", "x")  # a zombie has left everything but its number


@dataclass(frozen=True)
class Process:
    """One process as the system shows it; ``start_time`` is in the system's own words, good for comparing only."""

    pid: int
    parent: int
    session: int
    state: str
    start_time: str


@dataclass(frozen=True)
class Identity:
    """What tells one process from every other one that ever had, or will have, its pid."""

    pid: int
    start_time: str
    boot_id: str
    host: str

    @classmethod
    def of_self(cls) -> "Identity":
        return cls(os.getpid(), read_process(os.getpid()).start_time, boot_id(), socket.gethostname())

    @classmethod
    def from_json(cls, record: dict) -> "Identity | None":
        """Return the identity written in ``record`` (a status or lock file), or None when it names no process."""
        pid = record.get("pid")
        if not isinstance(pid, int) or pid <= 1:
            return None
        words = (str(record.get(key, "")) for key in ("start_time", "boot_id", "host"))
        return cls(pid, *words)

    def to_json(self) -> dict:
        return asdict(self)

    def is_alive(self) -> bool:
        """True while this very process lives: same boot, same start, and not a zombie."""
        if self.boot_id != boot_id():
            return False
        process = read_process(self.pid)
        return process is not None and process.start_time == self.start_time

    def send(self, number: signal.Signals) -> bool:
        """Signal this very process and nobody else; False when it is gone.

        A pidfd, where the kernel has them, pins the process between the check and the signal.
        """
        handle = None
        try:
            if hasattr(os, "pidfd_open"):
                with suppress(OSError):
                    handle = os.pidfd_open(self.pid)
            if not self.is_alive():
                return False
            if handle is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            if handle is not None:
                os.close(handle)


def read_process(pid: int) -> Process | None:
    """Return the living process ``pid``, or None when there is none or only its zombie."""
    if HAS_PROC:
        try:
            process = parse_stat((PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace"))
        except (OSError, ValueError):
            return None
    else:
        process = next(iter(parse_ps(_ps("-p", str(pid)))), None)
    return None if process is None or process.state in DEAD_STATES else process


def list_processes() -> list[Process]:
    """Return every living process that this user may see."""
    if not HAS_PROC:
        return [process for process in parse_ps(_ps("-A")) if process.state not in DEAD_STATES]
    pids = [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]  # noqa: PTH208 (much faster than iterdir)
    return [process for process in map(read_process, pids) if process is not None]


def parse_stat(text: str) -> Process:
    """Read /proc/PID/stat. The command's name may hold spaces and brackets, so fields count from the last ``)``."""
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    if len(fields) < 20:
        raise ValueError("not a line of /proc/PID/stat")
    pid = int(head.split(maxsplit=1)[0])
    return Process(pid, int(fields[1]), int(fields[3]), fields[0], fields[19])


def parse_ps(text: str) -> list[Process]:
    """Read lines of ``ps -o pid=,ppid=,stat=,lstart=``; ps on macOS shows no session number, so ask the kernel."""
    processes = []
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\S+)\s+(.+?)\s*", line)
        if match is None:
            continue
        pid = int(match[1])
        try:
            session = os.getsid(pid)
        except OSError:
            session = 0
        processes.append(Process(pid, int(match[2]), session, match[3][0], " ".join(match[4].split())))
    return processes


def _ps(*selection: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}  # lstart is a date in the reader's language and zone
    command = ["ps", *selection, "-o", "pid=,ppid=,stat=,lstart="]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout


@cache
def boot_id() -> str:
    """Return what changes with every boot of the machine, or "" where that cannot be read."""
    with suppress(OSError):
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with suppress(OSError):
        command = ["sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def boot_clock_s() -> float:
    """Seconds on a clock that every process shares and nobody can set; only differences within one boot count."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def rss_gib(pid: int) -> float | None:
    """Return the resident memory of ``pid`` in GiB, or None when it cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        if HAS_PROC:
            pages = int((PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1])
            return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**30, 3)
        output = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return round(int(output.stdout) / 2**20, 3)
    return None


def family_of(leader: Identity, session: int | None, token: str | None = None) -> list[Identity]:
    """Return every living process that belongs to ``leader``'s run, the leader itself included.

    ``session`` is the session the run was given for itself, None when it shares its starter's (a foreground run:
    then only descendants count, never the user's shell). With ``token``, the value of RECETARIO_LAUNCH that the
    launcher put into the run's environment, members are believed only if they carry it, where that can be read.
    """
    boot, host = leader.boot_id, leader.host
    if boot != boot_id():
        return []
    processes = list_processes()
    ours = {leader.pid} if leader.is_alive() else set()
    if session is not None:
        ours |= {p.pid for p in processes if p.session == session and _carries(p.pid, token)}
    grown = True
    while grown:  # children of children, whatever order the list has
        more = {p.pid for p in processes if p.parent in ours} - ours
        ours |= more
        grown = bool(more)
    return [Identity(p.pid, p.start_time, boot, host) for p in processes if p.pid in ours and p.pid != os.getpid()]


def _carries(pid: int, token: str | None) -> bool:
    if not HAS_PROC:
        return True
    if token is None:
        return False
    try:
        return f"RECETARIO_LAUNCH={token}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def oom_kills() -> dict | None:
    """Return ``{"source": path, "count": n}``: how often the kernel killed for memory in this process's cgroup."""
    candidates = []
    with suppress(OSError):
        for line in (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                candidates.append(f"/sys/fs/cgroup{path.rstrip('/')}/memory.events")
            elif "memory" in controllers.split(","):
                candidates.append(f"/sys/fs/cgroup/memory{path.rstrip('/')}/memory.oom_control")
    candidates += ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat"]
    for source in candidates:
        count = count_oom_kills(source)
        if count is not None:
            return {"source": source, "count": count}
    return None


def count_oom_kills(source: str) -> int | None:
    """Return the ``oom_kill`` count in a memory.events, memory.oom_control or vmstat file, None without one."""
    with suppress(OSError, ValueError):
        for line in Path(source).read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return None
