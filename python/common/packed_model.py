"""Running a pack through a model: attention segment by segment, and what lies after the last of it, the MLP and the
logits, only where an answer is predicted.

``docs/fast-path.md`` explains both with a figure.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from common.packing import Layout, Pack, rows_of_logits

ATTENTION = "recetario_segments"
_LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")


def enable_packs(model) -> None:
    """Let ``model`` attend by segments, and end early where nothing is predicted. Without a pack all is as before."""
    causal = model.get_base_model()
    causal.set_attn_implementation(ATTENTION)
    last = causal.model.layers[-1]
    if type(last).__name__ in _LAYERS:
        last.forward = partial(_forward_last, last, last.forward)


def sum_loss(model, pack: Pack, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return the cross-entropy of the pack's targets, summed (fp32 scalar, in nats)."""
    causal = model.get_base_model()

    def place(array):
        return torch.from_numpy(array).to(device)

    rows, predict_at = np.unique(pack.predict_at, return_inverse=True)
    hidden = causal.model(
        input_ids=place(pack.input_ids)[None],
        position_ids=place(pack.position_ids)[None],
        attention_mask=torch.ones(1, 1, 1, 1, device=device),  # four dimensions: the model makes no mask of its own
        layout=pack.layout,
        rows=place(rows),
        use_cache=False,
    ).last_hidden_state[0]
    if len(hidden) == len(pack):
        hidden = hidden[place(rows)]
    return LinearCrossEntropy.apply(hidden[place(predict_at)], causal.lm_head.weight, place(pack.targets))


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
    with the loss, while the logits are there, so that neither they nor their softmax are kept for the backward pass.
    """

    @staticmethod
    def forward(ctx, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        step = rows_of_logits(len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            log_probabilities = F.log_softmax((hidden[rows] @ weight.T).float(), dim=-1)
            picked = targets[rows, None]
            loss -= log_probabilities.gather(1, picked).sum()
            slope = log_probabilities.exp_()
            slope.scatter_add_(1, picked, torch.full_like(slope[:, :1], -1.0))
            gradient[rows] = slope.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, scale: torch.Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None


def segment_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, layout: Layout | None = None, **options
):
    """Attention over a pack, as transformers' AttentionInterface calls it.

    query [1, heads, tokens, width], key and value [1, key heads, tokens, width]; returns
    ([1, tokens, heads, width], None).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    window = options.get("sliding_window")
    sizes = [layout.prefix, *(end - start for start, end in layout.segments)]  # one split: its gradient is one copy
    (shared, *queries), (shared_keys, *keys), (shared_values, *values) = (
        part.split(sizes, dim=2) for part in (query, key, value)
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
        masks[shape] = _mask(*shape, query)
    together = query.reshape(1, key_heads, groups * queries, width)
    attended = F.scaled_dot_product_attention(together, key, value, attn_mask=masks[shape], scale=scaling)
    return attended.reshape(1, heads, queries, -1)


def _mask(queries: int, keys: int, groups: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """0 where the last queries see a key, else −∞: [groups · queries, keys], with the dtype and device of ``like``."""
    place = torch.arange(keys - queries, keys, device=like.device)[:, None]
    other = torch.arange(keys, device=like.device)
    hidden = other > place
    if window:
        hidden |= other <= place - window
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf).repeat(groups, 1)


AttentionInterface.register(ATTENTION, segment_attention)
AttentionMaskInterface.register(ATTENTION, AttentionMaskInterface()["sdpa"])
