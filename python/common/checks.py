"""Is everything in place? One numbered list for `make doctor` and for the pre-flight of a training.

Each check looks, changes nothing, and answers with what it found or with a :class:`Problem` that holds the remedy.
"""

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from common import footprint, hardware, model_files, weights
from common.errors import ExitCode, Problem, UserError
from common.manifest import LOCK_FILE, locked_versions
from common.runs import runs_dir
from common.settings import ModelSettings, Recipe

_HIGH_LEARNING_RATE = 1e-2
_MORE_WEIGHTS = 1.1  # times what is counted from the config: experts, or an encoder beside the language model


@dataclass(frozen=True)
class Check:
    """The outcome of one check: ``found`` when all is well, else ``problems`` and the exit code they call for."""

    title: str
    found: str = ""
    problems: tuple[Problem, ...] = ()
    exit_code: ExitCode = ExitCode.OK

    @property
    def ok(self) -> bool:
        return not self.problems


def check_machine() -> list[Check]:
    """Check what every recipe needs of the machine, and say what it has."""
    return [
        run_check("processor", check_processor),
        run_check("jq", check_jq),
    ]


def run_check(title: str, look: Callable[[], str]) -> Check:
    """Run one check; ``look`` returns what it found or raises UserError."""
    try:
        return Check(title, look())
    except UserError as error:
        return Check(title, problems=tuple(error.problems), exit_code=error.exit_code)


def print_checks(checks: Iterable[Check]) -> None:
    """Print a numbered ✓ or ✗ line for each check, and below it what else it has to say."""
    checks = list(checks)
    width = max((len(check.title) for check in checks), default=0)
    for number, check in enumerate(checks, start=1):
        first, *more = check.found.split("\n") if check.ok else map(str, check.problems)
        print(f"{number:2} {'✓' if check.ok else '✗'} {check.title:<{width}}  {first}")
        for line in more:
            print(f"{'':{width + 7}}{line}")


def conclude(checks: Sequence[Check], all_well: str) -> int:
    """Print all checks and how many failed, or ``all_well``; return the exit code of the first that failed, else 0."""
    print_checks(checks)
    failed = [check for check in checks if not check.ok]
    print(f"\n{len(failed)} of {len(checks)} need attention" if failed else f"\n{all_well}")
    return failed[0].exit_code if failed else ExitCode.OK


def raise_problems(checks: Iterable[Check]) -> None:
    """Raise one UserError with every problem found, with the exit code of the first; nothing when all is well."""
    failed = [check for check in checks if not check.ok]
    if failed:
        raise UserError([problem for check in failed for problem in check.problems], failed[0].exit_code)


def check_processor() -> str:
    cores, reason = hardware.usable_cores()
    flag = hardware.bf16_flag()
    return f"{cores} cores ({reason}), " + (f"bf16 through {flag}" if flag else "no bf16 instructions: fp32 is faster")


def check_jq() -> str:
    """Find jq; no training needs it."""
    return (
        shutil.which("jq")
        or "not installed; only the jq lines in messages and docs need it: apt-get or brew install jq"
    )


def check_versions() -> str:
    """Compare every installed package with requirements.lock."""
    locked = locked_versions()
    problems = []
    for name, wanted in locked.items():
        try:
            have = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue  # for another platform, or for the tests only
        if have != wanted:
            problems.append(Problem(f"{name} {have} is installed", f"{LOCK_FILE.name} says {wanted}", "make setup"))
    if problems:
        raise UserError(problems, ExitCode.CONFIG)
    return f"{len(locked)} packages as in {LOCK_FILE.name}"


def check_model(settings: ModelSettings) -> str:
    """Find the model on this machine and check its files, without loading it."""
    folder = model_files.find_model(settings)
    problems = model_files.check_model_folder(folder)
    if not problems and model_files.is_plain(model_files.read_config(folder)):
        problems = weights.check_tensors(folder)
    if problems:
        raise UserError(problems, ExitCode.NO_INPUT)
    try:
        counted = sum(footprint.count_weights(model_files.read_config(folder)))
    except KeyError as error:
        what = f"{folder}: its config has no {error}, so nothing can be said of its memory"
        allowed = f"decoders whose config is like that of {', '.join(model_files.PACKABLE)}"
        raise UserError(Problem(what, allowed, "choose another model"), ExitCode.CONFIG) from None
    said = f"{folder}: {counted / 1e6:,.1f} million parameters"
    held = weights.count_numbers(folder)
    if "quantization_config" not in model_files.read_config(folder) and held > _MORE_WEIGHTS * counted:
        said += f"\nwarning: its files hold {held / 1e6:,.1f} million; memory and time are told of the former only"
    return said


def check_numbers(recipe: Recipe) -> str:
    """Warn of numbers that are allowed and seldom meant."""
    rate, minutes = recipe.training.learning_rate, recipe.training.save_every_minutes
    notes = []
    if rate > _HIGH_LEARNING_RATE:
        notes.append(
            f"warning: training.learning_rate is {rate:g}, above {_HIGH_LEARNING_RATE:g} few trainings converge"
        )
    if minutes > 60:
        notes.append(f"warning: training.save_every_minutes is {minutes:g}: a run killed in between loses as much")
    return "\n".join([f"learning rate {rate:g}, saved every epoch and every {minutes:g} minutes", *notes])


def check_memory(need: footprint.Footprint, device: str = "cpu", *, resumed: bool = False) -> str:
    """Compare an estimate with the memory that is free on ``device``."""
    available, total = hardware.memory_gib(device)
    whose = " of GPU memory" if device == "cuda" else ""
    if need.total > available:
        what = f"about {need}{whose} needed, {available:.1f} of {total:.1f} GiB free"
        remedy = "close other programs" if need.total < total else "make plan RECIPE=… lists what would help"
        if resumed and need.total >= total:
            remedy = "a new run with what make plan RECIPE=… lists"
        raise UserError(Problem(what, next_step=remedy), ExitCode.UNAVAILABLE)
    return f"about {need}{whose} expected, {available:.1f} of {total:.1f} GiB free"


def check_disk(needed_gib: float, output: str | None, *, resumed: bool = False) -> str:
    """Compare what the checkpoints will take with the free space where the run is written."""
    free = hardware.free_disk_gib(Path(output or runs_dir()))
    if free < needed_gib:
        what = f"{free:.1f} GiB free, {needed_gib:.1f} GiB needed for checkpoints"
        remedy = "free some space" + ("" if resumed else ", or OUTPUT=DIR on another disk")
        raise UserError(Problem(what, next_step=remedy), ExitCode.CANNOT_CREATE)
    return f"{needed_gib:.2f} GiB needed of {free:.1f} GiB free"


def check_file_size(needed_gib: float) -> str:
    """Compare the largest file a training writes with what `ulimit -f` lets a process write."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return "no limit"
    if limit < needed_gib * hardware.GIB:
        what = f"files may have {limit / 2**20:.1f} MiB here, a checkpoint's may need {needed_gib * 1024:.1f} MiB"
        raise UserError(Problem(what, next_step="ulimit -f unlimited"), ExitCode.IO)
    return f"{limit / hardware.GIB:.2f} GiB"


def check_writable(output: str | None = None, *, resumed: bool = False) -> str:
    """Write, sync, rename and delete a file where the run is written."""
    folder = Path(output or runs_dir())
    while not folder.exists():
        folder = folder.parent
    try:
        descriptor, name = tempfile.mkstemp(prefix=".probe-", dir=folder)
        try:
            os.write(descriptor, b"probe")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        Path(name).replace(f"{name}-renamed")
        Path(f"{name}-renamed").unlink()
    except OSError as error:
        remedy = "mend its rights" + ("" if resumed else ", or OUTPUT=DIR")
        problem = Problem(f"cannot write in {folder}: {error.strerror}", next_step=remedy)
        raise UserError(problem, ExitCode.CANNOT_CREATE) from error
    return str(folder)
