"""Starting, watching, stopping and resuming runs through the scripts, as a user does.

Run: pytest tests/scripts/test_launchers.py
"""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clones import pids_of_session, wait_for


def leader(clone, name) -> int:
    return clone.status(name)["pid"]


# Start


def test_a_background_run_reports_itself_and_completes(clone):
    answer = clone.train("first", steps=3, early="reading the recipe")
    assert answer.returncode == 0, answer.stderr
    status = clone.wait_for("first", "completed")
    assert f"process {status['pid']}" in answer.stdout and str(clone.runs / "first" / "train.log") in answer.stdout
    assert all(f"make {target} RUN=first" in answer.stdout for target in ("status", "logs", "stop", "resume"))
    assert clone.read("first", "train.log") == "reading the recipe\ntraining from step 0\ndone\n"
    assert (status["step"], status["total_steps"], status["exit_code"]) == (3, 3, 0)
    assert sorted(path.name for path in clone.runs.iterdir()) == ["first"]


def test_a_closing_terminal_and_a_hangup_do_not_end_it(clone):
    pid, terminal = pty.fork()
    if pid == 0:  # a login shell on a terminal of its own
        os.chdir(clone.root)
        command = ["bash", "-ic", "scripts/train_background.sh --run tough --set steps=30 --set step_s=0.05; read -r"]
        os.execvpe("bash", command, clone.environment(RECIPE="fake"))
    output = b""
    while b"make resume" not in output:
        output += os.read(terminal, 4096)
    os.close(terminal)  # the kernel hangs up everything in the terminal's session
    os.waitpid(pid, 0)
    os.kill(leader(clone, "tough"), signal.SIGHUP)
    assert clone.status("tough")["running"]
    assert clone.wait_for("tough", "completed", "failed", "crashed")["state"] == "completed"
    log = clone.read("tough", "train.log")
    assert log == "training from step 0\ndone\n"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at the run's open files in /proc")
def test_the_run_has_its_own_session_and_the_launcher_leaves(clone):
    clone.train("own", steps=1000)
    status = json.loads(clone.read("own", "status.json"))
    assert status["session"] == status["pid"] == os.getsid(status["pid"])
    assert Path(f"/proc/{status['pid']}/fd/0").resolve() == Path("/dev/null")
    assert Path(f"/proc/{status['pid']}/fd/1").resolve() == clone.runs / "own" / "train.log"


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"bad": 1}, 78, "bad is not a setting"),
        ({"fail_in_load": 1, "load_s": "x"}, 70, "could not convert string to float"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(clone, settings, code, words):
    answer = clone.train("bad", **settings)
    assert answer.returncode == code
    assert words in answer.stderr and "Traceback" not in answer.stderr
    assert "make status" not in answer.stdout
    again = clone.train("bad", steps=1)
    assert again.returncode == 0, again.stderr
    assert clone.wait_for("bad", "completed")


def test_a_failed_check_writes_nothing_at_all(clone):
    assert clone.train("bad", bad=1).returncode == 78
    assert not clone.runs.exists()


def test_a_second_start_is_refused_and_leaves_the_log_alone(clone):
    clone.train("twice", steps=1000, step_s=0.05)
    holder = leader(clone, "twice")
    answer = clone.train("twice", steps=1, early="I am second")
    assert answer.returncode == 75
    assert f"held by process {holder}" in answer.stderr and "since 20" in answer.stderr
    assert "second" not in clone.read("twice", "train.log")
    assert clone.run("scripts/train.sh", RECIPE="fake", RUN="twice").returncode == 75
    assert clone.run("make", "resume", RUN="twice").returncode != 0
    assert leader(clone, "twice") == holder


def test_twenty_starts_have_one_winner(clone):
    everyone = [
        clone.start("scripts/train_background.sh", "--set", "steps=1000", RECIPE="fake", RUN="race") for _ in range(20)
    ]
    answers = [(process.communicate(timeout=60), process.returncode) for process in everyone]
    codes = sorted(code for _, code in answers)
    assert codes == [0] + [75] * 19, [output for output, code in answers if code not in (0, 75)]
    assert all("is held by process" in output[1] for output, code in answers if code == 75)
    assert clone.read("race", "train.log") == "training from step 0\n"
    assert sorted(path.name for path in clone.runs.iterdir()) == ["race"]


def test_a_completed_run_is_not_overwritten(clone):
    clone.train("done", steps=1)
    clone.wait_for("done", "completed")
    before = {path.name: path.read_bytes() for path in (clone.runs / "done").iterdir()}
    answer = clone.train("done", steps=9)
    assert answer.returncode == 73 and "completed" in answer.stderr
    assert {path.name: path.read_bytes() for path in (clone.runs / "done").iterdir()} == before
    answer = clone.run("make", "resume", RUN="done")
    assert answer.returncode == 0 and "nothing left to do" in answer.stdout


def test_output_elsewhere(clone, tmp_path):
    clone.run("scripts/train_background.sh", RECIPE="fake", RUN="far", OUTPUT=tmp_path / "lejos" / "más")
    clone.wait_for("far", "completed")
    assert (clone.runs / "far").resolve() == tmp_path / "lejos" / "más"
    assert clone.run("make", "logs", RUN="far", FOLLOW=0).stdout.endswith("done\n")
    assert clone.run("make", "clean", RUN="far").returncode == 0
    assert not (tmp_path / "lejos" / "más").exists() and not (clone.runs / "far").is_symlink()


# The foreground


def test_a_foreground_run_prints_logs_and_returns_its_exit_code(clone):
    answer = clone.run("scripts/train.sh", "--set", "steps=2", RECIPE="fake", RUN="here")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == clone.read("here", "train.log") == "training from step 0\ndone\n"
    answer = clone.run("scripts/train.sh", "--set=fail_at=1", RECIPE="fake", RUN="broken")
    assert answer.returncode == 70 and "not finite" in answer.stderr


def test_ctrl_c_in_the_foreground_saves_and_stops(clone):
    process = clone.start("scripts/train.sh", "--set", "steps=1000", RECIPE="fake", RUN="here")
    assert process.stdout.readline() == "training from step 0\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75 and "stopping at the next safe point" in errors
    assert clone.status("here")["state"] == "stopped"


def test_a_closing_terminal_saves_and_stops_a_foreground_run(clone):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(clone.root)
        command = ["bash", "-ic", "scripts/train.sh --set steps=10000; true"]
        os.execvpe("bash", command, clone.environment(RECIPE="fake", RUN="here"))
    output = b""
    while b"training from" not in output:
        output += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert clone.wait_for("here", "stopped", "failed", "crashed", "completed")["state"] == "stopped"
    assert "SIGHUP: stopping at the next safe point" in clone.read("here", "train.log")


# Stop and resume


def test_stop_saves_and_resume_goes_on(clone):
    clone.train("pause", steps=20, step_s=0.05)
    answer = clone.run("make", "stop", RUN="pause")
    assert answer.returncode == 0 and "is stopped at step" in answer.stdout
    stopped_at = json.loads(clone.read("pause", "step"))["step"]
    status = clone.status("pause")
    assert (status["state"], status["exit_code"], status["running"]) == ("stopped", 75, False)
    assert "make resume RUN=pause" in status["reason"]
    assert not (clone.runs / "pause" / "stop-request").exists()

    again = clone.run("make", "stop", RUN="pause")
    assert again.returncode == 0 and "is not running: it is stopped" in again.stdout

    resumed = clone.run("make", "resume", RUN="pause")
    assert resumed.returncode == 0, resumed.stderr
    assert clone.wait_for("pause", "completed")["step"] == 20
    log = clone.read("pause", "train.log").splitlines()
    assert log[0] == "training from step 0" and f"training from step {stopped_at}" in log and log[-1] == "done"
    steps = [json.loads(line)["step"] for line in clone.read("pause", "metrics.jsonl").splitlines()]
    assert steps == list(range(1, 21))
    states = [attempt["state"] for attempt in json.loads(clone.read("pause", "run.json"))["attempts"]]
    assert states == ["stopped", "completed"]


def test_stop_without_a_name_means_the_only_one_running(clone):
    assert clone.run("scripts/call.sh", "stop_run").returncode == 66
    clone.train("a", steps=1000)
    clone.train("b", steps=1000)
    unclear = clone.run("scripts/call.sh", "stop_run")
    assert unclear.returncode == 64 and "a, b" in unclear.stderr
    assert clone.run("make", "stop", RUN="a").returncode == 0
    assert "run 'b' is stopped" in clone.run("make", "stop").stdout


def test_what_does_not_stop_is_killed_with_its_children(clone):
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    clone.train("stubborn", steps=10_000, stubborn=1, helper=60)
    session = json.loads(clone.read("stubborn", "status.json"))["session"]
    wait_for(lambda: len(pids_of_session(session)) == 2)
    answer = clone.run("make", "stop", RUN="stubborn", GRACE="1")
    assert answer.returncode == 0 and "did not stop within 1 s" in answer.stderr
    assert pids_of_session(session) == []
    assert clone.status("stubborn")["state"] == "crashed"
    assert not (clone.runs / "stubborn" / "stop-request").exists()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_child_that_outlives_a_graceful_end_is_killed_too(clone):
    clone.train("orphan", steps=10_000, helper=60)
    session = json.loads(clone.read("orphan", "status.json"))["session"]
    wait_for(lambda: len(pids_of_session(session)) == 2)
    answer = clone.run("make", "stop", RUN="orphan")
    assert answer.returncode == 0 and "is stopped at step" in answer.stdout
    assert pids_of_session(session) == []


def test_a_suspended_run_can_be_stopped(clone):
    clone.train("frozen", steps=10_000)
    os.kill(leader(clone, "frozen"), signal.SIGSTOP)
    assert "suspended" in wait_for(lambda: clone.status("frozen")["reason"])
    assert "is stopped at step" in clone.run("make", "stop", RUN="frozen").stdout


def test_a_process_that_cannot_be_reached_is_not_said_to_have_stopped(clone):
    clone.train("far", steps=10_000)
    pid, path = leader(clone, "far"), clone.runs / "far" / "status.json"
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: "suspended" in clone.status("far")["reason"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"folder_inode": 0}))  # as on some network disks
    answer = clone.run("scripts/call.sh", "stop_run", "RUN=--run", "GRACE=--grace", RUN="far", GRACE=1)
    assert answer.returncode == 75 and "held by a process that cannot be reached from here" in answer.stderr
    assert (clone.runs / "far" / "stop-request").exists()
    os.kill(pid, signal.SIGCONT)
    clone.wait_for("far", "stopped")


def test_a_stranger_with_the_pid_is_never_touched(clone):
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    clone.train("gone", steps=10_000)
    os.kill(leader(clone, "gone"), signal.SIGKILL)
    clone.wait_for("gone", "crashed")
    for file in ("status.json", "run.lock"):
        record = json.loads(clone.read("gone", file))
        record |= {"pid": stranger.pid, "session": stranger.pid}
        (clone.runs / "gone" / file).write_text(json.dumps(record))
    answer = clone.run("make", "stop", RUN="gone")
    assert answer.returncode == 0 and "is not running: it is crashed" in answer.stdout
    assert clone.run("make", "resume", RUN="gone").returncode == 0
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_killed_run_is_crashed_and_can_be_resumed(clone):
    clone.train("hit", steps=20, step_s=0.05, helper=60)
    session = json.loads(clone.read("hit", "status.json"))["session"]
    wait_for(lambda: clone.status("hit")["step"])
    os.kill(leader(clone, "hit"), signal.SIGKILL)
    status = clone.wait_for("hit", "crashed")
    assert "killed from outside" in status["reason"] and not status["running"]
    assert len(pids_of_session(session)) == 1  # the helper
    assert clone.run("make", "resume", RUN="hit").returncode == 0
    assert pids_of_session(session) == []
    assert clone.wait_for("hit", "completed")["step"] == 20


def test_restarts_in_the_foreground_are_refused(clone):
    answer = clone.run("make", "train", RECIPE="fake", RUN="here", MAX_RESTARTS=3)
    assert answer.returncode != 0 and not clone.runs.exists()
    assert "MAX_RESTARTS=3 in the foreground" in answer.stderr
    assert "make train-cpu-background RECIPE=fake MAX_RESTARTS=3" in answer.stderr and "Error 64" in answer.stderr


@pytest.mark.parametrize(
    ("settings", "state", "attempts", "words"),
    [
        ({"die_at": 3}, "completed", 2, "SIGKILL after step 3: restart 1 of 2"),
        ({"die_at": 3, "stuck": 1}, "crashed", 2, "SIGKILL after step 3, no further than the last time: not restarted"),
        ({"fail_at": 3}, "failed", 1, "not finite"),
    ],
)
def test_restarts_are_bounded_and_only_after_the_same_step_was_passed(clone, settings, state, attempts, words):
    answer = clone.train("kept", "--max-restarts", "2", steps=6, **settings)
    assert answer.returncode == 0, answer.stderr
    session = json.loads(clone.read("kept", "status.json"))["session"]
    wait_for(lambda: not pids_of_session(session))
    assert clone.status("kept")["state"] == state
    assert len(json.loads(clone.read("kept", "run.json"))["attempts"]) == attempts
    assert words in clone.read("kept", "train.log")


def test_a_run_that_is_kept_can_be_stopped(clone):
    clone.train("kept", "--max-restarts", "5", steps=10_000)
    assert clone.run("make", "stop", RUN="kept").returncode == 0
    status = json.loads(clone.read("kept", "status.json"))
    assert status["state"] == "stopped" and pids_of_session(status["session"]) == []


def test_resume_runs_only_commands_of_the_project(clone, tmp_path):
    clone.train("odd", steps=10_000)
    clone.run("make", "stop", RUN="odd")
    (tmp_path / "evil.py").write_text("open('pwned', 'w')")
    manifest = json.loads(clone.read("odd", "run.json"))
    for command in (str(tmp_path / "evil.py"), "../../evil.py", "", "python", "-c"):
        (clone.runs / "odd" / "run.json").write_text(json.dumps({**manifest, "command": command}))
        answer = clone.run(sys.executable, "python/resume_run.py", "--run", "odd")
        assert answer.returncode == 78 and "no command of this project" in answer.stderr
    assert not list(clone.root.rglob("pwned"))


def test_what_a_resume_of_ranks_is_given_reaches_the_command(clone):
    python = clone.root / "python-that-echoes"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    given = {"RECETARIO_PYTHON": python, "RESUME": 1, "RUN": "mine", "NUM_GPUS": 2}
    answer = clone.run("make", "train-h100", **given, FORCE=1)
    assert answer.stdout == "python/resume_run.py --foreground --run=mine --force --num-gpus=2\n", answer.stderr
    answer = clone.run("make", "train-h100", **given, FORCE=0, BACKGROUND=1)
    assert answer.stdout == "python/resume_run.py --run=mine --num-gpus=2\n", answer.stderr


# Looking on


def test_status_as_table_and_json(clone):
    clone.train("one", steps=2)
    clone.train("two", steps=2, fail_at=2)
    clone.wait_for("one", "completed")
    clone.wait_for("two", "failed")
    table = clone.run("make", "status")
    assert table.returncode == 0 and "\x1b" not in table.stdout
    lines = table.stdout.splitlines()
    assert lines[0].split()[:3] == ["RUN", "STATE", "PID"]
    assert any(line.startswith("one") and "completed" in line and "2/2" in line for line in lines)
    assert any("exit code 70: ArithmeticError: loss is not finite at step 2" in line for line in lines)
    records = json.loads(clone.run("make", "status", JSON=1).stdout)
    assert {record["name"]: record["state"] for record in records} == {"one": "completed", "two": "failed"}
    keys = "name state pid host step total_steps epoch loss tokens_per_s eta_s elapsed_s rss_gib updated_at"
    assert set(keys.split()) | {"last_log_lines", "reason"} <= set(records[0])
    assert clone.run("make", "status", RUN="three").returncode != 0


def test_status_is_quick_with_many_runs(clone):
    clone.run("scripts/train.sh", "--set", "steps=1", RECIPE="fake", RUN="r0")
    for number in range(1, 20):
        shutil.copytree(clone.runs / "r0", clone.runs / f"r{number}")
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        assert clone.run(sys.executable, "python/status.py").returncode == 0
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.3


def test_logs_follow_until_the_run_ends(clone):
    clone.train("talk", steps=10, step_s=0.1)
    answer = clone.run("make", "logs", RUN="talk")
    assert answer.returncode == 0 and answer.stdout == "training from step 0\ndone\n"
    assert "run talk is completed" in answer.stderr
    assert clone.run("make", "logs", LINES=1, FOLLOW=0).stdout == "done\n"
    assert clone.run("scripts/logs.sh", LINES="-5").returncode == 64
    assert clone.run("scripts/logs.sh", RUN="none").returncode == 66


def test_watching_ends_with_the_runs_exit_code(clone):
    clone.train("ok", steps=20)
    answer = clone.run(sys.executable, "python/watch_run.py", "--run", "ok")
    assert answer.returncode == 0 and "ok: training" in answer.stdout and "\x1b" not in answer.stdout
    clone.train("bad", steps=20, fail_at=5)
    answer = clone.run(sys.executable, "python/watch_run.py", "--run", "bad")
    assert answer.returncode == 70 and "not finite" in answer.stderr


def test_clean_never_removes_a_running_run(clone):
    clone.train("busy", steps=10_000)
    assert clone.run("scripts/clean.sh", RUN="busy").returncode == 75
    assert clone.status("busy")["running"]
    clone.run("make", "stop", RUN="busy")
    assert clone.run("scripts/clean.sh", RUN="busy").returncode == 0
    assert not (clone.runs / "busy").exists()


def test_clean_takes_caches_and_leaves_the_rest(clone):
    (clone.root / "tests").mkdir()
    for elsewhere in (clone.runs, clone.root / "far away"):
        for name in ("cache/entry", "cache/.entry-x", "cache/.old-x", "cache/plans", "models"):
            (elsewhere / name).mkdir(parents=True)
        os.utime(elsewhere / "cache/.old-x", (0, 0))
        assert clone.run("scripts/clean.sh", RECETARIO_RUNS=elsewhere).returncode == 0
        left = sorted(str(path.relative_to(elsewhere)) for path in elsewhere.rglob("*"))
        assert left == ["cache", "cache/.entry-x", "cache/plans", "models"]  # a start may be filling the entry
    assert clone.run("scripts/clean.sh").returncode == 0
