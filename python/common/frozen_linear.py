"""Linear layers with frozen weights, and their products: with weights as they are, unpacked from 4 bits, or in int8.

In int8 both factors of a product are rounded: each row of a weight when it is loaded, each token's activations, and
gradients on the way back, as they come; symmetrically, to ±127 times the row's own scale (Dettmers et al. 2022, arXiv
2208.07339, section 2.1, without the parts it keeps in 16 bits). Products of whole numbers and their sums are exact. A
CPU with int8 instructions makes twice as many as in bf16; weights take half the memory. No token depends on another.
"""

from typing import NamedTuple

import torch

from common.recycled_memory import new_rows
from common.teamwork import cut_columns, multiply, share_out

_CACHED = 2**18  # numbers that are rounded at a time: in fp32 they stay in the cache
_COLUMNS = 512  # of a product in int8, in a piece
_LARGEST = 127
_LEAST_SCALE = 1e-30  # that of a row of zeros


class Rounded(NamedTuple):
    """A matrix in int8: ``values`` [rows, columns], of which each stands for itself times its row's scale [rows, 1]."""

    values: torch.Tensor
    scales: torch.Tensor


def round_rows(
    matrix: torch.Tensor, factors: torch.Tensor | None = None, values: torch.Tensor | None = None
) -> Rounded:
    """Return ``matrix`` [rows, columns] in int8, its columns multiplied by ``factors`` fp32 [columns] before.

    The result lies in ``values``, unless None in memory that is used again soon. A row with a number that is not finite
    stands for no finite numbers.
    """
    if values is None:
        values = new_rows(matrix.new_empty(0, dtype=torch.int8), *matrix.shape)
    scales = matrix.new_empty(len(matrix), 1, dtype=torch.float32)

    def round_part(part) -> None:
        rows, value_rows, scale_rows = part
        numbers = rows.to(torch.float32, copy=True) if factors is None else rows * factors
        torch.amax(numbers.abs(), 1, keepdim=True, out=scale_rows)
        scale_rows.div_(_LARGEST).clamp_(min=_LEAST_SCALE)
        value_rows.copy_(numbers.mul_(1 / scale_rows).round_())

    share_out(round_part, _cut(0, max(1, _CACHED // matrix.shape[1]), matrix, values, scales))
    return Rounded(values, scales)


class PlainWeight(NamedTuple):
    """A frozen weight [outputs, inputs] that is multiplied as it is."""

    weight: torch.Tensor

    @property
    def outputs(self) -> int:
        return len(self.weight)

    @property
    def dtype(self) -> torch.dtype:
        """In what products are computed."""
        return self.weight.dtype

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` [tokens, inputs] as :meth:`multiply` wants it, here and at other weights of this kind."""
        return x

    def multiply(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write x Wᵀ to ``out`` [tokens, outputs]."""
        multiply(x, self.weight.T, out=out)

    @staticmethod
    def add_back(slopes: list[torch.Tensor], weights: list["PlainWeight"], out: torch.Tensor) -> None:
        """Write Σ slope W to ``out`` [tokens, inputs]: the gradient for what went into all of ``weights``."""

        def add(part) -> None:
            *columns, out_columns = part
            torch.mm(slopes[0], columns[0], out=out_columns)
            for slope, weight in zip(slopes[1:], columns[1:], strict=True):
                out_columns.addmm_(slope, weight)

        share_out(add, cut_columns(*(weight.weight for weight in weights), out))


class RoundedWeight(Rounded):
    """A frozen weight in int8, a scale for each output. What it is multiplied with is rounded, too."""

    @property
    def outputs(self) -> int:
        return len(self.values)

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def take(self, x: torch.Tensor) -> Rounded:
        return round_rows(x)

    def multiply(self, x: Rounded, out: torch.Tensor) -> None:
        def multiply_part(part) -> None:
            values, scales, out_columns = part
            out_columns.copy_(_multiply(x, values).mul_(scales))

        share_out(multiply_part, _cut(1, _COLUMNS, self.values.T, self.scales.T, out))

    @staticmethod
    def add_back(slopes: list[torch.Tensor], weights: list["RoundedWeight"], out: torch.Tensor) -> None:
        # Outputs are summed over, so each one's scale is a factor of the slope.
        rounded = [round_rows(slope, weight.scales[:, 0]) for slope, weight in zip(slopes, weights, strict=True)]

        def add(part) -> None:
            *columns, out_columns = part
            total = _multiply(rounded[0], columns[0])
            for slope, values in zip(rounded[1:], columns[1:], strict=True):
                total += _multiply(slope, values)
            out_columns.copy_(total)

        share_out(add, _cut(1, _COLUMNS, *(weight.values for weight in weights), out))


def _cut(dim: int, size: int, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Cut ``tensors`` at the same places, however many cores there are: what a piece needs besides must stay small."""
    return list(zip(*(tensor.split(size, dim) for tensor in tensors), strict=True))


def _multiply(left: Rounded, values: torch.Tensor) -> torch.Tensor:
    """Return in fp32 the product of ``left`` [rows, inner] and int8 ``values`` [inner, columns] without scales."""
    return torch._int_mm(left.values, values).float().mul_(left.scales)


class Int8Linear(torch.nn.Linear):
    """A frozen linear layer whose weight is kept in int8, as a :class:`RoundedWeight`."""

    def __init__(self, layer: torch.nn.Linear):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        values, scales = round_rows(weight, values=torch.empty_like(weight, dtype=torch.int8))
        self.weight, self.bias = torch.nn.Parameter(values, requires_grad=False), layer.bias
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = _FrozenProduct.apply(x.flatten(0, -2), self).view(*x.shape[:-1], self.out_features)
        return result if self.bias is None else result + self.bias


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        weight = weight_of(layer, x.dtype)
        result = x.new_empty(len(x), weight.outputs)
        weight.multiply(weight.take(x), out=result)
        return result

    @staticmethod
    def backward(ctx, slope):
        weight = weight_of(ctx.layer, slope.dtype)
        x_slope = slope.new_empty(len(slope), ctx.layer.in_features)
        weight.add_back([slope], [weight], out=x_slope)
        return x_slope, None


def is_frozen_linear(layer) -> bool:
    """Whether a layer is linear and not adapted; its weight may be in 4 bits or in int8."""
    kind = type(layer)
    in_4_bits = kind.__name__ == "Linear4bit" and kind.__module__.startswith("bitsandbytes.")  # peft has one, too
    return kind in (torch.nn.Linear, Int8Linear) or in_4_bits


def weight_of(layer: torch.nn.Linear, dtype: torch.dtype) -> PlainWeight | RoundedWeight:
    """Return a frozen layer's weight as products with activations of ``dtype`` take it: one in 4 bits is unpacked."""
    if isinstance(layer, Int8Linear):
        return RoundedWeight(layer.weight, layer.scales)
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return PlainWeight(layer.weight)
    from bitsandbytes.functional import dequantize_4bit

    return PlainWeight(dequantize_4bit(layer.weight, state).to(dtype))


def keep_in_int8(block) -> None:
    """Round the weights of all linear layers in ``block``, one of a model's, to int8."""
    for parent in [module for module in block.modules() if type(module) is not torch.nn.Linear]:
        for name, layer in list(parent.named_children()):
            if type(layer) is torch.nn.Linear:
                setattr(parent, name, Int8Linear(layer))
