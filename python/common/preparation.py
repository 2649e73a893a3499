"""From a command line to a job that can start: settings, machine, data, model, memory and disk, all checked first.

Nothing is written before everything has been looked at, and every problem found is reported at once.
"""

import argparse
import os
from collections.abc import Mapping

from common import checks, engine, footprint, hardware, methods, model_files, models, pack_memory, ranks, shapes
from common.errors import ExitCode, Problem, UserError
from common.jobs import Job, requested_job
from common.planning.records import find_plan
from common.recipes import portable_path
from common.runs import ROOT, check_available, run_folder, runs_dir
from common.settings import Recipe

_CACHED_ROWS = 10_000  # from so many rows on, tokenising takes longer than reading the cache


def prepare(args: argparse.Namespace, options: Mapping[str, str]) -> Job:
    """Make every choice and check everything a training needs; print a numbered line for each.

    Raises UserError with all problems found and the exit code of the first. Writes nothing.
    """
    with ranks.leader_first():
        job = requested_job(args, options)
        engine.settle_ranks(job.recipe.training, planned=args.check)
        outcomes = check_job(job)
        checks.print_checks(outcome for outcome in outcomes if outcome.ok)
        checks.raise_problems(outcomes)
    return job


def check_job(job: Job) -> list[checks.Check]:
    """Check and fill in ``job`` step by step; what depends on a step that failed is left out."""
    recipe = job.recipe
    outcomes = [
        checks.run_check("run", lambda: _check_run(job)),
        checks.run_check("numbers", lambda: checks.check_numbers(recipe)),
        checks.run_check("versions", checks.check_versions),
        checks.run_check("machine", lambda: _choose_machine(recipe, resume=job.resume)),
        *_check_talk(recipe),
        checks.run_check("batch", lambda: _plan_batch(job)),
        checks.run_check("model", lambda: _find_model(job)),
    ]
    if job.model_folder:
        outcomes.append(checks.run_check("method", lambda: methods.check_method(recipe, job.model_folder)))
    parts = [part for part in ("train", "validation") if getattr(recipe.data, part)]
    outcomes += [checks.run_check(part, lambda part=part: _load_part(job, part)) for part in parts]
    if all(outcome.ok for outcome in outcomes if outcome.title not in ("run", "versions")):
        if recipe.training.epochs is None:
            outcomes.append(checks.run_check("epochs", lambda: _choose_epochs(job)))
        outcomes += [
            checks.run_check("steps", lambda: engine.describe_steps(recipe.training, len(job.train_set))),
            checks.run_check("separation", lambda: _check_separation(job)),
            checks.run_check("packing", lambda: _choose_packing(job)),
            checks.run_check("memory", lambda: _fit_memory(job)),
            checks.run_check("disk", lambda: _check_disk(job)),
            checks.run_check("file size", lambda: checks.check_file_size(_checkpoint_gib(job))),
        ]
    outcomes.append(checks.run_check("writable", lambda: checks.check_writable(_folder_of(job), resumed=job.resume)))
    return outcomes


def _check_run(job: Job) -> str:
    if job.resume:
        return f"{job.run_name}, to be carried on"
    if not ranks.is_leader():
        return "the leader's"
    return str(check_available(job.run_name, job.recipe.output.folder))


def _choose_machine(recipe: Recipe, *, resume: bool) -> str:
    """Settle device, precision and threads, so that the manifest, and a resumed run with it, has no "auto" left."""
    engine.check_devices(recipe.training, resume=resume)
    device = hardware.pick_device(recipe.training.device)
    if device.value == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, once installed, looks for a GPU and warns
    precision = hardware.pick_precision(recipe.model.precision, device.value, fp16=not recipe.training.deepspeed)
    threads = hardware.pick_threads(recipe.training.threads)
    if recipe.training.deepspeed and recipe.training.threads is None:
        share = max(1, threads.value // recipe.training.ranks)
        threads = hardware.Choice(share, f"{threads.reason}, shared by {recipe.training.ranks} ranks")
    compute = hardware.pick_compute(recipe.model.compute, precision.value, device.value)
    optimizer = hardware.pick_optimizer(recipe.training.optimizer, device.value)
    shown = {"device": device, "precision": precision, "threads": threads}
    if precision.value == "nf4" or compute.value == "int8":
        shown["products"] = compute
    if optimizer.value != recipe.training.optimizer:
        shown["optimizer"] = optimizer
    recipe.training.device, recipe.model.precision = device.value, precision.value
    recipe.model.compute, recipe.training.optimizer = compute.value, optimizer.value
    recipe.training.threads = threads.value
    return "; ".join(f"{name} {choice.value} ({choice.reason})" for name, choice in shown.items())


def _check_talk(recipe: Recipe) -> list[checks.Check]:
    """Check how the GPUs of this node reach each other, before they are ranks and wait for each other."""
    from common import diagnosis

    if not recipe.training.deepspeed or recipe.training.device != "cuda" or ranks.launched():
        return []
    outcomes = [checks.run_check("nccl", diagnosis.check_nccl)]
    if recipe.training.ranks > 1 and engine.has_devices(recipe.training):
        outcomes.append(checks.run_check("messages", lambda: diagnosis.check_messages(recipe.training.ranks)))
    return outcomes


def _plan_batch(job: Job) -> str:
    """Hold DeepSpeed's configuration against the recipe, and say what a global batch is made of."""
    if job.recipe.training.deepspeed:
        job.engine = engine.check_config(job.recipe)
    return engine.describe_plan(job.recipe)


def _choose_epochs(job: Job) -> str:
    """Settle the number of epochs by the number of training examples."""
    job.recipe.training.epochs, reason = engine.choose_epochs(len(job.train_set))
    return f"{job.recipe.training.epochs}: {reason}"


def _find_model(job: Job) -> str:
    settings = job.recipe.model
    try:
        found = checks.check_model(settings)
        job.model_folder = model_files.find_model(settings)
    except UserError:
        if job.stand_in is None:
            raise
        job.assumed = shapes.write_stand_in(settings, job.stand_in)
        job.model_folder, found = job.stand_in, "not here"
    job.tokenizer = models.load_tokenizer(job.model_folder)
    path = portable_path(job.model_folder)
    job.model = {"name": settings.name, "revision": settings.revision, "path": path, "precision": settings.precision}
    return found


def _load_part(job: Job, part: str) -> str:
    """Read, check and (with a tokenizer at hand) encode the training or the validation examples."""
    from common.chat import encode_examples
    from common.data import load_examples, parse_columns

    settings = job.recipe.data
    path = ROOT / getattr(settings, part)
    if path.is_relative_to(runs_dir() / "data") and not path.exists():
        how = f"the head of the recipe {job.recipe.name} says how sample data is made"
        raise UserError(Problem(f"{path}: no such file", how, "or TRAIN= and VAL= with your own"), ExitCode.NO_INPUT)
    loaded = load_examples(
        path,
        columns=parse_columns(settings.columns) if settings.columns else None,
        on_bad_row=settings.on_bad_row,
        allow_empty=settings.allow_empty,
        allow_duplicates=settings.allow_duplicates,
        allow_secrets=settings.allow_secrets,
    )
    job.examples[part] = loaded.examples
    job.data[part] = loaded.summary()
    found = f"{len(loaded)} examples ({loaded.shape})"
    notes = "".join(f"\n{note}" for note in (*loaded.notes, job.notes.get(part)) if note)
    if job.tokenizer is None:
        return found + notes
    encoded = encode_examples(
        job.tokenizer,
        loaded.examples,
        max_length_tokens=settings.max_length_tokens,
        on_overlong=settings.on_overlong,
        loss_on=settings.loss_on,
        model_positions=model_files.read_config(job.model_folder).get("max_position_embeddings"),
        cache_folder=runs_dir() / "cache" if len(loaded) >= _CACHED_ROWS else None,
    )
    _check_vocabulary(encoded, model_files.read_config(job.model_folder)["vocab_size"])
    job.data[part] |= encoded.summary()
    setattr(job, f"{part}_set", encoded)
    return f"{found}, {int(encoded.lengths.sum()):,} tokens, {encoded.lengths.max():,} in the longest{notes}"


def _check_vocabulary(encoded, rows: int) -> None:
    """Raise UserError (78) when a token has no row in the embedding: training would stop in the middle, or worse."""
    if encoded.max_token_id >= rows:
        what = f"the tokenizer gives token {encoded.max_token_id}, the model's embedding has {rows} rows"
        raise UserError(
            Problem(what, "tokenizer and model of one kind", "make download MODEL=… fetches both together"),
            ExitCode.CONFIG,
        )


def _check_separation(job: Job) -> str:
    """Look for validation examples that are in the training data."""
    from common.data.leaks import KINDS, check_leaks

    if "validation" not in job.examples:
        return "no validation data"
    # What a run began with, it goes on with: its settings can no longer be changed.
    leaks = check_leaks(job.examples, allow_leak=job.recipe.data.allow_leak or job.resume)
    job.data["validation"]["leaks"] = leaks
    found = sum(leaks[kind] for kind in KINDS)
    return (
        f"{found} validation examples are in the training data, as allowed" if found else "no example is in both parts"
    )


def _choose_packing(job: Job) -> str:
    """Settle whether examples are packed: wherever the model's attention accepts it."""
    training = job.recipe.training
    config = model_files.read_config(job.model_folder)
    longest = max(int(part.lengths.max()) for part in (job.train_set, job.validation_set) if part)
    reason = methods.why_no_packs(job.recipe.method) or model_files.why_no_packs(config, longest)
    if job.resume and training.packing == "on":
        reason = None  # settled when it began
    if training.packing == "on" and reason:
        raise UserError(
            Problem(f"training.packing is on, but {reason}", "allowed: auto, off", "SET=training.packing=off"),
            ExitCode.CONFIG,
        )
    if training.packing == "off":
        return "off (asked for): one micro-batch after the other"
    training.packing = "off" if reason else "on"
    return f"off: {reason}" if reason else "on: no padding, common beginnings computed once"


def _fit_memory(job: Job) -> str:
    """Settle how few layers recompute their activations, and how long a pack may be, from the free memory."""
    training = job.recipe.training
    job.available_gib, _ = hardware.memory_gib(training.device)
    if training.activation_checkpointing == "auto":
        if training.packing == "on" and not (job.engine or training.probe_memory):
            job.asked_pack_tokens = training.pack_tokens
        pack_memory.choose(job)
    else:
        pack_memory.settle(job, training.pack_tokens, pack_memory.recomputed_every(job))
    planned, way = find_plan(job), pack_memory.describe(training)
    as_planned = planned.get("way") == way  # else it was made with more memory free, or less, or knew a layer's need
    need = footprint.Footprint.from_dict(planned["memory"]) if as_planned else job.memory
    note = " (as planned)" if as_planned else ""
    return f"{checks.check_memory(need, training.device, resumed=job.resume)}{note}; {way}"


def _check_disk(job: Job) -> str:
    kept = 2 if job.resume else job.recipe.training.keep_checkpoints + 2  # an older one makes room for a newer one
    return checks.check_disk(kept * _checkpoint_gib(job), _folder_of(job), resumed=job.resume)


def _folder_of(job: Job) -> str | None:
    """Return where the run is written; None for a new one in runs/."""
    return str(run_folder(job.run_name)) if job.resume else job.recipe.output.folder


def _checkpoint_gib(job: Job) -> float:
    return footprint.checkpoint_gib(model_files.read_config(job.model_folder), job.recipe.method)
