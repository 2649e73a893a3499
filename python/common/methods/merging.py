"""LoRA written into the weights of its base, and the proof that it is the same model.

A merge is made in full precision, never into 4-bit weights. When the adapter was trained on a base in NF4, the merged
model is not the one that was trained: its base has no quantisation error any more. How much that changes is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ExitCode, Problem, UserError
from common.methods.kinds import keep_nf4_layout, kind_of, load_adapter
from common.models import load_model

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}  # largest change of a logit, relative to the largest logit


@dataclass(frozen=True)
class Merge:
    """A merged model, and what merging changed in its logits over the texts it was tried on.

    ``largest_change`` is the largest difference of a logit between merged and unmerged adapter, relative to the largest
    logit; ``effect`` is the same between the merged model and the plain base. ``nf4_change`` (None unless asked for) is
    the same between the merged model and the adapter on its NF4 base; ``nf4_same_choice`` the share of positions where
    both would choose the same next token.
    """

    model: object
    largest_change: float
    effect: float
    nf4_change: float | None = None
    nf4_same_choice: float | None = None
    unmerged: list = field(default_factory=list, repr=False)  # base + adapter: of each text fp32 [tokens, vocabulary]

    def as_dict(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("model", "unmerged")}


def merge_adapter(
    base: Path, adapter: Path, texts: Sequence[Sequence[int]], *, precision: str = "fp32", trained_on_nf4: bool = False
) -> Merge:
    """Merge the LoRA in ``adapter`` into the model in ``base`` and compare the logits over ``texts`` (token ids).

    Raises UserError: 78 for an adapter that cannot be merged, 70 when the merged model is another one, is the base, or
    has lost more than half of what the tuning changed to rounding.
    """
    kind = kind_of(adapter)
    if kind != "lora":
        what = f"{adapter} holds an adapter of kind {kind}"
        allowed = "only LoRA can be written into the weights"
        raise UserError(Problem(what, allowed, "keep it beside its base"), ExitCode.CONFIG)
    adapted = load_adapter(load_model(base, precision), adapter)
    before = logits_of(adapted, texts)
    with adapted.disable_adapter():
        plain = logits_of(adapted, texts)
    merged = adapted.merge_and_unload(safe_merge=True)
    after = logits_of(merged, texts)
    change, effect = relative_change(after, before), relative_change(after, plain)
    require_same(change, precision)
    remedy = "" if precision == "fp32" else "merge in fp32"
    if not effect:
        what = "the merged model is the base: not one logit differs"
        raise UserError(Problem(what, next_step=remedy), ExitCode.INTERNAL)
    if change > effect / 2:
        what = f"merging in {precision} changed a logit by {change:.1e} of the largest, all the tuning by {effect:.1e}"
        raise UserError(Problem(what, "at most half as much", remedy), ExitCode.INTERNAL)
    if not trained_on_nf4:
        return Merge(merged, change, effect, unmerged=before)
    trained = load_model(base, "nf4")
    keep_nf4_layout(trained)  # with the kernels it was trained with
    quantised = logits_of(load_adapter(trained, adapter), texts)
    pairs = list(zip(after, quantised, strict=True))
    same = sum((a.argmax(-1) == b.argmax(-1)).sum().item() for a, b in pairs) / sum(len(a) for a in after)
    return Merge(merged, change, effect, relative_change(after, quantised), same, before)


def require_same(change: float, precision: str) -> None:
    """Raise UserError (70) unless a :func:`relative_change` is small enough for the same model in ``precision``."""
    if not change <= TOLERANCE[precision]:  # also for one that is not a number
        what = f"merging changed a logit by {change:.1e} of the largest"
        allowed = f"at most {TOLERANCE[precision]:.0e} in {precision}"
        raise UserError(Problem(what, allowed, "" if precision == "fp32" else "merge in fp32"), ExitCode.INTERNAL)


def logits_of(model, texts: Sequence[Sequence[int]]) -> list:
    """Return the logits of each text, fp32 [tokens, vocabulary]."""
    import torch

    model.eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([list(ids)])).logits[0].float() for ids in texts]


def relative_change(new: list, old: list) -> float:
    """Return the largest difference of a logit, relative to the largest logit of ``old``."""
    largest = max(tensor.abs().max().item() for tensor in old)
    return max((a - b).abs().max().item() for a, b in zip(new, old, strict=True)) / largest
