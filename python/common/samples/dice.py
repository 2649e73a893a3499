"""Seeded choices that fall the same on every platform and Python version.

Only ``random.Random.random()`` and seeding by a string are guaranteed by Python never to change, so every other draw is
built on those two here.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A stream of choices named by its ``parts``, for example ``Dice(42, "train", 7)``; equal names, equal stream."""

    def __init__(self, *parts: object):
        self._random = random.Random("/".join(map(str, parts))).random

    def chance(self, probability: float) -> bool:
        """True with ``probability`` in [0, 1]."""
        return self._random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number of ``low``..``high``, both included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """One of ``options``, all equally likely."""
        return options[self.between(0, len(options) - 1)]

    def weighted(self, weights: dict[T, float]) -> T:
        """One key of ``weights``, drawn in proportion to its value."""
        left = self._random() * sum(weights.values())
        for option, weight in weights.items():
            left -= weight
            if left < 0:
                return option
        return option

    def shuffle(self, options: Sequence[T]) -> list[T]:
        """A new list of all ``options`` in another order (Fisher-Yates)."""
        mixed = list(options)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.between(0, last)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """``count`` different members of ``options``, in drawn order; all of them when there are fewer."""
        return self.shuffle(options)[:count]
