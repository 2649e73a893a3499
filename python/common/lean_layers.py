"""Layers of a frozen model on a CPU, with the same arithmetic and less memory traffic.

PyTorch runs what lies between two matrix products as one operation after the other over all tokens. Each writes a
tensor of tens of megabytes that the next reads again; peft alone makes several fp32 copies of what goes into a LoRA
layer and what comes out. Here such chains run over a few hundred tokens at a time, which stay in the processor's cache,
and only what the backward pass of frozen weights needs is kept. Results differ from the plain layers' by rounding only;
``docs/fast-path.md`` has the figures.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import repeat

import torch
import torch.nn.functional as F

from common.dropout_masks import draw_kept, drop
from common.frozen_linear import is_frozen_linear, weight_of
from common.hardware import bf16_flag
from common.lean_rotary import use_lean_rotary
from common.recycled_memory import new_rows
from common.teamwork import share_out

_CACHED_ROWS = 128  # tokens at a time: what lies between two products stays in the cache
_ROWS, _TILED_ROWS, _INT8_ROWS = 1024, 2560, 4096  # of a product in bf16, of one on a CPU with matrix tiles, in int8
_TILE = 64  # rows that a matrix product takes together
_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Phi3RMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
_MLPS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")


def use_lean_layers(model) -> None:
    """Let LoRA layers, gated MLPs, norms and rotary steps of a frozen ``model`` compute leanly, in NF4 and int8 too."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        kind = type(module).__name__
        if isinstance(module, LoraLayer) and is_frozen_linear(module.base_layer) and not module.lora_variant:
            module.forward = partial(_forward_lora, module, module.forward)
        elif kind in _MLPS and _is_gated(module):
            module.forward = partial(_forward_mlp, module)
        elif kind in _NORMS:
            module.forward = partial(_forward_norm, module)
    use_lean_rotary(model)


class LoraLinear(torch.autograd.Function):
    """x Wᵀ + bias + scale · (x ∘ kept) Aᵀ Bᵀ, with W and bias those of a frozen ``base``, A and B trained in fp32.

    x [tokens, inputs], W [outputs, inputs], A [rank, inputs], B [outputs, rank]; kept int8
    [tokens, inputs] is the dropout mask of :func:`draw_kept`, or None; ``scale`` holds the dropout's 1 / (1 − p).
    Products with A and B are computed in fp32, and added before they are rounded.
    """

    @staticmethod
    def forward(ctx, x, base, down, up, scale: float, kept):
        weight = weight_of(base, x.dtype)
        result = new_rows(x, len(x), weight.outputs)
        low = x.new_empty(len(x), len(down), dtype=down.dtype)

        def add_update(rows) -> None:
            x_rows, result_rows, low_rows, kept_rows = rows
            torch.mm(drop(x_rows, kept_rows).to(down.dtype), down.T, out=low_rows).mul_(scale)
            result_rows.copy_(torch.addmm(result_rows.to(up.dtype), low_rows, up.T))

        size = _product_rows(weight.dtype)
        for many in _blocks(size, x, result, low, kept):
            weight.multiply(weight.take(many[0]), out=many[1])
            share_out(add_update, _blocks(_CACHED_ROWS, *many))
        if base.bias is not None:
            result += base.bias
        ctx.save_for_backward(x, down, up, low, kept)
        ctx.base, ctx.scale, ctx.size = base, scale, size
        return result

    @staticmethod
    def backward(ctx, slope):
        x, down, up, low, kept = ctx.saved_tensors
        x_slope, weight = None, None
        if ctx.needs_input_grad[0]:
            x_slope, weight = new_rows(x, *x.shape), weight_of(ctx.base, x.dtype)
        down_slope, up_slope = torch.zeros_like(down), up.new_zeros(up.T.shape)  # transposed: the quicker product

        def go_back(rows) -> tuple[torch.Tensor, torch.Tensor]:
            slope_rows, x_slope_rows, x_rows, low_rows, kept_rows = rows
            part = slope_rows.to(up.dtype)
            low_slope = part @ up * ctx.scale
            if x_slope is not None:
                x_slope_rows.copy_(drop(low_slope @ down, kept_rows).add_(x_slope_rows))
            return low_rows.T @ part, low_slope.T @ drop(x_rows, kept_rows).to(down.dtype)

        for many in _blocks(ctx.size, slope, x_slope, x, low, kept):
            if x_slope is not None:
                weight.add_back([many[0]], [weight], out=many[1])
            for up_part, down_part in share_out(go_back, _blocks(_CACHED_ROWS, *many)):
                up_slope += up_part
                down_slope += down_part
        return x_slope, None, down_slope, up_slope.T.contiguous(), None, None


class GatedMlp(torch.autograd.Function):
    """(silu(x Gᵀ) ∘ x Uᵀ) Dᵀ with G, U and D of frozen layers: only the two inner activations are kept.

    x [tokens, width], G and U [inner, width], D [width, inner].
    """

    @staticmethod
    def forward(ctx, x, *layers):
        ctx.layers = layers
        gate_weight, up_weight, down_weight = (weight_of(layer, x.dtype) for layer in layers)
        gate, up = (new_rows(x, len(x), weight.outputs) for weight in (gate_weight, up_weight))
        result = new_rows(x, *x.shape)
        for x_many, gate_many, up_many, result_many in _blocks(_product_rows(gate_weight.dtype), x, gate, up, result):
            taken = gate_weight.take(x_many)
            gate_weight.multiply(taken, out=gate_many)
            up_weight.multiply(taken, out=up_many)
            inner = new_rows(gate_many, *gate_many.shape)
            share_out(_gate, _blocks(_CACHED_ROWS, inner, gate_many, up_many))
            down_weight.multiply(down_weight.take(inner), out=result_many)
        ctx.save_for_backward(gate, up)
        return result

    @staticmethod
    def backward(ctx, slope):
        gate, up = ctx.saved_tensors
        gate_weight, up_weight, down_weight = (weight_of(layer, slope.dtype) for layer in ctx.layers)
        x_slope = new_rows(slope, *slope.shape)
        size = _product_rows(gate_weight.dtype)
        for slope_many, x_slope_many, gate_many, up_many in _blocks(size, slope, x_slope, gate, up):
            up_slope, gate_slope = (new_rows(up_many, *up_many.shape) for _ in range(2))
            down_weight.add_back(
                [slope_many], [down_weight], out=up_slope
            )  # of the inner product; times silu(gate) it is up's own
            share_out(_gate_back, _blocks(_CACHED_ROWS, up_slope, gate_slope, gate_many, up_many))
            gate_weight.add_back([gate_slope, up_slope], [gate_weight, up_weight], out=x_slope_many)
        return x_slope, None, None, None


def _gate(rows) -> None:
    inner, gate, up = rows
    torch.mul(F.silu(gate), up, out=inner)


def _gate_back(rows) -> None:
    inner_slope, gate_slope, gate, up = rows
    torch.ops.aten.silu_backward(inner_slope * up, gate, grad_input=gate_slope)
    inner_slope.mul_(F.silu(gate))


class RmsNorm(torch.autograd.Function):
    """weight ∘ x / √(mean(x²) + eps), normalised in fp32, ``weight`` frozen (arXiv 1910.07467). x [tokens, width]."""

    @staticmethod
    def forward(ctx, x, weight, eps: float):
        result, factor = new_rows(x, *x.shape), x.new_empty(len(x), 1, dtype=torch.float32)

        def norm(rows) -> None:
            x_rows, factor_rows, result_rows = rows
            part = x_rows.to(torch.float32, copy=True)
            squares = torch.linalg.vector_norm(part, dim=-1, keepdim=True).square_()
            torch.rsqrt(squares.div_(part.shape[-1]).add_(eps), out=factor_rows)
            torch.mul(weight, part.mul_(factor_rows).to(x.dtype), out=result_rows)

        share_out(norm, _blocks(_CACHED_ROWS, x, factor, result))
        ctx.save_for_backward(x, weight, factor)
        return result

    @staticmethod
    def backward(ctx, slope):
        x, weight, factor = ctx.saved_tensors
        x_slope = new_rows(x, *x.shape)

        def go_back(rows) -> None:
            x_rows, factor_rows, slope_rows, x_slope_rows = rows
            normed = x_rows.to(torch.float32, copy=True).mul_(factor_rows)
            part = (slope_rows * weight).float()
            along = (part * normed).mean(-1, keepdim=True)
            x_slope_rows.copy_(part.sub_(normed.mul_(along)).mul_(factor_rows))

        share_out(go_back, _blocks(_CACHED_ROWS, x, factor, slope, x_slope))
        return x_slope, None, None


@cache
def _product_rows(dtype: torch.dtype) -> int:
    """Return how many tokens a product in ``dtype`` takes at a time."""
    if dtype == torch.int8:
        return _INT8_ROWS
    if dtype != torch.bfloat16:
        return _CACHED_ROWS
    return _TILED_ROWS if bf16_flag() == "amx_bf16" else _ROWS


def _blocks(most: int, *tensors: torch.Tensor | None) -> list[tuple[torch.Tensor, ...]]:
    """Cut the rows of ``tensors`` at the same places: even blocks of at most ``most``, in whole tiles of the products.

    For None, which may stand for a tensor, there is None in every block.
    """
    count = len(tensors[0])
    even = math.ceil(count / math.ceil(count / most)) if count else _TILE
    size = math.ceil(even / _TILE) * _TILE
    return list(zip(*(repeat(None) if tensor is None else tensor.split(size) for tensor in tensors), strict=False))


def _is_gated(mlp) -> bool:
    """Whether an MLP is silu(gate) ∘ up and down again, without adapters and biases."""
    layers = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return mlp.config.hidden_act == "silu" and all(is_frozen_linear(layer) and layer.bias is None for layer in layers)


def _forward_lora(layer, plain: Callable, x: torch.Tensor) -> torch.Tensor:
    if layer.disable_adapters or layer.merged:
        return plain(x)
    (name,) = layer.active_adapters
    down, up, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    rate, kept = getattr(layer.lora_dropout[name], "p", 0.0), None
    if rate and layer.training:
        kept, rate = draw_kept(x.flatten(0, -2).shape, rate)
        scale /= 1 - rate
    result = LoraLinear.apply(x.flatten(0, -2), layer.base_layer, down, up, scale, kept)
    return result.view(*x.shape[:-1], -1)


def _forward_mlp(mlp, x: torch.Tensor) -> torch.Tensor:
    return GatedMlp.apply(x.flatten(0, -2), mlp.gate_proj, mlp.up_proj, mlp.down_proj).view(x.shape)


def _forward_norm(norm, x: torch.Tensor) -> torch.Tensor:
    eps = norm.variance_epsilon
    return RmsNorm.apply(x.flatten(0, -2), norm.weight, eps).view(x.shape)
