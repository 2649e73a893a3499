"""Fine-tune on medical questions with p-tuning: trained tokens before the prompt, nothing else changes.

  python python/train_ptuning.py                                          the recipe medical-ptuning
  python python/train_ptuning.py --data_path my_data/ --num_virtual_tokens 50
  python python/train_ptuning.py --resume --run medical-ptuning           carry on a run that was stopped

Everything goes to runs/NAME/. Exit codes: 0 done, 64-78 what was wrong (see the message), 75 stopped and resumable.
"""

from common.errors import run_command
from common.options import MEDICAL_OPTIONS, recipe_parser

OPTIONS = MEDICAL_OPTIONS | {
    "--num_virtual_tokens": "method.virtual_tokens",
    "--encoder_size": "method.encoder_size",
}


def main() -> None:
    args = recipe_parser(__doc__, OPTIONS, default_recipe="medical-ptuning", kind="ptuning").parse_args()

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
        base = load_model(job.model_folder, recipe.model.precision, recipe.training.device, recipe.model.compute)
        model = add_method(base, recipe.method, recipe.model.name, job.model_folder)
        trainer = train(run, job, model)
        save_finished(run, recipe, trainer)


if __name__ == "__main__":
    run_command(main)
