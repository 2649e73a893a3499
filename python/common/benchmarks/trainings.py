"""The trainings that the CPU benchmark compares, each run in a process of its own.

All train the same LoRA (r 8 on q, k, v, o; bf16 weights, fp32 adapters) on the same examples for the same number of
optimizer steps of eight examples, on the CPU. What is timed is the training loop alone, without loading and saving.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.benchmarks.apart import scratch
from common.settings import MethodSettings, Recipe

EXAMPLES_PER_STEP = 8
MAX_LENGTH_TOKENS = 2048
METHOD = MethodSettings()
RUN_ONCE = ("trl_default",)  # so slow that more repeats would take most of the time and change no conclusion


def train_stock(model: Path, data: Path, steps: int) -> dict[str, float]:
    """transformers' Trainer at batch 1 × accumulation 8, as most scripts do; all cores, nothing recomputed."""
    from transformers import Trainer

    from common.batches import pad

    adapted, tokenizer, examples = _load(model, data)
    trainer = Trainer(
        model=adapted,
        args=_arguments(steps, bf16=False),
        train_dataset=list(examples),
        data_collator=lambda batch: pad(batch, tokenizer.pad_token_id),
    )
    return _timed(trainer.train)


def train_trl_tuned(model: Path, data: Path, steps: int) -> dict[str, float]:
    """TRL's SFTTrainer with what it leaves slow set by hand: all cores, bf16 weights, nothing recomputed."""
    from datasets import Dataset
    from transformers.utils import logging
    from trl import SFTConfig, SFTTrainer

    logging.set_verbosity_error()
    adapted, tokenizer, _ = _load(model, data)
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    options = _options(steps) | {"bf16": False, "activation_checkpointing": False, "max_length": MAX_LENGTH_TOKENS}
    trainer = SFTTrainer(
        model=adapted, args=SFTConfig(**options), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    return _timed(trainer.train)


def train_trl_default(model: Path, data: Path, steps: int) -> dict[str, float]:
    """`trl sft` as it starts on a CPU, told no more than model, data, LoRA and batch."""
    command = [Path(sys.executable).with_name("trl"), "sft", "--model_name_or_path", model, "--dtype", "bfloat16"]
    command += ["--dataset_name", data.parent, "--use_cpu", "--max_steps", steps, "--max_length", MAX_LENGTH_TOKENS]
    command += ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", EXAMPLES_PER_STEP]
    command += ["--use_peft", "--lora_r", METHOD.rank, "--lora_alpha", METHOD.alpha, "--lora_dropout", METHOD.dropout]
    command += ["--lora_target_modules", *METHOD.targets, "--output_dir", scratch(), "--save_strategy", "no"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    answer = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"'train_runtime': '?([\d.]+)", answer.stdout)
    if answer.returncode or not found:
        raise RuntimeError(f"trl sft failed: {answer.stderr[-2000:]}")
    return {"seconds": float(found.group(1))}


def train_ours(model: Path, data: Path, steps: int, compute: str = "auto") -> dict[str, float]:
    """This project's trainer, with the packs it chooses, whose length it tells too."""
    from common.checks import raise_problems
    from common.jobs import Job
    from common.preparation import check_job
    from common.training import new_trainer

    recipe = Recipe("bench", "finetune_ba", method=METHOD)
    recipe.model.name, recipe.model.precision = str(model), "bf16"
    recipe.model.compute = compute
    recipe.data.train, recipe.data.validation = str(data), None
    recipe.training.max_steps, recipe.training.warmup_steps = steps, 0
    job = Job(recipe, f"bench-{os.getpid()}")
    raise_problems(check_job(job))
    adapted, _, _ = _load(model, data, compute)
    return _timed(new_trainer(job, adapted, scratch()).train) | {"pack_tokens": recipe.training.pack_tokens}


ARMS: dict[str, Callable[[Path, Path, int], dict[str, float]]] = {
    "trainer": train_stock,
    "trl_tuned": train_trl_tuned,
    "trl_default": train_trl_default,
    "ours": train_ours,
    "ours_int8": partial(train_ours, compute="int8"),
}


def run_arm(arm: str, model: Path, data: Path, steps: int) -> dict[str, float]:
    """Run one training here and return its seconds, and its peak memory in GiB: this process's or a child's."""
    import torch

    from common.hardware import pick_threads
    from common.process_memory import peak_rss_gib

    torch.set_num_threads(pick_threads().value)
    return ARMS[arm](model, data, steps) | {"peak_rss_gib": peak_rss_gib(with_children=True)}


def _load(model: Path, data: Path, compute: str = "auto"):
    """Return the model with its LoRA, the tokenizer, and the encoded examples."""
    from common.chat import encode_examples
    from common.data import load_examples
    from common.methods import add_method
    from common.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    examples = encode_examples(tokenizer, load_examples(data).examples, max_length_tokens=MAX_LENGTH_TOKENS)
    return add_method(load_model(model, "bf16", compute=compute), METHOD, str(model)), tokenizer, examples


def _options(steps: int) -> dict:
    return {
        "output_dir": str(scratch()),
        "max_steps": steps,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": EXAMPLES_PER_STEP,
        "learning_rate": 2e-4,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _arguments(steps: int, **options):
    from transformers import TrainingArguments

    return TrainingArguments(**_options(steps), **options, remove_unused_columns=False)


def _timed(train: Callable[[], object]) -> dict[str, float]:
    started = time.perf_counter()
    train()
    return {"seconds": time.perf_counter() - started}
