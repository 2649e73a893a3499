"""Find a recipe's learning rate on its validation data: train once a rate, compare the losses, say which is best.

  python python/search_rate.py --recipe medical-adapter --rates 1e-4 3e-4 1e-3
  python python/search_rate.py --recipe medical-ptuning --smoke --data_path runs/data/medical_qa --rates 3e-3 1e-2 3e-2

Each rate is a run of its own, NAME-rate-RATE, trained by the recipe's own command; options not listed here go to it. A
rate that was trained already is not trained again. The table goes to runs/bench/rate-NAME.json. The test split is never
looked at. Exit codes: 0 done, else that of the first training that failed.
"""

import json

from common import runs
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.runs import launch
from common.settings import Recipe, load_recipe


def main() -> int:
    options, passed_on = read_options()
    recipe = load_recipe(options.recipe, smoke=options.smoke)
    rows = []
    for rate in sorted(options.rates):
        name = f"{recipe.name}-rate-{rate:g}"
        code = train(name, rate, recipe, options, passed_on)
        if code:
            return code
        rows.append({"learning_rate": rate, "run": name, **read_losses(name)})
    show(rows, recipe.name)
    path = runs.runs_dir() / "bench" / f"rate-{recipe.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, {"recipe": recipe.to_dict(), "options": passed_on, "rates": rows})
    print(path)
    return ExitCode.OK


def read_options():
    parser = CommandParser(prog="search_rate.py", description=__doc__)
    parser.add_argument("--recipe", required=True, help="a name in recipes/, or a YAML file")
    parser.add_argument("--rates", nargs="+", required=True, metavar="RATE", help="peak learning rates")
    parser.add_argument("--smoke", action="store_true", help="on the demo model, with the smoke overlays")
    options, passed_on = parser.parse_known_args()
    try:
        options.rates = [float(rate) for words in options.rates for rate in words.split()]  # make hands on one word
    except ValueError as error:
        raise UserError(Problem(f"--rates: {error}", "numbers, as in 1e-4 3e-4"), ExitCode.USAGE) from None
    return options, passed_on


def train(name: str, rate: float, recipe: Recipe, options, passed_on: list[str]) -> int:
    """Train one rate, or carry on with it, unless that is done; return the exit code of the training."""
    state = (
        runs.read_status(runs.run_folder(name))["state"] if (runs.runs_dir() / name / "run.json").is_file() else None
    )
    script = f"python/{recipe.command}.py"
    if state == "completed":
        return ExitCode.OK
    if state:
        return launch.run_here(launch.command_line(script, "--resume", "--run", name))
    smoke = ["--smoke"] * options.smoke
    rate_option = ["--set", f"training.learning_rate={rate!r}"]
    command = launch.command_line(script, "--recipe", options.recipe, *smoke, "--run", name, *passed_on, *rate_option)
    return launch.run_here(command)


def read_losses(name: str) -> dict[str, float | None]:
    """Return the loss on the validation data after the training, and the lowest of all epochs."""
    epochs = json.loads((runs.run_folder(name) / "epoch_info.json").read_text(encoding="utf-8"))
    losses = [entry["eval_loss"] for entry in epochs if entry["eval_loss"] is not None]
    if not losses:
        raise UserError(Problem(f"run {name} has no validation loss", "validation data are needed"), ExitCode.DATA)
    return {"eval_loss": losses[-1], "lowest_eval_loss": min(losses)}


def show(rows: list[dict], name: str) -> None:
    best = min(rows, key=lambda row: row["eval_loss"])
    for row in rows:
        print(f"{row['learning_rate']:<10g} {row['eval_loss']:.4f}{'  <- best' if row is best else ''}")
    if best in (rows[0], rows[-1]) and len(rows) > 1:
        print(f"the best rate of {name} is at the end of the range: try further")


if __name__ == "__main__":
    run_command(main)
