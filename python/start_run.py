"""Start a recipe: in the background, so that it outlives the terminal, or with --foreground right here.

  python python/start_run.py --recipe demo
  python python/start_run.py --recipe ba-cpu --run mine --train mine.jsonl --epochs 2
  python python/start_run.py --recipe frida-h100 --num-gpus 4        through DeepSpeed's launcher

Options not listed here go to the recipe's command (see python python/finetune_ba.py --help). In the background the
settings, data, disk, memory and model are checked first, here; the command returns when the run has begun.
"""

import os
import sys

from common import launching, runs
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.recipes import load_recipe
from common.runs import launch
from common.settings import Recipe


def main() -> int:
    options, passed_on = read_options()
    recipe = load_recipe(options.recipe, smoke=options.smoke)
    name = runs.check_run_name(options.run or runs.free_name(recipe.name))
    team = launching.choose_team(recipe.training, options)
    check_restarts(options, team)
    os.environ.update(team.environment())
    words = [f"python/{recipe.command}.py", "--recipe", options.recipe, "--run", name]
    words += ["--smoke"] * options.smoke + ["--output", options.output] * bool(options.output) + passed_on

    if options.foreground:
        return train_here(team, words, recipe, name)
    launching.refuse_lone_background(team)
    runs.check_available(name, options.output)
    launch.check_first(launch.command_line(*words, *team.settings()))

    command = team.command_line(*words)
    if options.max_restarts > 0:
        keeper = ("--run", name, "--max-restarts", str(options.max_restarts))
        command = launch.command_line("python/keep_running.py", *keeper, *words)
    pid = launch.start_in_background(command, name, team.carry)
    print(describe_start(name, pid))
    return ExitCode.OK


def check_restarts(options, team: launching.Team) -> None:
    """Raise UserError (64) where a killed training is not carried on by itself, as asked."""
    asked = f"MAX_RESTARTS={options.max_restarts}"
    if options.max_restarts < 0:
        problem = Problem(f"--max-restarts is {options.max_restarts}", "0 or more")
    elif options.max_restarts and team.launcher:
        what = f"{asked} for a recipe that several processes train"
        problem = Problem(what, "one process", "make resume carries such a run on")
    elif options.max_restarts and options.foreground:
        background = f"make train-cpu-background RECIPE={options.recipe} {asked}"
        problem = Problem(f"{asked} in the foreground", "a run in the background", background)
    else:
        return
    raise UserError(problem, ExitCode.USAGE)


def train_here(team: launching.Team, words: list[str], recipe: Recipe, name: str) -> int:
    """Train in the foreground, and compare the models afterwards if the recipe says so."""
    if team.launcher and not team.node_rank:  # another node's ranks look after node 0 has
        launch.check_first(launch.command_line(*words, *team.settings()))
    code = launching.train_here(team, name, *words)
    if code or not recipe.evaluation.compare_when_done:
        return code
    return launch.run_here(launch.command_line("python/compare_ba_models.py", "--run", name))


def read_options():
    parser = CommandParser(prog="start_run.py", description=__doc__)
    parser.add_argument("--recipe", required=True, help="a name in recipes/, or a YAML file")
    parser.add_argument("--run", metavar="NAME", help="name of the run in runs/ (default: the recipe's)")
    parser.add_argument("--output", metavar="DIR", help="another folder for the run; runs/NAME becomes a link to it")
    parser.add_argument("--smoke", action="store_true", help="the demo model and few steps: is everything in place?")
    restarts = "how often a killed training is carried on by itself"
    parser.add_argument("--max-restarts", type=int, default=0, metavar="N", help=restarts)
    parser.add_argument("--foreground", action="store_true", help="train here; Ctrl-C saves and stops")
    launching.add_team_options(parser)
    return parser.parse_known_args(sys.argv[1:])


def describe_start(name: str, pid: int) -> str:
    return f"""run {name} is on its way: process {pid}, log {runs.runs_dir() / name / "train.log"}
  make status RUN={name}    how far it is
  make logs RUN={name}      what it says (Ctrl-C ends the reading, not the run)
  make stop RUN={name}      save and end; make resume RUN={name} goes on"""


if __name__ == "__main__":
    run_command(main)
