"""scores.png: the arms' scores item by item with their means, the components, and the paired differences."""

import random
from pathlib import Path

from common.report.formats import arm_label, component_label, test_label

COLOURS = {"baseline": "#7b828c", "optimized": "#1f77b4", "finetuned": "#d9730d", "finetuned_optimized": "#7a4fb5"}


def draw_scores(report: dict, path: Path) -> None:
    """Draw the three panels as a PNG of about 1650 × 600 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    scores, components, differences = figure.subplots(1, 3, width_ratios=(1.05, 1.25, 1.2))
    _draw_items(scores, report)
    _draw_components(components, report)
    _draw_differences(differences, report)
    decision = report["comparison"]["decision"]["verdict"]
    figure.suptitle(
        f"{decision}    n = {report['models']['baseline']['scores']['n']}, metric {report['metadata']['metric']}",
        fontsize=12,
    )
    for axes in (scores, components, differences):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _draw_items(axes, report: dict) -> None:
    noise = random.Random(0)
    for place, (name, model) in enumerate(report["models"].items()):
        values = [prediction["score"] for prediction in model["predictions"]]
        xs = [place + noise.uniform(-0.18, 0.18) for _ in values]
        axes.plot(xs, values, "o", ms=4, alpha=0.4, color=COLOURS[name], mew=0)
        _draw_interval(axes, place, model["scores"]["mean"], model["scores"]["mean_interval"], COLOURS[name])
        axes.annotate(
            f"{model['scores']['mean']:.1%}", (place + 0.26, model["scores"]["mean"]), va="center", fontsize=10
        )
    axes.axhline(report["metadata"]["thresholds"]["adopt_score"], color="#999999", lw=1, ls="--", zorder=0)
    axes.set_xticks(range(len(report["models"])), [arm_label(name).replace(" ", "\n") for name in report["models"]])
    axes.set(ylim=(-0.03, 1.03), xlim=(-0.5, len(report["models"]) - 0.3), ylabel="score")
    axes.set_title("Items, mean and 95 % interval", fontsize=11)


def _draw_components(axes, report: dict) -> None:
    names = list(next(iter(report["models"].values()))["component_scores"])
    height = 0.8 / len(report["models"])
    for place, (arm, model) in enumerate(report["models"].items()):
        ys = [k + (place - (len(report["models"]) - 1) / 2) * height for k in range(len(names))]
        values = [model["component_scores"].get(name, 0.0) for name in names]
        axes.barh(ys, values, height * 0.9, color=COLOURS[arm], label=arm_label(arm))
    axes.set_yticks(range(len(names)), [component_label(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title("Components", fontsize=11)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.07), ncols=len(report["models"]), frameon=False, fontsize=9)


def _draw_differences(axes, report: dict) -> None:
    tests = report["comparison"]["tests"]
    for place, (name, test) in enumerate(tests.items()):
        colour = COLOURS[name.split("_vs_")[0]]
        axes.plot([100 * test["interval"]["low"], 100 * test["interval"]["high"]], [place, place], color=colour, lw=3)
        axes.plot([100 * test["difference"]], [place], "o", ms=8, color=colour)
        axes.annotate(
            f"{100 * test['difference']:+.1f}", (100 * test["difference"], place - 0.13), ha="center", fontsize=10
        )
    axes.axvline(0, color="#999999", lw=1, zorder=0)
    axes.axvline(100 * report["metadata"]["thresholds"]["adopt_gain"], color="#999999", lw=1, ls="--", zorder=0)
    axes.set_yticks(range(len(tests)), [test_label(name).replace(" − ", "\n− ") for name in tests])
    axes.set(ylim=(len(tests) - 0.5, -0.5), xlabel="points")
    axes.set_title("Paired differences, 95 % interval", fontsize=11)


def _draw_interval(axes, x: float, mean: float, interval: dict, colour: str) -> None:
    axes.plot([x, x], [interval["low"], interval["high"]], color=colour, lw=3)
    axes.plot([x - 0.22, x + 0.22], [mean, mean], color="black", lw=1.8)
