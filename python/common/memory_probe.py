"""Does a step fit in memory? Tried before the first one on the longest examples, not found out after hours.

Where packs are trained, what a forward pass keeps for its backward pass is measured, and the quickest way chosen that
the free memory allows: a CPU whose memory is full raises nothing, the process is killed.

Micro-batches are tried. The stock answer, auto_find_batch_size, restarts a training that ran out of memory, and the
count of its steps with it. Here the forward pass and the gradients of the longest micro-batch are computed once; while
memory does not suffice, the micro-batch is divided and accumulation multiplied, so that the global batch stays.

What was found is kept in the manifest, and a resumed run uses it without trying again.
"""

import gc
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers.trainer_utils import set_seed

from common import pack_memory, process_memory
from common.errors import ExitCode, Problem, UserError
from common.hardware import GIB
from common.jobs import PROBE, Job
from common.runs import Run
from common.settings import TrainingSettings

_SETTLED = ("micro_batch", "gradient_accumulation", "pack_tokens")
_SETTLED_OF_PACKS = ("pack_tokens", "activation_checkpointing", "checkpoint_every_n_layers")
_TRIED_EXAMPLES = 4  # a pack of four keeps within a few percent of what one of eight does, a token; one example less


def fit_packs(run: Run, job: Job, trainer) -> None:
    """Settle how long packs are and which layers recompute, from what a layer keeps of a pack of long examples.

    What was found is kept in run.json, so that a resumed run does the same. Afterwards the random state is that of the
    seed.
    """
    manifest = run.manifest()
    asked = manifest.get(PROBE, {}).get("asked_pack_tokens")
    if asked is None or "kept_bytes" in manifest[PROBE]:
        return  # the user settled it, or an attempt before this one did
    training, before = job.recipe.training, pack_memory.describe(job.recipe.training)
    job.kept_bytes, tried_tokens = measure_layer_bytes(trainer, trainer.longest_examples(_TRIED_EXAMPLES))
    training.pack_tokens = asked
    pack_memory.choose(job)
    found = {
        "asked_pack_tokens": asked,
        "tried_tokens": tried_tokens,
        "kept_bytes": round(job.kept_bytes),  # a token and layer
        "available_gib": round(job.available_gib, 2),
        **{key: getattr(training, key) for key in _SETTLED_OF_PACKS},
    }
    manifest["settings"]["training"] |= {key: found[key] for key in _SETTLED_OF_PACKS}
    after = pack_memory.describe(training)
    if after != manifest["plan"].get("way", before):
        manifest["plan"] = {"from": "the memory probe", "memory": job.memory.to_dict()}
    run.write_manifest(manifest | {PROBE: found})
    kilobytes = f"a layer keeps {job.kept_bytes / 1024:,.0f} KiB a token, {job.available_gib:.1f} GiB are free"
    print(f"memory probe: {kilobytes}; {after}" + (f" (from the shape alone: {before})" if after != before else ""))
    trainer.set_recomputation(training)
    set_seed(training.seed)


def measure_layer_bytes(trainer, examples: Sequence) -> tuple[float, int]:
    """Return how many bytes a token a layer keeps for the backward pass, and how many tokens were tried.

    Measured on the model's first layers: all of them at once, none recomputing, might not fit.
    """
    base = trainer.model.get_base_model()
    config, last = base.config, vars(base.model.layers[-1])
    layers, tokens = config.num_hidden_layers, max(map(len, trainer.split_step(examples)))
    few = min(1, layers - 1)  # one layer has what comes once, as the masks do; and a model may have no other
    many = min(few + 2, layers)
    ends_early = last.pop("forward", None)  # of few layers the last would be among them
    try:
        config.num_hidden_layers = few
        kept_of_few = measure_kept_gib(trainer, examples)
        config.num_hidden_layers = many
        kept_of_many = measure_kept_gib(trainer, examples)
    finally:
        config.num_hidden_layers = layers
        if ends_early:
            last["forward"] = ends_early
    return (kept_of_many - kept_of_few) * GIB / (many - few) / tokens, tokens


def measure_kept_gib(trainer, examples: Sequence) -> float:
    """Return the GiB that a forward pass keeps for the backward pass, weights aside: the largest part's."""
    own = {tensor.untyped_storage().data_ptr() for tensor in trainer.model.parameters()}
    own |= {tensor.untyped_storage().data_ptr() for tensor in trainer.model.buffers()}
    kept: dict[int, Any] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held: else another could get the same address
        return tensor.detach()  # not itself: an operation that keeps its own result would keep itself alive with it

    trainer.model.train()
    gc.collect()
    parts = trainer.split_step(examples)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.sum_loss(max(parts, key=len))
    return sum(storage.nbytes() for storage in kept.values()) / GIB


def fit_micro_batch(run: Run, training: TrainingSettings, trainer) -> None:
    """Settle ``training``'s micro-batch and accumulation (of packs, the longest) by trying the longest examples.

    Raises UserError (69) when not even a single example fits. Afterwards the random state is that of the seed.
    """
    manifest = run.manifest()
    if PROBE not in manifest:
        found = settle(training, trainer)
        manifest["settings"]["training"] |= {key: found[key] for key in _SETTLED}
        run.write_manifest(manifest | {PROBE: found})
        print(f"memory probe: {describe(found)}")
    set_seed(training.seed)


def settle(training: TrainingSettings, trainer) -> dict[str, Any]:
    """Divide the micro-batch in ``training`` until the longest one fits; return what run.json keeps of it."""
    if trainer.args.activation_checkpointing:  # else it would begin with the training
        options = dict(trainer.args.activation_checkpointing_kwargs or {})
        every = options.pop("every_n_layers", 1)
        trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options, every_n_layers=every)
    packs = training.packing == "on"  # those of a step are as long as all its examples make them
    longest = trainer.longest_examples(trainer.examples_per_step() if packs else training.micro_batch)
    began = training.micro_batch, training.pack_tokens
    while not fits(trainer, longest if packs else longest[: training.micro_batch]):
        if not divide(training, len(longest[0])):
            what = f"the longest example, {len(longest[0])} tokens, does not fit in the memory of {training.device}"
            remedy = "a smaller data.max_length_tokens, or --set training.activation_checkpointing=on"
            raise UserError(Problem(what, next_step=remedy), ExitCode.UNAVAILABLE)
    return {
        "longest_tokens": len(longest[0]),
        "reduced": began != (training.micro_batch, training.pack_tokens),
        "peak_gpu_gib": process_memory.peak_gpu_gib(),
        **{key: getattr(training, key) for key in _SETTLED},
    }


def divide(training: TrainingSettings, longest_tokens: int) -> bool:
    """Make what goes through the model at a time smaller, the global batch unchanged; False when it cannot be."""
    if training.packing == "on":
        before, training.pack_tokens = training.pack_tokens, max(longest_tokens, training.pack_tokens // 2)
        return training.pack_tokens < before
    before = training.micro_batch
    if before == 1:
        return False
    training.micro_batch = max(part for part in range(1, before) if before % part == 0)
    training.gradient_accumulation *= before // training.micro_batch
    return True


def fits(trainer, examples: Sequence) -> bool:
    """Compute loss and gradients of ``examples``, with room kept for AdamW's moments; False when memory is short."""
    try:
        return _try_step(trainer, examples)
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise
    finally:
        trainer.model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
    return False


def describe(found: dict[str, Any]) -> str:
    """Return what a probe found, in words."""
    batch = f"micro-batch {found['micro_batch']} × accumulation {found['gradient_accumulation']}"
    how = "made smaller until it fitted" if found["reduced"] else "fits"
    return f"{batch} {how}, tried on the longest examples (up to {found['longest_tokens']} tokens)"


def _try_step(trainer, examples: Sequence) -> bool:
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    moments = [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
    trainer.model.train()
    for part in trainer.split_step(examples):
        trainer.sum_loss(part).backward()
    del moments
    return True
