"""Training: from a job and a loaded model to a trained one, from the newest sound checkpoint or from the start.

What happens in a step, and what this project does otherwise than transformers' Trainer, is in ``recipe_trainer``.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PrinterCallback
from transformers.trainer_utils import set_seed

from common import checkpoints, lean_layers, packed_model, process_memory, ranks, recycled_memory
from common.errors import StoppedRun
from common.jobs import Job
from common.memory_probe import fit_micro_batch, fit_packs
from common.progress import RunCallback
from common.recipe_trainer import RecipeTrainer, RecipeTraining
from common.runs import Run
from common.trainer_arguments import training_arguments

# Gradients below 6e-8 are 0 in fp16, and those of a mean over many tokens are small. A constant factor, chosen so that
# none comes near fp16's largest number, 65,504: Micikevicius et al. 2018, arXiv 1710.03740, section 3.2.
_FP16_LOSS_SCALE = 1024.0


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; call before an adapter is added, for its weights are random."""
    set_seed(seed)


def train(run: Run, job: Job, model, trainer_class: type | None = None) -> RecipeTraining:
    """Train ``model`` in ``run`` from its newest sound checkpoint, or from the start, and return the trainer.

    ``trainer_class`` is RecipeTrainer, or another that RecipeTraining stands before. Raises StoppedRun when the run was
    asked to stop, UserError (70) when loss or gradient is no longer finite.
    """
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.folder / "logs")
    trainer = new_trainer(job, model, run.folder, ["tensorboard"], trainer_class)
    trainer.should_stop = run.stop_requested
    if job.recipe.training.probe_memory:
        fit_micro_batch(run, job.recipe.training, trainer)
    elif job.recipe.training.packing == "on" and not job.engine:
        fit_packs(run, job, trainer)
    progress = RunCallback(run, job.recipe.training, trainer, job.fingerprint())
    trainer.add_callback(progress)

    checkpoint, notes = ranks.from_leader(lambda: checkpoints.choose_checkpoint(run.folder))
    for note in notes:
        print(f"warning: {note}")
    total_steps = trainer.count_steps()
    if checkpoint and checkpoints.step_of(checkpoint) >= total_steps:
        trainer.load_finished(checkpoint)  # killed between its last step and its end: only the end is missing
        progress.catch_up(trainer.state)
    else:
        start = f"resuming at step {checkpoints.step_of(checkpoint)}" if checkpoint else "training"
        print(f"{start}: {total_steps} optimizer steps")
        began = time.monotonic()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.train_s = time.monotonic() - began
        recycled_memory.give_back_spare()
        trainer.share = 1 - (checkpoints.step_of(checkpoint) / total_steps if checkpoint else 0)
    if run.stop_requested():
        raise StoppedRun(f"stopped at step {trainer.state.global_step} of {total_steps}; make resume RUN={run.name}")
    return trainer


def new_trainer(job: Job, model, output: Path, report_to: Sequence[str] = (), trainer_class: type | None = None):
    """Return a trainer for the job's examples, with ``model`` made ready for packs if the recipe packs."""
    process_memory.return_freed_memory()
    if job.recipe.training.device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what is in fp32, the adapters for one
    if job.recipe.training.packing == "on":
        packed_model.enable_packs(model)
        if job.recipe.training.device == "cpu":
            lean_layers.use_lean_layers(model)
    trainer_class = trainer_class or RecipeTrainer
    trainer = trainer_class(
        numbers=job.recipe.training,
        model=model,
        args=training_arguments(job, output, report_to if ranks.is_leader() else (), trainer_class.arguments),
        train_dataset=job.train_set,
        eval_dataset=job.validation_set,
        data_collator=lambda examples: {"examples": examples},
        processing_class=job.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    if "fp16" in (job.recipe.model.precision, job.recipe.model.compute):
        trainer.loss_scale = _FP16_LOSS_SCALE
    if job.engine:
        trainer.teach_parts()
    return trainer
