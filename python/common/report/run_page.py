"""report.html of a run: what was asked, what happened, how it compares with its plan, and what to do with it now.

Everything is read from the run's folder; a run that is not finished, or of an older version, shows what it has.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.epochs import EPOCH_INFO
from common.report import curves
from common.report.page import open_templates
from common.runs import ROOT, read_status
from common.runs.folders import DONE_FILE, MANIFEST_FILE
from common.runs.history import read_metrics, read_warnings
from common.runs.results import read_json_if_there
from common.runs.view import format_duration

PAGE = "report.html"
_PYTHON_BLOCK = re.compile(r"```python\n(.*?)\n```", re.DOTALL)


def write_run_page(folder: Path) -> Path:
    """Write report.html into the folder of a run and return its path."""
    path = folder / PAGE
    path.write_text(render_run_page(folder), encoding="utf-8", errors="replace")
    return path


def is_of_run(report: Path) -> bool:
    """True for the report of a comparison that lies where a run keeps its own: runs/NAME/compare/report.json."""
    return report.parent.name == "compare" and (report.parent.parent / MANIFEST_FILE).is_file()


def render_run_page(folder: Path) -> str:
    """Return the page of the run in ``folder`` as text."""
    run = read_run(folder)
    import jinja2

    template = open_templates(autoescape=True)
    template.undefined = jinja2.ChainableUndefined  # what a run has not written (yet) stays empty
    template.filters |= {"duration": format_duration, "gib": gib, "off": off, "show": show}
    return template.get_template("run.html").render(run=run, facts=facts_of(run), **_charts(run), how=how_to(run))


def read_run(folder: Path) -> dict[str, Any]:
    """Return all that the files of a run say, by file; empty where one is missing."""
    status = read_status(folder, log_lines=0)
    done = read_json_if_there(folder / DONE_FILE) or {}
    manifest = read_json_if_there(folder / MANIFEST_FILE) or {}
    return {
        "name": folder.name,
        "folder": folder,
        "state": "completed" if done else status["state"],
        "reason": "" if done else status["reason"],
        "status": status,
        "manifest": manifest,
        "settings": manifest.get("settings") or {},
        "plan": manifest.get("plan") or {},
        "info": read_json_if_there(folder / "training_info.json") or {},
        "epochs": read_json_if_there(folder / EPOCH_INFO) or [],
        "metrics": read_metrics(folder),
        "comparison": read_json_if_there(folder / "compare" / "report.json") or {},
        "done": done,
        "warnings": read_warnings(folder),
    }


def facts_of(run: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (title, figure, remark) of each card at the top."""
    info, status, plan = run["info"], run["status"], run["info"].get("plan") or {}
    last = run["epochs"][-1] if run["epochs"] else {}
    steps = f"step {status.get('step', '–')} of {status.get('total_steps', '–')}"
    seconds = plan.get("train_s") or status.get("elapsed_s")
    return [
        ("Training loss", number(last.get("train_loss", status.get("loss")), "{:.3f}"), steps),
        ("Validation loss", number(last.get("eval_loss"), "{:.3f}"), _best(run["epochs"])),
        ("Time", format_duration(seconds), _beside(plan.get("planned_s"), plan.get("time_off"), format_duration)),
        ("Peak memory", gib(plan.get("peak_gib") or status.get("peak_rss_gib")),
         _beside(plan.get("planned_gib"), plan.get("peak_off"), gib)),
        ("Speed", number(status.get("tokens_per_s"), "{:,.0f}"), "tokens a second at the end"),
        ("Trained", number(info.get("trainable_params"), "{:,}"),
         f"parameters, {number(info.get('trainable_percentage'), '{:.3g}')} % of the model"),
    ]  # fmt: skip


def how_to(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what for, lines to type) for this run, from the targets that the Makefile has."""
    name, targets = run["name"], _targets()
    if run["state"] != "completed":
        return [("Carry on", f"make resume RUN={name}"), ("See why", f"make status RUN={name}\nmake logs RUN={name}")]
    folder, kind = f"runs/{name}", (run["settings"].get("method") or {}).get("kind")
    found = [
        ("Chat", f"make chat RUN={name}" if "chat" in targets else f"make test-model MODEL={folder}"),
        ("Compare", f"make compare RUN={name}"),
        ("Export", f"make export RUN={name}" if "export" in targets and kind == "lora" else ""),
        ("Repeat", f"make reproduce RUN={name}"),
    ]
    return [(what, lines) for what, lines in [("Load", _loading(run)), *found] if lines]


def number(value, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "–"


def gib(value) -> str:
    return number(value, "{:.2f} GiB")


def off(share: float | None) -> str:
    """A deviation from the plan as "+7 %", with a true minus."""
    return "–" if share is None else f"{100 * share:+.0f} %".replace("-", "−")


def show(value) -> str:
    """A setting as a recipe would write it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return str(value)


def _best(epochs: Sequence[Mapping[str, Any]]) -> str:
    judged = [epoch for epoch in epochs if epoch.get("eval_loss") is not None]
    if not judged:
        return "not evaluated"
    best = min(judged, key=lambda epoch: epoch["eval_loss"])
    return "the lowest yet" if best is judged[-1] else f"lowest after epoch {best['epoch']:g}: {best['eval_loss']:.3f}"


def _beside(planned: float | None, share: float | None, form) -> str:
    return "not planned" if planned is None else f"planned {form(planned)} ({off(share)})"


def _charts(run: Mapping[str, Any]) -> dict[str, Any]:
    def line(name: str) -> list[tuple[float, float]]:
        return [(m["step"], m[name]) for m in run["metrics"] if isinstance(m.get(name), int | float)]

    judged = [epoch for epoch in run["epochs"] if epoch.get("eval_loss") is not None]
    dots = [(f"epoch {e['epoch']:g}: {e['eval_loss']:.4f}", (e["global_step"], e["eval_loss"])) for e in judged]
    validation = [(e["global_step"], e["eval_loss"]) for e in judged]
    plan = run["plan"]
    speed, memory = plan.get("tokens_per_s"), (plan.get("memory") or {}).get("total")
    if (run["settings"].get("training") or {}).get("device") == "cuda":
        memory = None  # planned of the GPU; the curve is the process's
    return {
        "losses": curves.draw_curves(
            [("training", "baseline", line("loss")), ("validation", "finetuned", validation)],
            "Loss by step", lambda value: f"{value:g}", dots=dots),
        "speeds": curves.draw_curves(
            [("tokens/s", "optimized", line("tokens_per_s"))], "Tokens a second by step", lambda value: f"{value:,.0f}",
            level=("planned", speed) if speed else None),
        "memories": curves.draw_curves(
            [("GiB", "optimized", line("peak_rss_gib"))], "Peak memory in GiB by step", lambda value: f"{value:g}",
            level=("planned", memory) if memory else None),
        "rates": curves.draw_curves(
            [("rate", "baseline", line("learning_rate"))], "Learning rate by step", lambda value: f"{value:g}"),
    }  # fmt: skip


def _loading(run: Mapping[str, Any]) -> str:
    """Return the lines of Python in the adapter's card that load it."""
    card = run["folder"] / "README.md"
    found = _PYTHON_BLOCK.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    return found[1].replace("path/to/this/folder", f"runs/{run['name']}") if found else ""


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
