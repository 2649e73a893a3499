"""Running packs through a model: what all of a step begin with once, attention segment by segment, and what lies after
the last of it, the MLP and the logits, only where an answer is predicted.

``docs/fast-path.md`` explains them with a figure.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from common.lean_attention import SegmentAttention, mask_unseen
from common.packing import Layout, Pack, rows_of_logits
from common.teamwork import cut_rows, has_few_cores, multiply, share_out

ATTENTION = "recetario_segments"
_CACHED_LOGITS = 2**18  # of a core at a time: in fp32, and once more as a result, they take 2 MiB of its cache
# The keys and values, [1, key heads, tokens, width] each, of the tokens before a pack, by number of the layer.
Beginning = dict[int, tuple[torch.Tensor, torch.Tensor]]
_LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")


def enable_packs(model) -> None:
    """Let ``model`` attend by segments, and end early where nothing is predicted. Without a pack all is as before."""
    causal = model.get_base_model()
    causal.set_attn_implementation(ATTENTION)
    last = causal.model.layers[-1]
    if type(last).__name__ in _LAYERS:
        last.forward = partial(_forward_last, last, last.forward)


@contextmanager
def begin(model, packs: Sequence[Pack], device: str | torch.device = "cpu") -> Iterator[Beginning | None]:
    """Compute what the ``packs`` of a step all begin with, for :func:`sum_loss`; None where that is nothing.

    Each backward pass within ends at its keys and values. Afterwards what they gathered there is carried on, once.
    """
    if not packs or not packs[0].layout.begun:
        yield None
        return
    layers = _compute_beginning(model, packs[0], device)
    computed = list(chain.from_iterable(layers.values()))
    leaves = [part.detach().requires_grad_(part.requires_grad) for part in computed]
    yield dict(zip(layers, zip(leaves[::2], leaves[1::2], strict=True), strict=True))
    ends = [(part, leaf.grad) for part, leaf in zip(computed, leaves, strict=True) if leaf.grad is not None]
    if ends:
        torch.autograd.backward(*zip(*ends, strict=True))


def sum_loss(model, pack: Pack, device: str | torch.device = "cpu", beginning: Beginning | None = None) -> torch.Tensor:
    """Return the cross-entropy of the pack's targets, summed (fp32 scalar, in nats).

    What lies before the pack is computed along with it unless :func:`begin` gave its ``beginning``.
    """
    if pack.layout.begun and beginning is None:
        beginning = _compute_beginning(model, pack, device)
    rows, predict_at = (torch.from_numpy(part).to(device) for part in np.unique(pack.predict_at, return_inverse=True))
    hidden = _run(model, pack.input_ids, pack.position_ids, device, layout=pack.layout, rows=rows, beginning=beginning)
    if len(hidden) == len(pack.input_ids):
        hidden = hidden[rows]
    targets = torch.from_numpy(pack.targets).to(device)
    return LinearCrossEntropy.apply(hidden[predict_at], model.get_base_model().lm_head.weight, targets)


def _compute_beginning(model, pack: Pack, device: str | torch.device) -> Beginning:
    """Return the keys and values of what lies before ``pack``, with all that their gradients need."""
    layers, count = Beginning(), pack.layout.begun
    layout, last = Layout(count, ()), torch.tensor([count - 1], device=device)
    record_in = [layers]
    _run(model, pack.beginning, np.arange(count), device, layout=layout, rows=last, record_in=record_in)
    record_in.clear()  # a layer that recomputes holds this list: it must not record again, nor hold what holds it
    return layers


def _run(
    model, input_ids: np.ndarray, position_ids: np.ndarray, device: str | torch.device, **options: Any
) -> torch.Tensor:
    """Return the last hidden state [rows, width]; ``options`` go to the attention and the last layer."""
    result = model.get_base_model().model(
        input_ids=torch.from_numpy(input_ids).to(device)[None],
        position_ids=torch.from_numpy(position_ids).to(device)[None],
        attention_mask=torch.ones(1, 1, 1, 1, device=device),  # four dimensions: the model makes no mask of its own
        use_cache=False,
        **options,
    )
    return result.last_hidden_state[0]


def _forward_last(layer, plain: Callable, hidden: torch.Tensor, *, rows: torch.Tensor | None = None, **options):
    """The last decoder layer: after its attention no token looks at another, so only ``rows`` are carried on."""
    if rows is None:
        return plain(hidden, **options)
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden), **options)
    hidden = hidden.index_select(1, rows) + attended.index_select(1, rows)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


class LinearCrossEntropy(torch.autograd.Function):
    """Σ cross-entropy(hidden · weightᵀ, targets) for a frozen ``weight``, a few rows of logits at a time.

    hidden [rows, width], weight [vocabulary, width], targets int64 [rows]. The gradient for ``hidden`` is computed
    with the loss, while the logits are there, so that neither they nor their softmax are kept for the backward pass;
    where nobody asks for it, as in a validation, it is not.
    """

    @staticmethod
    def forward(ctx, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        step = rows_of_logits(len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = hidden.new_empty(len(hidden[rows]), len(weight))
            multiply(hidden[rows], weight.T, out=logits)
            pieces = cut_rows(max(1, _CACHED_LOGITS // len(weight)), logits, targets[rows, None])
            loss += sum(share_out(partial(_cross_entropy, put_slopes=gradient is not None), pieces))
            if gradient is not None:
                multiply(logits, weight, out=gradient[rows])
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, scale: torch.Tensor):
        (gradient,) = ctx.saved_tensors
        scaled = gradient * scale[None]  # one dimension, so in fp32 at least: 1 / tokens in bf16 is off by up to 0.4 %
        return scaled.to(gradient.dtype), None, None


def _cross_entropy(rows: tuple[torch.Tensor, torch.Tensor], put_slopes: bool) -> torch.Tensor:
    """Return the summed cross-entropy of logits [rows, vocabulary]; its slopes may be put in their place."""
    logits, targets = rows
    log_probabilities = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    loss = -log_probabilities.gather(1, targets).sum()
    if put_slopes:
        slopes = log_probabilities.exp_()
        logits.copy_(slopes.scatter_add_(1, targets, torch.full_like(slopes[:, :1], -1.0)))
    return loss


def segment_attention(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    dropout=0.0,
    layout: Layout | None = None,
    beginning: Beginning | None = None,
    record_in: Sequence[Beginning] = (),
    **options,
):
    """Attention over a pack, as transformers' AttentionInterface calls it.

    query [1, heads, tokens, width], key and value [1, key heads, tokens, width]; returns
    ([1, tokens, heads, width], None). All of a pack sees its ``beginning``; where it is itself what others begin with,
    those in ``record_in`` get its keys and values.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    window = options.get("sliding_window")
    for layers in record_in:
        layers[module.layer_idx] = key, value
    if layout.begun:
        before = beginning[module.layer_idx]
        key, value = (torch.cat(pair, dim=2) for pair in zip(before, (key, value), strict=True))
    if query.device.type == "cpu" and has_few_cores():
        return SegmentAttention.apply(query[0], key[0], value[0], layout, scaling, window)[None], None
    sizes = [end - start for start, end in layout.segments]  # one split: its gradient is one copy
    shared, *queries = query.split([layout.prefix, *sizes], dim=2)
    (shared_keys, *keys), (shared_values, *values) = (
        part.split([layout.begun + layout.prefix, *sizes], dim=2) for part in (key, value)
    )
    attend = partial(_attend, scaling=scaling, window=window, masks=layout.masks)
    outputs = [attend(shared, shared_keys, shared_values)] if layout.prefix else []
    for own, own_keys, own_values in zip(queries, keys, values, strict=True):
        seen = torch.cat((shared_keys, own_keys), dim=2), torch.cat((shared_values, own_values), dim=2)
        outputs.append(attend(own, *seen))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend(query, key, value, scaling, window, masks: dict):
    """Causal attention of the last queries of a sequence over all its keys, a sliding window respected."""
    (_, heads, queries, width), (_, key_heads, keys, _) = query.shape, key.shape
    if queries == keys and not (window and keys > window):
        grouped = heads != key_heads
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
    groups = heads // key_heads  # heads that share their keys, one after the other as if they were more queries
    shape = (queries, keys, groups, window)
    if shape not in masks:
        masks[shape] = mask_unseen(queries, keys, window, query.device).to(query.dtype).repeat(groups, 1)
    together = query.reshape(1, key_heads, groups * queries, width)
    attended = F.scaled_dot_product_attention(together, key, value, attn_mask=masks[shape], scale=scaling)
    return attended.reshape(1, heads, queries, -1)


AttentionInterface.register(ATTENTION, segment_attention)
AttentionMaskInterface.register(ATTENTION, AttentionMaskInterface()["sdpa"])
