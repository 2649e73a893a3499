"""Which rank a process is, whom it must not outlive, and what it says when the others do not come.

Run: pytest tests/unit/test_ranks.py
"""

import os
import socket
from datetime import timedelta

import pytest

from common import launching, orphans, ranks
from common.errors import UserError


def test_a_process_that_no_launcher_started_is_a_team_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with ranks.together():
        assert (ranks.is_leader(), ranks.world_size(), ranks.agree(False), ranks.add_up(2.5)) == (True, 1, False, 2.5)


def test_a_process_number_of_another_machine_is_nobody_here(monkeypatch):
    monkeypatch.setenv(orphans.WATCHED_VARIABLE, f"{socket.gethostname()}:{os.getpid()}")
    assert os.getpid() in [process.pid for process in orphans.find_launchers()]
    monkeypatch.setenv(orphans.WATCHED_VARIABLE, f"elsewhere:{os.getpid()}")
    assert os.getpid() not in [process.pid for process in orphans.find_launchers()]
        assert ranks.gather(3) == [3]


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
