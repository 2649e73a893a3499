"""List the runs, or lay some of them side by side: the settings in which they differ, and what came out.

python python/list_runs.py                       every run, a line each
python python/list_runs.py demo demo-2           these two: settings that differ, results
"""

import json
import sys

from common import runs
from common.errors import CommandParser, run_command
from common.runs.choose import choose_run
from common.runs.results import RESULTS, differing_settings, read_result
from common.runs.view import format_duration


def main() -> None:
    parser = CommandParser(prog="list_runs.py", description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="NAME", help="these runs only, side by side")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(sys.argv[1:])
    names = [choose_run(name, "runs", bool) for text in options.runs for name in text.split()]
    folders = [runs.runs_dir() / name for name in dict.fromkeys(names)] or runs.list_runs()

    records = [read_result(folder) for folder in folders]
    differences = differing_settings(records)
    if options.json:
        plain = [{key: value for key, value in record.items() if key != "settings"} for record in records]
        print(json.dumps({"runs": plain, "settings": differences}, indent=2, ensure_ascii=False))
    elif not records:
        print(f"no runs in {runs.runs_dir()} yet; make demo starts the first")
    elif options.runs:
        print_side_by_side(records, differences)
    else:
        print_list(records)


def print_list(records: list[dict]) -> None:
    """Print a row a run, its results in columns."""
    rows = [("run", "recipe", *RESULTS), *((r["name"], r["recipe"] or "-", *words(r)) for r in records)]
    print_rows(rows, bold_first_row=True)
    if len(records) > 1:
        print('\nmake runs RUNS="one another" shows in which settings they differ')


def print_side_by_side(records: list[dict], differences: dict[str, list]) -> None:
    """Print a column a run: first its results, then each setting in which they differ."""
    columns = [words(record) for record in records]
    rows = [("", *(record["name"] for record in records))]
    rows += [(name, *cells) for name, cells in zip(RESULTS, zip(*columns, strict=True), strict=True)]
    rows += [("", *("" for _ in records))] if differences else []
    rows += [(key, *map(show, values)) for key, values in differences.items()]
    print_rows(rows, bold_first_row=True)
    if not differences and len(records) > 1:
        print("\nthe same settings, data and model")


def print_rows(rows: list[tuple[str, ...]], *, bold_first_row: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print(Text(line.rstrip(), style="bold" if bold_first_row and not number else ""), soft_wrap=True)


def words(record: dict) -> list[str]:
    """Return the results of a run as words, in the order of RESULTS."""
    forms = {
        "loss": "{:.4f}", "eval_loss": "{:.4f}", "tokens_per_s": "{:.0f}", "peak_gib": "{:.2f} GiB",
        "tuned": "{:.1%}", "prompted": "{:.1%}",
    }  # fmt: skip
    cells = []
    for name in RESULTS:
        value = record[name]
        if value is None:
            cells.append("-")
        elif name == "took":
            cells.append(format_duration(value))
        else:
            cells.append(forms.get(name, "{}").format(value))
    return cells


def show(value) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
    return text if len(text) <= 40 else text[:39] + "…"


if __name__ == "__main__":
    run_command(main)
