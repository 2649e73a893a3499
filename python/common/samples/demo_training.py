"""Pre-training of the demo base model: packed sequences, Muon and AdamW, linear decay, plain progress lines.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; torch.optim.Muon) trains the matrices of the
layers, AdamW the embedding, the norms, and, at a smaller pace, query and key. Measured after 0.4 M tokens: loss 2.48
against 4.36 with AdamW alone; after 0.9 M: 0.89 with query and key in Muon and four heads, 0.81 with them in AdamW
and eight heads.
"""

import time
from collections.abc import Iterator

from common.samples.dice import Dice
from common.samples.pretraining import write_conversation

TOKENIZER_CONVERSATIONS = 2000
TOKENIZER_TURNS = {1: 0.5, 2: 0.4, 3: 0.1}  # fewer than the model sees: repeated prompts teach a tokenizer nothing
TOKENS_PER_STEP = 4096
# (share of the steps, tokens of a sequence): short ones first, then room for several demonstrations.
STAGES = ((0.35, 512), (0.4, 1024), (0.25, 2048))
MUON_LEARNING_RATE = 7e-3
ADAMW_LEARNING_RATE = 5e-3
QUERY_KEY_LEARNING_RATE = 1.5e-3
FINAL_SHARE = 0.05  # of the learning rates, reached at the last step
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
LOG_EVERY_S = 10


def tokenizer_texts(seed: int) -> Iterator[str]:
    """The text the tokenizer is trained on: conversations the model itself will not see, in real words only."""
    for number in range(TOKENIZER_CONVERSATIONS):
        for message in write_conversation(Dice(seed, "tokenizer", number), invented=0.0, turns=TOKENIZER_TURNS):
            yield message["content"]


def packed_sequences(tokenizer, seed: int, lengths: Iterator[int]) -> Iterator[list[int]]:
    """Yield sequences of exactly the next of ``lengths`` tokens: whole conversations end to end, the last one cut."""
    from common.chat import encoder_for
    from common.data.examples import Example, Message

    encoder = encoder_for(tokenizer)
    number = 0
    for length in lengths:
        sequence: list[int] = []
        while len(sequence) < length:
            messages = write_conversation(Dice(seed, "conversation", number))
            number += 1
            example = Example(messages=tuple(Message(**message) for message in messages), text=None, source="", row={})
            sequence += encoder.encode_many([example], loss_on="all")[0].input_ids
        yield sequence[:length]


def stage_of(step: int, steps: int) -> int:
    """Tokens of a sequence at ``step``."""
    passed = 0.0
    for share, length in STAGES:
        passed += share
        if step < passed * steps:
            return length
    return STAGES[-1][1]


def learning_rate_share(step: int, steps: int) -> float:
    """The share of its learning rate an optimizer uses at ``step``: linear warm-up, then linear down to a rest."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    decay = max(0, step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return warmup * (1 - (1 - FINAL_SHARE) * decay)


def new_optimizers(model) -> list:
    """Muon for the matrices inside the layers, AdamW for query and key, the embedding and the norms."""
    import torch

    matrices, attention, others = [], [], []
    for name, parameter in model.named_parameters():
        if ".layers." not in name or parameter.dim() != 2:
            others.append(parameter)
        elif ".q_proj." in name or ".k_proj." in name:
            attention.append(parameter)
        else:
            matrices.append(parameter)
    options = {"betas": (0.9, 0.95), "weight_decay": 0.0, "fused": True}
    return [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAMW_LEARNING_RATE, **options),
        torch.optim.AdamW(attention, lr=QUERY_KEY_LEARNING_RATE, **options),
    ]


def prepare_torch(threads: int) -> None:
    """Compute with ``threads`` CPU threads and with nothing that could differ between two runs."""
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def pretrain(model, tokenizer, seed: int, steps: int, bf16: bool) -> list[float]:
    """Train ``model`` in place for ``steps`` steps; return the loss of each (mean over all tokens, nats)."""
    import torch

    lengths = (
        length
        for step in range(steps)
        for length in [stage_of(step, steps)] * (TOKENS_PER_STEP // stage_of(step, steps))
    )
    sequences = packed_sequences(tokenizer, seed, lengths)
    optimizers = new_optimizers(model)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    model.train()
    losses: list[float] = []
    started = last_line = time.perf_counter()
    for step in range(steps):
        length = stage_of(step, steps)
        batch = torch.tensor([next(sequences) for _ in range(TOKENS_PER_STEP // length)])
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate_share(step, steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        now = time.perf_counter()
        if now - last_line > LOG_EVERY_S or step + 1 == steps:
            last_line = now
            done = step + 1
            eta_s = (now - started) / done * (steps - done)
            print(
                f"step {done}/{steps}  loss {losses[-1]:.3f}  {TOKENS_PER_STEP * done / (now - started):.0f} tokens/s"
                f"  {now - started:.0f} s, {eta_s:.0f} s left",
                flush=True,
            )
    return losses
