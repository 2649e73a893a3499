"""A model of a given shape with random weights: it costs what the real one costs, and says nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.calling import call
from common.runs import runs_dir, write_json

SHARD_BYTES = 2 * 1024**3
_TILE = 1 << 20  # numbers that are drawn once and repeated, where drawing every one would take longer than the rest


def default_folder(shape: str, layers: int | None = None) -> Path:
    """Return the folder in runs/models/ for a model of ``shape``, with fewer ``layers`` if given."""
    return runs_dir() / "models" / (f"random-{shape}" + (f"-{layers}layers" if layers else ""))


def require_model(shape: str, layers: int) -> Path:
    """Return the folder of such a model, written first, by a process of its own, if it is not there yet.

    Raises UserError with the exit code of make_random_model where that fails.
    """
    folder = default_folder(shape, layers)
    if not folder.is_dir():
        call(runs_dir(), "make_random_model.py", "--shape", shape, "--layers", str(layers))
    return folder


def write_model(config: Mapping[str, Any], folder: Path, *, seed: int = 0, tiled: bool = False) -> None:
    """Write config.json and weights drawn from N(0, 0.02²), shard by shard, so that memory stays small.

    ``config`` is that of a model in the hub's form. Weights are in its dtype, bf16 unless it names one. With ``tiled``
    large tensors repeat the same numbers.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, **config}
    kind = shape.pop("model_type")
    dtype = getattr(torch, str(shape.pop("dtype", None) or shape.pop("torch_dtype", None) or "bfloat16"))
    config = AutoConfig.for_model(kind, **shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    outline = model.state_dict()
    if config.tie_word_embeddings:
        del outline["lm_head.weight"]
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    config.save_pretrained(folder)

    generator = torch.Generator().manual_seed(seed)
    shards = split_names(outline)
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: _draw(outline[name], generator, tiled) for name in names}
        save_file(tensors, folder / file_name, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file_name)
    size = sum(tensor.nbytes for tensor in outline.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def split_names(outline: Mapping[str, Any]) -> list[list[str]]:
    """Split tensor names, in order, into shards of at most SHARD_BYTES (one tensor at least)."""
    shards, size = [[]], 0
    for name, tensor in outline.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def _draw(tensor, generator, tiled: bool):
    """Return random weights in the shape of ``tensor``; ones for a norm's vector."""
    import torch

    if tensor.ndim == 1:
        return torch.ones(tensor.shape, dtype=tensor.dtype)
    if tiled and tensor.numel() > _TILE:
        tile = torch.empty(_TILE, dtype=tensor.dtype).normal_(0.0, 0.02, generator=generator)
        return tile.repeat(-(-tensor.numel() // _TILE))[: tensor.numel()].view(tensor.shape)
    return torch.empty(tensor.shape, dtype=tensor.dtype).normal_(0.0, 0.02, generator=generator)
