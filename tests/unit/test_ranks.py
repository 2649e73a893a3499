"""Which rank a process is, whom it must not outlive, and what it says when the others do not come.

Run: pytest tests/unit/test_ranks.py
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from common import launching, orphans, ranks
from common.errors import UserError
from common.runs.status import STOP_REQUEST_FILE


def test_a_process_that_no_launcher_started_is_a_team_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with ranks.together():
        assert (ranks.is_leader(), ranks.world_size(), ranks.agree(False), ranks.add_up(2.5)) == (True, 1, False, 2.5)
        assert ranks.gather(3) == [3]


def test_a_process_number_of_another_machine_is_nobody_here(monkeypatch):
    monkeypatch.setenv(orphans.WATCHED_VARIABLE, f"{socket.gethostname()}:{os.getpid()}")
    assert os.getpid() in [process.pid for process in orphans.find_launchers()]
    monkeypatch.setenv(orphans.WATCHED_VARIABLE, f"elsewhere:{os.getpid()}")
    assert os.getpid() not in [process.pid for process in orphans.find_launchers()]


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"WORLD_SIZE": "2"}, "2 ranks did not come together at 127.0.0.1:{port}"),
        ({"WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "absent0"}, "rank 0 finds no way .*absent0.* GLOO_SOCKET_IFNAME="),
    ],
    ids=["not there", "not reached"],
)
def test_ranks_that_do_not_come_are_named_with_the_place(monkeypatch, given, expected):
    pytest.importorskip("deepspeed")
    port = launching.free_port()
    place = {"RANK": "0", "LOCAL_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"} | given
    for name, value in (place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "_JOIN_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(UserError, match=expected.format(port=port)) as caught:
        ranks._join()
    assert caught.value.exit_code == 69


def test_a_stop_that_is_asked_for_while_a_resume_starts_is_kept(tmp_path, monkeypatch):
    """The ranks take a request that they find for one of the attempt before."""
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    monkeypatch.delenv("RECETARIO_LAUNCH", raising=False)
    script = str(Path(__file__).parents[1] / "scripts" / "fake_training.py")
    numbers = ("--set", "steps=200", "--set", "step_s=0.05")
    first = subprocess.Popen([sys.executable, script, "--run", "asked", *numbers], stdout=subprocess.DEVNULL)
    while not (tmp_path / "asked" / "step").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    waits = 'until [ -e "$0" ]; do sleep 0.05; done; exec "$@"'

    class Launcher:
        """Begins nothing before it was asked to stop."""

        node_rank = None

        def command_line(self, *words):
            return ["bash", "-c", waits, str(tmp_path / "asked" / STOP_REQUEST_FILE), sys.executable, script, *words]

        def carry(self, command, environment):
            return command

    handler = signal.getsignal(signal.SIGINT)

    def press_ctrl_c():
        while signal.getsignal(signal.SIGINT) is handler:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c).start()
    assert launching._run_ranks_here(Launcher(), "asked", "--resume", "--run", "asked") == 75
