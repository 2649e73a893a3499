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
    runs = tmp_path / "runs"
    environment = os.environ | SECRETS | {"RECETARIO_RUNS": str(runs), "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    said, command_lines = [], set()

    def call(command, *words, codes=(0,), **variables):
        line = [sys.executable, str(ROOT / "python" / command), *words]
        with (tmp_path / "said").open("w+") as out:
            process = subprocess.Popen(line, env=environment | variables, stdout=out, stderr=out)
            while process.poll() is None:
                command_lines.update(lines_of_processes())
                time.sleep(0.2)
            out.seek(0)
            said.append(out.read())
        assert process.returncode in codes, said[-1]

    few = ("--set", "training.max_steps=2", "--set", "training.warmup_steps=0", "--set", "training.threads=1")
    call("doctor.py", "demo")
    call("start_run.py", "--recipe", "demo", "--run", "secret", *few)
    call("stop_run.py", "--run", "secret")  # wherever it is by now
    call("status.py")
    call("resume_run.py", "--run", "secret")
    call("watch_run.py", "--run", "secret", codes=(0, 66))  # 66: it is done already
    call("status.py", "--json")
    call("reproduce_run.py", "--run", "secret")
    short, program = ("--max-new-tokens", "4"), str(tmp_path / "program.json")
    few = ("--dev", "4", "--candidates", "3", "--trials", "2", "--demonstrations", "1")
    call("optimize_prompt.py", "--recipe", "demo", "--output", program, *few, *short)
    call("compare_ba_models.py", "--run", "secret", "--optimized", program, *short)
    test = tmp_path / "test.jsonl"
    rows = ('{"prompt": "What is a fox?", "completion": "A small wild dog."}', '{"prompt": "Hi?", "completion": "Ho."}')
    test.write_text("\n".join(rows))
    words = ("--test_data", str(test), "--output_file", str(tmp_path / "judged.json"), "--max_new_tokens", "4")
    call("evaluate_models.py", "--qlora_model", str(runs / "secret"), *words)
    call("finetune_ba.py", "--recipe", "demo", "--run", "fails", "--train", "absent.jsonl", "--debug", codes=(66,))
    call("download_model.py", "org/name", "--debug", codes=(69,), HF_HUB_OFFLINE="", HF_ENDPOINT="http://127.0.0.1:9")

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    for secret in SECRETS.values():
        assert [path for path in written if secret.encode() in path.read_bytes()] == []
        assert secret not in "".join(said)
        assert [line for line in command_lines if secret in line] == []
    assert [path for path in written if path.stat().st_mode & 0o077 and path.parent.name == "secret"] == []


def lines_of_processes() -> list[str]:
    return subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout.splitlines()
