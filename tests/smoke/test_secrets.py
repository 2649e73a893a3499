"""Planted tokens: set where users keep them, they are found nowhere after the whole pipeline ran.

Run: pytest tests/smoke/test_secrets.py
"""

import os
import subprocess
import sys
import time

import pytest
from trainings import ROOT

pytestmark = pytest.mark.smoke
# Made up, and put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "HF_TOKEN": "hf" + "_" + "Planted0" * 4,
    "HUGGING_FACE_HUB_TOKEN": "hf" + "_" + "Planted1" * 4,
    "OPENAI_API_KEY": "sk" + "-" + "Planted2" * 4,  # pragma: allowlist secret
    "WANDB_API_KEY": "Planted3" * 5,  # pragma: allowlist secret
    "AWS_SECRET_ACCESS_KEY": "Planted4" * 5,  # pragma: allowlist secret
}


def test_planted_tokens_are_found_nowhere(tmp_path):
    environment = os.environ | SECRETS | {"RECETARIO_RUNS": str(tmp_path / "runs"), "HF_HUB_OFFLINE": "1"}
    said, command_lines = [], set()

    def call(command, *words, codes=(0,)):
        line = [sys.executable, str(ROOT / "python" / command), *words]
        process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        command_lines.update(lines_of_processes())
        said.append(process.communicate(timeout=300)[0])
        assert process.returncode in codes, said[-1]

    few = ("--set", "training.max_steps=2", "--set", "training.warmup_steps=0", "--set", "training.threads=1")
    call("doctor.py", "demo")
    call("start_run.py", "--recipe", "demo", "--run", "secret", *few)
    deadline = time.monotonic() + 240
    while not (tmp_path / "runs" / "secret" / "DONE.json").exists():
        command_lines.update(lines_of_processes())
        assert time.monotonic() < deadline
        time.sleep(0.2)
    call("status.py")
    call("status.py", "--json")
    call("compare_ba_models.py", "--run", "secret", "--max-new-tokens", "4")
    call("reproduce_run.py", "--run", "secret", "--check")
    call("finetune_ba.py", "--recipe", "demo", "--run", "fails", "--train", "absent.jsonl", "--debug", codes=(66,))

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    for secret in SECRETS.values():
        assert [path for path in written if secret.encode() in path.read_bytes()] == []
        assert secret not in "".join(said)
        assert [line for line in command_lines if secret in line] == []
    assert [path for path in written if path.stat().st_mode & 0o077 and path.parent.name == "secret"] == []


def lines_of_processes() -> list[str]:
    return subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout.splitlines()
