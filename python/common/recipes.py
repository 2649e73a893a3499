"""Recipes: found, read, merged with what was asked for, and checked.

Later layers win: defaults < ``recipes/<name>.yaml`` < the smoke overlays < the command line. Every problem of every
layer is reported at once. A run keeps its resolved settings in ``run.json``; :func:`restore_recipe` reads them again.
"""

import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.errors import ExitCode, Problem, UserError, did_you_mean
from common.runs.folders import ROOT, runs_dir
from common.schema import check_limits, convert, read_yaml
from common.settings import GROUPS, Recipe

RECIPES_DIR = ROOT / "recipes"
SMOKE_OVERLAY = RECIPES_DIR / "demo" / "smoke.yaml"
SMOKE_OVERLAYS = RECIPES_DIR / "demo" / "smoke"  # and what a single recipe needs on the demo model
_KEYS = {f.name: f"{group}.{f.name}" for group, settings in GROUPS.items() for f in fields(settings)}


def load_recipe(name: str, given: Mapping[str, tuple[Any, str]] | None = None, *, smoke: bool = False) -> Recipe:
    """Read recipe ``name`` (a name in recipes/ or a YAML path), then the smoke overlay, then ``given``.

    ``given`` maps "group.key" to (value, the flag it came from). A revision is of the model it stands beside: where
    another model is given, it is the one given or none. Raises UserError: 66 for an unknown recipe, 78 for every wrong
    key or value together.
    """
    path = _find_recipe(name)
    content = read_yaml(path)
    builder = _Builder(path.stem, content.pop("command", None))
    builder.add(content, path.name, _place_of_recipe)
    if smoke:
        builder.name += "-smoke"
        for overlay in recipe_files(name, smoke=True)[1:]:
            builder.add(read_yaml(overlay), str(overlay.relative_to(RECIPES_DIR)), _place_of_recipe)
    given, model = given or {}, builder.groups["model"]
    name_of_recipe = model.name
    for key, (value, flag) in given.items():
        group, _, leaf = key.partition(".")
        builder.add({group: {leaf: value}} if leaf else {key: value}, flag, Path.cwd().joinpath)
    if model.name != name_of_recipe and "model.revision" not in given:
        model.revision = None
    return builder.build()


def restore_recipe(resolved: Mapping[str, Any]) -> Recipe:
    """Return the recipe that :meth:`Recipe.to_dict` wrote. Raises UserError (78) when it does not fit this version."""
    builder = _Builder(resolved["name"], resolved["command"])
    builder.add({k: v for k, v in resolved.items() if k not in ("name", "command")}, "run.json", ROOT.joinpath)
    return builder.build()


def recipe_files(name: str, *, smoke: bool = False) -> list[Path]:
    """Return the files that recipe ``name`` is read from: its own, and with ``smoke`` the overlays, in their order."""
    path = _find_recipe(name)
    overlays = [SMOKE_OVERLAY, SMOKE_OVERLAYS / path.name] if smoke else []
    return [path, *(overlay for overlay in overlays if overlay.is_file())]


def recipe_names() -> list[str]:
    """Return the names of the recipes in recipes/."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def _find_recipe(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES_DIR / f"{name}.yaml"
    if path.is_file():
        return path
    known = ", ".join(recipe_names())
    hint = did_you_mean(name, recipe_names())
    raise UserError(Problem(f"no recipe '{name}' ({path} is missing)", f"recipes: {known}", hint), ExitCode.NO_INPUT)


class _Builder:
    """Collects layers of settings and all their problems, then builds the recipe."""

    def __init__(self, name: str, command: str | None):
        self.name, self.command = name, command
        self.groups = {group: cls() for group, cls in GROUPS.items()}
        self.problems: list[Problem] = []
        if not isinstance(command, str) or not (ROOT / "python" / f"{command}.py").is_file():
            self.problems.append(
                Problem(f"{name}: command '{command}'", "the name of a file in python/, as in: command: finetune_ba")
            )

    def add(self, layer: Mapping[str, Any], origin: str, place: Callable[[str], Path]) -> None:
        """Put one layer on top. ``origin`` names it in errors; ``place`` returns where a path written in it is."""
        for group, values in layer.items():
            if group not in GROUPS:
                key = _KEYS.get(str(group))
                hint = f"did you mean {key}?" if key else did_you_mean(str(group), GROUPS)
                self.problems.append(
                    Problem(f"{origin}: unknown group '{group}'", "groups: " + ", ".join(GROUPS), hint)
                )
            elif not isinstance(values, Mapping):
                self.problems.append(Problem(f"{origin}: '{group}' must hold keys", "as in: group:\\n  key: value"))
            else:
                for key, value in values.items():
                    self._set(group, str(key), value, origin, place)

    def build(self) -> Recipe:
        self.problems += self.groups["method"].find_strangers()
        if self.problems:
            raise UserError(self.problems, ExitCode.CONFIG)
        return Recipe(self.name, self.command, **self.groups)

    def _set(self, group: str, key: str, value: Any, origin: str, place: Callable[[str], Path]) -> None:
        known = {f.name: f for f in fields(GROUPS[group])}
        label = origin if origin.startswith("--") and origin != "--set" else f"{origin}: {group}.{key}"
        if key not in known:
            hint = did_you_mean(key, known)
            self.problems.append(Problem(f"{label} is unknown", f"{group} has: " + ", ".join(known), hint))
            return
        spec = known[key]
        kind = typing.get_type_hints(GROUPS[group])[key]
        try:
            value = convert(value, kind)
            check_limits(value, spec.metadata)
        except ValueError as error:
            self.problems.append(Problem(f"{label} is {value!r}", str(error)))
            return
        if spec.metadata["path"] and value is not None or (group, key) == ("model", "name") and place(value).is_dir():
            value = portable_path(place(value))
        setattr(self.groups[group], key, value)
        if group == "method":
            self.groups[group].given[key] = label


def _place_of_recipe(path: str) -> Path:
    """Return where a recipe's path is: below the repository, and runs/… in the folder of all runs, wherever that is."""
    first, *rest = Path(path).parts or ("",)
    return runs_dir().joinpath(*rest) if first == "runs" else ROOT / path


def portable_path(path: Path) -> str:
    """Return ``path`` relative to the repository root when it lies inside, else absolute."""
    path = path.absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
