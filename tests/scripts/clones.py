"""A clone of the project whose path has spaces and letters beyond ASCII, with a recipe that trains nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
RECIPE = "command: fake_training\n"


class Clone:
    """A copy of the project's scripts and commands, and what the tests do with it."""

    def __init__(self, root: Path):
        self.root = root
        self.runs = root / "runs"
        ignore = shutil.ignore_patterns("__pycache__", ".*")
        for folder in ("scripts", "python"):
            shutil.copytree(PROJECT / folder, root / folder, ignore=ignore)
        shutil.copy(PROJECT / "Makefile", root)
        shutil.copy(Path(__file__).with_name("fake_training.py"), root / "python")
        (root / "recipes" / "demo").mkdir(parents=True)
        shutil.copy(PROJECT / "recipes" / "demo" / "smoke.yaml", root / "recipes" / "demo")
        for name in ("demo", "fake", "ba-cpu"):
            (root / "recipes" / f"{name}.yaml").write_text(RECIPE)

    def environment(self, **variables) -> dict[str, str]:
        dropped = ("RECETARIO_RUNS", "RECETARIO_LAUNCH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "TORCH_INDEX_URL")
        inherited = {key: value for key, value in os.environ.items() if key not in dropped}
        given = {key: str(value) for key, value in variables.items()}
        return {**inherited, "RECETARIO_PYTHON": sys.executable, **given}

    def run(self, *command, timeout_s=60, **variables) -> subprocess.CompletedProcess:
        """Run ``command`` in the clone; ``variables`` are what a user would give to make."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *command, **variables) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def train(self, name: str, *options: str, **settings) -> subprocess.CompletedProcess:
        """Start the fake recipe in the background, with the fake's ``settings``."""
        pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return self.run("scripts/train_background.sh", *options, *pairs, RECIPE="fake", RUN=name)

    def status(self, name: str) -> dict:
        answer = self.run(sys.executable, "python/status.py", "--json", "--run", name)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)[0]

    def read(self, name: str, file: str) -> str:
        return (self.runs / name / file).read_text()

    def wait_for(self, name: str, *states: str, timeout_s=30.0) -> dict:
        deadline = time.monotonic() + timeout_s
        while (status := self.status(name))["state"] not in states:
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        return status

    def end_all(self) -> None:
        """Kill whatever a test has left running, and nothing else."""
        for path in self.runs.glob("*/status.json"):
            status = json.loads(path.read_text())
            for pid in pids_of_session(status["session"] or -1):
                os.kill(pid, signal.SIGKILL)


def wait_for(condition, timeout_s=30.0):
    """Return the first true answer of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return answer


def pids_of_session(session: int) -> list[int]:
    answer = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in answer.stdout.splitlines())
    return [int(pid) for pid, state in rows if state[0] != "Z" and session_of(int(pid)) == session]


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
