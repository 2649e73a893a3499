"""The run folder: names, atomic files, the lock, states, and what an observer concludes.

Run: pytest tests/unit/test_runs.py
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import runs
from common.errors import ExitCode, StoppedRun, UserError
from common.runs import claim, folders, processes
from common.runs.choose import choose_finished, choose_run
from common.runs.ending import find_leftovers
from common.runs.lock import is_held

FAKE_TRAINING = Path(__file__).parents[1] / "scripts" / "fake_training.py"


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    folder = tmp_path / "carpeta de añadas" / "runs"
    monkeypatch.setenv("RECETARIO_RUNS", str(folder))
    monkeypatch.delenv("RECETARIO_LAUNCH", raising=False)
    umask = os.umask(0o022)
    yield folder
    os.umask(umask)


def start(*arguments, **settings) -> subprocess.Popen:
    command = [sys.executable, str(FAKE_TRAINING), *arguments]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def state_of(name) -> str:
    return runs.read_status(runs.runs_dir() / name)["state"]


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kill(process) -> None:
    process.kill()
    process.communicate()


# Names and paths


@pytest.mark.parametrize("name", ["demo", "ba-cpu-smoke", "A.1_x", "7", "x" * 64])
def test_good_names_pass(name):
    assert runs.check_run_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "../x", "-rf", ".hidden", "a b", "a/b", "x" * 300, "ñ", "a\n", "data", "models", "bench", "soak", "a;b"],
)
def test_bad_names_are_usage_errors(name, runs_folder):
    with pytest.raises(UserError) as caught:
        runs.Run.create(name)
    assert caught.value.exit_code == ExitCode.USAGE
    assert len(str(caught.value)) < 400
    assert not runs_folder.exists()


def test_output_elsewhere_is_linked_and_found(tmp_path, runs_folder):
    with runs.Run.create("far", tmp_path / "elsewhere" / "out") as run:
        run.write_manifest({"recipe": "far"})
    assert (runs_folder / "far").is_symlink()
    assert run.folder == tmp_path / "elsewhere" / "out"
    assert [folder.name for folder in runs.list_runs()] == ["far"]
    assert state_of("far") == "completed"
    with pytest.raises(UserError) as caught:
        runs.Run.create("other", tmp_path / "elsewhere" / "out")
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE


def test_a_link_whose_folder_was_removed_is_replaced(tmp_path, runs_folder):
    runs_folder.mkdir(parents=True)
    (runs_folder / "far").symlink_to(tmp_path / "gone")
    with runs.Run.create("far", tmp_path / "new") as run:
        run.write_manifest({})
    assert (runs_folder / "far").resolve() == tmp_path / "new"


@pytest.mark.parametrize("output", [None, "gone"])
def test_a_link_to_a_disk_that_is_not_there_is_no_free_name(tmp_path, runs_folder, output):
    runs_folder.mkdir(parents=True)
    (runs_folder / "far").symlink_to(tmp_path / "gone")
    words = f"far leads to {tmp_path / 'gone'}, which is not there — mount the disk it is on, or forget the run: rm "
    with pytest.raises(UserError, match=words) as caught:
        runs.Run.create("far", output and tmp_path / output)
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE and not (tmp_path / "gone").exists()
    with pytest.raises(UserError, match=words) as caught:
        choose_run("far", "resume", bool)
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_a_run_that_lost_its_link_is_told_how_to_be_linked_again(tmp_path, runs_folder):
    folder = tmp_path / "else where"
    with pytest.raises(StoppedRun), runs.Run.create("far", folder) as run:
        run.write_manifest({})
        raise StoppedRun("x")
    with pytest.raises(UserError, match="run 'far' exists and is stopped.*continue it: make resume RUN=far"):
        runs.Run.create("other", folder)
    (runs_folder / "far").unlink()
    with pytest.raises(UserError) as caught:
        runs.Run.create("far", folder)
    assert f"continue it: ln -s '{folder}' '{runs_folder}/far', then make resume RUN=far" in str(caught.value)


@pytest.mark.parametrize("place", ["", "python", "recipes/demo", ".git/x", "tests"])
def test_output_inside_the_source_is_refused(place):
    with pytest.raises(UserError) as caught:
        runs.Run.create("x", runs.ROOT / place)
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE


def test_foreign_files_are_never_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError) as caught:
        runs.Run.create("x", tmp_path / "mine")
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE
    assert "thesis.txt" in str(caught.value)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a place where not even root may write")
def test_a_place_that_cannot_be_written_is_73(monkeypatch):
    monkeypatch.setenv("RECETARIO_RUNS", "/sys/kernel/runs")
    with pytest.raises(UserError) as caught:
        runs.Run.create("x")
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE


def test_output_under_a_file_is_73(tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError) as caught:
            runs.Run.create("x", output)
        assert caught.value.exit_code == ExitCode.CANNOT_CREATE


# Files


def test_write_json_is_atomic_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "a.json"
    runs.write_json(path, {"loss": float("nan"), "folder": tmp_path, "name": "año"})
    assert runs.read_json(path) == {"loss": None, "folder": str(tmp_path), "name": "año"}
    recursive = []
    recursive.append(recursive)
    with pytest.raises((ValueError, RecursionError)):
        runs.write_json(path, recursive)
    assert runs.read_json(path)["name"] == "año"
    assert names_in(tmp_path) == ["a.json"]


def test_the_names_in_folders_below_are_synced_too(tmp_path, monkeypatch):
    synced = []
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(folders, "sync_folder", synced.append)
    folders.sync_files(tmp_path)
    assert sorted(synced) == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_read_json_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError) as missing:
        runs.read_json(tmp_path / "none.json")
    assert missing.value.exit_code == ExitCode.NO_INPUT
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(UserError) as cut:
        runs.read_json(tmp_path / "cut.json")
    assert cut.value.exit_code == ExitCode.DATA


# A run's life


def test_a_run_leaves_its_files_for_the_owner_only(runs_folder):
    with runs.Run.create("life") as run:
        run.write_manifest({"recipe": "demo", "settings": {"seed": 42}})
        run.update_status("training", step=1, total_steps=2, eta_s=5.0)
        run.append_metrics({"step": 1, "loss": 0.5})
        run.append_metrics({"step": 2, "loss": 0.25})
        assert state_of("life") == "training"
    status = runs.read_status(run.folder)
    assert status["state"] == "completed" and status["exit_code"] == 0 and status["step"] == 1
    assert "eta_s" not in status and status["rss_gib"] > 0 and status["elapsed_s"] >= 0
    assert names_in(run.folder) == ["metrics.jsonl", "run.json", "run.lock", "status.json"]
    assert [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    (attempt,) = run.manifest()["attempts"]
    assert attempt["state"] == "completed" and attempt["pid"] == os.getpid() and not attempt["resumed"]
    assert run.folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in run.folder.iterdir())


def test_status_is_throttled_but_a_new_state_is_written_at_once():
    with runs.Run.create("quick") as run:
        run.write_manifest({})
        run.update_status("training", step=1)
        inode = (run.folder / "status.json").stat().st_ino
        for step in range(2, 200):
            run.update_status("training", step=step)
        assert (run.folder / "status.json").stat().st_ino == inode
        run.update_status("saving")
        assert runs.read_status(run.folder)["step"] == 199
    with pytest.raises(ValueError):
        run.update_status("crashed")


@pytest.mark.parametrize(
    ("error", "state", "code", "words"),
    [
        (StoppedRun("at step 3"), "stopped", 75, "make resume RUN=end"),
        (KeyboardInterrupt(), "stopped", 75, "make resume"),
        (UserError("no such model", ExitCode.NO_INPUT), "failed", 66, "no such model"),
        (ValueError("odd\nsecond line"), "failed", 70, "ValueError: odd"),
        (SystemExit(3), "failed", 3, "exit code 3"),
    ],
)
def test_the_end_is_recorded(error, state, code, words):
    with pytest.raises(type(error)), runs.Run.create("end") as run:
        run.write_manifest({})
        raise error
    status = runs.read_status(run.folder)
    assert (status["state"], status["exit_code"], status["running"]) == (state, code, False)
    assert words in status["reason"] and "second line" not in status["reason"]
    assert run.manifest()["attempts"][0]["exit_code"] == code


def test_a_full_disk_becomes_exit_code_74():
    with pytest.raises(UserError) as caught, runs.Run.create("full") as run:
        run.write_manifest({})
        raise OSError(28, "No space left on device", "/somewhere/model.safetensors")
    assert caught.value.exit_code == ExitCode.IO
    assert runs.read_status(run.folder)["exit_code"] == 74


@pytest.mark.parametrize(
    ("number", "begun", "step"),
    [
        (errno.ENOSPC, True, "free some space, then continue: make resume RUN=mine"),
        (errno.ENOSPC, False, "free some space, then try again"),
        (errno.EIO, True, "see whether the disk is full or broken, then continue: make resume RUN=mine"),
    ],
)
def test_what_helps_where_a_run_cannot_be_written(tmp_path, number, begun, step):
    (tmp_path / "mine").mkdir()
    if begun:
        (tmp_path / "mine" / "run.json").write_text("{}")
    assert claim.write_error(OSError(number, "no"), tmp_path / "mine").problems[0].next_step == step


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_metrics_that_cannot_be_written_stop_the_run_with_74():
    with pytest.raises(UserError) as caught, runs.Run.create("full") as run:
        run.write_manifest({})
        (run.folder / "metrics.jsonl").symlink_to("/dev/full")
        run.append_metrics({"step": 1})
    assert caught.value.exit_code == ExitCode.IO


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_end_that_cannot_be_written_frees_the_run_and_keeps_the_error():
    with pytest.raises(ZeroDivisionError), runs.Run.create("full") as run:
        run.write_manifest({})
        (run.folder / f".status.json.{os.getpid()}").symlink_to("/dev/full")
        raise ZeroDivisionError
    status = runs.read_status(run.folder)
    assert (status["state"], status["running"]) == ("crashed", False)


@pytest.mark.parametrize("file", ["status.json", "run.json"])
def test_a_completed_run_stays_completed_when_a_power_cut_took_half_of_its_end(file):
    with runs.Run.create("half") as run:
        run.write_manifest({"settings": {}})
        before = (run.folder / file).read_bytes()
    (run.folder / file).write_bytes(before)
    with pytest.raises(UserError) as caught:
        runs.Run.reopen("half")
    assert caught.value.exit_code == ExitCode.CANNOT_CREATE


def test_runs_are_never_overwritten():
    with runs.Run.create("once") as run:
        run.write_manifest({})
    for again in (runs.Run.create, runs.Run.reopen):
        with pytest.raises(UserError) as caught:
            again("once")
        assert caught.value.exit_code == ExitCode.CANNOT_CREATE
        assert "completed" in str(caught.value)
    with pytest.raises(UserError) as caught:
        runs.Run.reopen("never")
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_an_attempt_that_died_before_its_manifest_does_not_block_the_name():
    run = runs.Run.create("early")
    run._lock.release()
    for draft in ("run", "status"):
        (run.folder / f".{draft}.json.12345").write_text("half")
    assert state_of("early") == "crashed"
    with runs.Run.create("early") as run:
        run.write_manifest({})
    assert state_of("early") == "completed"
    assert names_in(run.folder) == ["run.json", "run.lock", "status.json"]


def test_what_takes_a_finished_run_says_that_a_run_is_not(runs_folder):
    with runs.Run.create("mine") as run:
        run.write_manifest({})
        with pytest.raises(UserError, match="'mine' holds no finished adapter: it is starting") as error:
            choose_finished("mine", "reproduce")
        assert error.value.exit_code == ExitCode.STOPPED
    os.truncate(runs_folder / "mine" / "status.json", 0)  # killed, as far as anyone can tell
    with pytest.raises(UserError, match="make resume RUN=mine") as error:
        choose_finished("mine", "reproduce")
    assert error.value.exit_code == ExitCode.NO_INPUT
    (runs_folder / "mine" / "adapter_config.json").write_text("{}")
    assert choose_finished("mine", "reproduce") == "mine"


def test_reopen_counts_attempts_and_drops_an_old_stop_request():
    with pytest.raises(StoppedRun), runs.Run.create("two") as run:
        run.write_manifest({"settings": {"seed": 1}})
        raise StoppedRun("x")
    (run.folder / "stop-request").touch()
    with runs.Run.reopen("two") as run:
        assert run.resumed and not run.stop_requested()
        assert run.manifest()["settings"] == {"seed": 1}
    states = [attempt["state"] for attempt in run.manifest()["attempts"]]
    assert states == ["stopped", "completed"]


def test_stop_request_by_file_and_by_signal():
    with runs.Run.create("s") as run:
        run.write_manifest({})
        assert not run.stop_requested()
        (run.folder / "stop-request").touch()
        assert run.stop_requested() and runs.read_status(run.folder)["stop_requested"]
    assert not (run.folder / "stop-request").exists()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with runs.Run.create(f"s{int(number)}") as run:
            run.write_manifest({})
            os.kill(os.getpid(), number)
            assert run.stop_requested()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# The lock


def test_a_held_run_names_its_holder_and_is_free_after_a_kill(runs_folder):
    process = start("--run", "held", steps=1000)
    wait_for(lambda: (runs_folder / "held" / "run.json").exists())
    for again in (runs.Run.create, runs.Run.reopen, runs.check_available):
        with pytest.raises(UserError) as caught:
            again("held")
        assert caught.value.exit_code == ExitCode.STOPPED
        assert str(process.pid) in str(caught.value) and "since 20" in str(caught.value)
    assert state_of("held") in ("starting", "training")
    kill(process)
    status = runs.read_status(runs_folder / "held")
    assert status["state"] == "crashed" and not status["running"] and "killed" in status["reason"]
    runs.Run.reopen("held")._lock.release()


def test_twenty_simultaneous_starts_have_one_winner(runs_folder):
    everyone = [start("--run", "race", steps=1000, step_s=0.05) for _ in range(20)]
    wait_for(lambda: sum(process.poll() is not None for process in everyone) >= 19, timeout_s=60)
    (winner,) = (process for process in everyone if process.poll() is None)
    losers = [process for process in everyone if process is not winner]
    assert [process.wait() for process in losers] == [75] * 19
    assert all("is held by" in process.communicate()[1] for process in losers)
    assert len(runs.read_json(runs_folder / "race" / "run.json")["attempts"]) == 1
    log = (runs_folder / "race" / "train.log").read_text()
    assert log.count("training from") == 1 and "held by" not in log
    kill(winner)


def test_a_start_that_is_overtaken_between_two_looks_says_who_holds_the_run(monkeypatch):
    looks = iter([False])
    with runs.Run.create("race") as run:
        run.write_manifest({})
        monkeypatch.setattr(claim, "is_held", lambda folder: next(looks, True))
        with pytest.raises(UserError, match="is held by process") as caught:
            runs.check_available("race")
    assert caught.value.exit_code == ExitCode.STOPPED


def test_a_forked_child_does_not_keep_the_lock():
    run = runs.Run.create("fork")
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        run._lock.release()
        wait_for(lambda: not is_held(run.folder))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_child_does_not_free_the_lock():
    run = runs.Run.create("fork")
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert is_held(run.folder)
    run._lock.release()


# What an observer concludes


@pytest.fixture
def crashed(runs_folder):
    """A run that was killed, and a function that changes what it had recorded about itself."""
    process = start("--run", "gone", steps=1000)
    wait_for(lambda: (runs_folder / "gone" / "run.json").exists())
    kill(process)
    path = runs_folder / "gone" / "status.json"

    def change(**fields):
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return runs.read_status(path.parent)

    return change


def test_a_reused_pid_is_not_the_run(crashed):
    status = crashed(pid=os.getpid())
    assert status["state"] == "crashed"
    assert not processes.Identity.from_json(status).is_alive()


def test_a_reused_pid_says_nothing_of_a_run_that_is_held():
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        stranger.send_signal(signal.SIGSTOP)
        wait_for(lambda: processes.read_process(stranger.pid).state == "T")
        with runs.Run.create("held") as run:
            run.write_manifest({})
            status = runs.read_json(run.folder / "status.json")
            runs.write_json(run.folder / "status.json", status | {"pid": stranger.pid, "rss_gib": 7.0})
            status = runs.read_status(run.folder)
        assert (status["running"], status["reason"], status["rss_gib"]) == (True, "", 7.0)
    finally:
        kill(stranger)


def test_a_reboot_is_told_from_a_kill(crashed):
    assert "restarted" in crashed(boot_id="11111111-2222-3333-4444-555555555555")["reason"]
    assert "another machine" in crashed(boot_id="11111111-2222-3333-4444-555555555555", host="elsewhere")["reason"]


def test_out_of_memory_needs_evidence(crashed, tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert "lack of memory" in crashed(oom_kills={"source": str(events), "count": 0})["reason"]
    assert "lack of memory" not in crashed(oom_kills={"source": str(events), "count": 1})["reason"]


@pytest.fixture
def little_memory():
    """The folder of a control group whose processes may have 128 MiB together."""
    base = Path("/sys/fs/cgroup")
    old = (base / "memory").is_dir()  # cgroup v1
    folder = base / ("memory" if old else "") / f"recetario-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text("128M")
    except OSError:
        pytest.skip("no right to limit memory here")
    yield folder
    folder.rmdir()


def test_a_run_that_the_kernel_kills_for_memory_says_so(little_memory, runs_folder):
    enter = 'echo $$ > "$0" && exec "$@"'
    words = ["--run", "greedy", "--set", "steps=1000", "--set", "eat_mib=16"]
    command = ["sh", "-c", enter, str(little_memory / "cgroup.procs"), sys.executable, str(FAKE_TRAINING), *words]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == -signal.SIGKILL
    status = runs.read_status(runs_folder / "greedy")
    assert status["state"] == "crashed"
    assert f"lack of memory (oom_kill in {little_memory}" in status["reason"] and "from 0 to 1" in status["reason"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"pid": "x"}', '{"state": "odd"}', "\0\0\0"])
def test_a_damaged_status_reads_as_crashed(crashed, runs_folder, damage):
    (runs_folder / "gone" / "status.json").write_text(damage)
    status = runs.read_status(runs_folder / "gone")
    assert status["state"] == "crashed" and status["reason"]
    assert runs.list_runs()


def test_a_zombie_is_dead():
    process = subprocess.Popen(["true"])
    wait_for(lambda: processes.read_process(process.pid) is None)
    process.wait()


def test_a_suspended_run_says_so(runs_folder):
    process = start("--run", "frozen", steps=1000)
    wait_for(lambda: (runs_folder / "frozen" / "run.json").exists())
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: "suspended" in runs.read_status(runs_folder / "frozen")["reason"])
    kill(process)


# The log


def test_output_reaches_log_and_terminal_and_each_stream_its_place(runs_folder):
    process = start("--run", "logged", steps=2, early="before the lock")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out == "before the lock\ntraining from step 0\ndone\n"
    assert (runs_folder / "logged" / "train.log").read_text() == "training from step 0\ndone\n"


def test_the_error_of_a_failed_run_is_in_the_log_and_on_stderr(runs_folder):
    process = start("--run", "fails", fail_at=2)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 70 and "not finite" in err and "not finite" not in out
    status = runs.read_status(runs_folder / "fails")
    assert status["reason"] == "exit code 70: ArithmeticError: loss is not finite at step 2"
    assert "not finite" in status["last_log_lines"][-1]


def test_a_closed_terminal_does_not_end_a_foreground_run(runs_folder):
    process = start("--run", "headless", steps=60)
    assert process.stdout.readline() == "training from step 0\n"
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert (runs_folder / "headless" / "train.log").read_text().endswith("done\n")
    process.stderr.close()


def test_log_lines_cannot_move_the_cursor(tmp_path):
    from common.runs.log import last_lines

    (tmp_path / "log").write_bytes(b"one\n 10%|#   |\r 20%|##  |\x1b[A\x1b[2K\x07red \x1b[31malert\xff\n\n")
    assert last_lines(tmp_path / "log", 2) == [" 10%|#   |", " 20%|##  |red alert\ufffd"]
    assert last_lines(tmp_path / "none", 2) == []


def test_a_copy_of_a_running_run_does_not_know_its_processes(runs_folder):
    """Else a resume or a stop of the copy would kill the original."""
    process = start("--run", "original", step_s=0.05, steps=10_000)
    try:
        wait_for(lambda: (runs_folder / "original" / "status.json").is_file() and state_of("original") == "training")
        shutil.copytree(runs_folder / "original", runs_folder / "copy")
        assert find_leftovers(runs.read_status(runs_folder / "original"))
        copied = runs.read_status(runs_folder / "copy")
        assert copied["state"] == "crashed" and find_leftovers(copied) == []
        assert "copied or moved to another disk" in copied["reason"]
    finally:
        kill(process)
    (runs_folder / "original").rename(runs_folder / "moved")  # is no copy
    assert runs.read_status(runs_folder / "moved")["pid"] == process.pid
