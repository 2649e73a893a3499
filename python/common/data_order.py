"""In which order the examples of an epoch are trained on. Drawn anew from the same numbers, it is the same order."""

from collections.abc import Sequence

import torch

_GROUPED_STEPS = 50  # examples are sorted by length within so many steps: enough to find equals, and still random


class EpochOrder(torch.utils.data.Sampler):
    """The order of the examples in an epoch: drawn from seed and epoch, and from nothing else but their lengths."""

    def __init__(self, size: int, seed: int, trainer, lengths: Sequence[int] | None = None):
        self.size, self.seed, self.trainer, self.lengths = size, seed, trainer, lengths

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        epoch = int(self.trainer.state.epoch or 0)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.lengths is None:
            return iter(order)
        return iter(group_by_length(order, self.lengths, self.trainer.examples_per_step(), generator))


def group_by_length(order: Sequence[int], lengths: Sequence[int], batch: int, generator: torch.Generator) -> list[int]:
    """Return ``order`` rearranged so that the ``batch`` examples of a step are of similar length.

    Within each stretch of _GROUPED_STEPS steps the examples are sorted by length and cut into steps; then all full
    steps of the epoch are shuffled. A last step that is not full stays the last. Depends on its arguments alone.
    """
    steps = []
    for start in range(0, len(order), batch * _GROUPED_STEPS):
        stretch = sorted(order[start : start + batch * _GROUPED_STEPS], key=lambda index: -lengths[index])
        steps += [stretch[at : at + batch] for at in range(0, len(stretch), batch)]
    last = [steps.pop()] if len(steps[-1]) < batch else []
    shuffled = [steps[at] for at in torch.randperm(len(steps), generator=generator).tolist()]
    return [index for step in shuffled + last for index in step]
