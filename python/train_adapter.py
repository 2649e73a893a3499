"""Fine-tune on medical questions with bottleneck adapters, after attention and MLP of each layer.

  python python/train_adapter.py                                          the recipe medical-adapter
  python python/train_adapter.py --data_path my_data/ --adapter_size 32 --placement pfeiffer
  python python/train_adapter.py --resume --run medical-adapter           carry on a run that was stopped

Everything goes to runs/NAME/. Exit codes: 0 done, 64-78 what was wrong (see the message), 75 stopped and resumable.
"""

from common.errors import run_command
from common.options import MEDICAL_OPTIONS, recipe_parser

OPTIONS = MEDICAL_OPTIONS | {
    "--adapter_size": "method.size",
    "--placement": "method.placement",
}


def main() -> None:
    args = recipe_parser(__doc__, OPTIONS, default_recipe="medical-adapter", kind="adapter").parse_args()

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
