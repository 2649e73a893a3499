"""A rank must not outlive who launched it: nobody else would end it, and its memory and GPU would stay taken."""

import os
import re
import socket
import threading
import time
from contextlib import suppress

import psutil

from common.errors import ExitCode

WATCHED_VARIABLE = "RECETARIO_WATCHED"  # HOST:PID of a process that a rank must not outlive, besides its launchers
_GRACE_S = 120.0  # to finish a step and save when the launcher is gone; ranks that hang end then
_POLL_S = 1.0


def watch_launchers(stop: threading.Event) -> None:
    """Set ``stop`` when a process that launched this rank dies; end the rank when that does not help."""
    launchers = find_launchers()
    if not launchers:
        return

    def watch() -> None:
        while all(_lives(launcher) for launcher in launchers):
            time.sleep(_POLL_S)
        stop.set()
        time.sleep(_GRACE_S)
        os.write(2, f"rank {os.environ.get('RANK')}: the launcher is gone and the other ranks do not answer\n".encode())
        os._exit(int(ExitCode.INTERNAL))

    threading.Thread(target=watch, daemon=True, name="launcher-watch").start()


def find_launchers() -> list[psutil.Process]:
    """Return the processes on this machine that a rank must not outlive.

    They are its ancestors, as far as they launch, and who waits for the launcher in the foreground. A rank that was
    started over ssh has the connection among its ancestors, and the launcher only if that is on the same machine.
    """
    parents = psutil.Process().parents()
    launchers = [parent for parent in parents if _says(parent, "deepspeed.launcher", "bin/deepspeed")]
    if not any(_says(parent, "launcher.runner", "bin/deepspeed") for parent in launchers):
        launchers += [parent for parent in parents if _says(parent, "sshd")]
        port = f"--master_port {os.environ.get('MASTER_PORT')} "
        launchers += [process for process in psutil.process_iter() if _says(process, f"launcher.runner.*{port}")]
    host, _, pid = os.environ.get(WATCHED_VARIABLE, "").rpartition(":")
    if host == socket.gethostname():
        with suppress(psutil.NoSuchProcess):
            launchers.append(psutil.Process(int(pid)))
    return launchers


def _says(process: psutil.Process, *patterns: str) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(re.search(pattern, words) for pattern in patterns)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
