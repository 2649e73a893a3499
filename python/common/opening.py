"""From a checked job to the run that it trains: a new folder with its manifest, or an existing one to carry on."""

from collections.abc import Mapping
from contextlib import contextmanager

from common import checkpoints, hardware, model_files, pack_memory, ranks
from common.errors import ExitCode, Problem, UserError
from common.jobs import PROBE, Job
from common.manifest import describe_run
from common.planning.records import find_plan
from common.runs import Run, read_json, run_folder
from common.runs.folders import MANIFEST_FILE


@contextmanager
def open_run(job: Job):
    """Hold the run of ``job`` while it trains: a new one with its manifest, or an existing one to carry on."""
    import torch

    from common.training import seed_everything

    job.model |= {"files": ranks.from_leader(lambda: model_files.hash_model_files(job.model_folder))}
    if job.engine:
        pack_memory.settle_for_all(job)
    with _lead_run(job) if ranks.is_leader() else ranks.follow(job.run_name) as run:
        torch.set_num_threads(job.recipe.training.threads)
        seed_everything(job.recipe.training.seed)
        yield run


@contextmanager
def _lead_run(job: Job):
    """Hold the run's folder, its manifest written."""
    model_files.verify_hashes(job.model_folder, job.model["files"])
    if job.resume:
        _check_unchanged(job)
    run = Run.reopen(job.run_name) if job.resume else Run.create(job.run_name, job.recipe.output.folder)
    with run:
        if not job.resume:
            asked = job.asked_pack_tokens
            probe = {PROBE: {"asked_pack_tokens": asked}} if asked else {}
            run.write_manifest(describe_run(job.recipe, job.data, job.model) | {"plan": find_plan(job)} | probe)
        elif job.breaks:
            run.write_manifest(run.manifest() | {"breaks": run.manifest().get("breaks", []) + job.breaks})
        with ranks.lead(run):
            yield run


def _check_unchanged(job: Job) -> None:
    """Raise UserError (78) when data, model, versions or settings are not those of the newest checkpoint.

    Without one, data and model must be those that the run wrote down at its start.
    """
    manifest = read_json(run_folder(job.run_name) / MANIFEST_FILE)
    folders = checkpoints.list_checkpoints(run_folder(job.run_name))
    commits = [commit for folder in folders if (commit := checkpoints.read_commit(folder))]
    begun = commits[-1]["fingerprint"] if commits else job.fingerprint_of(manifest["data"], manifest["model"])
    job.breaks = checkpoints.compare_fingerprints(begun, job.fingerprint())
    job.breaks += [line for line in _read_otherwise(manifest, job) if line not in manifest.get("breaks", [])]
    if job.breaks and not job.force:
        allowed, remedy = "a resumed run repeats what it began", "put it back, or go on with FORCE=1"
        problems = [
            Problem(line, allowed, "start as many ranks as before" if line.startswith("world_size:") else remedy)
            for line in job.breaks
        ]
        raise UserError(problems, ExitCode.CONFIG)
    before, now = manifest["hardware"], hardware.describe()
    for key in ("cpu", "bf16"):
        if before.get(key) != now[key]:
            job.breaks.append(f"machine.{key}: was {before.get(key)!r}, is {now[key]!r}")
            print(f"warning: {job.breaks[-1]}: the run goes on, with other bytes than it would have had there")


def _read_otherwise(manifest: Mapping, job: Job) -> list[str]:
    """Return a line for each count of tokens that a file which is as it was has no more: another version reads it."""
    lines = []
    for part, entry in manifest["data"].items():
        read = job.data.get(part, {})
        if read.get("sha256") == entry["sha256"]:
            kinds = [kind for kind in ("tokens", "trained_tokens") if entry.get(kind) != read.get(kind)]
            lines += [f"data.{part}.{kind}: was {entry.get(kind)}, is {read.get(kind)}" for kind in kinds]
    return lines
