"""Options that no command can follow: a line, an exit code, nothing written. Run: pytest tests/unit/test_commands.py"""

import importlib
import sys

import pytest

from common.errors import run_command


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("start_run --recipe demo --max-restarts -1", 64, "--max-restarts is -1"),
        ("soak --recipe demmo", 66, "did you mean demo?"),
        ("soak --kills 0", 64, "--kills is 0"),
        ("bench_data --rows 0", 64, "--rows is 0"),
        ("download_model ../model", 64, "'../model' is no hub id"),
        ("make_random_model --output /proc/model", 73, "cannot write in /proc"),
        ("make_random_model --output /etc/hosts", 73, "/etc/hosts is there already"),
    ],
)
def test_a_line_an_exit_code_and_nothing_written(tmp_path, monkeypatch, capfd, line, code, words):
    command, *options = line.split()
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *options])
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module(command).main)
    said = capfd.readouterr()
    assert end.value.code == code, said
    assert words in said.err and "Traceback" not in said.err and said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
