"""Tokens per second of LoRA training on one GPU, ours beside TRL's: what `make bench-gpu` runs, an arm a process.

The model has a real one's shape and random weights, drawn on the device; sequences are random and exactly as long as
asked, every token trained. So nothing is downloaded, nothing padded, and all arms compute the same work.
"""

import time

from common import shapes
from common.benchmarks.apart import scratch
from common.settings import MethodSettings, Recipe

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
METHOD = MethodSettings(rank=64, alpha=128, dropout=0.05, targets=TARGETS)
SHAPES = {
    "mistral-7b": shapes.SHAPES["mistral-7b"],
    "small": shapes.SHAPES["mistral-7b"] | {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512,
    },
}  # fmt: skip
ARMS = ("trl_default", "trl_tuned", "ours")
_WARM_UP_STEPS = 2  # compile kernels, fill the allocator's cache


def run_arm(arm: str, shape: str, device: str, length: int, micro_batch: int, steps: int) -> dict[str, float]:
    """Train ``steps`` optimizer steps after two of warm-up; return seconds a step, tokens/s, peak memory in GiB."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self):
            self.ends: list[float] = []

        def on_step_end(self, args, state, control, **_):
            if device == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    trainer = _trainer(arm, SHAPES[shape], device, length, micro_batch, steps + _WARM_UP_STEPS)
    trainer.add_callback(clock)
    trainer.train()
    seconds = (clock.ends[-1] - clock.ends[_WARM_UP_STEPS - 1]) / steps
    return {
        "step_s": seconds,
        "tokens_per_s": micro_batch * length / seconds,
        "peak_memory_gib": _peak_gib(device),
        "loss": trainer.state.log_history[0]["loss"],
    }


def _trainer(arm: str, shape: dict, device: str, length: int, micro_batch: int, steps: int):
    import torch

    torch.manual_seed(0)
    rows = torch.randint(3, shape["vocab_size"], (micro_batch * steps, length)).tolist()
    if arm == "ours":
        return _ours(_random_model(shape, device, torch.bfloat16), rows, device, length, micro_batch, steps)
    default = arm == "trl_default"
    model = _random_model(shape, device, torch.float32 if default else torch.bfloat16)
    return _trl(model, rows, device, length, micro_batch, steps, checkpointing=default)


def _random_model(shape: dict, device: str, dtype):
    """Return a Mistral of random weights, made where it is used: on a GPU it takes a second."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**shape, use_cache=False)
    torch.set_default_device(device)
    try:
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
    finally:
        torch.set_default_device(None)


def _ours(model, rows: list[list[int]], device: str, length: int, micro_batch: int, steps: int):
    """This project's trainer: the frozen model's packs and loss, one pack a sequence."""
    from common.chat import Encoded
    from common.jobs import Job
    from common.methods import add_method
    from common.training import new_trainer

    recipe = Recipe("bench", "main", method=METHOD)
    recipe.model.precision = "bf16"
    training = recipe.training
    training.device, training.max_steps, training.packing, training.pack_tokens = device, steps, "on", length
    training.micro_batch, training.gradient_accumulation, training.activation_checkpointing = 1, micro_batch, "off"
    job = Job(recipe, "bench", tokenizer=_tokenizer())
    job.train_set = [Encoded(ids, [True] * length) for ids in rows]
    return new_trainer(job, add_method(model, METHOD, "random"), scratch())


def _trl(model, rows, device: str, length: int, micro_batch: int, steps: int, *, checkpointing: bool):
    """TRL's SFTTrainer: fp32 weights and checkpointing as it comes; or bf16 weights, nothing recomputed."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from common.trainer_arguments import on_one_gpu

    config = SFTConfig(
        output_dir=str(scratch()),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=micro_batch,
        max_length=length,
        learning_rate=2e-4,
        bf16=True,
        use_cpu=device == "cpu",
        activation_checkpointing=checkpointing,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=METHOD.rank,
        lora_alpha=METHOD.alpha,
        lora_dropout=METHOD.dropout,
        target_modules=list(METHOD.targets),
    )
    data = Dataset.from_dict({"input_ids": rows})
    trainer = SFTTrainer(model, on_one_gpu(config), train_dataset=data, processing_class=_tokenizer(), peft_config=lora)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _tokenizer():
    """Any will do: no text is read."""
    from common.models import load_tokenizer

    return load_tokenizer(shapes.DEMO_MODEL)


def _peak_gib(device: str) -> float:
    from common.process_memory import peak_gpu_gib, peak_rss_gib

    return peak_gpu_gib() if device == "cuda" else peak_rss_gib()
