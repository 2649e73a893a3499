"""Build the demo base model from nothing: tokenizer, pre-training on generated text, a folder like any Mistral's.

python python/make_demo_model.py --output recipes/demo/model --seed 42 --force     # what is shipped

The same seed, steps, precision and number of threads on the same type of machine give the same weights; another CPU may
round differently. recipes/demo/README.md says what the text is and how the shipped model scores.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command

STEPS = 900


def main() -> None:
    options = parse_options()
    check_output(options.output, options.force)

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin for a busy core cost ten times the time
    from common import hardware
    from common.samples import demo_model, demo_training

    precision = hardware.pick_precision(options.precision, "cpu")
    threads = hardware.pick_threads(options.threads)
    print(f"precision {precision.value}: {precision.reason}\nthreads {threads.value}: {threads.reason}", flush=True)
    demo_training.prepare_torch(threads.value)

    started = time.perf_counter()
    tokenizer = demo_model.train_tokenizer(demo_training.tokenizer_texts(options.seed))
    model = demo_model.new_model(tokenizer, options.seed)
    print(f"tokenizer of {len(tokenizer)} tokens, model of {model.num_parameters():,} parameters", flush=True)

    losses = demo_training.pretrain(model, tokenizer, options.seed, options.steps, precision.value == "bf16")

    facts = {
        "command": "python/make_demo_model.py",
        "seed": options.seed,
        "steps": options.steps,
        "tokens": options.steps * demo_training.TOKENS_PER_STEP,
        "precision": precision.value,
        "threads": threads.value,
        "final_loss_nats": round(sum(losses[-50:]) / len(losses[-50:]), 4),
        "seconds": round(time.perf_counter() - started),
        "hardware": hardware.describe(),
    }
    put_in_place(lambda folder: demo_model.save_model(model, tokenizer, folder, facts), options.output)
    print(f"{options.output}: loss {facts['final_loss_nats']} after {facts['tokens']:,} tokens, {facts['seconds']} s")


def parse_options():
    parser = CommandParser(prog="make_demo_model.py", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the model")
    parser.add_argument("--seed", type=int, default=42, help="of the weights, the text and its order")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps; fewer make a worse model sooner")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="of the matrix products")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--force", action="store_true", help="replace the folder if it is there")
    options = parser.parse_args(sys.argv[1:])
    if options.steps < 1:
        raise UserError(Problem(f"--steps is {options.steps}", "1 or more", "see --help"), ExitCode.USAGE)
    return options


def check_output(output: Path, force: bool) -> None:
    """Refuse an output that is there (unless ``force``) or cannot be made, before any time is spent."""
    if output.exists() and not (force and output.is_dir()):
        remedy = "choose another --output" if not output.is_dir() else "add --force to replace it"
        raise UserError(Problem(f"{output} exists", "a new folder", remedy), ExitCode.CANNOT_CREATE)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        problem = Problem(f"cannot write to {output.parent} ({error.strerror})", next_step="choose another --output")
        raise UserError(problem, ExitCode.CANNOT_CREATE) from error


def put_in_place(write, output: Path) -> None:
    """Let ``write`` fill a temporary folder, then give it its name: there is never half a model under ``output``."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        write(new)
        if output.exists():
            output.rename(old)
        new.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    run_command(main)
