"""Show the runs: state, progress, speed, remaining time, memory, the last log lines, and why one is not running.

python python/status.py                     once, as a table
python python/status.py --watch             follow them on the terminal until Ctrl-C
python python/status.py --json              once, for scripts
"""

import json
import sys

from common import runs
from common.errors import CommandParser, ExitCode, Problem, UserError, did_you_mean, run_command
from common.runs import history, view
from common.runs.choose import choose_run

FIELDS = (
    *("name", "recipe", "state", "reason", "running", "pid", "host"),
    *("step", "total_steps", "epoch", "loss", "losses", "eval_loss", "tokens_per_s", "eta_s", "next_save_s"),
    *("elapsed_s", "rss_gib", "peak_rss_gib", "started_at", "updated_at", "ended_at"),
    *("exit_code", "error", "last_warning", "stop_requested", "folder", "last_log_lines"),
)


def main() -> None:
    options = read_options()
    if options.field and options.field not in FIELDS:
        hint = did_you_mean(options.field, FIELDS)
        raise UserError(Problem(f"no field '{options.field}'", f"fields: {', '.join(FIELDS)}", hint), ExitCode.USAGE)
    if options.every <= 0:
        raise UserError(Problem(f"--every is {options.every:g}", "above 0 seconds"), ExitCode.USAGE)
    name = choose_run(options.run, "status", bool) if options.run else None

    if options.watch and sys.stdout.isatty():
        watch(options, name)
        return
    records = read_records(options, name)
    if options.field:
        for record in records:
            value = record[options.field]
            print(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    elif options.json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
    elif records:
        view.print_table(records)
    else:
        print(f"no runs in {runs.runs_dir()} yet; make demo starts the first")


def read_options():
    parser = CommandParser(prog="status.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="this run only")
    parser.add_argument("--newest", action="store_true", help="the run that was started last only")
    parser.add_argument("--lines", type=int, default=2, metavar="N", help="how many log lines to show of each run")
    parser.add_argument("--json", action="store_true", help="as a JSON list, with every field")
    parser.add_argument("--field", metavar="KEY", help="print this field only, one line a run, as in state or folder")
    parser.add_argument("--watch", action="store_true", help="follow them on the terminal; elsewhere, print once")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two looks of --watch")
    return parser.parse_args(sys.argv[1:])


def watch(options, name: str | None) -> None:
    """Follow all runs until Ctrl-C, or one run until it ends; then the table stays on the screen."""
    try:
        view.watch(
            lambda: read_records(options, name),
            options.every,
            lambda records: name is not None and not records[0]["running"],
        )
    except KeyboardInterrupt:
        return
    view.print_table(read_records(options, name))


def read_records(options, name: str | None) -> list[dict]:
    """Return the fields of each run that was asked for, the oldest start first."""
    folders = [runs.runs_dir() / name] if name else runs.list_runs()[-1 if options.newest else 0 :]
    records = []
    for folder in folders:
        status = runs.read_status(folder, options.lines)
        status |= {"losses": history.read_losses(folder), "last_warning": history.last_warning(folder)}
        records.append({field: (status | {"folder": str(folder)}).get(field) for field in FIELDS})
    return records


if __name__ == "__main__":
    run_command(main)
