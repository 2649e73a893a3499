"""The real training command on the demo model and six short examples, in this process: a training takes seconds."""

import contextlib
import io
import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from common.errors import run_command

STEPS = 6
ROWS = [
    ("What is a fox?", "A small wild dog."),
    ("Where does it live?", "In a den."),
    ("What does it eat?", "Mice, berries and worms."),
    ("When does it hunt?", "At dusk and at dawn."),
]
MORE_ROWS = [("Is it shy?", "Yes, it is."), ("Does it bark?", "It does, now and then.")]


class Kitchen:
    """Trains in ``folder``/runs, with data in ``data``."""

    def __init__(self, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
        self.runs = folder / "runs"
        self.data = data
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("RECETARIO_RUNS", str(self.runs))

    def cook(self, *words: str) -> tuple[int, str]:
        """Run finetune_ba.py with ``words``; return its exit code and all it said."""
        import finetune_ba

        said = io.StringIO()
        with self.monkeypatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            patch.setattr(sys, "argv", ["finetune_ba.py", *words])
            with pytest.raises(SystemExit) as end:
                run_command(finetune_ba.main)
        assert "Traceback" not in said.getvalue()
        return end.value.code, said.getvalue()

    def train(self, name: str, *words: str) -> tuple[int, str]:
        """Start a new run of six steps with dropout, saved after each, evaluated after every second."""
        data = ("--train", str(self.data / "train.jsonl"), "--val", str(self.data / "validation.jsonl"))
        numbers = (
            f"max_steps={STEPS}",
            "gradient_accumulation=2",
            "warmup_steps=1",
            "threads=1",
            "save_every_minutes=1e-4",
        )
        sets = [word for number in numbers for word in ("--set", f"training.{number}")]
        return self.cook("--recipe", "demo", "--run", name, *data, *sets, *words)

    def resume(self, name: str, *words: str) -> tuple[int, str]:
        return self.cook("--resume", "--run", name, *words)

    def at_step(self, step: int, action, method: str = "on_step_end"):
        """While in this context, call ``action(run)`` when the trainer calls ``method`` after so many steps."""
        from common.progress import RunCallback

        original = getattr(RunCallback, method)

        def hooked(callback, args, state, control, **more):
            if state.global_step == step:
                action(callback.run)
            return original(callback, args, state, control, **more)

        return patched(RunCallback, method, hooked)

    def read(self, name: str, file: str):
        return json.loads((self.runs / name / file).read_text(encoding="utf-8"))

    def adapter(self, name: str) -> str:
        """Return the sha256 of a finished run's adapter."""
        assert (self.runs / name / "DONE.json").is_file()
        return sha256((self.runs / name / "adapter_model.safetensors").read_bytes()).hexdigest()


@contextlib.contextmanager
def patched(owner, name: str, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


def write_data(folder: Path) -> Path:
    """Write the six examples as train.jsonl and validation.jsonl."""
    for name, rows in (("train", ROWS), ("validation", MORE_ROWS)):
        lines = (json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def ask_to_stop(run) -> None:
    (run.folder / "stop-request").touch()
