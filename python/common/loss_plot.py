"""loss.png: the training loss, the validation loss and the perplexity of a run, in three panels."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOSS_PLOT = "loss.png"
_TRAINING, _VALIDATION = "#6b87ad", "#c1440e"


def perplexity(loss: float) -> float:
    """Return e to the ``loss`` per token: among how many equally likely tokens the model chooses, so to speak."""
    return math.exp(min(loss, 700.0))


def collect_losses(
    log_history: Sequence[Mapping[str, float]], epochs: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Return (step, training loss) of each logged step and (step, validation loss) of each evaluation.

    Evaluations within an epoch are in the trainer's log; those at an epoch's end are in epoch_info.json as well, and
    only there when the run was resumed after one.
    """
    trained = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    judged = {entry["step"]: entry["eval_loss"] for entry in log_history if "eval_loss" in entry}
    judged |= {entry["global_step"]: entry["eval_loss"] for entry in epochs if entry["eval_loss"] is not None}
    return trained, sorted(judged.items())


def plot_losses(log_history: Sequence[Mapping[str, float]], epochs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss.png: from left to right training loss, validation loss and perplexity over the optimizer steps."""
    from matplotlib.figure import Figure

    trained, judged = collect_losses(log_history, epochs)
    figure = Figure(figsize=(12, 3.8), dpi=120, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw(left, "training loss (nats per trained token)", trained, _TRAINING, dots=len(trained) < 2)
    _draw(middle, "validation loss (nats per trained token)", judged, _VALIDATION, dots=True)
    _draw(right, "validation perplexity", [(step, perplexity(loss)) for step, loss in judged], _VALIDATION, dots=True)
    right.set_ylim(bottom=1 if judged else 0)
    figure.savefig(path)


def draw_in_place(
    log_history: Sequence[Mapping[str, float]], epochs: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """Draw loss.png in a run's folder so that whoever looks finds the old picture or the new one, never half of one."""
    draft = folder / f".{LOSS_PLOT}"
    plot_losses(log_history, epochs, draft.with_suffix(".draft.png"))
    draft.with_suffix(".draft.png").replace(folder / LOSS_PLOT)


def _draw(axes, title: str, points: Sequence[tuple[int, float]], color: str, *, dots: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    steps, values = [step for step, _ in points], [value for _, value in points]
    axes.plot(steps, values, color=color, linewidth=1.4, marker="o" if dots else None, markersize=4)
    if not points:
        axes.text(0.5, 0.5, "not evaluated yet", transform=axes.transAxes, ha="center", color="#7b828c")
        axes.set(xticks=[], yticks=[])
    elif dots:
        step, value = min(points, key=lambda point: point[1])
        text = f"{value:.3f}" if len(points) == 1 else f"lowest {value:.3f}"
        axes.annotate(text, (step, value), xytext=(0, 8), textcoords="offset points", ha="center")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("optimizer step")
    axes.set_ylim(bottom=0)
    if values:
        axes.set_ylim(top=max(values) * 1.12 or 1.0)
    axes.margins(x=0.06)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
