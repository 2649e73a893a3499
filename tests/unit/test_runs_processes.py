"""Who a process is, on Linux and by what macOS's ps prints. Run: pytest tests/unit/test_runs_processes.py"""

import os
import signal
import subprocess
import sys

import pytest

from common.runs import launch, processes
from common.runs.processes import Identity


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def identity_of(pid: int) -> Identity:
    return Identity(pid, processes.read_process(pid).start_time, processes.boot_id(), "here")


def test_stat_fields_count_from_the_last_bracket():
    line = "4242 (a) b (x)) S 17 4242 4240 0 -1 4194560 97 0 0 0 0 0 0 0 20 0 1 0 8675309 2330624 208 184467440737"
    assert processes.parse_stat(line) == processes.Process(4242, 17, 4240, "S", "8675309")
    with pytest.raises(ValueError):
        processes.parse_stat("4242 (x) S 1")


def test_ps_lines_of_macos():
    text = """
      1     0 Ss   Thu Nov 12 08:01:02 2026
  99999999  501 Z+   Fri Nov 20 19:19:59 2026
    not a process line
"""
    first, second = processes.parse_ps(text)
    assert (first.pid, first.parent, first.state, first.start_time) == (1, 0, "S", "Thu Nov 12 08:01:02 2026")
    assert (second.session, second.state) == (0, "Z")


def test_without_proc_the_answers_come_from_ps(monkeypatch, sleeper):
    monkeypatch.setattr(processes, "HAS_PROC", False)
    process = processes.read_process(sleeper.pid)
    assert (process.parent, process.session) == (os.getpid(), sleeper.pid)
    assert identity_of(sleeper.pid).is_alive()
    assert processes.rss_gib(os.getpid()) > 0.005
    assert sleeper.pid in {process.pid for process in processes.list_processes()}
    sleeper.kill()
    assert os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT).si_pid == sleeper.pid
    assert processes.read_process(sleeper.pid) is None  # a zombie


def test_a_stranger_with_the_pid_is_not_signalled(sleeper):
    ours = identity_of(sleeper.pid)
    earlier = Identity(ours.pid, str(int(ours.start_time) - 1), ours.boot_id, ours.host)
    rebooted = Identity(ours.pid, ours.start_time, "another boot", ours.host)
    for stranger in (earlier, rebooted):
        assert not stranger.is_alive()
        assert stranger.send(signal.SIGKILL) is False
        assert processes.family_of(stranger, session=None) == []
    assert sleeper.poll() is None
    assert ours.send(signal.SIGTERM) is True
    assert sleeper.wait(timeout=5) == -signal.SIGTERM
    assert ours.send(signal.SIGTERM) is False


def test_the_family_is_the_session_with_the_token_and_every_descendant():
    nest = "import subprocess, sys, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    environment = {**os.environ, "RECETARIO_LAUNCH": "token-1"}
    leader = subprocess.Popen([sys.executable, "-c", nest], start_new_session=True, env=environment)
    try:
        ours = identity_of(leader.pid)
        while len(processes.family_of(ours, leader.pid, "token-1")) < 2:
            assert leader.poll() is None
        family = processes.family_of(ours, leader.pid, "token-1")
        assert leader.pid in {member.pid for member in family}
        assert os.getpid() not in {member.pid for member in family}
        leader.kill()
        leader.wait()
        assert processes.family_of(ours, leader.pid, "token-1") == []  # the helper left the session, and its parent
    finally:
        leader.kill()
        for member in family:
            member.send(signal.SIGKILL)


def test_what_is_left_of_a_session_is_found_by_its_token():
    shell = subprocess.Popen(
        ["bash", "-c", "sleep 60 & sleep 60 & wait"],
        start_new_session=True,
        env={**os.environ, "RECETARIO_LAUNCH": "t2"},
    )
    ours = identity_of(shell.pid)
    while len(processes.family_of(ours, shell.pid, "t2")) < 3:
        assert shell.poll() is None
    shell.kill()
    shell.wait()
    left = processes.family_of(ours, shell.pid, "t2")
    assert len(left) == 2
    assert processes.family_of(ours, shell.pid, "another launch") == []
    assert processes.family_of(ours, None) == []
    for member in left:
        assert member.send(signal.SIGKILL)


def test_oom_kills_are_counted_in_every_format(tmp_path):
    texts = {
        "memory.events": "low 0\nhigh 2\nmax 9\noom 3\noom_kill 4\noom_group_kill 0\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
        "vmstat": "nr_free_pages 12\noom_kill 4\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert processes.count_oom_kills(str(tmp_path / name)) == 4
    assert processes.count_oom_kills(str(tmp_path / "none")) is None
    if processes.HAS_PROC:
        assert processes.oom_kills()["count"] >= 0


def test_a_training_gets_its_environment_and_what_the_user_set_stays(monkeypatch):
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    environment = launch.training_environment()
    assert environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "256"
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"
