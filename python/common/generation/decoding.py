"""Batched decoding of a local causal model.

Three things make it quicker than asking one by one, and none changes what is computed: prompts of like length go
together, left-padded; the beginning that all prompts share (instructions, demonstrations) is computed once and its
keys and values are reused; rows that are finished leave the batch. Padding is masked and positions count real
tokens only, so in float32 an answer depends on the batch it was in through rounding alone.

Sampling adds Gumbel noise to the scaled logits and takes the greatest, which draws from the softmax exactly (Gumbel
1954). Each answer has its own noise stream, seeded by its prompt, so it too is the same in any batch.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from common.hardware import GIB, memory_gib

MIN_SHARED_TOKENS = 32  # less is not worth its own forward pass
MEMORY_SHARE = 0.3  # of what is free, for keys and values
MAX_BATCH = 32


@dataclass
class Row:
    """One answer in the making."""

    index: int
    prompt: list[int]
    max_new_tokens: int
    noise_seed: int | None = None  # None: greedy
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = "length"


class BatchDecoder:
    """Decodes prompts (token ids) with one model; ``stop_ids`` end an answer and are not part of it."""

    def __init__(
        self, model, stop_ids: Sequence[int], pad_id: int, *, batch_size: int | None = None, share: bool = True
    ):
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        self._pad_id = pad_id
        self._batch_size = batch_size
        self._share = share

    def decode(self, rows: Sequence[Row], temperature: float = 0.0) -> Iterator[list[Row]]:
        """Yield finished batches of rows, longest prompts first (what does not fit in memory fails at once)."""
        ordered = sorted(rows, key=lambda row: (-len(row.prompt), row.index))
        shared = self._shared_tokens(ordered)
        prefix_cache = self._compute_prefix(ordered[0].prompt[:shared]) if shared else None
        start = 0
        while start < len(ordered):
            batch = ordered[start : start + self._pick_batch_size(ordered[start])]
            self._decode_batch(batch, shared, prefix_cache, temperature)
            start += len(batch)
            yield batch

    def _shared_tokens(self, rows: Sequence[Row]) -> int:
        """How many first tokens all prompts share; 0 where sharing would not pay or not be exact."""
        if not self._share or len(rows) < 2:
            return 0
        first, last = min(row.prompt for row in rows), max(row.prompt for row in rows)
        length = min(len(row.prompt) for row in rows) - 1  # each row computes at least one token of its own
        shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), length)
        # A sliding window counts cache slots, and padding lies between prefix and rest: exact only inside the window.
        window = getattr(self._model.config, "sliding_window", None)
        longest = max(len(row.prompt) + row.max_new_tokens for row in rows)
        padded = longest + len(rows[0].prompt) - len(rows[-1].prompt) + getattr(self._model, "virtual_tokens", 0)
        if window and padded > window:
            return 0
        return min(shared, length) if min(shared, length) >= MIN_SHARED_TOKENS else 0

    def _compute_prefix(self, prefix: list[int]):
        import torch
        from transformers import DynamicCache

        with torch.inference_mode():
            cache = DynamicCache(config=self._model.config)
            ids = torch.tensor([prefix], device=self._model.device)
            self._forward(ids, torch.ones_like(ids), torch.arange(ids.shape[1], device=ids.device)[None], cache)
        return cache

    def _decode_batch(self, batch: list[Row], shared: int, prefix_cache, temperature: float) -> None:
        import torch
        from transformers import DynamicCache

        with torch.inference_mode():
            if shared:
                cache = copy.deepcopy(prefix_cache)
                cache.batch_repeat_interleave(len(batch))
            else:
                cache = DynamicCache(config=self._model.config)
            ids, mask, positions = self._pad(batch, shared)
            sources = [_Noise(row.noise_seed) for row in batch]
            alive = list(range(len(batch)))
            width = mask.shape[1] - max(row.max_new_tokens for row in batch)
            logits = self._forward(ids, mask[:, :width], positions, cache)
            position = torch.tensor([[len(row.prompt)] for row in batch], device=ids.device)
            while True:
                chosen = _choose(logits, [sources[i] for i in alive], temperature)
                kept = [k for k, token in enumerate(chosen) if self._accept(batch[alive[k]], token)]
                if not kept:
                    return
                if len(kept) < len(alive):
                    keep = torch.tensor(kept, device=ids.device)
                    cache.batch_select_indices(keep)
                    mask, position = mask[keep], position[keep]
                    alive = [alive[k] for k in kept]
                ids = torch.tensor([[chosen[k]] for k in kept], device=position.device)
                width += 1
                logits = self._forward(ids, mask[:, :width], position, cache)
                position = position + 1

    def _accept(self, row: Row, token: int) -> bool:
        """Take the next token into the row; False when the row is finished by it."""
        if token in self._stop_ids:
            row.finish_reason = "stop"
            return False
        row.tokens.append(token)
        return len(row.tokens) < row.max_new_tokens

    def _pad(self, batch: list[Row], shared: int):
        """Return ids and positions [rows, longest rest] and a mask [rows, shared + longest rest + new tokens]."""
        import torch

        device = self._model.device
        rests = [row.prompt[shared:] for row in batch]
        longest = max(map(len, rests))
        ids = torch.full((len(batch), longest), self._pad_id, device=device)
        mask = torch.ones((len(batch), shared + longest + max(row.max_new_tokens for row in batch)), dtype=torch.long)
        positions = torch.full((len(batch), longest), shared, device=device)
        for i, rest in enumerate(rests):
            gap = longest - len(rest)
            ids[i, gap:] = torch.tensor(rest)
            mask[i, shared : shared + gap] = 0
            positions[i, gap:] = torch.arange(shared, shared + len(rest))
        return ids, mask.to(device), positions

    def _forward(self, ids, mask, positions, cache):
        """Return the logits of the last position, [rows, vocabulary]; the cache grows by ``ids``."""
        output = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        return output.logits[:, -1]

    def _pick_batch_size(self, longest: Row) -> int:
        """As many rows as their keys and values fit into a share of the free memory; at most 32."""
        if self._batch_size:
            return self._batch_size
        tokens = len(longest.prompt) + longest.max_new_tokens
        free_bytes = memory_gib(self._model.device.type)[0] * GIB
        return max(1, min(MAX_BATCH, int(free_bytes * MEMORY_SHARE / (tokens * self._token_bytes()))))

    def _token_bytes(self) -> int:
        """Bytes of keys and values a token takes in all layers, twice: growing them copies them."""
        config = self._model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * 2 * config.num_hidden_layers * heads * head_size * self._model.dtype.itemsize


class _Noise:
    """The Gumbel noise of one answer."""

    def __init__(self, seed: int | None):
        import torch

        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def draw(self, size: int):
        import torch

        return -torch.empty(size).exponential_(generator=self._generator).log()


def noise_seed(prompt: Sequence[int], seed: int, sample: int) -> int:
    """A seed of 63 bits for one answer: the same prompt, seed and sample give the same one everywhere."""
    digest = hashlib.sha256(repr((list(prompt), seed, sample)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _choose(logits, noises: list[_Noise], temperature: float) -> list[int]:
    import torch

    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    scaled = logits.float().cpu() / temperature
    return (scaled + torch.stack([noise.draw(scaled.shape[-1]) for noise in noises])).argmax(dim=-1).tolist()
