"""Comparisons are kept: each report goes into history/, and the next one tells how the verdict moved."""

from pathlib import Path

from common.errors import UserError
from common.report.formats import percent, points
from common.runs import read_json, write_json


def keep_report(report: dict, folder: Path) -> str:
    """Keep ``report`` in ``folder``/history and return one line on what moved since the last one, or "".

    A report that says the same as the last one (all but time) is not kept twice.
    """
    history = folder / "history"
    earlier = sorted(history.glob("*.json"))
    last = _read(earlier[-1]) if earlier else None
    if last is not None and _substance(last) == _substance(report):
        return f"unchanged since the comparison of {last['metadata']['created_at']}"
    number = int(earlier[-1].stem.split("-")[0]) + 1 if earlier else 1
    history.mkdir(parents=True, exist_ok=True)
    write_json(history / f"{number:04d}-{report['comparison']['decision']['verdict'].lower()}.json", report)
    return describe_move(last, report) if last is not None else ""


def describe_move(last: dict, report: dict) -> str:
    """One line: the verdict and the fine-tuned model's mean, then and now; and whether they can be compared at all."""
    before, now = last["comparison"]["decision"]["verdict"], report["comparison"]["decision"]["verdict"]
    old, new = (r["models"]["finetuned"]["scores"]["mean"] for r in (last, report))
    moved = f"{now} as before" if before == now else f"{before} → {now}"
    means = f"fine-tuned {percent(old)} → {percent(new)} ({points(new - old)} points)"
    line = f"since {last['metadata']['created_at']}: {moved}; {means}"
    changed = [name for name, look in _CONDITIONS.items() if look(last) != look(report)]
    return line + (f"; changed: {', '.join(changed)}" if changed else "")


_CONDITIONS = {
    "items": lambda r: r["metadata"]["data"]["test"]["sha256"],
    "metric": lambda r: r["metadata"]["metric"],
    "decoding": lambda r: r["metadata"]["decoding"],
    "thresholds": lambda r: r["metadata"]["thresholds"],
    "optimised prompt": lambda r: [r["metadata"]["prompt"][part] for part in ("instructions", "demonstrations")],
    "baseline": lambda r: r["metadata"]["arms"]["baseline"]["identity"],
    "optimised arm": lambda r: r["metadata"]["arms"]["optimized"]["identity"],
    "fine-tuned model": lambda r: r["metadata"]["arms"]["finetuned"]["identity"],
}


def _substance(report: dict) -> tuple:
    """What a report says, without when and how fast it was made."""
    answers = [[a["text"] for p in model["predictions"] for a in p["answers"]] for model in report["models"].values()]
    return report["comparison"], answers, *(look(report) for look in _CONDITIONS.values())


def _read(path: Path) -> dict | None:
    """An earlier report; None when it is of another form."""
    try:
        report = read_json(path)
        _substance(report)
    except (UserError, KeyError, TypeError):
        return None
    return report
