"""Which of the tuned models to take: the choice that follows from the measured table and the user's limits.

1. Out goes what breaks a limit, or is not shown to have a lower loss on the answers than the base.
2. Of the rest the one with the lowest loss is the best; whatever it is not shown to beat is as good as can be told.
3. Among those the smallest on disk is taken.

"Shown" is what :mod:`common.statistics` calls so: interval and sign-flip test together.
"""

import math
from dataclasses import dataclass

from common.errors import ExitCode, Problem, UserError
from common.evaluation.candidates import BASE
from common.statistics import PairedTest

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What the user can afford and asks for; None is no limit. Memory is the peak of the training."""

    max_memory_gib: float | None = None
    max_adapter_mib: float | None = None
    min_token_f1: float | None = None

    def __post_init__(self):
        problems = [
            Problem(f"--{name} {value}", "above 0" if name.startswith("max") else "above 0 and at most 1")
            for name, value in vars(self).items()
            if value is not None and not 0 < value <= (math.inf if name.startswith("max") else 1)
        ]
        if problems:
            raise UserError(problems, ExitCode.USAGE)

    def find_breaches(self, model: dict) -> list[str]:
        """Return what of the limits a model breaks; what was not measured cannot be said to keep them."""
        measured = (
            ("training memory", model["peak_gib"], self.max_memory_gib, "GiB", 1),
            ("adapter on disk", model["adapter_bytes"] / MIB, self.max_adapter_mib, "MiB", 1),
            ("token F1", model["token_f1"], self.min_token_f1, "", -1),
        )
        breaches = []
        for what, value, limit, unit, side in measured:
            if limit is None:
                continue
            if value is None:
                breaches.append(f"{what} is not known")
            elif side * value > side * limit:
                relation = "at most" if side > 0 else "at least"
                breaches.append(f"{what} {value:.3g}{' ' * bool(unit)}{unit}, asked for: {relation} {limit:g}")
        return breaches


def recommend(models: dict[str, dict], limits: Limits) -> dict:
    """Return ``choice`` (a name, or the base), ``reasons``, and ``excluded``: name → why."""
    excluded, kept = {}, []
    for name, model in models.items():
        if model["kind"] is None:
            continue
        why = limits.find_breaches(model)
        gain = paired_test(models, name, BASE)
        if not gain.is_told_above(0.0):
            why.append(f"its loss is not shown to be below the base's ({_spell(gain)})")
        if why:
            excluded[name] = why
        else:
            kept.append(name)
    if not kept:
        reason = "No tuned model both keeps the limits and is shown to have a lower loss than the base."
        return {"choice": BASE, "reasons": [reason], "excluded": excluded}

    best = min(kept, key=lambda name: models[name]["loss"])
    equal = [name for name in kept if name == best or not paired_test(models, best, name).is_told_above(0.0)]
    choice = min(equal, key=lambda name: models[name]["adapter_bytes"])
    reasons = [
        f"{choice} lowers the loss over all answer tokens from {models[BASE]['loss']:.3f} to "
        f"{models[choice]['loss']:.3f}; as the mean of items by {_spell(paired_test(models, choice, BASE))}."
    ]
    if choice == best:
        reasons.append("It has the lowest loss of those that keep the limits.")
    for name in kept:
        if name == choice:
            continue
        gain = paired_test(models, choice, name)
        size = f"{models[name]['adapter_bytes'] / MIB:.2f} MiB against {models[choice]['adapter_bytes'] / MIB:.2f}"
        if name in equal:
            reasons.append(f"{name} is as good as these items can tell ({_spell(gain)}), but larger on disk: {size}.")
        else:
            reasons.append(f"{name} is behind by {_spell(gain)}; on disk {size}.")
    return {"choice": choice, "reasons": reasons, "excluded": excluded}


def paired_test(models: dict[str, dict], new: str, old: str, measure: str = "loss") -> PairedTest:
    """Pair two models item by item. Of losses, the one that falls is the gain."""
    sign = -1.0 if measure == "loss" else 1.0
    return PairedTest.of(new, old, {n: [sign * x for x in models[n]["item_scores"][measure]] for n in (new, old)})


def _spell(gain: PairedTest) -> str:
    interval = f"95 % interval {gain.interval.low:+.3f} to {gain.interval.high:+.3f}"
    return f"{gain.mean:+.3f} nats a token ({interval}, p {gain.p_value:.4f})"
