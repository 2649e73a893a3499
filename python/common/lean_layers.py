"""Layers of a frozen model on a CPU, with the same arithmetic and less memory traffic.

PyTorch runs what lies between two matrix products as one operation after the other over all tokens. Each writes a
tensor of tens of megabytes that the next reads again; peft alone makes several fp32 copies of what goes into a LoRA
layer and what comes out. Here such chains run over a few hundred tokens at a time, which stay in the processor's cache,
and only what the backward pass of frozen weights needs is kept. Results differ from the plain layers' by rounding only;
``docs/fast-path.md`` has the figures.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

_BLOCK = 2**20  # numbers at a time: 4 MiB in fp32
_MLP_ROWS = 256  # tokens at a time between two matrix products
_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Phi3RMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
_MLPS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")


def use_lean_layers(model) -> None:
    """Let the LoRA layers, gated MLPs and RMS norms of a frozen ``model`` compute leanly, where they are plain ones.

    Quantised layers and trained norms stay as they are.
    """
    from peft.tuners.lora import Linear as LoraLayer

    for module in model.modules():
        kind = type(module).__name__
        if type(module) is LoraLayer and type(module.base_layer) is torch.nn.Linear and not module.lora_variant:
            module.forward = partial(_forward_lora, module, module.forward)
        elif kind in _MLPS and _is_plain(module):
            module.forward = partial(_forward_mlp, module)
        elif kind in _NORMS:
            module.forward = partial(_forward_norm, module)


class LoraLinear(torch.autograd.Function):
    """x Wᵀ + bias + scale · (x ∘ kept) Aᵀ Bᵀ, with W frozen, A and B trained in fp32.

    x [tokens, inputs], W [outputs, inputs], A [rank, inputs], B [outputs, rank]; kept bool [tokens, inputs] is the
    dropout mask, or None; ``scale`` holds the dropout's 1 / (1 − p). Products with A and B are computed in fp32.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scale: float, kept):
        result = F.linear(x, weight, bias)
        low = x.new_empty(len(x), len(down), dtype=down.dtype)
        for rows in _blocks(*x.shape):
            low[rows] = _drop(x[rows].to(down.dtype), kept, rows) @ down.T * scale
            result[rows].add_(low[rows] @ up.T)
        ctx.save_for_backward(x, weight, down, up, low, kept)
        ctx.scale = scale
        return result

    @staticmethod
    def backward(ctx, slope):
        x, weight, down, up, low, kept = ctx.saved_tensors
        x_slope = slope @ weight if ctx.needs_input_grad[0] else None
        down_slope, up_slope = torch.zeros_like(down), torch.zeros_like(up)
        for rows in _blocks(len(x), max(x.shape[1], slope.shape[1])):
            part = slope[rows].to(up.dtype)
            up_slope.addmm_(part.T, low[rows])
            low_slope = part @ up * ctx.scale
            down_slope.addmm_(low_slope.T, _drop(x[rows].to(down.dtype), kept, rows))
            if x_slope is not None:
                x_slope[rows].add_(_drop(low_slope @ down, kept, rows))
        return x_slope, None, None, down_slope, up_slope, None, None


class GatedMlp(torch.autograd.Function):
    """(silu(x Gᵀ) ∘ x Uᵀ) Dᵀ with G, U and D frozen: only the two inner activations are kept.

    x [tokens, width], G and U [inner, width], D [width, inner].
    """

    @staticmethod
    def forward(ctx, x, gate_weight, up_weight, down_weight):
        gate, up = F.linear(x, gate_weight), F.linear(x, up_weight)
        result = torch.empty_like(x)
        for rows in _blocks(len(x)):
            result[rows] = F.linear(F.silu(gate[rows]).mul_(up[rows]), down_weight)
        ctx.save_for_backward(gate, up, gate_weight, up_weight, down_weight)
        return result

    @staticmethod
    def backward(ctx, slope):
        gate, up, gate_weight, up_weight, down_weight = ctx.saved_tensors
        x_slope = torch.empty_like(slope)
        for rows in _blocks(len(slope)):
            inner = slope[rows] @ down_weight
            gate_slope = torch.ops.aten.silu_backward(inner * up[rows], gate[rows])
            part = gate_slope @ gate_weight
            x_slope[rows] = part.addmm_(inner.mul_(F.silu(gate[rows])), up_weight)
        return x_slope, None, None, None


class RmsNorm(torch.autograd.Function):
    """weight ∘ x / √(mean(x²) + eps), normalised in fp32, ``weight`` frozen (arXiv 1910.07467). x [tokens, width]."""

    @staticmethod
    def forward(ctx, x, weight, eps: float):
        result, factor = torch.empty_like(x), x.new_empty(len(x), 1, dtype=torch.float32)
        for rows in _blocks(*x.shape):
            part = x[rows].float()
            factor[rows] = torch.rsqrt(part.square().mean(-1, keepdim=True) + eps)
            torch.mul(weight, (part * factor[rows]).to(x.dtype), out=result[rows])
        ctx.save_for_backward(x, weight, factor)
        return result

    @staticmethod
    def backward(ctx, slope):
        x, weight, factor = ctx.saved_tensors
        x_slope = torch.empty_like(x)
        for rows in _blocks(*x.shape):
            normed = x[rows].float() * factor[rows]
            part = (slope[rows] * weight).float()
            x_slope[rows] = factor[rows] * (part - normed * (part * normed).mean(-1, keepdim=True))
        return x_slope, None, None


def _blocks(count: int, width: int = _BLOCK // _MLP_ROWS) -> Iterator[slice]:
    """Cut ``count`` rows of ``width`` numbers into even blocks of about _BLOCK numbers at most."""
    number = max(1, math.ceil(count * width / _BLOCK))
    size = max(1, math.ceil(count / number))
    return (slice(start, start + size) for start in range(0, count, size))


def _drop(part: torch.Tensor, kept: torch.Tensor | None, rows: slice) -> torch.Tensor:
    """Return ``part``, zero where dropout says so."""
    return part if kept is None else part * kept[rows]


def _is_plain(mlp) -> bool:
    """Whether none of an MLP's layers is adapted, quantised or has a bias, and its activation is SiLU."""
    layers = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return mlp.config.hidden_act == "silu" and all(type(x) is torch.nn.Linear and x.bias is None for x in layers)


def _forward_lora(layer, plain: Callable, x: torch.Tensor) -> torch.Tensor:
    if layer.disable_adapters or layer.merged:
        return plain(x)
    (name,) = layer.active_adapters
    down, up, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    share, kept = getattr(layer.lora_dropout[name], "p", 0.0), None
    if share and layer.training:
        kept = torch.empty(x.shape, dtype=torch.bool).bernoulli_(1 - share).flatten(0, -2)  # peft's draws
        scale /= 1 - share
    base = layer.base_layer
    result = LoraLinear.apply(x.flatten(0, -2), base.weight, base.bias, down, up, scale, kept)
    return result.view(*x.shape[:-1], -1)


def _forward_mlp(mlp, x: torch.Tensor) -> torch.Tensor:
    weights = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
    return GatedMlp.apply(x.flatten(0, -2), *weights).view(x.shape)


def _forward_norm(norm, x: torch.Tensor) -> torch.Tensor:
    eps = norm.variance_epsilon
    return RmsNorm.apply(x.flatten(0, -2), norm.weight, eps).view(x.shape)
