"""The processes that train together: which of them I am, and how they agree. One process alone is a team of one.

DeepSpeed's launcher starts a process (rank) for each GPU and tells it its place in RANK, WORLD_SIZE and LOCAL_SIZE.
Rank 0 leads: it alone holds the run folder and speaks. What concerns all (is it time to save, to stop?) is agreed upon
over a gloo group of its own, in the same order on every rank, so nobody waits for what the others never do.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from common import orphans
from common.errors import ExitCode, Problem, StoppedRun, UserError, first_line, print_error
from common.runs.log import LAUNCH_LOG_VARIABLE, LOG_FILE

_LEADERS_LAST_WORDS_S = 5.0  # the launcher ends everyone at the first exit: a follower with an error waits
_JOIN_TIMEOUT = timedelta(minutes=30)

_group = None  # the control group, None in a team of one
_stop = threading.Event()


def rank() -> int:
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)


def local_size() -> int:
    """Return the number of ranks on this machine."""
    return int(os.environ.get("LOCAL_SIZE") or 1)


def launched() -> bool:
    """True in a process that DeepSpeed's launcher has started as a rank."""
    return "LOCAL_SIZE" in os.environ and "WORLD_SIZE" in os.environ


def is_leader() -> bool:
    return rank() == 0


@contextmanager
def together():
    """Join the other ranks for the duration; leave together, once the leader has put its run folder in order.

    Nothing happens in a process that no launcher started. Followers print nothing but their own failures.
    """
    if not launched():
        yield
        return
    orphans.watch_launchers(_stop)
    _join()
    if not is_leader():
        _silence()
    try:
        yield
    except StoppedRun:
        barrier()
        raise
    except UserError as error:
        if is_leader():
            raise
        asked = _stop.is_set()
        time.sleep(_LEADERS_LAST_WORDS_S)
        if asked or not _stop.is_set():  # else the leader has failed as well, and said why
            print(f"rank {rank()}:", file=sys.stderr)
            print_error(error)
        raise SystemExit(int(error.exit_code)) from error
    except RuntimeError as error:
        if not _tells_of_death(error):
            raise
        print(f"rank {rank()}: the connection to the other ranks is lost", file=sys.stderr)
        raise SystemExit(int(ExitCode.INTERNAL)) from error
    else:
        barrier()


def _join() -> None:
    global _group
    import warnings

    import deepspeed
    import torch

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if deepspeed.get_accelerator().device_name() == "cpu":
        deepspeed.ops.__compatible_ops__ = {}  # none is needed, and to build one takes a compiler and a minute
        backend = "gloo"
    else:
        backend = deepspeed.get_accelerator().communication_backend_name()
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if is_leader() and world_size() > local_size():
        print(f"waiting for {world_size()} ranks at {place}", flush=True)
    try:
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=_JOIN_TIMEOUT)
        _group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1))
    except (torch.distributed.DistStoreError, torch.distributed.DistNetworkError) as error:
        what = f"{world_size()} ranks did not come together at {place}: {first_line(error)}"
        allowed = "a launcher on each node, and an address and port that every node reaches"
        remedy = "start one on every node, with the same MASTER_ADDR= and MASTER_PORT="
        raise UserError(Problem(what, allowed, remedy), ExitCode.UNAVAILABLE) from error
    except RuntimeError as error:
        if "gloo" not in str(error).lower():
            raise
        what = f"rank {rank()} finds no way to the others: {first_line(error)}"
        allowed = "a network interface by which all nodes reach each other"
        remedy = "GLOO_SOCKET_IFNAME= names it, as `ip address` does"
        raise UserError(Problem(what, allowed, remedy), ExitCode.UNAVAILABLE) from error


# ------------------------------------------------------------------------------------------------------- agreeing


def barrier() -> None:
    """Wait until every rank is here."""
    if _group is not None:
        import torch

        torch.distributed.barrier(group=_group)


def add_up(value: float) -> float:
    """Return the sum of ``value`` over the ranks, the same on each."""
    if _group is None:
        return value
    import torch

    total = torch.tensor(value, dtype=torch.float64)
    torch.distributed.all_reduce(total, group=_group)
    return total.item()


def agree(wish: bool) -> bool:
    """Return, on every rank, whether any of them wishes it."""
    return wish if _group is None else add_up(float(wish)) > 0


def from_leader(compute: Callable[[], Any]) -> Any:
    """Return on every rank what ``compute`` gives on the leader; only there it is called."""
    if _group is None:
        return compute()
    import torch

    box = [compute() if is_leader() else None]
    torch.distributed.broadcast_object_list(box, src=0, group=_group)
    return box[0]


def gather(value: Any) -> list:
    """Return on every rank what each of them gives, in their order."""
    if _group is None:
        return [value]
    import torch

    values = [None] * world_size()
    torch.distributed.all_gather_object(values, value, group=_group)
    return values


@contextmanager
def leader_first():
    """Let the leader do the block before the others do; what it caches or creates, they find."""
    if not is_leader():
        barrier()
    yield
    if is_leader():
        barrier()


# -------------------------------------------------------------------------------------------------------- followers


class Follower:
    """What a rank other than the leader holds in place of its run: a name and a folder, and nothing to write."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder

    def __enter__(self) -> "Follower":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: _stop.set())
        launch_log = os.environ.pop(LAUNCH_LOG_VARIABLE, None)
        if launch_log is not None and self.folder.is_dir():
            log = os.open(self.folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 2)
            os.close(log)
        return self

    def __exit__(self, *_) -> None:
        pass

    def update_status(self, state: str | None = None, **fields) -> None:
        pass

    def append_metrics(self, record: dict) -> None:
        pass

    def stop_requested(self) -> bool:
        return agree(_stop.is_set())


@contextmanager
def lead(run):
    """Tell the others that the leader holds ``run``, and make it ask them all whether to stop, as they ask it.

    Raises UserError (70) in place of what the network says when another rank dies.
    """
    if _group is None:
        yield
        return
    from_leader(lambda: run.folder)
    ask = run.stop_requested
    run.stop_requested = lambda: agree(ask() or _stop.is_set())
    try:
        yield
    except RuntimeError as error:
        if not _tells_of_death(error):
            raise
        step = f"make resume RUN={run.name}"
        raise UserError(Problem("another rank is gone", "its own words are above", step), ExitCode.INTERNAL) from error


def _tells_of_death(error: RuntimeError) -> bool:
    return "onnection" in str(error)  # gloo: "Connection closed by peer", "Connection reset by peer"


def follow(name: str) -> Follower:
    """Wait until the leader holds the run ``name``, and return what a follower holds in its place."""
    return Follower(name, from_leader(Path))


def _silence() -> None:
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
