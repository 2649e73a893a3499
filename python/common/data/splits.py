"""Which split an example belongs to: decided by its own prompt alone, so that adding rows moves no old row.

Examples with the same prompt (but for case, spacing and punctuation) are always in the same split.
"""

from collections.abc import Mapping

from common.errors import ExitCode, Problem, UserError

SPLITS = ("train", "validation", "test")
_MASK = (1 << 64) - 1
_ROUNDING = 1e-9  # below it, what is left of 1 is no share: 1 - 0.7 - 0.3 is not 0


def split_shares(train: float, validation: float | None = None) -> dict[str, float]:
    """Return split → share. What ``train`` leaves is halved between validation and test unless said otherwise."""
    if not 0 < train < 1:
        raise UserError(Problem(f"the training share is {train}", "allowed: above 0 and below 1"), ExitCode.USAGE)
    rest = 1 - train
    validation = rest / 2 if validation is None else validation
    if not 0 <= validation <= rest + _ROUNDING:
        raise UserError(
            Problem(f"the validation share is {validation}", f"allowed: 0 to {rest:g}, what training leaves"),
            ExitCode.USAGE,
        )
    test = rest - validation
    return {"train": train, "validation": validation, "test": test if test > _ROUNDING else 0.0}


def split_of(prompt_hash: int, shares: Mapping[str, float], seed: int = 0) -> str:
    """The split of an example by the hash of its prompt; another ``seed`` makes another split."""
    place = _mix(prompt_hash ^ _mix(seed)) / 2**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return next(iter(shares))


def check_sizes(sizes: Mapping[str, int], shares: Mapping[str, float], one_question: bool = False) -> list[str]:
    """Return notes about odd splits. Raises UserError 65 when one that was asked for is empty.

    With ``one_question`` all rows, several, ask the same, so that no seed puts them into different splits.
    """
    empty = [name for name, share in shares.items() if share > 0 and not sizes.get(name)]
    if empty:
        counts = ", ".join(f"{name} {sizes.get(name, 0):,}" for name in shares)
        problem = Problem(
            f"the {empty[0]} split is empty ({counts})",
            "every split needs a row",
            "add rows, or change the shares or the seed",
        )
        if one_question:
            problem = Problem(
                f"{problem.what}: all rows ask the same question",
                "rows that ask the same are in one split",
                "divide them yourself: one file to train on (TRAIN=), one for validation (VAL=)",
            )
        raise UserError(problem, ExitCode.DATA)
    return [
        f"the {name} split ({sizes[name]:,} rows) is larger than the training split ({sizes['train']:,} rows)"
        for name in sizes
        if name != "train" and sizes[name] > sizes["train"]
    ]


def _mix(value: int) -> int:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): spreads any 64-bit value evenly."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
