"""What a manifest says a run was made of, held against what is here now."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import checks, hardware, model_files
from common.errors import ExitCode, Problem, UserError
from common.hashing import sha256_of
from common.manifest import LOCK_FILE, describe_git, package_versions
from common.recipes import restore_recipe
from common.runs import ROOT, check_available, read_json, read_status, run_folder
from common.runs.folders import MANIFEST_FILE
from common.runs.lock import held_error, read_holder

REPORT = "reproduction.json"
_CODE = ("python", "scripts")
_REMEDY = "put back what was there, or FORCE=1"


def compare_with_manifest(manifest: Mapping[str, Any]) -> tuple[list[checks.Check], list[str]]:
    """Return a check for data, model and versions, which must be as they were, and notes on what may differ.

    A note tells of another commit or another machine: the bytes may be the same all the same, and training tells.
    """
    must = [
        checks.run_check("settings", lambda: _check_settings(manifest)),
        *[checks.run_check(part, lambda part=part: _check_data(manifest["data"][part])) for part in manifest["data"]],
        checks.run_check("model", lambda: _check_model(manifest)),
        checks.run_check("versions", lambda: _check_versions(manifest["versions"])),
    ]
    return must, [*_compare_code(manifest["git"]), *_compare_machine(manifest["hardware"]), *_breaks(manifest)]


def _check_settings(manifest: Mapping[str, Any]) -> str:
    recipe = restore_recipe(manifest["settings"])
    return f"recipe {recipe.name}, seed {recipe.training.seed}, {recipe.training.threads} threads"


def _check_data(entry: Mapping[str, Any]) -> str:
    path = ROOT / entry["path"]
    if not path.is_file():
        problem = Problem(f"{entry['path']} is missing", _wanted(entry["sha256"]), "put it back where it was")
        raise UserError(problem, ExitCode.NO_INPUT)
    found = sha256_of(path)
    if found != entry["sha256"]:
        what = f"{entry['path']} is another file, sha256 {found[:16]}…"
        raise UserError(Problem(what, _wanted(entry["sha256"]), _REMEDY), ExitCode.CONFIG)
    return f"{entry['path']}, {entry['examples']} examples, as it was"


def _check_model(manifest: Mapping[str, Any]) -> str:
    folder = model_files.find_model(restore_recipe(manifest["settings"]).model)
    wanted, found = manifest["model"]["files"], model_files.hash_model_files(folder)
    problems = [
        Problem(f"{folder / name} is " + ("another file" if name in found else "missing"), _wanted(digest), _REMEDY)
        for name, digest in wanted.items()
        if found.get(name) != digest
    ]
    problems += [
        Problem(f"{folder / name} was not there", next_step=_REMEDY) for name in sorted(found.keys() - wanted.keys())
    ]
    if problems:
        raise UserError(problems, ExitCode.CONFIG)
    return f"{folder}, {len(wanted)} files, as they were"


def _check_versions(recorded: Mapping[str, str]) -> str:
    """Compare the packages that compute; the lock file as a whole may have grown since."""
    found = package_versions()
    problems = [
        Problem(
            f"{name} {found.get(name, 'is not')} is installed", f"the run had {version}", "make setup at its commit"
        )
        for name, version in recorded.items()
        if name not in ("python", "lock_sha256") and found.get(name) != version
    ]
    if problems:
        raise UserError(problems, ExitCode.CONFIG)
    same_lock = LOCK_FILE.is_file() and sha256_of(LOCK_FILE) == recorded["lock_sha256"]
    lock = f"{LOCK_FILE.name} as it was" if same_lock else f"{LOCK_FILE.name} has changed, these packages have not"
    return ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "peft")) + f"; {lock}"


def _compare_code(recorded: Mapping[str, Any]) -> list[str]:
    now = describe_git()
    notes = []
    if recorded["dirty"]:
        notes.append("code: the run was made with changes that were not committed")
    if now["dirty"]:
        notes.append("code: there are changes now that are not committed")
    if recorded["commit"] != now["commit"]:
        notes.append(f"code: the run was made at commit {recorded['commit']}, here is {now['commit']}")
        notes += [f"code: {line}" for line in _changed_files(recorded["commit"])]
    return notes


def _changed_files(commit: str | None) -> list[str]:
    """Return the files of the program that differ from ``commit``, a line each."""
    command = ["git", "-C", str(ROOT), "diff", "--name-status", str(commit), "--", *_CODE]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        return ["what changed since cannot be told: that commit is not here"]
    return [line.replace("\t", " ") for line in answer.stdout.splitlines()] or ["no file of the program differs"]


def _compare_machine(recorded: Mapping[str, Any]) -> list[str]:
    now = hardware.describe()
    return [
        f"machine: {key} was {recorded.get(key)}, is {now[key]}"
        for key in ("system", "cpu", "cores", "bf16")
        if recorded.get(key) != now[key]
    ]


def _breaks(manifest: Mapping[str, Any]) -> list[str]:
    """A run that was resumed by force was trained with two kinds of something: no single training repeats it."""
    return [f"break: the run was resumed with FORCE=1 although {line}" for line in manifest.get("breaks", [])]


def _wanted(digest: str) -> str:
    return f"the run had sha256 {digest[:16]}…"


def settings_for_repeat(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's resolved settings as a recipe file holds them, its folder left to the new run."""
    settings = {key: value for key, value in manifest["settings"].items() if key != "name"}
    return settings | {"output": {"folder": None}}


def find_repetition(name: str, manifest: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the run that repeats run ``name``, and its state: None when it is still to be made.

    That is the first of name-again, name-again-2, … that is free, or holds a repetition nobody has compared yet: one
    that was interrupted, or carried on by itself. UserError 75 while it is being trained.
    """
    stem = f"{name[:58]}-again"
    for again in (stem, *(f"{stem}-{number}" for number in range(2, 1000))):
        folder = run_folder(again)
        if not (folder / MANIFEST_FILE).is_file():
            check_available(again)
            return again, None
        if (folder / REPORT).is_file() or not _repeats(manifest, read_json(folder / MANIFEST_FILE)):
            continue
        status = read_status(folder, log_lines=0)
        if status["running"]:
            raise held_error(again, read_holder(folder))
        return again, status["state"]
    raise UserError(Problem(f"there are 999 repetitions of '{name}'", "", "make clean RUN=…"), ExitCode.CANNOT_CREATE)


def _repeats(manifest: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return "settings" in other and settings_for_repeat(manifest) == settings_for_repeat(other)


def recipe_file_name(manifest: Mapping[str, Any]) -> str:
    """Return the name under which a recipe file gives the repeated run the recipe's name."""
    return Path(manifest["settings"]["name"]).name + ".yaml"
