"""utn-qlora and yoda-mps through the real SFTTrainer, on the demo model: artefacts, figures, interruption, refusals.

Run: pytest tests/smoke/test_trl.py
"""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.hashing import sha256_of
from common.samples import regulations
from common.samples.files import write_splits

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.smoke
LOSS_PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def utn(tmp_path_factory):
    """The options of a short utn-qlora on its own kind of rows, Llama-3's template in `text`, base in NF4."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no build for this system")
    folder = tmp_path_factory.mktemp("utn")
    rows = regulations.generate_dataset(42)
    write_splits(folder, {"train": rows["train_v3_combined_split"][:40], "test": rows["test_v3_combined_split"][:8]})
    data = ("--train", str(folder / "train.jsonl"), "--val", str(folder / "test.jsonl"))
    numbers = ("--max-steps", "8", "--eval-every", "3", "--log-every", "1", "--set", "training.save_every_minutes=1e-4")
    return ("--smoke", *data, *numbers)


@pytest.fixture(scope="module")
def utn_whole(trainings, utn):
    code, output = trainings.run(*utn, "--run", "utn-whole", command="train_peft_v3")
    assert code == 0, output
    return output


def test_utn_trains_on_nf4_with_fp32_adapters_and_says_what_it_does(trainings, utn_whole):
    from safetensors.torch import load_file

    assert "precision nf4" in utn_whole and "products " in utn_whole
    assert "optimizer adamw_torch (in place of paged_adamw_8bit" in utn_whole
    assert "40 examples (text" in utn_whole
    assert "trainable params: 507,904 || all params: " in utn_whole
    folder = trainings.folder / "utn-whole"
    weights = load_file(folder / "adapter_model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.float32"}
    assert sum(weight.numel() for weight in weights.values()) == 507_904
    assert not list(folder.glob("*.bin"))
    info = trainings.read("utn-whole", "training_info.json")
    assert (info["steps"], info["precision"], info["optimizer"]) == (8, "nf4", "adamw_torch")
    assert info["group_by_length"] is True


def test_utn_records_and_draws_its_losses_as_it_goes(trainings, utn_whole):
    folder = trainings.folder / "utn-whole"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    judged = [record for record in records if "eval_loss" in record]
    assert [record["step"] for record in judged] == [3, 6, 8]
    assert all(record["perplexity"] == pytest.approx(math.exp(record["eval_loss"])) for record in judged)
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 9))
    assert (folder / "loss.png").read_bytes().startswith(LOSS_PNG)
    assert "step 6/8  eval loss" in utn_whole


def test_utn_killed_and_resumed_ends_with_the_same_bytes(trainings, utn, utn_whole):
    process = trainings.start(*utn, "--run", "utn-killed", command="train_peft_v3")
    trainings.signal_at(process, "utn-killed", 4, signal.SIGKILL)
    assert (trainings.folder / "utn-killed" / "loss.png").is_file(), "drawn after step 3"
    code, output = trainings.run("--resume", "--run", "utn-killed", command="train_peft_v3")
    assert code == 0, output
    assert "resuming at step" in output
    for name in ("adapter_model.safetensors", "loss.png"):
        assert sha256_of(trainings.folder / "utn-killed" / name) == sha256_of(trainings.folder / "utn-whole" / name)


@pytest.fixture(scope="module")
def yoda(trainings):
    """What `make train-mps SMOKE=1` says, and the folder of its run."""
    variables = {"RECETARIO_PYTHON": sys.executable, "SMOKE": "1"}
    environment = trainings.environment | variables
    done = subprocess.run(
        ["make", "train-mps"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, trainings.folder / "yoda-mps-smoke"


def test_yoda_probes_memory_and_keeps_what_it_found(trainings, yoda):
    output, _ = yoda
    assert "memory probe: micro-batch 8 × accumulation 1 fits, tried on the longest examples" in output
    manifest = trainings.read("yoda-mps-smoke", "run.json")
    found = manifest["memory_probe"]
    assert (found["micro_batch"], found["gradient_accumulation"], found["reduced"]) == (8, 1, False)
    assert manifest["settings"]["training"]["packing"] == "off"


def test_yoda_puts_held_out_sentences_in_his_order_and_the_base_does_not(trainings, yoda):
    code, output = trainings.run("--run", "yoda-mps-smoke", command="compare_ba_models")
    assert code == 0, output
    models = trainings.read("yoda-mps-smoke", "compare/report.json")["models"]
    assert models["baseline"]["scores"]["mean"] < 0.05
    assert models["finetuned"]["scores"]["n"] == 60 and models["finetuned"]["scores"]["mean"] > 0.6


def test_what_a_notebook_imports_answers_as_training_encoded(yoda):
    from common.chat import encode_examples
    from common.data import load_examples
    from common.methods import load_adapter
    from common.models import load_model, load_tokenizer
    from train_yoda import encode_prompt, generate

    _, run = yoda
    tokenizer, model = load_tokenizer(run), load_adapter(load_model(ROOT / "recipes" / "demo" / "model"), run)
    examples = load_examples(ROOT / "recipes" / "demo" / "data" / "yoda" / "validation.jsonl").examples[:3]
    for example, encoded in zip(examples, encode_examples(tokenizer, examples, max_length_tokens=512), strict=True):
        prompt = encode_prompt(tokenizer, example.messages[0].content)
        assert prompt == encoded.input_ids[: encoded.completion_mask.index(True)]
    answer = generate(model, tokenizer, prompt, max_new_tokens=8)
    assert answer == generate(model, tokenizer, examples[-1].messages[0].content, max_new_tokens=8)
    assert answer and not model.training


def test_yoda_refuses_what_an_apple_gpu_cannot_do(trainings):
    before = sorted(trainings.folder.iterdir())
    code, output = trainings.run("--smoke", "--device", "mps", "--run", "never", command="train_yoda")
    assert code == 69 and "device mps is not available — here: cpu" in output, output
    assert sorted(trainings.folder.iterdir()) == before
