"""The plan of a training: time, memory and disk, from a slice of the model and the lengths of the data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from common import checks, engine, footprint, hardware, model_files, pack_memory
from common.jobs import Job
from common.packing import count_computed, plan_packs
from common.planning.probe import Slice, count_tokens, measure_slice
from common.preparation import check_job
from common.runs import runs_dir

SAMPLED_STEPS = 24  # of an epoch, for how many tokens a step computes
_CAUTION = 0.15  # a shared machine and a longer stretch of time differ by so much from a short measurement
_SAVE_S, _SAVE_GIB_PER_S = 0.3, 0.2  # a checkpoint is written, synced and hashed
_STEP_S = 0.01  # status, metrics and curves
# Of these the plan itself says what is wrong and what would help; everything else must be right before there is one.
_NOT_NEEDED = ("run", "versions", "memory", "disk", "file size", "writable")


@dataclass(frozen=True)
class Plan:
    """What a training will take. ``total`` counts in GiB what the process holds at its peak."""

    memory: footprint.Footprint
    available_gib: float
    checkpoint_gib: float
    checkpoints: int
    disk_gib: float
    free_disk_gib: float
    steps: int
    steps_per_epoch: int
    epochs: float
    tokens: Mapping[str, float]
    step_s: float | None = None
    evaluation_s: float = 0.0  # of the validation data, once
    save_s: float = 0.0
    start_s: float = 0.0
    train_s: float | None = None
    low_s: float = 0.0
    high_s: float = 0.0
    first_checkpoint_s: float | None = None
    recompute_share: float = 0.33  # what a layer that recomputes adds to its step
    slice: Mapping[str, float] | None = None
    assumed: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.available_gib and self.disk_gib <= self.free_disk_gib

    def to_dict(self) -> dict[str, Any]:
        record = asdict(self) | {"memory": self.memory.to_dict(), "fits": self.fits}
        if self.step_s:
            record["tokens_per_s"] = self.tokens["epoch"] / (self.steps_per_epoch * self.step_s)
        return record


def make_plan(job: Job, *, probe: bool = True) -> Plan:
    """Check ``job`` as a training would, measure a slice of its model, and return the plan.

    Raises UserError with everything that keeps a plan from being made; too little memory or disk does not.
    """
    checks.raise_problems([check for check in check_job(job) if check.title not in _NOT_NEEDED])
    config = model_files.read_config(job.model_folder)
    batches = sample_batches(job)
    measured = None
    if probe:
        usual = batches.usual_part()
        measured = measure_slice(job.recipe, config, batches.longest_part(), usual)
        if job.asked_pack_tokens:  # the training will choose by what it measures, as this does
            job.recipe.training.pack_tokens = job.asked_pack_tokens
            job.kept_bytes = measured.layer_activations * hardware.GIB
            pack_memory.choose(job)
            batches = sample_batches(job)
    plan = _plan_without_times(job, config, batches, measured)
    return plan if measured is None else _add_times(job, plan, measured, batches)


@dataclass
class Batches:
    """Steps of an epoch, each as the parts that go through the model at a time; a part is a list of examples.

    ``tokens`` are in memory while a part is. Of those that several packs begin with, a step computes fewer.
    """

    steps: list[list[list]]
    tokens: list[list[int]]
    computed_tokens: list[int]  # by step
    evaluation_tokens: int

    def usual_part(self) -> list:
        """Return the part whose length is nearest to the mean."""
        sizes = [size for step in self.tokens for size in step]
        middle = mean(sizes)
        flat = [(abs(size - middle), part) for step, row in zip(self.steps, self.tokens, strict=True)
                for part, size in zip(step, row, strict=True)]  # fmt: skip
        return min(flat, key=lambda pair: pair[0])[1]

    def longest_part(self) -> list:
        flat = [(size, part) for step, row in zip(self.steps, self.tokens, strict=True)
                for part, size in zip(step, row, strict=True)]  # fmt: skip
        return max(flat, key=lambda pair: pair[0])[1]

    def longest_tokens(self) -> int:
        return max(max(row) for row in self.tokens)

    def step_tokens(self) -> float:
        return mean(self.computed_tokens)


def sample_batches(job: Job) -> Batches:
    """Lay out some steps of an epoch, and the validation data, as the trainer would."""
    import random

    import torch

    from common.data_order import group_by_length

    training = job.recipe.training
    world = engine.count_ranks(training)
    size = engine.global_batch(training)
    order = list(range(len(job.train_set)))
    random.Random(training.seed).shuffle(order)
    if training.group_by_length:
        drawn = torch.Generator().manual_seed(training.seed)
        order = group_by_length(order, job.train_set.lengths, size, drawn)
    starts = range(0, len(order), size)
    starts = starts[:: max(1, len(starts) // SAMPLED_STEPS)]
    steps = [_split([job.train_set[i] for i in order[start : start + size]], training, world) for start in starts]
    all_starts = range(0, len(job.validation_set), size)
    starts = all_starts[:: max(1, len(all_starts) // SAMPLED_STEPS)]
    batches = [_split(job.validation_set[start : start + size], training, world) for start in starts]
    evaluated = sum(computed for _, _, computed in batches) * len(all_starts) // max(1, len(starts))
    return Batches(*map(list, zip(*steps, strict=True)), evaluated)


def _split(examples: Sequence, training, world: int) -> tuple[list[list], list[int], int]:
    """Return one rank's parts of a step, as their examples, the tokens of each, and how many all of them compute."""
    if training.packing == "on":
        packs = plan_packs(examples, training.pack_tokens, multiple_of=world, begin_once=engine.begins_once(training))
        left = sorted(examples, key=lambda example: example.input_ids)
        parts = []
        for pack in packs:
            count = len(pack.layout.segments)
            parts.append(left[:count])
            left = left[count:]
        mine = packs[::world]
        return parts[::world], list(map(len, mine)), count_computed(mine)
    size = training.micro_batch
    parts = [list(examples[start : start + size]) for start in range(0, len(examples), size)][::world]
    tokens = list(map(count_tokens, parts))
    return parts, tokens, sum(tokens)


def _plan_without_times(job: Job, config: dict, batches: Batches, measured: Slice | None) -> Plan:
    recipe, training = job.recipe, job.recipe.training
    per_epoch, steps = engine.count_steps(training, len(job.train_set))
    longest = pack_memory.longest_part_tokens(job, batches.longest_tokens())
    memory = job.memory if measured is None else estimate_memory(job, config, measured, longest)
    available, _ = hardware.memory_gib(training.device)
    each = footprint.checkpoint_gib(config, recipe.method)
    kept = training.keep_checkpoints
    epochs = steps / per_epoch
    disk = (kept + 1) * each + (math.ceil(epochs) * each / 3 if training.keep_epochs else 0) + each / 3
    lengths = [int(length) for part in (job.train_set, job.validation_set) if len(part) for length in part.lengths]
    tokens = {
        "longest": max(lengths),
        "mean": round(float(job.train_set.lengths.mean()), 1),
        "epoch": int(job.train_set.lengths.sum()),
        "computed_a_step": round(batches.step_tokens(), 1),
        "longest_part": longest,
    }
    return Plan(
        memory=memory,
        available_gib=available,
        checkpoint_gib=each,
        checkpoints=kept,
        disk_gib=disk,
        free_disk_gib=hardware.free_disk_gib(Path(recipe.output.folder or runs_dir())),
        steps=steps,
        steps_per_epoch=per_epoch,
        epochs=epochs,
        tokens=tokens,
        assumed=list(job.assumed),
        slice=None if measured is None else asdict(measured),
    )


def estimate_memory(job: Job, config: dict, measured: Slice, longest: int, every: int | None | str = "as settled"):
    """Return the peak memory of the whole model from what its slice measured: on a GPU, from its shape alone.

    ``longest`` tokens go through the model at a time; ``every`` stands in for the job's own checkpointing.
    """
    training = job.recipe.training
    if every == "as settled":
        every = pack_memory.recomputed_every(job)
    if training.device != "cpu":
        return pack_memory.estimate_part(job, longest, every)
    layers = config["num_hidden_layers"]
    recomputed = footprint.count_recomputed(layers, every)
    kept = layers - recomputed + (1 if recomputed else 0)
    width = footprint.computed_width(job.recipe.model.precision, job.recipe.model.compute)
    inputs = recomputed * longest * config["hidden_size"] * width / hardware.GIB
    return replace(
        job.memory,
        runtime=measured.runtime,
        activations=longest * measured.activations(kept) + inputs,
        logits=measured.transient * longest / measured.longest_tokens,
        loading=measured.loading_share * footprint.file_gib(config),
    )


def _add_times(job: Job, plan: Plan, measured: Slice, batches: Batches) -> Plan:
    config = model_files.read_config(job.model_folder)
    training = job.recipe.training
    layers = config["num_hidden_layers"]
    every = pack_memory.recomputed_every(job)
    recomputed = footprint.count_recomputed(layers, every)
    token_s = measured.step_s(layers) + recomputed * measured.layer_forward_s
    step_s = batches.step_tokens() * token_s + layers * measured.optimizer_s + _STEP_S
    evaluation_s = batches.evaluation_tokens * measured.forward_s(layers)
    save_s = _SAVE_S + plan.checkpoint_gib / _SAVE_GIB_PER_S
    evaluations = engine.count_evaluations(training, plan.steps, plan.steps_per_epoch)
    computing_s = plan.steps * step_s
    saves = math.ceil(plan.epochs) + int(computing_s / (60 * training.save_every_minutes))
    train_s = computing_s + measured.first_s + evaluations * evaluation_s + saves * save_s
    room = _CAUTION + measured.spread / 2
    start_s = measured.start_s + measured.load_s_per_gib * footprint.file_gib(config)
    steps = min(plan.steps, plan.steps_per_epoch)
    within = engine.count_evaluations(training, steps, steps) - 1  # that of its end comes after the checkpoint
    first = measured.first_s + min(steps * step_s + within * evaluation_s, 60 * training.save_every_minutes + step_s)
    return replace(
        plan,
        step_s=step_s,
        evaluation_s=evaluation_s,
        save_s=save_s,
        start_s=start_s,
        train_s=train_s,
        low_s=train_s / (1 + room),
        high_s=train_s * (1 + room),
        first_checkpoint_s=start_s + first + save_s,
        recompute_share=measured.layer_forward_s / measured.layer_step_s,
    )
