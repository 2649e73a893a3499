"""What to change where a training does not fit, or takes too long; and what each change does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common import engine, footprint, hardware, model_files
from common.errors import UserError
from common.jobs import Job
from common.pack_memory import estimate_part, longest_part_tokens, recomputed_every
from common.planning.planning import Plan, estimate_memory
from common.planning.probe import Slice

_INT8_TIME = 0.6  # of bf16's: 0.63 and 0.58, four layers of a Mistral shape in packs, two cores with avx512_vnni
_NF4_TIME = 1.1  # of bf16's: 1.075, median of eight pairs of steps of four layers of a Mistral shape, two CPU cores


@dataclass(frozen=True)
class Option:
    """A change, how to ask for it, and the memory it leads to; ``effect`` says what else it does."""

    change: str
    setting: str
    memory_gib: float
    effect: str

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self)}


def list_options(job: Job, plan: Plan) -> list[Option]:
    """Return the changes that would save memory, those that save most first."""
    config = model_files.read_config(job.model_folder)
    found = [
        option for option in (_nf4(job, plan, config), _int8(job, plan, config), *_lengths(job, plan, config)) if option
    ]
    found += _checkpointing(job, plan, config)
    saving = [option for option in found if option.memory_gib < plan.memory.total - 0.005]
    return sorted(saving, key=lambda option: option.memory_gib)


def _estimate(job: Job, plan: Plan, config: Mapping, *, every=None, tokens=None) -> float:
    if plan.slice is None:
        return estimate_part(job, tokens or longest_part_tokens(job), every).total
    return estimate_memory(job, config, Slice(**plan.slice), tokens or plan.tokens["longest_part"], every).total


def _nf4(job: Job, plan: Plan, config: Mapping) -> Option | None:
    precision, device = job.recipe.model.precision, job.recipe.training.device
    if precision == "nf4" or job.recipe.model.compute == "int8" or job.recipe.training.deepspeed:
        return None
    try:
        hardware.pick_precision("nf4", device)
    except UserError:
        return None
    compute = hardware.pick_compute("auto", "nf4", device).value
    saved = footprint.weights_gib(config, precision) - footprint.weights_gib(config, "nf4", compute)
    effect = f"the frozen weights in 4 bits; up to {_NF4_TIME} times the time of bf16"
    return Option("nf4", "--set model.precision=nf4", plan.memory.total - saved, effect)


def _int8(job: Job, plan: Plan, config: Mapping) -> Option | None:
    model, training = job.recipe.model, job.recipe.training
    if model.precision == "nf4" or model.compute == "int8" or training.deepspeed or job.recipe.method.init == "svd":
        return None
    try:
        hardware.pick_compute("int8", model.precision, training.device)
    except UserError:
        return None
    saved = footprint.weights_gib(config, model.precision) - footprint.weights_gib(config, model.precision, "int8")
    effect = f"weights and products in 8 bits; in packs {_INT8_TIME} times the time of bf16; judged on the plain base"
    return Option("int8", "--set model.compute=int8", plan.memory.total - saved, effect)


def _lengths(job: Job, plan: Plan, config: Mapping) -> list[Option]:
    training, every = job.recipe.training, job.recipe.training.checkpoint_every_n_layers
    options = []
    longest = plan.tokens["longest"]
    if training.packing == "on":
        copied = "what only some examples begin with" if engine.begins_once(training) else "the common beginning"
        for tokens in (1024, 512):
            if longest <= tokens < min(training.pack_tokens, plan.tokens["longest_part"]):
                memory = _estimate(job, plan, config, every=every, tokens=tokens)
                effect = f"more packs a step, each with its own copy of {copied}"
                options.append(Option(f"packs of {tokens:,}", f"--set training.pack_tokens={tokens}", memory, effect))
    elif training.micro_batch > 1:
        smaller = training.micro_batch // 2
        memory = _estimate(job, plan, config, every=every, tokens=smaller * longest)
        passes = 2 * training.gradient_accumulation
        setting = f"--set training.micro_batch={smaller} --set training.gradient_accumulation={passes}"
        options.append(Option(f"micro-batch {smaller}", setting, memory, "the same steps, in more passes"))
    lengths = [int(length) for part in (job.train_set, job.validation_set) if len(part) for length in part.lengths]
    limit = sorted(lengths)[int(0.9 * (len(lengths) - 1))]
    if limit < longest:
        over = sum(length > limit for length in lengths)
        part = max(limit, training.pack_tokens) if training.packing == "on" else training.micro_batch * limit
        memory = _estimate(job, plan, config, every=every, tokens=min(part, plan.tokens["longest_part"]))
        settings = f"--set data.max_length_tokens={limit} --set data.on_overlong=drop"
        effect = f"{over} of {len(lengths)} examples are longer, and dropped"
        options.append(Option(f"at most {limit:,} tokens", settings, memory, effect))
    return options


def _checkpointing(job: Job, plan: Plan, config: Mapping) -> list[Option]:
    now = recomputed_every(job)
    options = []
    for every in (4, 2, 1):
        if now is not None and every >= now:
            continue
        more = 100 * plan.recompute_share * (1 / every - (1 / now if now else 0))
        which = "every layer" if every == 1 else f"one layer in {every}"
        setting = "--set training.activation_checkpointing=on"
        setting += f" --set training.checkpoint_every_n_layers={every}" if every > 1 else ""
        effect = f"recomputed in the backward pass: about {more:.0f} % more time"
        options.append(Option(f"{which} recomputed", setting, _estimate(job, plan, config, every=every), effect))
    return options
