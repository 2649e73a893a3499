"""Teach Phi-3-mini to speak like Yoda: LoRA through TRL's SFTTrainer on an Apple GPU, a CUDA card or a CPU.

  python python/train_yoda.py                                             the recipe yoda-mps
  python python/train_yoda.py --train mine.jsonl --val more.jsonl         your pairs of source and target
  python python/train_yoda.py --resume --run yoda-mps                     carry on a run that was stopped

In a notebook: from train_yoda import encode_prompt, generate. Everything goes to runs/NAME/. Exit codes: 0 done, 64-78
what was wrong (see the message), 75 stopped and resumable.
"""

from common.errors import run_command
from common.generation.notebooks import encode_prompt, generate
from common.options import recipe_parser

__all__ = ["encode_prompt", "generate"]

OPTIONS = {
    "--train": "data.train",
    "--val": "data.validation",
    "--output": "output.folder",
    "--base-model": "model.name",
    "--device": "training.device",
    "--epochs": "training.epochs",
    "--lr": "training.learning_rate",
    "--batch-size": "training.micro_batch",
    "--lora-r": "method.rank",
    "--lora-alpha": "method.alpha",
    "--lora-dropout": "method.dropout",
    "--max-length": "data.max_length_tokens",
    "--seed": "training.seed",
}


def main() -> None:
    args = recipe_parser(__doc__, OPTIONS, default_recipe="yoda-mps", kind="lora").parse_args()

    from common.opening import open_run
    from common.preparation import prepare

    job = prepare(args, OPTIONS)
    if args.check:
        return

    from common.artifacts import save_finished  # after the checks, which do without what takes seconds to import
    from common.methods import add_method, describe_trainable
    from common.models import load_model
    from common.sft import SftRecipeTrainer
    from common.training import train

    recipe = job.recipe
    with open_run(job) as run:
        base = load_model(job.model_folder, recipe.model.precision, recipe.training.device, recipe.model.compute)
        model = add_method(base, recipe.method, recipe.model.name, job.model_folder)
        print(describe_trainable(model, recipe.method, job.model_folder))
        trainer = train(run, job, model, SftRecipeTrainer)
        save_finished(run, recipe, trainer)


if __name__ == "__main__":
    run_command(main)
