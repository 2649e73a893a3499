"""Fine-tune Llama-3.2-3B on one 8 GB card with QLoRA, through TRL's SFTTrainer. CUDA, or a patient CPU.

  python python/train_peft_v3.py                                          the recipe utn-qlora
  python python/train_peft_v3.py --train mine.jsonl --val more.jsonl      your data, the recipe's numbers
  python python/train_peft_v3.py --resume --run utn-qlora                 carry on a run that was stopped

Everything goes to runs/NAME/, loss.png anew at each evaluation. Exit codes: 0 done, 64-78 what was wrong (see the
message), 75 stopped and resumable.
"""

from common.errors import run_command
from common.options import recipe_parser

OPTIONS = {
    "--train": "data.train",
    "--val": "data.validation",
    "--output": "output.folder",
    "--base-model": "model.name",
    "--max-steps": "training.max_steps",
    "--lr": "training.learning_rate",
    "--batch-size": "training.micro_batch",
    "--grad-accum": "training.gradient_accumulation",
    "--lora-r": "method.rank",
    "--lora-alpha": "method.alpha",
    "--lora-dropout": "method.dropout",
    "--max-length": "data.max_length_tokens",
    "--eval-every": "training.eval_every_steps",
    "--log-every": "training.log_every_steps",
    "--seed": "training.seed",
}


def main() -> None:
    args = recipe_parser(__doc__, OPTIONS, default_recipe="utn-qlora", kind="lora").parse_args()

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
