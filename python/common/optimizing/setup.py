"""From the options of a search to its task: which model, which training rows to show, which to judge by."""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from common.comparison.apparatus import check_metric
from common.comparison.held_out import data_rules, locate
from common.data import Example, load_examples
from common.errors import ExitCode, Problem, UserError
from common.generation import Decoding, open_arm
from common.generation.answers import AnswerCache, without_thought
from common.generation.local import LocalArm, as_trained
from common.generation.programs import PROGRAM_FILE, program_of
from common.optimizing.search import Task
from common.recipes import load_recipe, portable_path
from common.runs import ROOT, check_run_name
from common.scoring import load_metric
from common.settings import EvaluationSettings, Recipe

FEWEST_DEV = 4
DEV_SHARE = 1 / 3  # of the rows, at most
ABLE_TO_WRITE_BYTES = 2_000_000_000  # of weights: a model of about a billion parameters may write instructions


def set_up(args: argparse.Namespace) -> tuple[Task, AnswerCache, Path]:
    """Return the task, the answers kept of an earlier search, and where the program goes. Raises UserError 64 to 78."""
    from common.checks import check_writable

    recipe = load_recipe(args.recipe) if args.recipe else None
    _fill_in(args, recipe)
    if args.seed < 0 or args.candidates < 3 or args.trials < 1 or args.demonstrations < 0:
        allowed = "--seed 0 or more, --candidates 3 or more, --trials 1 or more, --demonstrations 0 or more"
        raise UserError(Problem("a number is too small", allowed), ExitCode.USAGE)
    decoding, metric = Decoding(args.max_new_tokens), load_metric(args.metric)
    name = check_run_name(recipe.name if recipe else Path(args.output).parent.name or "program")
    output = Path(args.output or program_of(name))
    check_writable(str(output.parent))
    settings = recipe.to_dict() if recipe else {}
    train = load_examples(locate(args.train), **data_rules({"settings": settings}))
    shown, dev = split_rows(train.examples, args.dev, args.demonstrations, args.seed)
    check_metric([without_thought(example.completion) for example in dev], metric)
    arm = open_arm("model", args.model, **as_trained({"settings": settings}))
    proposer, note = _open_proposer(args, arm)
    if proposer is None and not args.demonstrations:
        raise UserError(
            Problem("there is nothing to search for", "demonstrations, or a --proposer", "--demonstrations 2"),
            ExitCode.USAGE,
        )
    record = {
        "data": {"path": portable_path(Path(train.path)), "rows": train.rows, "sha256": train.sha256},
        "notes": [note] if note else [],
    }
    local = isinstance(arm, LocalArm)
    task = Task(arm, shown, dev, metric, decoding, args.demonstrations, args.candidates, args.trials, args.seed,
                proposer, in_batches=local, record=record)  # fmt: skip
    return task, AnswerCache(Path(program_of(name)).with_name("answers.jsonl")), output


def split_rows(
    rows: Sequence[Example], dev: int, demonstrations: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split training rows into those that may be shown and ``dev`` that judge (at most a third of the rows).

    A question stands in one part only. The same seed gives the same parts whatever the order of the file. Raises
    UserError (65) when there are too few rows.
    """
    by_question = {row.prompt_messages: row for row in reversed(rows) if row.messages}
    ordered = sorted(by_question.values(), key=lambda row: (row.prompt, row.completion))
    random.Random(seed).shuffle(ordered)
    count = min(dev, int(len(ordered) * DEV_SHARE))
    if count < FEWEST_DEV or len(ordered) - count <= demonstrations:
        raise UserError(
            Problem(f"{len(ordered)} training rows with different questions, {dev} to judge by",
                    f"at least {FEWEST_DEV} to judge by (a third of the rows at most), and more than "
                    f"{demonstrations} to show"),
            ExitCode.DATA,
        )  # fmt: skip
    return ordered[count:], ordered[:count]


def _fill_in(args: argparse.Namespace, recipe: Recipe | None) -> None:
    if recipe is not None:
        args.model = args.model or recipe.model.name
        args.train = args.train or recipe.data.train
        if args.max_new_tokens is None:
            args.max_new_tokens = recipe.evaluation.max_new_tokens
        args.metric = args.metric or recipe.evaluation.metric
        if args.output is None and recipe.evaluation.program:
            args.output = str(ROOT / recipe.evaluation.program)
    if args.max_new_tokens is None:
        args.max_new_tokens = Decoding.max_new_tokens
    args.metric = args.metric or EvaluationSettings().metric
    needed = ("model", "train") if recipe else ("model", "train", "output")
    missing = [name for name in needed if not getattr(args, name)]
    if missing:
        raise UserError(
            [Problem(f"--{name} is missing", next_step="name a recipe with --recipe, or give it") for name in missing],
            ExitCode.USAGE,
        )
    if args.output and not args.output.endswith(".json"):
        args.output = str(Path(args.output) / PROGRAM_FILE)


def _open_proposer(args: argparse.Namespace, arm) -> tuple:
    """The model that writes instructions, or None; and a note where that was decided here."""
    if args.proposer == "none":
        return None, "Demonstrations only, as asked: no instructions were searched for."
    if args.proposer:
        return open_arm("proposer", args.proposer), ""
    size = _weights_bytes(arm) if isinstance(arm, LocalArm) else None
    if size is not None and size < ABLE_TO_WRITE_BYTES:
        return None, (
            f"Demonstrations only: a model of {size / 1e6:,.0f} MB writes no useful instructions; "
            "--proposer names a larger one."
        )
    return arm, "The model itself wrote the instructions that were tried."


def _weights_bytes(arm: LocalArm) -> int:
    return sum(path.stat().st_size for path in Path(arm.description["model"]).glob("*.safetensors"))
