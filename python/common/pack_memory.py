"""How long a pack may be and which layers recompute their activations: the quickest way that the free memory allows."""

from common import footprint, models
from common.jobs import Job
from common.settings import TrainingSettings

PROBE = "memory_probe"  # what a probe before step 1 found: its entry in run.json
_COMFORT = 0.9  # a need above this share of the free memory is answered with activation checkpointing
_CHECKPOINT_EVERY = (None, 8, 6, 4, 3, 2, 1)  # n-th layer, the quickest first
_SHORTER_TOKENS = (2048, 1024, 512)  # only once every layer recomputes


def choose(job: Job, kept_bytes: float | None = None) -> None:
    """Settle the quickest way that fits in ``job.available_gib``, or the smallest one.

    ``kept_bytes`` is what a layer was measured to keep a token; without it, the need follows from the model's shape.
    """
    training = job.recipe.training
    ways = [(training.pack_tokens, every) for every in _CHECKPOINT_EVERY]
    if training.packing == "on":
        ways += [(tokens, 1) for tokens in _SHORTER_TOKENS if tokens < training.pack_tokens]
    limit = _COMFORT * job.available_gib
    fitting = (way for way in ways if estimate(job, *way, kept_bytes=kept_bytes).total < limit)
    settle(job, *next(fitting, ways[-1]), kept_bytes=kept_bytes)


def settle(job: Job, pack_tokens: int, checkpoint_every: int | None, kept_bytes: float | None = None) -> None:
    """Write a way into the job's settings, and its need to ``job.memory``."""
    training = job.recipe.training
    training.pack_tokens, training.checkpoint_every_n_layers = pack_tokens, checkpoint_every
    training.activation_checkpointing = "on" if checkpoint_every else "off"
    job.memory = estimate(job, pack_tokens, checkpoint_every, kept_bytes=kept_bytes)


def estimate(
    job: Job, pack_tokens: int, checkpoint_every: int | None, *, kept_bytes: float | None = None
) -> footprint.Footprint:
    """Return the memory for the longest sequence that goes through the model at a time."""
    recipe = job.recipe
    return footprint.estimate_training(
        models.read_config(job.model_folder),
        recipe.method,
        recipe.model.precision,
        longest_part_tokens(job, pack_tokens),
        checkpoint_every=checkpoint_every,
        optimizer=recipe.training.optimizer,
        gpu=recipe.training.device == "cuda",
        few_logits=recipe.training.packing == "on",
        kept_bytes=kept_bytes,
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
