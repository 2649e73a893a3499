"""Train a finished run again, from its manifest alone, and compare the two adapters byte by byte.

  python python/reproduce_run.py --run demo

First data, model and versions are held against the manifest: what differs is said, and the training is not begun unless
--force is given. Another commit or machine is said and does not hinder. The new run is runs/<name>-again, with the
comparison in reproduction.json; interrupted, it is carried on by the same command. Exit code 0: the same bytes; 1:
something differs, and where the losses part is said.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from common.errors import CommandParser, ExitCode, run_command


def main() -> int:
    options = read_options()

    from common import checks, launching, runs
    from common.reliability.manifests import compare_with_manifest, find_repetition
    from common.runs.choose import choose_finished

    name = choose_finished(options.run, "reproduce")
    manifest = runs.read_json(runs.run_folder(name) / "run.json")
    outcomes, notes = compare_with_manifest(manifest)
    checks.print_checks(outcomes)
    for note in notes:
        print(f"   {note}")
    if not options.force:
        checks.raise_problems(outcomes)
    if options.check:
        return ExitCode.OK

    again, state = find_repetition(name, manifest)
    team = launching.recorded_team(manifest, options)
    os.environ.update(team.environment())
    code = ExitCode.OK if state == "completed" else train_again(team, manifest, again, resume=state is not None)
    if code:
        if (runs.run_folder(again) / "run.json").is_file():
            print(f"make reproduce RUN={name} carries the repetition '{again}' on", file=sys.stderr)
        return code
    return compare(name, again, notes)


def train_again(team, manifest: dict, again: str, *, resume: bool) -> int:
    """Train with the settings of ``manifest``, and nothing else, as run ``again``; return the command's exit code."""
    from common.launching import train_here
    from common.reliability.manifests import recipe_file_name, settings_for_repeat

    if resume:
        print(f"carrying on run '{again}', which was begun before", flush=True)
        return train_here(team, again, manifest["command"], "--resume", "--run", again)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / recipe_file_name(manifest)
        recipe.write_text(json.dumps(settings_for_repeat(manifest)), encoding="utf-8")
        return train_here(team, again, manifest["command"], "--recipe", str(recipe), "--run", again)


def compare(name: str, again: str, notes: list[str]) -> int:
    """Compare the two runs, write reproduction.json into the new one, and say how it ended."""
    from common import hardware, runs
    from common.reliability.comparing import compare_runs, differing_files
    from common.reliability.manifests import REPORT

    comparison = compare_runs(runs.run_folder(name), runs.run_folder(again))
    report = {"of": name, "date": runs.utc_now(), **comparison, "differences": notes}
    runs.write_json(runs.run_folder(again) / REPORT, report | {"machine": hardware.describe()})
    for run, digest in zip((name, again), comparison["sha256"], strict=True):
        print(f"{digest}  {run}")
    if comparison["identical"]:
        print(f"identical: run '{name}' is repeated to the byte by run '{again}'")
        return ExitCode.OK
    part = comparison["curves_part_at"]
    where = "every logged loss is the same" if part is None else f"the loss curves part at step {part}"
    print(f"NOT identical: {where}; other files that differ: {', '.join(differing_files(comparison)) or 'none'}")
    return ExitCode.GATE


def read_options():
    from common.launching import add_team_options

    parser = CommandParser(prog="reproduce_run.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the only completed one)")
    parser.add_argument("--check", action="store_true", help="say what differs, then stop")
    parser.add_argument("--force", action="store_true", help="train although data, model or versions have changed")
    add_team_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
