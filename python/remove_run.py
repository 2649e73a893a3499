"""Remove a run for good, if it is not running: its folder, and the link in runs/ where that lies elsewhere."""

import shutil
import sys

from common import runs
from common.errors import CommandParser, run_command
from common.runs.choose import choose_run
from common.runs.folders import MANIFEST_FILE
from common.runs.lock import LOCK_FILE, RunLock
from common.runs.processes import Identity
from common.runs.status import STATUS_FILE


def main() -> None:
    parser = CommandParser(prog="remove_run.py", description=__doc__)
    parser.add_argument("--run", required=True, metavar="NAME", help="name of the run")
    options = parser.parse_args(sys.argv[1:])
    place = runs.runs_dir() / choose_run(options.run, "clean", bool)
    folder = runs.run_folder(options.run)

    lock = RunLock.acquire(folder, Identity.of_self().to_json())  # nobody starts it meanwhile
    for entry in folder.iterdir():  # what the run is known by goes last: interrupted, the same command goes on
        if entry.name not in (MANIFEST_FILE, STATUS_FILE, LOCK_FILE):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    shutil.rmtree(folder)
    if place.is_symlink():
        place.unlink()
    lock.release()
    print(f"removed run '{options.run}' ({folder})")


if __name__ == "__main__":
    run_command(main)
