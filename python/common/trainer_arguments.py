"""The recipe's numbers under the names that transformers has for them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import TrainingArguments

from common.jobs import Job


def training_arguments(job: Job, output: Path, report_to: Sequence[str], kind: Callable) -> TrainingArguments:
    """Return a trainer's arguments, of the class ``kind``. Saving and evaluating are driven by the run's callback."""
    numbers = job.recipe.training
    arguments = kind(
        output_dir=str(output),
        num_train_epochs=numbers.epochs,
        max_steps=numbers.max_steps or -1,
        per_device_train_batch_size=numbers.micro_batch * numbers.gradient_accumulation,
        gradient_accumulation_steps=1,  # RecipeTrainer.training_step accumulates
        learning_rate=numbers.learning_rate,
        lr_scheduler_type=numbers.scheduler if numbers.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=numbers.warmup_steps if numbers.warmup_ratio is None else numbers.warmup_ratio,
        weight_decay=numbers.weight_decay,
        max_grad_norm=numbers.max_grad_norm,
        optim=numbers.optimizer,
        seed=numbers.seed,
        data_seed=numbers.seed,
        use_cpu=numbers.device == "cpu",
        deepspeed=job.engine or None,
        bf16=bool(job.engine) and job.recipe.model.precision == "bf16",
        activation_checkpointing=numbers.activation_checkpointing == "on",
        activation_checkpointing_kwargs={
            "use_reentrant": False,
            "every_n_layers": numbers.checkpoint_every_n_layers or 1,
        },
        logging_steps=numbers.log_every_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        save_total_limit=None,
        report_to=list(report_to),
        disable_tqdm=True,
        log_level_replica="error",
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    return on_one_gpu(arguments)


def on_one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """Let a process use one GPU: where it sees several, each would get a copy of the model and a micro-batch."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # as the stock trainer does for a model that lies on several devices
    return arguments
