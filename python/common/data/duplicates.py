"""Rows that say the same twice, and questions with several answers, within one file."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.data.problems import option_for
from common.errors import ExitCode, Problem, UserError

MAX_DUPLICATE_SHARE = 0.10
_TOLD = 3  # pairs


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How many rows repeat an earlier one (``exact``; ``normalised`` includes those), the first such pairs of rows, and
    how many rows ask what another row asks but answer otherwise (``conflicting``).
    """

    rows: int
    exact: int
    normalised: int
    pairs: list[tuple[int, int]]
    conflicting: int

    def notes(self, source_of: Callable[[int], str]) -> list[str]:
        told = (
            (self.exact, "rows repeat an earlier row exactly"),
            (self.normalised - self.exact, "rows repeat an earlier row but for case, spacing or punctuation"),
            (self.conflicting, "rows ask the same as another row, with another answer"),
        )
        notes = [f"{count:,} {what}" for count, what in told if count]
        if self.pairs:
            pairs = ", ".join(f"{source_of(again)} repeats {source_of(first)}" for first, again in self.pairs[:_TOLD])
            notes[0] += f": {pairs}{', …' if len(self.pairs) > _TOLD else ''}"
        return notes


def find_duplicates(fingerprints: np.ndarray) -> Duplicates:
    """``fingerprints`` is uint64 [rows, 3]: exact, normalised, prompt."""
    rows = len(fingerprints)
    exact = rows - len(np.unique(fingerprints[:, 0]))
    _, first, back, counts = np.unique(fingerprints[:, 1], return_index=True, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(first[back] != np.arange(rows))
    pairs = [(int(first[back[row]]), int(row)) for row in repeated[:20]]
    # Of rows with one prompt, those are in conflict whose answers are not all the same.
    prompts = fingerprints[first, 2]
    _, prompt_back, answers = np.unique(prompts, return_inverse=True, return_counts=True)
    conflicting = int(counts[answers[prompt_back] > 1].sum())
    return Duplicates(rows, exact, rows - len(first), pairs, conflicting)


def check_duplicates(found: Duplicates, name: str, source_of: Callable[[int], str]) -> None:
    """Raise UserError 65 when more than a tenth of a file's rows repeat earlier ones."""
    if found.rows and found.normalised / found.rows > MAX_DUPLICATE_SHARE:
        listed = "; ".join(f"{source_of(b)} repeats {source_of(a)}" for a, b in found.pairs[:3])
        raise UserError(
            Problem(
                f"{name}: {found.normalised:,} of {found.rows:,} rows repeat earlier rows ({listed}, …)",
                f"allowed are {MAX_DUPLICATE_SHARE:.0%}",
                f"take them out, or allow them: {option_for('allow_duplicates')}",
            ),
            ExitCode.DATA,
        )
