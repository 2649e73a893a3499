"""Write report.html of a run: what was asked, what happened, and what to do with it. A finished run has one already.

It is written from the run's files alone, so it can be written again at any time: after a comparison, or of a run that
has stopped or is still at work.
"""

import sys

from common import runs
from common.errors import CommandParser, run_command
from common.runs.choose import choose_run


def main() -> None:
    parser = CommandParser(prog="write_report.py", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the only one there is)")
    options = parser.parse_args(sys.argv[1:])
    name = choose_run(options.run, "report", lambda status: True)

    from common.report.run_page import write_run_page

    print(write_run_page(runs.runs_dir() / name))


if __name__ == "__main__":
    run_command(main)
