"""The machines that train together: the hostfile that names them, whether ssh reaches each, which GPUs ranks get."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.runs import ROOT

_HOST_LINE = re.compile(r"(\w[\w.:@-]*)\s+slots=(\d+)")
_FORM = "one host a line, as in: node-a slots=8"
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
_SSH_TIMEOUT_S = 30


def read_hostfile(path: Path) -> dict[str, int]:
    """Return host → slots of a hostfile as DeepSpeed reads it. Raises UserError: 66 missing, 78 malformed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        problem = Problem(f"cannot read hostfile {path}: {error.strerror}", _FORM, "HOSTFILE=FILE names one")
        raise UserError(problem, ExitCode.NO_INPUT) from None
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].strip()
        match = _HOST_LINE.fullmatch(text)
        if text and (not match or int(match[2]) < 1 or match[1] in slots):
            problem = Problem(f"{path}:{number}: {text}", "each host once, as in: node-a slots=8")
            raise UserError(problem, ExitCode.CONFIG)
        if match:
            slots[match[1]] = int(match[2])
    if not slots:
        raise UserError(Problem(f"{path} names no host", _FORM), ExitCode.CONFIG)
    return slots


def visible_gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES names, [] where it is not set."""
    return [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]


def check_visible_gpus(ranks: int, *, on_nodes: bool) -> None:
    """Raise UserError (78) where DeepSpeed's launcher would give ``ranks`` others than CUDA_VISIBLE_DEVICES names.

    It knows GPUs by number only, and ``on_nodes`` of a hostfile it takes the first ones.
    """
    visible, first = visible_gpus(), [str(number) for number in range(ranks)]
    what = f"CUDA_VISIBLE_DEVICES={','.join(visible)}"
    if visible and on_nodes and visible[:ranks] != first:
        allowed = f"with a hostfile the ranks take GPUs {','.join(first)} of each node"
        remedy = "unset CUDA_VISIBLE_DEVICES if they may; without HOSTFILE= it chooses those of this node"
        raise UserError(Problem(what, allowed, remedy), ExitCode.CONFIG)
    if not all(word.isdecimal() for word in visible):
        problem = Problem(
            what, "DeepSpeed's launcher knows GPUs by number", "`nvidia-smi -L` shows it: CUDA_VISIBLE_DEVICES=0,1"
        )
        raise UserError(problem, ExitCode.CONFIG)


def require_ssh(hosts: list[str]) -> None:
    """Raise UserError (69) unless pdsh and ssh are here and every host has this clone and its Python."""
    for program in ("pdsh", "ssh"):
        if not shutil.which(program):
            remedy = f"install {program}, or start a launcher on each node with NODE_RANK= MASTER_ADDR= MASTER_PORT="
            problem = Problem(f"{program} is not installed", "it starts the ranks of every node in HOSTFILE", remedy)
            raise UserError(problem, ExitCode.UNAVAILABLE)
    there = shlex.join(["test", "-x", sys.executable, "-a", "-f", str(ROOT / "python" / "main.py")])
    calls = [subprocess.Popen([*_SSH, host, there], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True) for host in hosts]  # fmt: skip
    problems = []
    for host, call in zip(hosts, calls, strict=True):
        try:
            words = call.communicate(timeout=_SSH_TIMEOUT_S)[1].strip().splitlines()
        except subprocess.TimeoutExpired:
            call.kill()
            words = [f"no answer within {_SSH_TIMEOUT_S} s"]
        if call.returncode == 1:
            where = f"there is no {ROOT} with this Python on {host}"
            problems.append(Problem(where, "clone and environment lie on a file system that all nodes share"))
        elif call.returncode != 0:
            why = words[-1] if words else f"exit code {call.returncode}"
            problems.append(Problem(f"ssh does not reach {host}: {why}", "ssh without a password", f"ssh {host} true"))
    if problems:
        raise UserError(problems, ExitCode.UNAVAILABLE)
