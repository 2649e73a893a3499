"""From the options of a comparison to what it works on: arms, data, metric, and where the report goes.

Everything that can be wrong with the options is found before a model is loaded or a server asked.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from common.comparison.comparing import Comparison, choose_demonstrations
from common.comparison.held_out import SEARCHED_DATA, add_searched_data, data_rules, load_data, locate
from common.comparison.thresholds import Thresholds
from common.comparison.verdict import BOTH
from common.data import Loaded
from common.errors import ExitCode, Problem, UserError
from common.generation import Decoding
from common.generation.answers import AnswerCache
from common.generation.arms import Arm, open_arm
from common.generation.local import as_trained, find_training
from common.generation.programs import Prompt, is_program, program_of, read_program
from common.report.formats import arm_label
from common.runs import read_json, run_folder
from common.runs.choose import choose_finished, choose_run
from common.runs.line import write_over
from common.scoring import load_metric
from common.settings import EvaluationSettings

ANSWERS_FILE = "answers.jsonl"


def set_up(args: argparse.Namespace) -> tuple[Comparison, Path]:
    """Return the comparison and the path of its report.json. Raises UserError (64 to 78) for what does not fit."""
    from common.checks import check_writable

    manifest = _read_manifest(args)
    notes = _fill_in(args, manifest)
    decoding = Decoding(args.max_new_tokens, args.temperature, args.seed, args.samples)
    thresholds = Thresholds(args.adopt_score, args.adopt_gain)
    metric = load_metric(args.metric)
    output = Path(args.output)
    check_writable(str(output.parent))
    test, known = load_data(args, manifest)
    prompt = _load_prompt(args, known, metric)
    notes += add_searched_data(prompt, known, test, data_rules(manifest))
    models: dict = {}
    specs = {"finetuned": args.finetuned, "baseline": args.baseline, "optimized": args.optimized}
    if args.fourth_arm:
        specs[BOTH] = args.finetuned
    how = as_trained(manifest or find_training(Path(args.finetuned)))
    arms = {name: open_arm(name, spec, models=models, **how) for name, spec in specs.items()}
    for local in {id(arm): arm for arm in models.values()}.values():
        local.require_base_of(manifest)
    notes += _notes(args, manifest, known, arms) + _notes_on_prompt(args, prompt, arms["optimized"], known)
    return Comparison(arms, test, known, prompt, metric, decoding, thresholds, notes), output


def open_cache(output: Path, *, fresh: bool) -> AnswerCache:
    """Answers of earlier comparisons with this report; with ``fresh`` they are put aside."""
    path = output.parent / ANSWERS_FILE
    if fresh and path.is_file():
        path.replace(path.with_suffix(".old.jsonl"))
    return AnswerCache(path)


class Progress:
    """Tells how far each arm is: on a terminal a line that is written over, else a line when an arm is done."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._begin: dict[str, tuple[float, int]] = {}

    def __call__(self, arm: str, done: int, total: int) -> None:
        now = time.monotonic()
        begin, kept = self._begin.setdefault(arm, (now, done))
        text = f"{arm_label(arm)}: {done} of {total} answers, {now - begin:.0f} s"
        if kept:
            text += f" ({kept} from before)"
        write_over(self._stream, text, last=done == total)


def _read_manifest(args: argparse.Namespace) -> dict:
    """run.json of --run, or of the folder that --finetuned names; {} where there is none."""
    if not args.run and (args.recipe or args.smoke):
        args.run = (args.recipe or "ba-cpu") + ("-smoke" if args.smoke else "")
    if args.run and args.finetuned:  # of a run that goes on, a checkpoint
        choose_run(args.run, "compare", bool)
    elif args.run or not args.baseline:
        args.run = choose_finished(args.run, "compare") if args.run or not args.finetuned else None
    if args.run:
        return read_json(run_folder(args.run) / "run.json")
    path = Path(args.finetuned or "") / "run.json"
    return read_json(path) if path.is_file() else {}


def _fill_in(args: argparse.Namespace, manifest: dict) -> list[str]:
    """Complete the options from the run, with notes for the report; raise what is missing, all at once."""
    if args.run:
        folder = run_folder(args.run)
        args.finetuned = args.finetuned or str(folder)
        args.output = args.output or str(folder / "compare" / "report.json")
    if manifest:
        args.baseline = args.baseline or manifest["model"]["path"]
        args.dataset = args.dataset or manifest["data"].get("validation", {}).get("path")
        args.train = args.train or manifest["data"].get("train", {}).get("path")
    recipe = asdict(EvaluationSettings()) | manifest.get("settings", {}).get("evaluation", {})
    args.program, notes = find_program(args, manifest, recipe)
    if args.optimized is None or is_program(args.optimized):
        args.optimized = args.baseline
    for name in ("demonstrations", "max_new_tokens", "metric"):
        if getattr(args, name) is None:
            setattr(args, name, recipe[name])
    missing = [name for name in ("baseline", "finetuned", "dataset", "output") if not getattr(args, name)]
    problems = [
        Problem(f"--{name} is missing", next_step="name a finished run with --run, or give it") for name in missing
    ]
    if args.output and not args.output.endswith(".json"):
        problems.append(Problem(f"--output {args.output}", "a file that ends in .json"))
    problems += [
        Problem(f"--{name} {getattr(args, name)} is a program, not a model", "give it to --optimized")
        for name in ("baseline", "finetuned")
        if getattr(args, name) and is_program(getattr(args, name))
    ]
    if args.demonstrations < 0:
        problems.append(Problem(f"--demonstrations {args.demonstrations}", "0 or more"))
    if args.demonstrations > 0 and not args.train and not args.program:
        problems.append(
            Problem("no training data to take demonstrations from", "--train FILE", "or --demonstrations 0 for none")
        )
    if problems:
        raise UserError(problems, ExitCode.USAGE)
    return notes


def find_program(args: argparse.Namespace, manifest: dict, recipe: dict) -> tuple[str | None, list[str]]:
    """Return the program of --optimized, or the one that make optimize found for the recipe on the run's own data.

    The latter only where nothing else was asked for, and with a note where it is there but was found on other data:
    it would be a weak rival, and the tuned model would look better than it is.
    """
    if args.optimized is not None or args.demonstrations is not None:
        return (args.optimized if is_program(args.optimized or "") else None), []
    named = recipe.get("program") or program_of(manifest.get("recipe") or "")
    if not locate(named).is_file():
        return None, []
    data = read_program(locate(named)).origin["search"].get("data") or {}
    if data.get("sha256") in (None, manifest.get("data", {}).get("train", {}).get("sha256")):
        return named, []
    note = f"The prompt in {named} was searched for on {data['path']}, not on the run's data, so it was not taken."
    return None, [note]


def _load_prompt(args: argparse.Namespace, known: dict[str, Loaded], metric) -> Prompt:
    if args.program:
        return read_program(locate(args.program))
    if not args.demonstrations:
        return Prompt()
    chosen = choose_demonstrations(known["train"].examples, args.demonstrations, metric, args.seed)
    return Prompt("", tuple(chosen), {"kind": f"demonstrations drawn with seed {args.seed}, not searched for"})


def _notes_on_prompt(args: argparse.Namespace, prompt: Prompt, arm: Arm, known: dict[str, Loaded]) -> list[str]:
    """How the optimised prompt was found, where that bears on what its score means."""
    search = prompt.origin.get("search", {})
    notes = [f"Optimised prompt: {note}" for note in search.get("notes", [])]
    found_for = search.get("model", {})
    by = "base_sha256" if found_for.get("kind") == arm.identity["kind"] == "local" else "model"
    if found_for and found_for.get(by) != arm.identity.get(by, found_for):
        notes.append("The optimised prompt was found for another model: make optimize finds one for this model.")
    data = search.get("data") or {}
    if data and data["sha256"] not in [known[name].sha256 for name in known if name != SEARCHED_DATA]:
        notes.append(f"The optimised prompt was searched for on {data['path']}, not on the training data.")
    if search.get("metric", args.metric) != args.metric:
        notes.append(f"The optimised prompt was searched for by another metric, {search['metric']}.")
    if args.program and prompt.is_plain:
        notes.append("So the optimised arm is asked just as the baseline is.")
    if not args.program and args.optimized == args.baseline:
        notes.append("The optimised prompt was not searched for: make optimize does that.")
    return notes


def _notes(args: argparse.Namespace, manifest: dict, known: dict[str, Loaded], arms: dict[str, Arm]) -> list[str]:
    notes = []
    if manifest and "validation" not in known and manifest["data"].get("validation"):
        notes.append(
            "The items are the run's validation data: no arm was trained on them, but its loss on them was watched."
        )
    own = manifest.get("data", {}).get("train", {}).get("path")
    if own and args.train != own and not locate(own).is_file():
        notes.append(f"The run's own training data, {own}, is gone: nothing could be checked for leaks from it.")
    if "train" not in known:
        notes.append("No training data was named, so nothing could be checked for leaks into the items.")
    if len({arm.identity["kind"] for arm in arms.values()}) > 1:
        notes.append(
            "The arms are served in different ways (local and server): their templates and precision may differ."
        )
    return notes
