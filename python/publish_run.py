"""Put a finished run on the hub: its adapter, tokenizer and card, nothing else, after a look at them.

  python python/publish_run.py --run demo --dry-run                       what would go there; needs no network
  HF_TOKEN=… python python/publish_run.py --run demo --repo org/name      shows it, asks, creates a private repository

Checkpoints, optimizer state and pickles are never among the files. Texts that name a path, a user or the host of this
machine stop it. The card is written from the run's manifest, figures and comparison, unless README.md in the run's
folder was changed by hand: then it is that one. The token comes from HF_TOKEN or the hub login only.
"""

import re
import sys

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command


def main() -> None:
    args = build_parser().parse_args()
    check_names(args)

    from common import runs
    from common.runs.choose import choose_finished

    name = choose_finished(args.run, "publish")
    folder = runs.run_folder(name)

    from common.sharing import hub
    from common.sharing.contents import collect, find_private, has_own_card, local_base

    contents = collect(name, folder, base=args.base, licence=args.license)
    show(contents, name, args)
    if has_own_card(contents):
        mind_own_card(folder, args)
    if local := local_base(contents):
        print(f"note: the base goes by '{local}', a folder of this machine — its name on the hub: BASE=org/name")
    problems = find_private(contents)
    if problems:
        raise UserError(problems, ExitCode.DATA)
    if args.dry_run:
        print("dry run: nothing private found, nothing sent")
        return

    user = hub.check_repository(args.repo, public=args.public, force=args.force)
    confirm(args, user)
    address = hub.upload(args.repo, contents, f"Run {name}", public=args.public)
    print(f"published run '{name}': {address}")


def build_parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add("--run", metavar="NAME", help="name of the run (default: the only completed one)")
    add("--repo", metavar="ORG/NAME", help="the repository on the hub; it is created, private")
    add("--dry-run", action="store_true", help="show what would be published, and stop")
    add("--base", metavar="ORG/NAME", help="the base's name on the hub, where the run used a folder")
    add(
        "--license", metavar="ID", help="licence in the card, as in apache-2.0 (default: the base's if known, or other)"
    )
    add("--public", action="store_true", help="let everybody read it")
    add("--force", action="store_true", help="commit to a repository that is there already")
    add("--yes", action="store_true", help="do not ask")
    return parser


def check_names(args) -> None:
    """Raise UserError (64) for names that are none on the hub, and for what nobody can be asked about."""
    if not args.repo and not args.dry_run:
        raise UserError(Problem("no repository given", "REPO=org/name, or DRY_RUN=1"), ExitCode.USAGE)
    for option, value in (("--repo", args.repo), ("--base", args.base)):
        if value and not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", value):
            raise UserError(Problem(f"{option} is {value}", "org/name, as the hub has it"), ExitCode.USAGE)
    if args.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", args.license):
        allowed = "an id of the hub's list, such as apache-2.0, mit, llama3.2, other"
        raise UserError(Problem(f"--license is {args.license}", allowed), ExitCode.USAGE)
    if not (args.dry_run or args.yes or sys.stdin.isatty()):
        raise UserError(Problem("no terminal to ask for consent at", "YES=1 publishes unasked"), ExitCode.USAGE)


def show(contents: dict, name: str, args) -> None:
    """Print the card, then the files with their sizes and where they go."""
    from common.runs.log import clean_line
    from common.sharing.contents import CARD, size_of

    card = contents[CARD]
    text = card if isinstance(card, bytes) else card.read_bytes()
    for line in text.decode("utf-8", "replace").splitlines():
        print(f"| {clean_line(line)}")
    print()
    for file, content in sorted(contents.items()):
        print(f"{size_of(content):>14,}  {file}")
    print(f"{sum(map(size_of, contents.values())):>14,}  bytes in {len(contents)} files of run '{name}'")
    print(f"to: {args.repo or 'no repository named'} ({'PUBLIC' if args.public else 'private'})")


def mind_own_card(folder, args) -> None:
    """Say what does not reach a card that was changed by hand. Raises UserError (64) for a licence."""
    changed = f"{folder / 'README.md'} was changed by hand and goes as it is"
    if args.license:
        allowed = f"write license: {args.license} there, or delete it: it is made anew"
        raise UserError(Problem(f"LICENSE={args.license}, but {changed}", allowed), ExitCode.USAGE)
    if args.base:
        print(f"note: {changed}: BASE= goes to adapter_config.json only")


def confirm(args, user: str) -> None:
    """Ask at the terminal, unless told not to."""
    if args.yes:
        return
    question = f"Publish this as {user} to {args.repo}, {'for everybody' if args.public else 'private'}? [y/N] "
    try:
        answer = input(question).strip().lower()
    except EOFError:
        answer = ""
    if answer not in ("y", "yes"):
        raise UserError(Problem("not published", "nothing was sent"), ExitCode.STOPPED)


if __name__ == "__main__":
    run_command(main)
