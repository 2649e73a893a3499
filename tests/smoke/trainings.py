"""The real command on the demo model, writing to a folder of the test's own."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--recipe", "demo", "--set", "training.max_steps=8", "--set", "training.save_every_minutes=0.0001")


class Trainings:
    """Starts commands of the project, python/finetune_ba.py unless another is named, with runs in ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"RECETARIO_RUNS": str(folder), "HF_HUB_OFFLINE": "1"}

    def start(self, *words: str, command: str = "finetune_ba") -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "python" / f"{command}.py"), *words]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *words: str, command: str = "finetune_ba") -> tuple[int, str]:
        """Return exit code and output."""
        process = self.start(*words, command=command)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    def run_on_terminal(self, *words: str, command: str = "finetune_ba") -> tuple[int, str]:
        """Return exit code and what a terminal was sent, control sequences and all."""
        ours, theirs = pty.openpty()
        line = [sys.executable, str(ROOT / "python" / f"{command}.py"), *words]
        process = subprocess.Popen(line, cwd=ROOT, env=self.environment, stdout=theirs, stderr=theirs)
        os.close(theirs)
        sent = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while part := os.read(ours, 65_536):
                sent += part
        os.close(ours)
        return process.wait(timeout=600), sent.decode("utf-8", errors="replace")

    def read(self, run: str, name: str):
        return json.loads((self.folder / run / name).read_text(encoding="utf-8"))

    def signal_at(self, process: subprocess.Popen, run: str, step: int, number: signal.Signals) -> None:
        """Send a signal once the run has a folder for the checkpoint of ``step``, that is inside or after its save."""
        deadline = time.monotonic() + 240
        while not (self.folder / run / f"checkpoint-{step}").exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        process.communicate(timeout=120)
