"""Starting a training command: this Python alone, or DeepSpeed's launcher with a rank for each GPU.

Where the processes run (GPUs here, a hostfile, a node of several launchers) is said with the options of
:func:`add_team_options`; how many they are belongs to the recipe's ``training.ranks``.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import runs
from common.engine import require_deepspeed
from common.errors import CommandParser, ExitCode, Problem, UserError
from common.nodes import check_visible_gpus, read_hostfile, require_ssh, visible_gpus
from common.orphans import WATCHED_VARIABLE
from common.recipes import restore_recipe
from common.runs import launch
from common.runs.status import FINAL_STATES, STOP_REQUEST_FILE
from common.settings import TrainingSettings

_CARRIED = {*launch.TRAINING_ENVIRONMENT, "DS_ACCELERATOR", "OMP_NUM_THREADS"}
_POLL_S = 0.2


@dataclass(frozen=True)
class Team:
    """The processes of a training: ``ranks`` on each of ``nodes``, or this one alone when there is no launcher."""

    launcher: bool = False
    device: str = "cpu"
    ranks: int = 1
    nodes: int = 1
    hostfile: Path | None = None
    node_rank: int | None = None  # given when each node has a launcher of its own
    master_addr: str | None = None
    master_port: int | None = None

    @property
    def over_ssh(self) -> bool:
        """True when this launcher starts the ranks of every node of the hostfile."""
        return self.hostfile is not None and self.node_rank is None

    def settings(self) -> list[str]:
        """Return the options that tell a training command's check how many ranks there will be."""
        if not self.launcher:
            return []
        return ["--set", f"training.ranks={self.ranks}", "--set", f"training.nodes={self.nodes}"]

    def command_line(self, script: str, *arguments: str) -> list[str]:
        """Return the command that runs ``script`` with this team."""
        plain = launch.command_line(script, *arguments)
        if not self.launcher:
            return plain
        port = self.master_port or free_port()
        words = [plain[0], "-m", "deepspeed.launcher.runner", "--log_level", "error", "--master_port", str(port)]
        if self.hostfile:
            words += ["--hostfile", str(self.hostfile)]
        if self.node_rank is not None:
            words += ["--no_ssh", "--node_rank", str(self.node_rank)]
        if self.master_addr:
            words += ["--master_addr", self.master_addr]
        words += self._devices()
        if not self.over_ssh:
            return words + plain[1:]
        return [*words, "--force_multi", "--no_python", "--no_local_rank", "env", plain[0], "-u", *plain[1:]]

    def carry(self, command: list[str], environment: Mapping[str, str]) -> list[str]:
        """Return a :meth:`command_line` with what ranks on other nodes need from ``environment``.

        Over ssh DeepSpeed hands on NCCL's variables only. Not all is carried: command lines are no place for tokens.
        """
        if not self.over_ssh:
            return command
        place = command.index("env") + 1
        names = sorted(name for name in environment if name.startswith(("RECETARIO_", "GLOO_")) or name in _CARRIED)
        return [*command[:place], *(f"{name}={environment[name]}" for name in names), *command[place:]]

    def _devices(self) -> list[str]:
        """Say which GPUs; the launcher by itself would take the first ones, whatever CUDA_VISIBLE_DEVICES says."""
        visible = visible_gpus()
        if self.device != "cpu" and not self.hostfile and len(visible) >= self.ranks:
            return ["--include", f"localhost:{','.join(visible[: self.ranks])}"]
        return ["--num_gpus", str(self.ranks)]

    def environment(self) -> dict[str, str]:
        """Return what the processes of this team need in their environment."""
        if not self.launcher or self.device != "cpu":
            return {}
        return {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def add_team_options(parser: CommandParser) -> None:
    """Add the options that say where the ranks of a DeepSpeed recipe run."""
    team = parser.add_argument_group("where a DeepSpeed recipe runs")
    team.add_argument("--num-gpus", type=int, metavar="N", help="GPUs, and so ranks, on each node (default: recipe's)")
    team.add_argument("--hostfile", type=Path, metavar="FILE", help="nodes, one a line: HOST slots=N")
    team.add_argument("--node-rank", type=int, metavar="N", help="this node's number, when each has its own launcher")
    team.add_argument("--master-addr", metavar="HOST", help="address of node 0")
    team.add_argument("--master-port", type=int, metavar="PORT", help="free port of node 0 (default: one is found)")


def choose_team(training: TrainingSettings, options: argparse.Namespace) -> Team:
    """Return the team for a recipe.

    Raises UserError: 64 for options that contradict, 66 or 69 for what is missing, 78 for GPUs that cannot be named.
    """
    given = [option for option in ("num_gpus", "hostfile", "node_rank") if getattr(options, option) is not None]
    if not training.deepspeed:
        if given:
            what = f"--{given[0].replace('_', '-')} for a recipe that one process trains"
            raise UserError(Problem(what, "several ranks need training.deepspeed, as in frida-h100"), ExitCode.USAGE)
        return Team()
    require_deepspeed()
    ranks = training.ranks if options.num_gpus is None else options.num_gpus
    team = Team(True, training.device, ranks, training.nodes)
    if team.ranks < 1:
        raise UserError(Problem(f"NUM_GPUS={team.ranks}", "at least 1"), ExitCode.USAGE)
    if options.hostfile is None:
        if options.node_rank is not None or training.nodes > 1:
            raise UserError(Problem("several nodes without a hostfile", "HOSTFILE=FILE names them"), ExitCode.USAGE)
        team = replace(team, master_port=options.master_port)
    else:
        team = _spread(team, options)
    if team.device != "cpu":
        check_visible_gpus(team.ranks, on_nodes=team.hostfile is not None)
    return team


def recorded_team(manifest: Mapping[str, Any], options: argparse.Namespace) -> Team:
    """Return the team for a run that exists, as its manifest tells; one without settings is of a single process.

    Raises UserError (64) for other ranks or nodes than it had: each has kept its share of the optimizer.
    """
    settings = manifest.get("settings")
    training = restore_recipe(settings).training if settings else TrainingSettings()
    if not training.deepspeed:
        return choose_team(training, options)
    ranks = training.ranks if options.num_gpus is None else options.num_gpus
    team = choose_team(training, argparse.Namespace(**vars(options) | {"num_gpus": ranks}))
    if (team.ranks, team.nodes) != (training.ranks, training.nodes):
        allowed = f"it goes on, or is repeated, with as many as before: {_count(training)}"
        raise UserError(Problem(f"{_count(team)} for a run that exists", allowed), ExitCode.USAGE)
    return team


def _count(of: Team | TrainingSettings) -> str:
    return f"{of.ranks} rank{'s' if of.ranks > 1 else ''} on {of.nodes} node{'s' if of.nodes > 1 else ''}"


def _spread(team: Team, options: argparse.Namespace) -> Team:
    """Return ``team`` on the nodes of the hostfile."""
    slots = read_hostfile(options.hostfile)
    fewest = min(slots.values())
    wanted = options.num_gpus or fewest  # 0 was refused
    if wanted > fewest:
        host = min(slots, key=slots.get)
        what = f"NUM_GPUS={wanted}, but {host} has {fewest} slots in {options.hostfile}"
        raise UserError(Problem(what, "each node trains with as many ranks"), ExitCode.USAGE)
    if options.node_rank is None:
        require_ssh(list(slots))
    elif not 0 <= options.node_rank < len(slots) or not options.master_addr or not options.master_port:
        what = f"NODE_RANK={options.node_rank} MASTER_ADDR={options.master_addr} MASTER_PORT={options.master_port}"
        allowed = f"0 to {len(slots) - 1}, and address and port of node 0"
        raise UserError(Problem(what, allowed), ExitCode.USAGE)
    return replace(
        team,
        ranks=wanted,
        nodes=len(slots),
        hostfile=options.hostfile.absolute(),
        node_rank=options.node_rank,
        master_addr=options.master_addr,
        master_port=options.master_port,
    )


def refuse_lone_background(team: Team) -> None:
    """Raise UserError (64) for the launcher of another node than 0: a run in the background is known by its leader."""
    if team.node_rank:
        what, allowed = f"NODE_RANK={team.node_rank} in the background", "node 0 alone: its launcher holds the run"
        raise UserError(Problem(what, allowed, "start this one in the foreground"), ExitCode.USAGE)


def train_here(team: Team, name: str, *words: str) -> int:
    """Train run ``name`` in the foreground with a training command and its options; return the training's exit code."""
    if team.launcher:
        return _run_ranks_here(team, name, *words)
    return launch.run_here(launch.command_line(*words))


def _run_ranks_here(team: Team, name: str, *words: str) -> int:
    """Run a launcher in the foreground as run ``name`` and return the training's own exit code.

    It gets a session of its own, for it kills its ranks 30 s after a Ctrl-C, saved or not. Ctrl-C, SIGTERM and a
    closing terminal leave a stop request in the run folder instead; once more, and the ranks are told to end at once.
    """
    folder = runs.run_folder(name)
    request, last_start = folder / STOP_REQUEST_FILE, runs.read_status(folder).get("started_boot_clock_s")
    environment = launch.training_environment() | {WATCHED_VARIABLE: f"{socket.gethostname()}:{os.getpid()}"}
    command = team.carry(team.command_line(*words), environment)
    sys.stdout.flush()
    child = subprocess.Popen(command, env=environment, start_new_session=True)

    def has_begun() -> bool:
        return runs.read_status(folder).get("started_boot_clock_s") not in (None, last_start)

    def ask_again() -> None:
        while child.poll() is None and not has_begun():
            time.sleep(_POLL_S)
        request.touch(mode=0o600)

    def ask(*_) -> None:
        if (folder / "run.json").is_file() and not request.exists():
            if not has_begun():  # a resume then takes the request for one of the attempt before
                threading.Thread(target=ask_again, daemon=True).start()
            request.touch(mode=0o600)
            os.write(2, b"\nstopping at the next safe point (Ctrl-C again: end at once, without saving)\n")
        elif child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    status = runs.read_status(folder)
    if has_begun() and status["state"] in FINAL_STATES:
        return status["exit_code"]  # the launcher tells only which rank it saw first
    leads = not team.node_rank  # else the run's leader is on another node
    return int(ExitCode.INTERNAL) if leads and code == 0 else code if code >= 0 else 128 - code


def free_port() -> int:
    """Return a TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
