"""Examples as tensors, padded: what goes through a model where nothing is packed."""

from collections.abc import Sequence

import torch

IGNORED = -100  # the label that cross-entropy leaves out


def count_trained(examples: Sequence) -> int:
    """Return the number of trained tokens; the first token of a sequence cannot be predicted."""
    return sum(sum(example.completion_mask[1:]) for example in examples)


def pad(examples: Sequence, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad encoded examples on the right: ``input_ids``, ``attention_mask``, ``labels``, each [examples, longest]."""
    shape = (len(examples), max(len(example) for example in examples))
    batch = {
        "input_ids": torch.full(shape, pad_token_id),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
    }
    for row, example in enumerate(examples):
        ids, trained = torch.tensor(example.input_ids), torch.tensor(example.completion_mask, dtype=torch.bool)
        batch["input_ids"][row, : len(ids)] = ids
        batch["attention_mask"][row, : len(ids)] = 1
        batch["labels"][row, : len(ids)] = torch.where(trained, ids, IGNORED)
    return batch
