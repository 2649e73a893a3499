"""The comparison on a terminal: one compact table, the verdict with its reasons, what to mind."""

from common.report.formats import SHORT_LABELS, VERDICT_LABELS, arm_label, p_value, percent, points, span

VERDICT_STYLES = {"ADOPT": "bold green", "INCONCLUSIVE": "bold yellow"}


def print_summary(report: dict, console=None) -> None:
    """Print the table and the verdict; colours on terminals only."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side in (("", "left"), ("mean", "right"), ("95 % interval", "right"), ("median", "right"),
                          ("≥ 0.9", "right"), ("cut", "right"), ("empty", "right"), ("p", "right")):  # fmt: skip
        table.add_column(heading, justify=side, no_wrap=True)
    for name, model in report["models"].items():
        scores, answers = model["scores"], model["answers"]
        table.add_row(
            arm_label(name), percent(scores["mean"]), span(scores["mean_interval"]), percent(scores["median"]),
            f"{scores['pass_at_0.9']['count']}/{scores['n']}", str(answers["truncated"]), str(answers["empty"]), "",
        )  # fmt: skip
    for name, test in report["comparison"]["tests"].items():
        table.add_row(
            " − ".join(SHORT_LABELS[arm] for arm in name.split("_vs_")), points(test["difference"]),
            span(test["interval"], points), "", "", "", "", p_value(test["sign_flip_p"]),
        )  # fmt: skip
    console.print(table)
    decision = report["comparison"]["decision"]
    console.print()
    style = VERDICT_STYLES.get(decision["verdict"], "bold")
    console.print(f"{decision['verdict']}: {VERDICT_LABELS[decision['verdict']]}", style=style)
    for reason in decision["reasons"]:
        console.print(f"  {reason}", soft_wrap=True, markup=False)
    for note in [*decision["notes"], *report["metadata"]["notes"], *failed_checks(report)]:
        console.print(f"  note: {note}", soft_wrap=True, style="dim", markup=False)


def failed_checks(report: dict) -> list[str]:
    """A line for each check of the apparatus that did not come out as it should."""
    lines = []
    for name, check in report["checks"].items():
        if check.get("ok") is False:
            got = f"mean {check['mean']:.2f}" if "mean" in check else check["verdict"]
            lines.append(
                f"check '{name.replace('_', ' ')}' failed: {got}, wanted {check['wanted']}; doubt these scores"
            )
    return lines
