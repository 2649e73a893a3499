"""A training command without a model: the command line and the run folder of a real one, for tests of the launchers.

--set keys: steps, step_s, fail_at (raises there), die_at (is killed there), stuck (no step is ever saved), helper (a
child process that ignores SIGTERM), stubborn (never looks at stop requests), load_s (time before the manifest), early
(a line printed before the lock), eat_mib (memory that each step takes and keeps), bad (refused).
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from common import runs
from common.errors import CommandParser, ExitCode, Problem, StoppedRun, UserError, run_command
from common.recipes import load_recipe


def main() -> None:
    options = read_options()
    settings = {key: value for key, _, value in (item.partition("=") for item in options.set)}
    name = options.run or options.recipe + ("-smoke" if options.smoke else "")
    if settings.get("bad"):
        raise UserError(Problem("bad is not a setting", "steps, step_s", "drop it"), ExitCode.CONFIG)
    if options.check:
        print("1. settings ✓", flush=True)
        return
    if "early" in settings:
        print(settings["early"], flush=True)
    run = runs.Run.reopen(name) if options.resume else runs.Run.create(name, options.output)
    with run:
        if run.resumed:
            settings = {**run.manifest()["fake"], **settings}
        else:
            time.sleep(float(settings.get("load_s", 0)))
            run.write_manifest(
                {
                    "recipe": options.recipe,
                    "command": str(Path(__file__).resolve().relative_to(runs.ROOT)),
                    "settings": load_recipe(options.recipe).to_dict() if options.recipe != "fake-alone" else {},
                    "fake": settings,
                }
            )
        train(run, settings)


def read_options():
    parser = CommandParser(prog="fake_training.py", description=__doc__)
    parser.add_argument("--recipe", default="fake-alone")
    parser.add_argument("--run")
    parser.add_argument("--output")
    for flag in ("--smoke", "--check", "--resume", "--force"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def train(run: runs.Run, settings: dict) -> None:
    steps, step_s = int(settings.get("steps", 3)), float(settings.get("step_s", 0.01))
    if "helper" in settings:
        subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
                          f"time.sleep({settings['helper']})"])  # fmt: skip
    counter, eaten = run.folder / "step", []
    done = runs.read_json(counter)["step"] if counter.exists() else 0
    print(f"training from step {done}")
    for step in range(done + 1, steps + 1):
        time.sleep(step_s)
        eaten.append(b"\1" * 2**20 * int(settings.get("eat_mib", 0)))
        run.append_metrics({"step": step, "loss": 1 / step})
        run.update_status("training", step=step, total_steps=steps, loss=1 / step, eta_s=(steps - step) * step_s)
        if step == int(settings.get("fail_at", -1)):
            raise ArithmeticError(f"loss is not finite at step {step}")
        if "stuck" not in settings:
            runs.write_json(counter, {"step": step})
        if step == int(settings.get("die_at", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        if "stubborn" in settings:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif run.stop_requested():
            run.update_status("saving")
            print(f"stopped at step {step}")
            raise StoppedRun(f"run '{run.name}' stopped at step {step}; continue with make resume RUN={run.name}")
    print("done")


if __name__ == "__main__":
    run_command(main)
