"""Show the runs: state, progress, speed, remaining time, memory, the last log lines, and why one is not running."""

import json
import sys

from common import runs
from common.errors import CommandParser, ExitCode, Problem, UserError, did_you_mean, run_command
from common.runs.choose import choose_run

FIELDS = (
    *("name", "recipe", "state", "reason", "running", "pid", "host"),
    *("step", "total_steps", "epoch", "loss", "eval_loss", "tokens_per_s", "eta_s", "elapsed_s"),
    *("rss_gib", "peak_rss_gib", "started_at", "updated_at", "ended_at"),
    *("exit_code", "error", "stop_requested", "folder", "last_log_lines"),
)


def main() -> None:
    options = read_options()
    folders = runs.list_runs()
    if options.run:
        folders = [runs.runs_dir() / choose_run(options.run, "status", bool)]
    elif options.newest:
        folders = folders[-1:]
    statuses = [{**runs.read_status(folder, options.lines), "folder": str(folder)} for folder in folders]
    records = [{field: status.get(field) for field in FIELDS} for status in statuses]

    if options.field:
        print_field(records, options.field)
    elif options.json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
    elif records:
        print_table(records)
    else:
        print(f"no runs in {runs.runs_dir()} yet; make demo starts the first")


def read_options():
    parser = CommandParser(prog="status.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="this run only")
    parser.add_argument("--newest", action="store_true", help="the run that was started last only")
    parser.add_argument("--lines", type=int, default=2, metavar="N", help="how many log lines to show of each run")
    parser.add_argument("--json", action="store_true", help="as a JSON list, with every field")
    parser.add_argument("--field", metavar="KEY", help="print this field only, one line a run, as in state or folder")
    return parser.parse_args(sys.argv[1:])


def print_field(records: list[dict], field: str) -> None:
    if field not in FIELDS:
        hint = did_you_mean(field, FIELDS)
        raise UserError(Problem(f"no field '{field}'", f"fields: {', '.join(FIELDS)}", hint), ExitCode.USAGE)
    for record in records:
        value = record[field]
        print(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def print_table(records: list[dict]) -> None:
    """Print one row a run, and below it its reason and last log lines; colours on terminals only."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    rows = [HEADER, *(format_row(record) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row, record in zip(rows, [None, *records], strict=True):
        line = "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        console.print(Text(line.rstrip(), style="bold" if record is None else COLOURS[record["state"]]), soft_wrap=True)
        if record is not None:
            for note in [record["reason"], *record["last_log_lines"]]:
                if note:
                    console.print(Text(f"    {note}", style="dim"), soft_wrap=True)


HEADER = ("RUN", "STATE", "PID", "ELAPSED", "STEP", "LOSS", "TOKENS/S", "ETA", "MEMORY", "UPDATED (UTC)")
COLOURS = dict.fromkeys(runs.STATES, "cyan") | {
    "completed": "green",
    "stopped": "yellow",
    "failed": "red",
    "crashed": "red",
}


def format_row(record: dict) -> tuple[str, ...]:
    """Return the cells of one run, in the order of HEADER; "-" where nothing is known."""
    memory = record["rss_gib"] if record["running"] else record["peak_rss_gib"]
    step = None if record["step"] is None else f"{record['step']}/{record['total_steps'] or '?'}"
    return (
        record["name"],
        "stopping" if record["stop_requested"] else record["state"],
        str(record["pid"]) if record["running"] and record["pid"] else "-",
        format_duration(record["elapsed_s"]),
        step or "-",
        format_number(record["loss"], ".4f"),
        format_number(record["tokens_per_s"], ".0f"),
        format_duration(record["eta_s"]),
        format_number(memory, ".2f", " GiB"),
        str(record["updated_at"] or "-").removesuffix("+00:00").replace("T", " "),
    )


def format_number(value, form: str, unit: str = "") -> str:
    return format(value, form) + unit if isinstance(value, int | float) else "-"


def format_duration(seconds) -> str:
    if not isinstance(seconds, int | float):
        return "-"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


if __name__ == "__main__":
    run_command(main)
