"""How long a pack may be and which layers recompute their activations: the quickest way that the free memory allows."""

import random

from common import engine, footprint, model_files, ranks
from common.jobs import Job
from common.packing import count_computed, plan_packs
from common.settings import TrainingSettings

_COMFORT = 0.9  # a need above this share of the free memory is answered with activation checkpointing
_CHECKPOINT_EVERY = (None, 8, 6, 4, 3, 2, 1)  # n-th layer, the quickest first
_SHORTER_TOKENS = (2560, 2048, 1792, 1536, 1280, 1024, 768, 512)
_RECOMPUTED = 0.5  # what a forward pass is of a step: a frozen weight takes part in two products, one of them forward
_SAMPLED_EXAMPLES = 48
_AS_LITTLE = 1.01  # ways that differ by less are taken for equal


def choose(job: Job) -> None:
    """Settle the way that computes least of those that fit in ``job.available_gib``, or the smallest one.

    Shorter packs compute more often what only some of a step's examples begin with (under DeepSpeed also what all do),
    a layer that recomputes its forward pass twice. Of ways that compute as much, the longest packs.
    Where no layer was measured yet, the need follows from the model's shape.
    """
    training, limit = job.recipe.training, _COMFORT * job.available_gib
    lengths = [training.pack_tokens]
    if training.packing == "on":
        lengths += [tokens for tokens in _SHORTER_TOKENS if tokens < training.pack_tokens]
    ways = [(tokens, every) for tokens in lengths for every in _CHECKPOINT_EVERY]
    fitting = [way for way in ways if estimate(job, *way).total < limit]
    if ways[0] in fitting or len(fitting) < 2:
        way = (fitting or ways[-1:])[0]
    else:
        layers = model_files.read_config(job.model_folder)["num_hidden_layers"]
        computed = {tokens: _count_computed(job, tokens) for tokens in {tokens for tokens, _ in fitting}}

        def work(way: tuple[int, int | None]) -> float:
            recomputed = footprint.count_recomputed(layers, way[1]) / layers
            return computed[way[0]] * (1 + _RECOMPUTED * recomputed)

        enough = _AS_LITTLE * min(map(work, fitting))
        way = next(way for way in fitting if work(way) <= enough)  # the longest packs: each reads all weights
    settle(job, *way)


def _count_computed(job: Job, pack_tokens: int) -> int:
    """Return how many tokens some of the training examples compute, a step after the other, in packs of this length."""
    training, examples = job.recipe.training, job.train_set
    if training.packing == "off":
        return 1  # the same for every way
    step = engine.global_batch(training)
    drawn = random.Random(training.seed).sample(range(len(examples)), min(_SAMPLED_EXAMPLES, len(examples)))
    steps = [[examples[i] for i in drawn[start : start + step]] for start in range(0, len(drawn), step)]
    return sum(count_computed(plan_packs(part, pack_tokens, begin_once=engine.begins_once(training))) for part in steps)


def settle(job: Job, pack_tokens: int, checkpoint_every: int | None) -> None:
    """Write a way into the job's settings, and its need to ``job.memory``."""
    training = job.recipe.training
    training.pack_tokens, training.checkpoint_every_n_layers = pack_tokens, checkpoint_every
    training.activation_checkpointing = "on" if checkpoint_every else "off"
    job.memory = estimate(job, pack_tokens, checkpoint_every)


def settle_for_all(job: Job) -> None:
    """Settle on every rank the way of the one with the least free memory: what goes through the model is the same."""
    training = job.recipe.training
    before = describe(training)
    ways = ranks.gather((job.available_gib, training.pack_tokens, recomputed_every(job) or 0))
    available_gib, pack_tokens, every = min(ways)
    settle(job, pack_tokens, every or None)
    after = describe(training)
    if after != before:
        print(f"memory: one of the ranks has only {available_gib:.1f} GiB free; {after}")


def recomputed_every(job: Job) -> int | None:
    """Return n where each n-th layer recomputes, None where no layer does, as settled or asked for."""
    training = job.recipe.training
    return training.checkpoint_every_n_layers or 1 if training.activation_checkpointing == "on" else None


def estimate(job: Job, pack_tokens: int, checkpoint_every: int | None) -> footprint.Footprint:
    """Return the memory for the longest sequence that goes through the model at a time."""
    return estimate_part(job, longest_part_tokens(job, pack_tokens), checkpoint_every)


def estimate_part(job: Job, tokens: int, checkpoint_every: int | None) -> footprint.Footprint:
    """Return the memory where so many ``tokens`` go through the model at a time."""
    recipe = job.recipe
    return footprint.estimate_training(
        model_files.read_config(job.model_folder),
        recipe.method,
        recipe.model.precision,
        tokens,
        checkpoint_every=checkpoint_every,
        optimizer=recipe.training.optimizer,
        compute=recipe.model.compute,
        gpu=recipe.training.device == "cuda",
        few_logits=recipe.training.packing == "on",
        kept_bytes=job.kept_bytes,
    )


def longest_part_tokens(job: Job, pack_tokens: int | None = None) -> int:
    """Return the most tokens that go through the model at a time: of a pack, or of a micro-batch with its padding."""
    recipe = job.recipe
    longest = max(int(part.lengths.max()) for part in (job.train_set, job.validation_set) if part)
    longest += recipe.method.virtual_tokens if recipe.method.kind == "ptuning" else 0
    if recipe.training.packing == "on":
        return max(longest, pack_tokens or recipe.training.pack_tokens)
    return recipe.training.micro_batch * longest


def describe(training: TrainingSettings) -> str:
    """Return the way in words."""
    every = training.checkpoint_every_n_layers
    which = {None: "off", 1: "of all layers"}.get(every, f"of one layer in {every}")
    packs = f"; packs of up to {training.pack_tokens:,} tokens" if training.packing == "on" else ""
    return f"activation checkpointing {which}{packs}"
