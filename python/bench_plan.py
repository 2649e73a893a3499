"""Measure how true plans come: plan a training, do it, compare; for several shapes, precisions and ways to train.

  python python/bench_plan.py                           all cases, about 20 minutes on two cores
  python python/bench_plan.py --cases demo mistral-bf16 --steps 3

Models have random weights and the shapes of real ones, fewer layers. The table goes to runs/bench/plan.json.
"""

import json
import os
import shutil

from common.calling import call
from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.random_model import require_model
from common.runs import runs_dir, utc_now, write_json

_SHORT = ("training.gradient_accumulation=3", "data.validation=null")  # for layers that take seconds
_ALL = ("training.activation_checkpointing=on", "training.checkpoint_every_n_layers=1")
# name: (shape, layers, settings), all on the demo's data
CASES = {
    "demo": (None, None, ()),
    "smollm-bf16": ("smollm2-135m", 8, ("model.precision=bf16", "training.micro_batch=4", "training.packing=off",
                                        "training.gradient_accumulation=2")),
    "llama-fp32": ("tinyllama-1.1b", 6, ("model.precision=fp32", "training.packing=off")),
    "mistral-bf16": ("mistral-7b", 2, ("model.precision=bf16", *_SHORT)),
    "llama-nf4": ("tinyllama-1.1b", 6, ("model.precision=nf4", *_SHORT)),
    "mistral-recomputed": ("mistral-7b", 4, ("model.precision=bf16", *_ALL, *_SHORT)),
    "phi-bf16": ("phi-3-mini", 3, ("model.precision=bf16", "method.targets=[qkv_proj,o_proj]", *_SHORT)),
}  # fmt: skip
COLUMNS = (
    ("case", "<18"),
    *(("planned_gib", ">11.2f"), ("peak_gib", ">9.2f"), ("peak_off", ">+9.1%")),
    *(("planned_s", ">10.1f"), ("train_s", ">8.1f"), ("time_off", ">+9.1%"), ("plan_took_s", ">12.0f")),
)


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="which to measure")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each training")
    args = parser.parse_args()
    if args.steps < 1:
        raise UserError(Problem(f"--steps is {args.steps}", "at least 1"), ExitCode.USAGE)

    from common import hardware

    rows = []
    print("  ".join(f"{name:{form[0]}{form.strip('<>+').split('.')[0].rstrip('%')}}" for name, form in COLUMNS))
    for name in args.cases:
        rows.append(measure(name, args.steps))
        print("  ".join(f"{rows[-1][column]:{form}}" for column, form in COLUMNS), flush=True)
    path = runs_dir() / "bench" / "plan.json"
    write_json(path, {"date": utc_now(), "machine": hardware.describe(), "steps": args.steps, "cases": rows})
    print(f"written to {path}")


def measure(name: str, steps: int) -> dict:
    """Plan a case, train it, and return the training's figures beside the plan's."""
    shape, layers, settings = CASES[name]
    words = ["--recipe", "demo", "--run", "case"]
    for setting in (*settings, f"training.max_steps={steps}"):
        words += ["--set", setting]
    model = ["--set", f"model.name={require_model(shape, layers)}"] if shape else []
    folder = runs_dir() / "bench" / "plan"
    shutil.rmtree(folder / "case", ignore_errors=True)
    began = os.times().elapsed
    plan = json.loads(call(folder, "plan.py", *words, *model, "--json"))
    took_s = os.times().elapsed - began
    call(folder, "finetune_ba.py", *words, *model)
    info = json.loads((folder / "case" / "training_info.json").read_text(encoding="utf-8"))
    return {"case": name, "settings": list(settings), "layers": layers, "plan_took_s": took_s, **info["plan"],
            "memory": plan["memory"], "low_s": plan["low_s"], "high_s": plan["high_s"]}  # fmt: skip


if __name__ == "__main__":
    run_command(main)
