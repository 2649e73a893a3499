"""How numbers, arms and verdicts are put into words, the same in every report."""

import re

ARM_LABELS = {"baseline": "Baseline", "optimized": "Optimised prompt", "finetuned": "Fine-tuned",
              "finetuned_optimized": "Tuned and prompted"}  # fmt: skip
SHORT_LABELS = {"baseline": "baseline", "optimized": "prompt", "finetuned": "tuned",
                "finetuned_optimized": "both"}  # fmt: skip
VERDICT_LABELS = {
    "ADOPT": "Adopt the fine-tuned model",
    "KEEP_OPTIMIZED": "Keep the optimised prompt",
    "KEEP_BASELINE": "Keep the baseline",
    "INCONCLUSIVE": "These items cannot tell",
}
PASS_LABELS = {"pass_at_0.8": "pass@0.8", "pass_at_0.9": "pass@0.9", "perfect": "perfect"}


def arm_label(name: str) -> str:
    return ARM_LABELS.get(name, name)


def test_label(name: str) -> str:
    """``finetuned_vs_optimized`` as "Fine-tuned − Optimised prompt"."""
    new, _, old = name.partition("_vs_")
    return f"{arm_label(new)} − {arm_label(old)}"


def component_label(name: str) -> str:
    return name.replace("_", " ")


def percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f} %"


def points(fraction: float | None) -> str:
    """A difference in points, with its sign and a true minus."""
    if fraction is None:
        return "–"
    rounded = round(100 * fraction, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def whole_points(fraction: float) -> str:
    """A tick of an axis of differences: "−20", "0", "+20"."""
    rounded = round(100 * fraction)
    return f"{rounded:+d}".replace("-", "−") if rounded else "0"


def span(interval: dict, form=percent) -> str:
    """An interval as "81.2 to 94.0 %"; words where all values are equal, for then it would claim too much."""
    if interval["low"] == interval["high"]:
        return "all equal"
    low, high = form(interval["low"]), form(interval["high"])
    return f"{low.removesuffix(' %')} to {high}"


def p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def markdown_cell(text: str) -> str:
    """Text made safe for a cell of a Markdown table: one line, nothing in it is markup."""
    text = re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))
    return text if len(text) <= 120 else text[:119] + "…"
