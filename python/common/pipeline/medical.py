"""The stages of the medical methods: questions, data, three trainings, one evaluation."""

import argparse
import re
from pathlib import Path

from common import model_files, runs
from common.errors import ExitCode, Problem, UserError
from common.methods.kinds import CONFIG_FILE, WEIGHTS_FILE
from common.options import MEDICAL_OPTIONS
from common.pipeline.stages import Stage
from common.recipes import load_recipe, recipe_files
from common.runs import launch
from common.runs.folders import DONE_FILE
from common.settings import ModelSettings

METHODS = {
    "qlora": {"--lora_r": "method.rank", "--lora_alpha": "method.alpha"},
    "adapter": {"--adapter_size": "method.size"},
    "ptuning": {"--num_virtual_tokens": "method.virtual_tokens"},
}
_SHARED = ("--model_name", "--num_epochs", "--batch_size", "--learning_rate", "--max_length", "--seed")
SHARED = {flag: MEDICAL_OPTIONS[flag] for flag in _SHARED}


def plan_stages(args: argparse.Namespace, folder: Path) -> list[Stage]:
    """Return the stages that the options of run_all.py ask for; the evaluation is written into ``folder``.

    Raises UserError (78) for every number that is out of range, before any stage is begun.
    """
    _check_numbers(args)
    suffix = ("-smoke" if args.smoke else "") + _own_suffix(args.output_dir)
    default = runs.runs_dir() / "data" / ("medical_qa" + "-smoke" * args.smoke)
    splits = Path(args.processed_data_dir or default).absolute()
    stages = [*_data_stages(args, splits), *_training_stages(args, splits, suffix)]
    return stages if args.skip_evaluation else [*stages, _evaluation_stage(args, splits, folder, suffix)]


def _check_numbers(args) -> None:
    problems = {}
    for method, own in METHODS.items():
        if not getattr(args, f"skip_{method}"):
            try:
                load_recipe(f"medical-{method}", _given(args, SHARED | own), smoke=args.smoke)
            except UserError as error:
                problems |= {str(problem): problem for problem in error.problems}
    if problems:
        raise UserError(problems.values(), ExitCode.CONFIG)


def _given(args, flags: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return setting → (value, flag) of those ``flags`` (flag → setting) that were given."""
    values = {flag: getattr(args, flag.removeprefix("--")) for flag in flags}
    return {flags[flag]: (value, flag) for flag, value in values.items() if value is not None}


def _own_suffix(output: str | None) -> str:
    """Return what tells the runs of one --output_dir from those of another, in the one place that lists them all."""
    return "-" + re.sub(r"[^A-Za-z0-9._-]", "-", Path(output).absolute().name)[:30] if output else ""


def _data_stages(args, splits: Path) -> list[Stage]:
    if args.skip_data_prep:
        return []
    generated = runs.runs_dir() / "data" / "medical" / "medical_qa.jsonl"
    source = Path(args.input_data or generated).absolute()
    stages = []
    if not args.input_data:
        command = launch.command_line("python/make_data.py", "--recipe", "medical-qlora", f"--output={source.parent}")
        stages.append(Stage("questions", command, outputs=[source]))
    recipe = load_recipe("medical-qlora", smoke=args.smoke)
    length = args.max_length or recipe.data.max_length_tokens
    model = args.model_name or recipe.model.name
    words = [f"--input_data={source}", f"--output_dir={splits}", f"--model_name={model}", f"--max_length={length}"]
    words += [f"--seed={args.seed}"] if args.seed else []
    command = launch.command_line("python/prepare_dataset.py", *words, "--force")
    outputs = [splits / f"{part}.jsonl" for part in ("train", "validation", "test")]
    foreign = [path.name for path in outputs if path.exists() and not (splits / "dataset_card.json").is_file()]
    if foreign:
        what = f"{splits} holds {', '.join(foreign)}, not made by prepare_dataset.py"
        allowed = "only what was made here is made anew"
        remedy = "--skip_data_prep trains on it; or another --processed_data_dir"
        raise UserError(Problem(what, allowed, remedy), ExitCode.CANNOT_CREATE)
    needs = [] if args.input_data else ["questions"]
    return [*stages, Stage("data", command, inputs=[source], outputs=outputs, needs=needs)]


def _training_stages(args, splits: Path, suffix: str) -> list[Stage]:
    stages = []
    for method, own in METHODS.items():
        if getattr(args, f"skip_{method}"):
            continue
        recipe, run = f"medical-{method}", _run_name(method, suffix)
        words = ["--recipe", recipe, "--run", run, f"--data_path={splits}"] + ["--smoke"] * args.smoke
        words += [f"{flag}={value}" for value, flag in _given(args, SHARED | own).values()]
        words += [f"--output_dir={Path(args.output_dir).absolute() / method}"] if args.output_dir else []
        inputs = [*recipe_files(recipe, smoke=args.smoke), splits / "train.jsonl", splits / "validation.jsonl"]
        inputs += _model_files(load_recipe(recipe, _given(args, SHARED), smoke=args.smoke).model)
        command = launch.command_line(f"python/train_{method}.py", *words)
        needs = [] if args.skip_data_prep else ["data"]
        outputs = [runs.runs_dir() / run / name for name in (DONE_FILE, CONFIG_FILE, WEIGHTS_FILE)]
        stages.append(Stage(method, command, inputs=inputs, outputs=outputs, needs=needs, run=run))
    return stages


def _evaluation_stage(args, splits: Path, folder: Path, suffix: str) -> Stage:
    """One evaluation of all that is trained, now or before; it reads the adapters, so a new one is judged anew."""
    test = next(
        (path for ending in ("jsonl", "json") if (path := splits / f"test.{ending}").is_file()), splits / "test.jsonl"
    )
    report = folder / "evaluation_results.json"
    command = launch.command_line("python/evaluate_models.py", f"--test_data={test}", f"--output_file={report}")
    command += ["--check_merge"] * args.smoke
    skipped = {method for method in METHODS if getattr(args, f"skip_{method}")}
    places = {method: runs.runs_dir() / _run_name(method, suffix) for method in METHODS}
    there = {method for method in skipped if (places[method] / DONE_FILE).is_file()}

    def name_models(done: set[str]) -> list[str]:
        return [f"--{method}_model={places[method]}" for method in METHODS if method in done | there]

    inputs = [test, *(place / WEIGHTS_FILE for place in places.values())]
    any_of = () if there else tuple(METHODS)
    return Stage("evaluation", command, inputs=inputs, outputs=[report], any_of=any_of, extra=name_models)


def _run_name(method: str, suffix: str) -> str:
    return f"medical-{method}{suffix}"


def _model_files(model: ModelSettings) -> list[Path]:
    """The files that decide what the base model computes; none while it is not on this machine."""
    try:
        folder = model_files.find_model(model)
    except UserError:
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja", ".model"))
