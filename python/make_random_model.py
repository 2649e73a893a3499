"""Write a model of a real model's shape with random weights: to measure speed and memory without any download.

  python python/make_random_model.py --shape mistral-7b                  14.5 GB in runs/models/random-mistral-7b
  python python/make_random_model.py --shape mistral-7b --layers 4       the same layers, fewer of them

It computes what the real one computes, at the same cost; what it says is noise. Tokenizer: that of the demo model.
"""

import shutil
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.settings import RECIPES_DIR

SHAPES = {
    "mistral-7b": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
    },
}
SHARD_BYTES = 2 * 1024**3
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--shape", default="mistral-7b", choices=sorted(SHAPES), help="whose shape")
    parser.add_argument("--layers", type=int, help="number of decoder layers (default: the shape's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    parser.add_argument("--output", type=Path, help="folder (default: runs/models/random-SHAPE[-Nlayers])")
    args = parser.parse_args()
    if args.layers is not None and args.layers < 1:
        raise UserError(Problem(f"--layers {args.layers}", "at least 1"), ExitCode.USAGE)

    folder = args.output or default_folder(args.shape, args.layers)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what, allowed = f"{folder} is there already", "an empty folder, or none"
        problem = Problem(what, allowed, "delete it, or choose another with --output")
        raise UserError(problem, ExitCode.CANNOT_CREATE)

    shape = SHAPES[args.shape] | ({"num_hidden_layers": args.layers} if args.layers else {})
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        what = f"cannot write in {folder.parent}: {error.strerror}"
        raise UserError(Problem(what, next_step="choose another with --output"), ExitCode.CANNOT_CREATE) from error
    write_model(shape, args.seed, draft)
    for name in TOKENIZER_FILES:
        shutil.copyfile(RECIPES_DIR / "demo" / "model" / name, draft / name)
    draft.rename(folder)
    print(f"wrote {folder}")


def default_folder(shape: str, layers: int | None) -> Path:
    """Return the folder in runs/models/ for a random model."""
    from common.runs import runs_dir

    return runs_dir() / "models" / (f"random-{shape}" + (f"-{layers}layers" if layers else ""))


def write_model(shape: dict, seed: int, folder: Path) -> None:
    """Write config and bf16 weights drawn from N(0, 0.02²), shard by shard, so that memory stays small."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from common.runs import write_json

    config = AutoConfig.for_model(**shape, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).state_dict()
    config.architectures = ["MistralForCausalLM"]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)

    generator = torch.Generator().manual_seed(seed)
    shards = split_names(outline)
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: draw(outline[name], generator) for name in names}, folder / file_name, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file_name)
        print(f"shard {number} of {len(shards)}", flush=True)
    size = sum(tensor.nbytes for tensor in outline.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def split_names(outline: dict) -> list[list[str]]:
    """Split tensor names, in order, into shards of at most SHARD_BYTES (one tensor at least)."""
    shards, size = [[]], 0
    for name, tensor in outline.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def draw(tensor, generator):
    """Return random weights in the shape of ``tensor``; ones for a norm's vector."""
    import torch

    if tensor.ndim == 1:
        return torch.ones(tensor.shape, dtype=torch.bfloat16)
    return torch.empty(tensor.shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)


if __name__ == "__main__":
    run_command(main)
