"""Run folders as a finished training leaves them, made without training, with an adapter that does something."""

from pathlib import Path

import torch
from small_models import SHAPE

from common.hashing import sha256_of
from common.methods import add_method, save_adapter
from common.model_files import hash_model_files
from common.models import load_model
from common.runs import write_json
from common.settings import MethodSettings

LORA = MethodSettings(rank=4, alpha=8, targets=["q_proj", "v_proj"])


def make_base(folder: Path, tokenizer, *, kind: str = "llama", dtype=torch.float32, **config) -> Path:
    """A random model of two layers with this tokenizer, saved as the hub has it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    shape = AutoConfig.for_model(kind, **SHAPE, vocab_size=len(tokenizer), **ids, **config)
    AutoModelForCausalLM.from_config(shape).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_run(folder: Path, base: Path, tokenizer, *, method: MethodSettings = LORA, std: float = 0.2) -> Path:
    """A finished run on ``base``; ``std`` is the spread of lora_B, 0 for an adapter that never learned."""
    torch.manual_seed(1)
    model = add_method(load_model(base), method, str(base))
    for name, weight in model.named_parameters():
        if "lora_B" in name and std:
            torch.nn.init.normal_(weight, std=std)
    folder.mkdir(parents=True)
    save_adapter(model, folder)
    tokenizer.save_pretrained(folder)
    settings = {"name": str(base), "revision": None, "precision": "fp32"}
    write_json(
        folder / "run.json",
        {
            "recipe": "tiny",
            "settings": {
                "model": settings,
                "data": {"max_length_tokens": 128, "columns": None},
                "method": {"kind": method.kind},
            },
            "data": {
                part: {"path": f"/home/somebody/{part}.jsonl", "examples": 7, "sha256": "0" * 64}
                for part in ("train", "validation")
            },
            "model": {"files": hash_model_files(base), "precision": "fp32"},
            "versions": {"torch": "2", "lock_sha256": "0"},
            "hardware": {"cpu": "a processor"},
        },
    )
    write_json(
        folder / "training_info.json",
        {
            "base_model": str(base),
            "precision": "fp32",
            "data_train": "/home/somebody/train.jsonl",
            "method_kind": method.kind,
            "method_rank": method.rank,
            "learning_rate": 1e-3,
            "eval_loss": 1.5,
            "trainable_params": 12345,
        },
    )
    (folder / "README.md").write_text("as the training wrote it\n", encoding="utf-8")
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != "run.json"}
    write_json(folder / "DONE.json", {"files": files})
    return folder
