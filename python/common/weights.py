"""The weights of a model on disk: which files, whether they are whole, and whether they hold what the model needs.

Only names, sizes and headers are read (https://huggingface.co/docs/safetensors: eight bytes of length, a JSON header
with dtype, shape and offsets of each tensor, then the bytes), so that every size is looked through in no time.
"""

import json
import math
from pathlib import Path

from common.errors import Problem
from common.runs import read_json

_LFS_POINTER = b"version https://git-lfs"
_AGAIN = "copy or download it again"
_NEVER_NEEDED = "rotary_emb.inv_freq"  # computed; some early Llama checkpoints hold it all the same


def list_weight_files(folder: Path) -> tuple[list[Path], list[Problem]]:
    """Return the safetensors files that are there, and a problem for each that ought to be."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        only_bin = any(folder.glob("*.bin"))
        what = f"{folder} holds only .bin weights" if only_bin else f"{folder} holds no weights"
        return [], [Problem(what, "safetensors only: a .bin file can run code", "copy the .safetensors files")]
    shards = [folder / name for name in names]
    present = [shard for shard in shards if shard.is_file()]
    missing = [
        Problem(f"{shard} is missing", f"the index lists {len(names)}", _AGAIN)
        for shard in shards
        if shard not in present
    ]
    return present, missing


def check_safetensors(path: Path) -> Problem | None:
    """Return a problem when the file is a git-lfs pointer, is cut short, or is no safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        if start.startswith(_LFS_POINTER):
            return Problem(
                f"{path} is a git-lfs pointer of {size} bytes", "the weights themselves", "run: git lfs pull"
            )
        header_size = int.from_bytes(start[:8], "little")
        if len(start) < 8 or header_size > min(size, 100_000_000):
            return Problem(f"{path} is cut short, or no safetensors file ({size:,} bytes)", next_step=_AGAIN)
        file.seek(8)
        try:
            header = json.loads(file.read(header_size))
        except ValueError:
            return Problem(f"{path} has an unreadable header", next_step=_AGAIN)
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    wanted = 8 + header_size + max(ends, default=0)
    if size != wanted:
        return Problem(f"{path} has {size:,} bytes, its header promises {wanted:,}", next_step=_AGAIN)
    return None


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return tensor name → shape from the header of a safetensors file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}


def count_numbers(folder: Path) -> int:
    """Return how many numbers the safetensors files of a model hold."""
    return sum(math.prod(shape) for path in list_weight_files(folder)[0] for shape in read_shapes(path).values())


def build_skeleton(folder: Path):
    """Return the model of ``folder`` without weights: every module, every shape, next to no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def check_tensors(folder: Path) -> list[Problem]:
    """Return a problem when tensors are missing, unexpected or misshapen: the stock loader fills in random numbers.

    For architectures whose tensors lie in the file as in the model; the model is built without memory, for its names.
    """
    model = build_skeleton(folder)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    there = {name: shape for path in list_weight_files(folder)[0] for name, shape in read_shapes(path).items()}
    found = {name: shape for name, shape in there.items() if _NEVER_NEEDED not in name}
    if model.config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
        found.pop("lm_head.weight", None)
    kinds = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "misshapen": sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name]),
    }
    wrong = [f"{len(names)} {kind}, {names[0]} for one" for kind, names in kinds.items() if names]
    what = f"the weights in {folder} do not fit: {'; '.join(wrong)}"
    return [Problem(what, "every tensor, and no other", _AGAIN)] if wrong else []
