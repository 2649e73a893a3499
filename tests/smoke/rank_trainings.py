"""scripts/launch_training.sh with two real DeepSpeed ranks on the CPU, on a model small enough to wait for."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from common.models import copy_tokenizer

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "recipes" / "demo" / "model"


class RankTrainings:
    """Starts trainings of frida-h100 in ``folder``, on a two-layer model and sums."""

    def __init__(self, folder: Path):
        self.folder = folder / "runs"
        self.inputs = [*_write_model(folder / "tiny"), *_write_data(folder)]
        self.numbers = ["--set", "method.dropout=0", "--learning-rate", "1e-2", "--set", "training.max_steps=40"]

    def environment(self, **variables) -> dict[str, str]:
        ours = {"RECETARIO_RUNS": str(self.folder), "RECETARIO_PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"}
        return os.environ | ours | {name: str(value) for name, value in variables.items()}

    def start(self, *command: str, **variables) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **variables) -> tuple[int, str]:
        """Return exit code and output."""
        process = self.start(*command, **variables)
        output, _ = process.communicate(timeout=900)
        return process.returncode, output

    def launch(self, name: str, *words: str, **variables) -> subprocess.Popen:
        """Start two ranks on the tiny model through the launcher script."""
        command = ("scripts/launch_training.sh", *self.inputs, *self.numbers, *words)
        return self.start(*command, SMOKE=1, RUN=name, **variables)

    def command(self, script: str, *words: str) -> tuple[int, str]:
        return self.run(sys.executable, f"python/{script}.py", *words)

    def losses(self, name: str) -> list[float]:
        """Return the loss of each step as it was computed last: steps after a checkpoint are repeated by a resume."""
        lines = (self.folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        by_step = {record["step"]: record["loss"] for record in map(json.loads, lines) if "loss" in record}
        return [by_step[step] for step in sorted(by_step)]

    def read(self, run: str, name: str):
        return json.loads((self.folder / run / name).read_text(encoding="utf-8"))

    def status(self, run: str) -> dict:
        code, output = self.command("status", "--json", "--run", run)
        assert code == 0, output
        return json.loads(output)[0]

    def wait_for_checkpoint(self, run: str, step: int) -> None:
        """Return once the checkpoint of ``step`` or a later one is there."""
        deadline = time.monotonic() + 600
        while not any(int(p.name.split("-")[1]) >= step for p in (self.folder / run).glob("checkpoint-[0-9]*")):
            assert time.monotonic() < deadline, (self.folder / run / "train.log").read_text()
            time.sleep(0.02)

    def wait_for_step(self, run: str, step: int) -> None:
        """Return once so many steps are logged."""
        path, deadline = self.folder / run / "metrics.jsonl", time.monotonic() + 600
        while not path.exists() or path.read_text().count('"loss"') < step:
            assert time.monotonic() < deadline, run
            time.sleep(0.02)


def ranks_of(run_folder: Path) -> dict[str, psutil.Process]:
    """Return the living processes of a background run: by rank "0", "1", …, the launchers as "launch" and "runner"."""
    session = json.loads((run_folder / "status.json").read_text())["session"]
    found = {}
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != session or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = process.cmdline()
            kind = next((w.rsplit(".", 1)[1] for w in words if w.startswith("deepspeed.launcher.")), None)
            found[kind or process.environ().get("RANK", str(process.pid))] = process
        except (OSError, psutil.Error):
            continue
    return found


def wait_until_gone(run_folder: Path, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while left := ranks_of(run_folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def _write_model(folder: Path) -> list[str]:
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    vocabulary = json.loads((DEMO_MODEL / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 2048}
    torch.manual_seed(0)
    config = MistralConfig(vocab_size=vocabulary, num_attention_heads=4, num_key_value_heads=2, **sizes)
    MistralForCausalLM(config).save_pretrained(folder)
    copy_tokenizer(DEMO_MODEL, folder)
    return ["--model", str(folder)]


def _write_data(folder: Path) -> list[str]:
    sums = [(a, b) for a in range(30) for b in range(9)]
    answers = [(f"What is {a} plus {b}?", f"It is {a + b}: {' '.join(map(str, range(b + 1)))}") for a, b in sums]
    rows = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in answers]
    (folder / "train.jsonl").write_text("\n".join(rows[:256]) + "\n")
    (folder / "validation.jsonl").write_text("\n".join(rows[256:264]) + "\n")
    return ["--data", str(folder / "train.jsonl"), "--validation", str(folder / "validation.jsonl")]
