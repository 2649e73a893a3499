"""LoRA that begins where the weights are largest: PiSSA (Meng et al. 2024, arXiv 2404.02948), through peft.

A and B begin as the r largest singular values and vectors of a weight W, and W keeps the rest, W − s·B₀A₀ with the
scale s = alpha / r. A base in NF4 is read from its files layer by layer, split in fp32, and the rest quantised anew:
the quantisation error is then that of the rest, which is smaller. What is saved is plain LoRA of rank 2r over the
untouched base, s·(BA − B₀A₀), so that nobody who loads it has to split anything; to the logits that is a change by
rounding, and on an NF4 base by the difference of the two quantisation errors.
"""

import json
from pathlib import Path

METHOD = "pissa_niter_16"  # the randomised SVD of Halko et al. with 16 power iterations; drawn from torch's seed


def begin(model, base_folder: Path | None) -> None:
    """Split the weights of every LoRA layer of ``model`` and keep A₀ and B₀ with the model."""
    from peft import get_peft_model_state_dict

    for name, layer in model.named_modules():
        if hasattr(layer, "pissa_init") and "default" in getattr(layer, "lora_A", {}):
            if hasattr(layer.base_layer.weight, "quant_state"):
                original = read_weight(base_folder, name.removeprefix("base_model.model.") + ".weight")
                _split_quantised(layer, original)
            else:
                layer.pissa_init("default", METHOD)
    model.peft_config["default"].init_lora_weights = METHOD
    start = get_peft_model_state_dict(model, save_embedding_layers=False)
    model.svd_start = {name: tensor.detach().clone() for name, tensor in start.items()}


def is_used(model) -> bool:
    return hasattr(model, "svd_start")


def as_plain_lora(model) -> dict:
    """Return the tensors of plain LoRA over the untouched base: A over A₀, B beside −B₀, rank 2r."""
    import torch
    from peft import get_peft_model_state_dict

    trained = get_peft_model_state_dict(model, save_embedding_layers=False)
    joined = {}
    for name, tensor in trained.items():
        start = model.svd_start[name].to(tensor.device)
        pair, axis = ([tensor, start], 0) if "lora_A" in name else ([tensor, -start], 1)
        joined[name] = torch.cat(pair, dim=axis).contiguous()
    return joined


def save_as_plain_lora(model, folder: Path) -> None:
    """Write the adapter as plain LoRA; its config has twice the rank and alpha, so the scale is the same."""
    from safetensors.torch import save_file

    config = model.peft_config["default"]
    config.save_pretrained(folder)
    path = folder / "adapter_config.json"
    changes = {"r": 2 * config.r, "lora_alpha": 2 * config.lora_alpha, "init_lora_weights": True}
    content = json.loads(path.read_text(encoding="utf-8")) | changes | {"inference_mode": True}
    content["target_modules"] = sorted(content["target_modules"])  # peft writes a set, in any order
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(as_plain_lora(model), folder / "adapter_model.safetensors", metadata={"format": "pt"})


def find_untrained(model) -> list[str]:
    import torch
    from peft import get_peft_model_state_dict

    trained = get_peft_model_state_dict(model, save_embedding_layers=False)
    return [name for name, start in model.svd_start.items() if torch.equal(trained[name].cpu(), start.cpu())]


def read_weight(folder: Path, name: str):
    """Return tensor ``name`` of a model folder, in fp32. Raises KeyError when no file holds it."""
    import torch
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118 - it is no mapping
                return file.get_tensor(name).to(torch.float32)
    raise KeyError(f"{folder} holds no tensor {name}")


def _split_quantised(layer, weight) -> None:
    """Let peft split ``weight`` [outputs, inputs] in the layer's place, then put the rest back in NF4."""
    import torch

    quantised, device = layer.base_layer, layer.base_layer.weight.device
    full = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    full.weight = torch.nn.Parameter(weight.to(device), requires_grad=False)
    layer.base_layer = full
    layer.pissa_init("default", METHOD)
    layer.base_layer = quantised
    old = quantised.weight
    quantised.weight = type(old)(
        full.weight.data,
        requires_grad=False,
        quant_type=old.quant_type,
        blocksize=old.blocksize,
        compress_statistics=old.compress_statistics,
        quant_storage=old.quant_storage,
        module=quantised,
    ).to(device)
