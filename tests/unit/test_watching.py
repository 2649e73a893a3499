"""What a terminal and a script are shown of runs: table, live view, line. Run: pytest tests/unit/test_watching.py"""

import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from common import runs
from common.errors import run_command
from common.runs import history, line, log, view

PYTHON = Path(__file__).resolve().parents[2] / "python"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    umask = os.umask(0o022)
    yield tmp_path
    os.umask(umask)


@pytest.fixture
def working(folder):
    """A run at work, halfway, that has warned of something."""
    with runs.Run.create("mine") as run:
        run.write_manifest({"recipe": "demo"})
        for step in range(1, 6):
            run.append_metrics({"step": step, "loss": 3.0 - step / 2})
        (run.folder / "train.log").write_text("warning: \x1b[31mthe disk is nearly full\nstep 5\nstep 6\n")
        run.update_status("training", step=5, total_steps=10, loss=0.5, tokens_per_s=800.0, eta_s=90, next_save_s=45)
        yield run


def call_status(monkeypatch, capfd, *words):
    monkeypatch.setattr(sys, "argv", ["status.py", *words])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module("status").main)
    return end.value.code, capfd.readouterr()


def test_scripts_get_every_figure(working, monkeypatch, capfd):
    code, said = call_status(monkeypatch, capfd, "--json")
    (record,) = json.loads(said.out)
    assert code == 0 and record["losses"] == [2.5, 2.0, 1.5, 1.0, 0.5]
    assert record["last_warning"] == "warning: the disk is nearly full"
    assert 80 < record["eta_s"] <= 90 and 40 < record["next_save_s"] <= 45
    assert call_status(monkeypatch, capfd, "--every", "0")[0] == 64


def test_people_get_bar_curve_next_save_and_warning(working, monkeypatch, capfd):
    code, said = call_status(monkeypatch, capfd, "--watch")  # no terminal here: once
    assert code == 0 and "━━━━━━━━━━━━────────────  50%  loss █▆▅▃▁  next save in 0:00:4" in said.out
    assert "warning: the disk is nearly full" in said.out and "\x1b" not in said.out


def test_the_live_view_shows_the_run_and_what_ended(working, folder):
    with runs.Run.create("early") as run:
        run.write_manifest({"recipe": "other"})
    records = [
        runs.read_status(folder / name, 1) | {"losses": history.read_losses(folder / name), "last_warning": None}
        for name in ("early", "mine")
    ]
    status = importlib.import_module("status")
    full = [{field: record.get(field) for field in status.FIELDS} for record in records]
    from rich.console import Console

    console = Console(file=io.StringIO(), width=80)
    console.print(view.draw(full))
    text = console.file.getvalue()
    assert text.startswith("1 of 2 runs at work")
    assert text.index("mine  training  demo") < text.index("early  completed  other")
    assert "50%   step 5/10   800 tokens/s   eta 0:01:" in text and "loss 0.5000 █▆▅▃▁" in text
    assert "(peak " in text and "next save in 0:00:4" in text  # nothing of it falls off a usual terminal


def test_after_the_end_there_is_no_estimate_left(folder):
    with runs.Run.create("done") as run:
        run.write_manifest({})
        run.update_status("training", step=1, total_steps=1, next_save_s=5, eta_s=0)
    assert not {"next_save_s", "eta_s"} & runs.read_status(folder / "done").keys()


def test_metrics_of_a_resumed_run_count_each_step_once(folder):
    lines = [
        {"step": 1, "loss": 9.0},
        {"step": 2, "loss": 8.0},
        {"step": 2, "eval_loss": 5.0},
        {"step": 2, "loss": 7.0},
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "lo')
    assert [record.get("loss") for record in history.read_metrics(folder)] == [9.0, 7.0, None]
    assert history.read_losses(folder, points=1) == [8.0]


def test_a_line_is_written_over_cut_and_cleared():
    terminal = io.StringIO()
    bar = line.StatusLine(terminal)
    bar.show("x" * 200)
    bar.show("too soon")
    bar.clear()
    assert terminal.getvalue() == "\r\x1b[K" + "x" * 79 + "\r\x1b[K"
    nothing = line.StatusLine(None)
    nothing.show("x")
    assert not nothing and log.terminal() is None


def test_a_terminal_that_went_away_stops_nothing(tmp_path):
    terminal = (tmp_path / "gone").open("w")
    terminal.close()
    line.StatusLine(terminal).show("x")


def test_status_loads_no_heavy_library(working):
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--json']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, str(PYTHON / "status.py")]
    answer = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(PYTHON)}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_tensorboard_says_what_is_missing_and_what_is_taken(folder, monkeypatch, capfd):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["open_tensorboard.py", *words])
        with pytest.raises(SystemExit) as end:
            run_command(importlib.import_module("open_tensorboard").main)
        return end.value.code, capfd.readouterr().err

    assert call()[0] == 66
    (folder / "mine" / "logs").mkdir(parents=True)
    (folder / "mine" / "logs" / "events.out").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = call("--port", str(taken.getsockname()[1]))
    assert code == 69 and "PORT=" in said
    assert call("--port", "0")[0] == 64


def test_tensorboard_serves_the_curves_on_this_machine_alone_and_ends_with_us(folder):
    """TensorBoard itself, about a second."""
    import psutil
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder / "mine" / "logs"))
    for step in (1, 2):
        loss = Summary(value=[Summary.Value(tag="train/loss", simple_value=3.0 - step)])
        writer.add_event(Event(step=step, wall_time=step, summary=loss))
    writer.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(PYTHON / "open_tensorboard.py"), "--port", str(port)]
    server = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?run=mine%2Flogs&tag=train%2Floss"
        points, end = None, time.monotonic() + 60
        while points is None and time.monotonic() < end:
            with suppress(OSError):  # not up yet, or up and its files not read yet
                points = json.load(urlopen(url, timeout=5))
            time.sleep(0.2)
        assert [point[1:] for point in points] == [[1, 2.0], [2, 1.0]]
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        heard = [c.laddr for process in family for c in process.net_connections("tcp") if c.status == "LISTEN"]
        assert port in {address.port for address in heard}
        assert {address.ip for address in heard} <= {"127.0.0.1", "::1"}
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) in (0, -signal.SIGINT)
    assert not psutil.wait_procs(family, timeout=20)[1]  # its reader of files ends after it
