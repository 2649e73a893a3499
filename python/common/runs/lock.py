"""The one holder of a run folder: an flock(2) that the training process keeps for its whole life.

The kernel frees it on any death, however sudden. The file also names its holder, for messages; the name alone
proves nothing. It is written in place: a renamed file would carry another lock.
"""

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs.processes import Identity

LOCK_FILE = "run.lock"
_PROBE_PATIENCE_S = 1.0  # a reader that probes the lock holds it for microseconds; wait that out


class RunLock:
    """A lock that is held. Children made by fork close it, so a worker that outlives its parent cannot keep it."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor
        os.register_at_fork(after_in_child=self._forget)

    @classmethod
    def acquire(cls, folder: Path, record: dict) -> "RunLock":
        """Take the lock of ``folder`` and write ``record`` (Identity, ``since``) into it; UserError 75 if held."""
        deadline = time.monotonic() + _PROBE_PATIENCE_S
        while True:
            descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same_file(descriptor, folder / LOCK_FILE):
                    content = json.dumps(record).encode()
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, content, 0)
                    return cls(descriptor)
            except BlockingIOError:
                holder = read_holder(folder)
                identity = Identity.from_json(holder)
                alive = identity is not None and identity.is_alive()
                if alive or time.monotonic() > deadline:
                    os.close(descriptor)
                    raise held_error(folder.name, holder) from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # somebody probed it, or removed the folder under us: again
            time.sleep(0.02)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _forget(self) -> None:
        # Closing the copy leaves the parent's lock alone; unlocking would take it away.
        with suppress(OSError):
            self.release()


def is_held(folder: Path) -> bool:
    """True while some process holds the lock of ``folder``."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: believe the names instead
        identity = Identity.from_json(read_holder(folder))
        return identity is not None and identity.is_alive()
    finally:
        os.close(descriptor)
    return False


def read_holder(folder: Path) -> dict:
    """Return what the last holder wrote about itself, {} when nothing can be read yet."""
    with suppress(OSError, ValueError):
        record = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    return {}


def held_error(name: str, holder: dict) -> UserError:
    """Say who holds the run ``name``."""
    who = f"process {holder['pid']} on {holder.get('host', '?')}" if "pid" in holder else "another process"
    since = f" since {holder['since']}" if "since" in holder else ""
    return UserError(
        Problem(
            f"run '{name}' is held by {who}{since}",
            "a run has one process at a time",
            f"make status RUN={name}, make stop RUN={name}, or start another with RUN=NAME",
        ),
        ExitCode.STOPPED,
    )


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
