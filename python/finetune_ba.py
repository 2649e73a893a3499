"""Fine-tune a business-analyst model with LoRA, on a CPU if need be: from a product idea to a requirements document.

  python python/finetune_ba.py --recipe demo                              the shipped small model and data
  python python/finetune_ba.py --train mine.jsonl --val more.jsonl        your data, the recipe's numbers
  python python/finetune_ba.py --resume --run ba-cpu                      carry on a run that was stopped

Everything goes to runs/NAME/. Exit codes: 0 done, 64-78 what was wrong (see the message), 75 stopped and resumable.
"""

from common.errors import run_command
from common.options import recipe_parser

OPTIONS = {
    "--train": "data.train",
    "--val": "data.validation",
    "--output": "output.folder",
    "--base-model": "model.name",
    "--epochs": "training.epochs",
    "--lr": "training.learning_rate",
    "--batch-size": "training.micro_batch",
    "--grad-accum": "training.gradient_accumulation",
    "--lora-r": "method.rank",
    "--lora-alpha": "method.alpha",
    "--lora-dropout": "method.dropout",
    "--max-length": "data.max_length_tokens",
    "--seed": "training.seed",
    "--quantization": "model.precision",
    "--packing": "training.packing",
}


def main() -> None:
    args = recipe_parser(__doc__, OPTIONS, default_recipe="ba-cpu").parse_args()

    from common.opening import open_run
    from common.preparation import prepare

    job = prepare(args, OPTIONS)
    if args.check:
        return

    from common.artifacts import save_finished  # after the checks, which do without what takes seconds to import
    from common.methods import add_method
    from common.models import load_model
    from common.training import train

    recipe = job.recipe
    with open_run(job) as run:
        model = load_model(job.model_folder, recipe.model.precision, recipe.training.device, recipe.model.compute)
        model = add_method(model, recipe.method, recipe.model.name, job.model_folder)
        trainer = train(run, job, model)
        save_finished(run, recipe, trainer)


if __name__ == "__main__":
    run_command(main)
