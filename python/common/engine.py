"""DeepSpeed's configuration: read, held against the recipe, completed; and how many processes and steps train.

The recipe's numbers are the truth. A value in the JSON may repeat one of them or be "auto"; one that says otherwise is
refused before anything is loaded, for DeepSpeed would follow the one and transformers the other.
"""

import json
import math
from pathlib import Path
from typing import Any

from common import ranks
from common.errors import ExitCode, Problem, UserError
from common.runs import ROOT
from common.settings import Recipe, TrainingSettings

_FORM = "a JSON object, as in ds_config.json"
EPOCHS_BELOW = ((1_000, 5), (10_000, 4), (50_000, 3), (100_001, 2))  # examples → epochs; above all of them, 1


def require_deepspeed() -> str:
    """Return the installed version of DeepSpeed. Raises UserError (69) where there is none."""
    from importlib import metadata

    try:
        return metadata.version("deepspeed")
    except metadata.PackageNotFoundError:
        problem = Problem("DeepSpeed is not installed", "this recipe needs it, and it needs Linux", "make setup")
        raise UserError(problem, ExitCode.UNAVAILABLE) from None


def settle_ranks(training: TrainingSettings, *, planned: bool) -> None:
    """Write into ``training`` how many processes really train: those of the launcher, or this one alone.

    With ``planned`` (a check before the launch) the recipe's own numbers stay.
    """
    if not training.deepspeed or planned:
        return
    if ranks.launched():
        training.ranks = ranks.local_size()
        training.nodes = ranks.world_size() // ranks.local_size()
    else:
        training.deepspeed, training.ranks, training.nodes = None, 1, 1


def count_ranks(training: TrainingSettings) -> int:
    """Return how many processes train together, on all nodes."""
    return training.ranks * training.nodes if training.deepspeed else 1


def global_batch(training: TrainingSettings) -> int:
    """Return how many examples all ranks together train in an optimizer step."""
    return training.micro_batch * training.gradient_accumulation * count_ranks(training)


def count_steps(training: TrainingSettings, examples: int) -> tuple[int, int]:
    """Return the numbers of optimizer steps: of an epoch, and of the whole training."""
    per_epoch = math.ceil(examples / global_batch(training))
    return per_epoch, training.max_steps or math.ceil(training.epochs * per_epoch)


def count_evaluations(training: TrainingSettings, steps: int, per_epoch: int, done: int = 0) -> int:
    """Return how many evaluations there are in ``steps`` optimizer steps, once the first ``done`` are behind.

    One at the end of each epoch, of which the last may be cut short, and one each ``eval_every_steps`` in between.
    """

    def between(every: int) -> int:
        return max(0, (steps - 1) // every - done // every)

    at_ends = math.ceil(steps / per_epoch) - done // per_epoch
    every = training.eval_every_steps
    return at_ends + (between(every) - between(math.lcm(every, per_epoch)) if every else 0)


def begins_once(training: TrainingSettings) -> bool:
    """Return whether what all packs of a step begin with is computed once, before them.

    DeepSpeed's engine runs a pack forward and backward, and knows nothing that lies between two of them.
    """
    return not training.deepspeed


def describe_plan(recipe: Recipe) -> str:
    """Return how a global batch comes about, as in "micro-batch 8 × accumulation 2 × 8 ranks = 128 examples a step"."""
    training, world = recipe.training, count_ranks(recipe.training)
    nodes = f" on {training.nodes} nodes" if training.nodes > 1 else ""
    how = f"DeepSpeed {require_deepspeed()}, {training.deepspeed}" if training.deepspeed else "one process"
    return (
        f"micro-batch {training.micro_batch} × accumulation {training.gradient_accumulation} × "
        f"{world} rank{'s' if world > 1 else ''}{nodes} = {global_batch(training)} examples a step ({how})"
    )


def describe_steps(training: TrainingSettings, examples: int) -> str:
    """Return how many optimizer steps there are, and how many of them warm up.

    Raises UserError (78) for a training whose learning rate never leaves 0, as it is in the first step of a warm-up.
    """
    per_epoch, steps = count_steps(training, examples)
    by_ratio = training.warmup_ratio is not None
    warm_up = math.ceil(training.warmup_ratio * steps) if by_ratio else training.warmup_steps
    if steps == 1 and warm_up:
        what = f"{examples} examples make one optimizer step, and it is one of warm-up, whose learning rate is 0"
        remedy = f"more epochs, or SET=training.warmup_{'ratio' if by_ratio else 'steps'}=0"
        raise UserError(Problem(what, "two steps, or no warm-up", remedy), ExitCode.CONFIG)
    said = f"{steps:,} in all, {per_epoch:,} an epoch; warm-up {warm_up:,}"
    if warm_up >= steps > 1:
        said += f"\nwarning: all steps are warm-up: the learning rate ends below {training.learning_rate:g}"
    return said


def has_devices(training: TrainingSettings) -> bool:
    """True when there is a GPU for each rank of this node."""
    import torch

    return torch.cuda.device_count() >= training.ranks


def check_devices(training: TrainingSettings, *, resume: bool = False) -> None:
    """Raise UserError (69) unless there is a GPU for each rank of this node, or the CPU was asked for.

    A ``resume`` is not advised to do with fewer. UserError (78) for one of several processes that would each train
    alone, or in another launcher's way.
    """
    world = ranks.world_size()
    if world > 1 and not training.deepspeed:
        what = f"WORLD_SIZE={world} " + ("without training.deepspeed" if ranks.launched() else "of another launcher")
        remedy = "make train-h100, or unset RANK WORLD_SIZE LOCAL_RANK"
        raise UserError(Problem(what, "DeepSpeed's launcher, or one process", remedy), ExitCode.CONFIG)
    if not training.deepspeed or training.device == "cpu":
        return
    import torch

    if not has_devices(training):
        found = torch.cuda.device_count()
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(found)) or "none"
        what = f"{training.ranks} CUDA GPUs are asked for on this node, {found} found ({names})"
        if resume:
            allowed = f"a resume needs as many ranks as before: {training.ranks} on a node"
            raise UserError(Problem(what, allowed, "a machine that has them"), ExitCode.UNAVAILABLE)
        fewer = f"NUM_GPUS={found} for those, or " if found else ""
        remedy = f"{fewer}SMOKE=1 to try everything with two ranks on the CPU"
        raise UserError(Problem(what, "a rank has a GPU of its own", remedy), ExitCode.UNAVAILABLE)


def choose_epochs(examples: int) -> tuple[int, str]:
    """Return the number of epochs for so many training examples, and why."""
    for limit, epochs in EPOCHS_BELOW:
        if examples < limit:
            bound = "up to 100,000" if limit == 100_001 else f"fewer than {limit:,}"
            return epochs, f"{examples:,} training examples are {bound}"
    return 1, f"{examples:,} training examples are more than 100,000"


def read_config(path: str) -> dict[str, Any]:
    """Return DeepSpeed's JSON. Raises UserError: 66 when it is missing, 78 when it is no JSON object."""
    try:
        config = json.loads((ROOT / path).read_text(encoding="utf-8"))
    except OSError as error:
        problem = Problem(f"cannot read {path}: {error.strerror}", _FORM, "training.deepspeed names another")
        raise UserError(problem, ExitCode.NO_INPUT) from None
    except ValueError as error:
        raise UserError(Problem(f"{path}: {error}", _FORM), ExitCode.CONFIG) from None
    if not isinstance(config, dict):
        raise UserError(Problem(f"{path} holds no JSON object", _FORM), ExitCode.CONFIG)
    return config


def check_config(recipe: Recipe) -> dict[str, Any]:
    """Return DeepSpeed's configuration completed for ``recipe``. Raises UserError (78) with every contradiction."""
    config = read_config(recipe.training.deepspeed)
    problems = find_contradictions(config, recipe)
    if problems:
        raise UserError(problems, ExitCode.CONFIG)
    return complete_config(config, recipe)


def find_contradictions(config: dict[str, Any], recipe: Recipe) -> list[Problem]:
    """Return a problem for each value in ``config`` that is not the recipe's, and for what cannot work."""
    name, training = Path(recipe.training.deepspeed).name, recipe.training
    problems = [
        Problem(f"{name}: '{block}'", "the recipe says how to optimise; two opinions end in a learning rate of 0",
                f"remove '{block}' from {name}")
        for block in ("optimizer", "scheduler") if block in config
    ]  # fmt: skip
    accumulation, per_rank = training.gradient_accumulation, training.micro_batch
    wanted = {
        "train_micro_batch_size_per_gpu": (per_rank, "training.micro_batch"),
        "gradient_accumulation_steps": (accumulation, "training.gradient_accumulation"),
        "train_batch_size": (per_rank * accumulation * count_ranks(training), "micro-batch × accumulation × ranks"),
        "gradient_clipping": (training.max_grad_norm, "training.max_grad_norm"),
        "bf16.enabled": (recipe.model.precision == "bf16", f"model.precision is {recipe.model.precision}:"),
        "fp16.enabled": (False, "fp16 loses small gradients:"),
    }
    for key, (value, origin) in wanted.items():
        found = _look_up(config, key)
        if found not in (None, "auto", value):
            allowed = f"{origin} {json.dumps(value)}"
            problems.append(Problem(f"{name}: {key} is {json.dumps(found)}", allowed, f'write "auto" in {name}'))
    problems += [
        Problem(f"{name}: {block} is {json.dumps(config[block])}", _FORM)
        for block in ("bf16", "fp16", "zero_optimization")
        if not isinstance(config.get(block, {}), dict)
    ]
    if "zero_optimization" not in config:
        problems.append(Problem(f"{name} has no 'zero_optimization'", _FORM))
    stage = _look_up(config, "zero_optimization.stage")
    if stage not in (None, 0, 1, 2):
        what = f"{name}: zero_optimization.stage is {json.dumps(stage)}"
        problems.append(Problem(what, "0, 1 or 2: stage 3 splits the weights, which an adapter does not need"))
    if recipe.model.precision in ("nf4", "fp16"):
        problems.append(Problem(f"model.precision is {recipe.model.precision}", "bf16 or fp32 under DeepSpeed"))
    if recipe.model.compute == "int8":
        problems.append(Problem("model.compute is int8", "auto under DeepSpeed"))
    if training.probe_memory:
        problems.append(Problem("training.probe_memory is true", "under DeepSpeed every rank would try on its own"))
    return problems


def complete_config(config: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return ``config`` with the recipe's values in it. The engine sees one batch a step: the trainer splits it."""
    training = recipe.training
    batch = training.micro_batch * training.gradient_accumulation
    return config | {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": 1,
        "train_batch_size": batch * count_ranks(training),
        "gradient_clipping": training.max_grad_norm,
        "bf16": {**config.get("bf16", {}), "enabled": recipe.model.precision == "bf16"},
    }


def _look_up(config: dict[str, Any], dotted: str):
    for word in dotted.split("."):
        config = config.get(word) if isinstance(config, dict) else None
    return config
