"""Fine-tune frIdA with LoRA under DeepSpeed, on the GPUs of a node or of several; a checkpoint for every epoch.

  deepspeed --num_gpus=8 python/main.py --deepspeed ds_config.json
  deepspeed --num_gpus=4 python/main.py --data mine.jsonl --validation more.jsonl --epochs 3
  python python/main.py --smoke                     one process, no DeepSpeed: the same examples, the same steps

make train-h100 does this after checking GPUs, model and data. Everything goes to runs/NAME/. Exit codes: 0 done, 64-78
what was wrong (see the message), 75 stopped and resumable.
"""

import argparse

from common.errors import run_command
from common.options import recipe_parser

OPTIONS = {
    "--deepspeed": "training.deepspeed",
    "--model": "model.name",
    "--base-model": "model.name",
    "--data": "data.train",
    "--train": "data.train",
    "--validation": "data.validation",
    "--val": "data.validation",
    "--output": "output.folder",
    "--epochs": "training.epochs",
    "--batch-size": "training.micro_batch",
    "--grad-accum": "training.gradient_accumulation",
    "--learning-rate": "training.learning_rate",
    "--max-length": "data.max_length_tokens",
    "--seed": "training.seed",
}


def main() -> None:
    parser = recipe_parser(__doc__, OPTIONS, default_recipe="frida-h100")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # DeepSpeed's launcher passes it
    args = parser.parse_args()

    from common import ranks

    with ranks.together():
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
            device = "cpu" if job.engine else recipe.training.device  # DeepSpeed takes each rank's model to its GPU
            model = load_model(job.model_folder, recipe.model.precision, device, recipe.model.compute)
            model = add_method(model, recipe.method, recipe.model.name, job.model_folder)
            trainer = train(run, job, model)
            if ranks.is_leader():
                save_finished(run, recipe, trainer)


if __name__ == "__main__":
    run_command(main)
