"""What an export will be, decided and checked before any weight is loaded."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ExitCode, Problem, UserError
from common.exporting.merged import check_room, pick_dtype
from common.generation.local import LocalModel
from common.hardware import Choice
from common.methods import check_adapter
from common.methods.kinds import kind_of
from common.model_files import find_model, read_config
from common.runs import read_json
from common.settings import ModelSettings

_INSTEAD = "make chat RUN={name}, make evaluate and make publish RUN={name} take it as it is"
_WHY = {
    "adapter": "bottleneck adapters compute something between the layers: no weight can take them in",
    "ptuning": "p-tuning puts trained vectors before the prompt: no weight can take them in",
}


@dataclass(frozen=True)
class Plan:
    """An export: of which run, on which base, to where, in which dtype."""

    name: str
    run_folder: Path
    output: Path
    base: Path
    base_name: str
    dtype: Choice
    rank: int
    model_type: str
    trained_on_nf4: bool
    manifest: dict[str, Any]

    @property
    def base_shown(self) -> str:
        """The base as a server in the export's folder finds it."""
        return os.path.relpath(self.base, self.output)


def plan_export(name: str, run_folder: Path, output: Path, dtype: str, *, force: bool) -> Plan:
    """Return the plan of an export. Raises UserError: 78 for what cannot be merged, 73 for no room or an export there
    already, 66 for a base that is not here.
    """
    kind = kind_of(run_folder)
    if kind != "lora":
        raise UserError(
            Problem(f"run '{name}' cannot be exported: {_WHY[kind]}", "LoRA runs can", _INSTEAD.format(name=name)),
            ExitCode.CONFIG,
        )
    output = output.resolve()  # paths to the base are relative to where it really is
    check_place(output, force=force)
    manifest = read_json(run_folder / "run.json")
    settings = manifest["settings"]["model"]
    base = find_model(ModelSettings(name=settings["name"], revision=settings.get("revision"))).resolve()
    check_adapter(run_folder, base)
    LocalModel(base, adapter=run_folder).require_base_of(manifest)
    chosen = pick_dtype(dtype, base)
    trained_on_nf4 = settings.get("precision") == "nf4"
    check_room(run_folder, base, chosen.value, output, trained_on_nf4=trained_on_nf4)
    adapter = read_json(run_folder / "adapter_config.json")
    return Plan(
        name,
        run_folder,
        output,
        base,
        settings["name"],
        chosen,
        max([adapter["r"], *(adapter.get("rank_pattern") or {}).values()]),
        read_config(base).get("model_type", "unknown"),
        trained_on_nf4,
        manifest,
    )


def check_place(output: Path, *, force: bool) -> None:
    """Raise UserError (73) unless an export can be put at ``output``: nothing there, or, with ``force``, an export."""
    if not os.path.lexists(output):
        return
    empty = output.is_dir() and not any(output.iterdir())
    if empty:
        return
    if not (output / "export.json").is_file():
        what = f"{output} is there already and is no export"
        raise UserError(Problem(what, "a new folder", "OUTPUT=DIR"), ExitCode.CANNOT_CREATE)
    if not force:
        what = f"there is an export in {output} already"
        raise UserError(Problem(what, "it is replaced if asked", "FORCE=1, or OUTPUT=DIR"), ExitCode.CANNOT_CREATE)
