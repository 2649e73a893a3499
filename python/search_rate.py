"""Find a recipe's learning rate on its validation data: train once a rate, compare the losses, say which is best.

  python python/search_rate.py --recipe medical-adapter --rates 1e-4 3e-4 1e-3
  python python/search_rate.py --recipe medical-ptuning --smoke --data_path runs/data/medical_qa-smoke \\
      --rates 3e-3 1e-2 3e-2 --seeds 42 1 2

Each rate, with each seed, is a run of its own, NAME-rate-RATE[-seed-SEED], trained by the recipe's own command; options
not listed here go to it. What is trained and unchanged is not trained again; a training that was interrupted goes on.
The table goes to runs/bench/rate-NAME.json. The test split is never looked at. Exit codes: 0 done, else that of the
first training that failed; the others are compared all the same.
"""

from pathlib import Path
from statistics import mean

from common import runs
from common.epochs import read_epochs
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.pipeline.stages import Pipeline, Stage
from common.recipes import load_recipe, recipe_files
from common.runs import launch
from common.runs.folders import DONE_FILE
from common.settings import Recipe


def main() -> int:
    options, passed_on = read_options()
    recipe = load_recipe(options.recipe, smoke=options.smoke)
    table = {rate: [plan(rate, seed, recipe, options, passed_on) for seed in options.seeds] for rate in options.rates}
    folder = runs.runs_dir() / "bench"
    stages = [stage for row in table.values() for stage in row]
    states = Pipeline(stages, folder / f"rate-{recipe.name}").run()
    rows = [read_row(rate, stages, states) for rate, stages in table.items()]
    show(rows, recipe.name)
    path = folder / f"rate-{recipe.name}.json"
    runs.write_json(path, {"recipe": recipe.to_dict(), "options": passed_on, "seeds": options.seeds, "rates": rows})
    print(path)
    return next((state["exit_code"] for state in states.values() if state.get("exit_code")), ExitCode.OK)


def read_options():
    parser = CommandParser(prog="search_rate.py", description=__doc__)
    parser.add_argument("--recipe", required=True, help="a name in recipes/, or a YAML file")
    parser.add_argument("--rates", nargs="+", required=True, metavar="RATE", help="peak learning rates")
    parser.add_argument("--seeds", nargs="+", default=[], metavar="SEED", help="several: the mean loss decides")
    parser.add_argument("--smoke", action="store_true", help="on the demo model, with the smoke overlays")
    options, passed_on = parser.parse_known_args()
    try:  # make hands several numbers on in one word
        options.rates = sorted({float(rate) for words in options.rates for rate in words.split()})
        options.seeds = [int(seed) for words in options.seeds for seed in words.split()] or [None]
    except ValueError as error:
        raise UserError(Problem(f"--rates, --seeds: {error}", "numbers, as in 1e-4 3e-4"), ExitCode.USAGE) from None
    return options, passed_on


def plan(rate: float, seed: int | None, recipe: Recipe, options, passed_on: list[str]) -> Stage:
    """Return the training of one rate from one seed."""
    name = f"{recipe.name}-rate-{rate:g}" + (f"-seed-{seed}" if seed is not None else "")
    words = ["--recipe", options.recipe, *["--smoke"] * options.smoke, "--run", name, *passed_on]
    words += ["--set", f"training.learning_rate={rate!r}"]
    words += ["--set", f"training.seed={seed}"] if seed is not None else []
    command = launch.command_line(f"python/{recipe.command}.py", *words)
    data = [runs.ROOT / path for path in (recipe.data.train, recipe.data.validation) if path]
    inputs = [*recipe_files(options.recipe, smoke=options.smoke), *data, *named_files(passed_on)]
    return Stage(name, command, inputs=inputs, outputs=[runs.runs_dir() / name / DONE_FILE], run=name)


def named_files(words: list[str]) -> list[Path]:
    """Return the files, and those in the folders, that the options handed on name."""
    places = [Path(word.split("=", 1)[-1]) for word in words]
    inside = [path for place in places if place.is_dir() for path in sorted(place.glob("*.json*"))]
    return [*(place for place in places if place.is_file()), *inside]


def read_row(rate: float, stages: list[Stage], states: dict[str, dict]) -> dict:
    """Return the validation losses after the trainings of one rate, and their mean; None where one failed."""
    losses = [read_loss(s.run) if states.get(s.name, {}).get("state") == "done" else None for s in stages]
    return {
        "learning_rate": rate,
        "runs": [stage.run for stage in stages],
        "eval_losses": losses,
        "eval_loss": None if None in losses else mean(losses),
    }


def read_loss(name: str) -> float:
    losses = [entry["eval_loss"] for entry in read_epochs(runs.run_folder(name)) if entry["eval_loss"] is not None]
    if not losses:
        raise UserError(
            Problem(
                f"run {name} has no validation loss", "validation data are needed", "a recipe with data.validation"
            ),
            ExitCode.DATA,
        )
    return losses[-1]


def show(rows: list[dict], name: str) -> None:
    """Print the losses; say which rate is best, and whether better ones may lie beyond those tried."""
    best = min((row for row in rows if row["eval_loss"]), key=lambda row: row["eval_loss"], default=None)
    for row in rows:
        loss = f"{row['eval_loss']:.4f}" if row["eval_loss"] else "failed"
        each = "  ".join(f"{loss:.4f}" if loss else "failed" for loss in row["eval_losses"])
        seeds = f"  ({each})" if len(row["eval_losses"]) > 1 else ""
        print(f"{row['learning_rate']:<10g} {loss}{seeds}{'  <- best' if row is best else ''}")
    if best in (rows[0], rows[-1]) and len(rows) > 1:
        print(f"the best rate of {name} is at the end of the range: try further")


if __name__ == "__main__":
    run_command(main)
