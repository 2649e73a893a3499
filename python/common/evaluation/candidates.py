"""What is judged: a base model, and models tuned from it, each with its precision and what its training cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from common.comparison.held_out import data_rules
from common.data import Loaded, load_examples
from common.errors import ExitCode, Problem, UserError
from common.footprint import weights_gib
from common.generation.arms import find_local
from common.generation.local import LocalArm, LocalModel, as_trained, find_training
from common.hardware import memory_gib
from common.methods import check_adapter
from common.methods.kinds import WEIGHTS_FILE, kind_of
from common.model_files import read_config
from common.runs import ROOT, read_json
from common.settings import DataSettings, EvaluationSettings

BASE = "base"
BASE_NF4 = "base in NF4"
KINDS = {"qlora": "lora", "adapter": "adapter", "ptuning": "ptuning"}  # what evaluate_models.py's options take


@dataclass
class Candidate:
    """A model to judge: ``base`` folder, ``how`` it computes (precision, device, compute), perhaps its ``adapter``."""

    name: str
    base: Path
    how: dict[str, str]
    adapter: Path | None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        return self.how["precision"]

    def open(self, base_hashes: dict[str, str]) -> LocalModel:
        """Return the model, to be loaded when first asked. ``base_hashes`` are those of the base's files."""
        model = LocalModel(self.base, adapter=self.adapter, **self.how)
        model.base_hashes = base_hashes  # once for all candidates: weights of a 7B take a while
        return model

    @cached_property
    def kind(self) -> str | None:
        return kind_of(self.adapter) if self.adapter else None

    def costs(self) -> dict[str, Any]:
        """Return what the training took and what it left; None where nobody wrote it down."""
        if self.adapter is None:
            return dict.fromkeys(("trainable", "share", "adapter_bytes", "peak_gib", "training_s"), None)
        path = self.adapter / "training_info.json"
        info = read_json(path) if path.is_file() else {}
        share = info.get("trainable_percentage")
        return {
            "trainable": info.get("trainable_params"),
            "share": None if share is None else share / 100,
            "adapter_bytes": sum(
                (self.adapter / name).stat().st_size for name in ("adapter_config.json", WEIGHTS_FILE)
            ),
            "peak_gib": info.get("peak_gpu_gib") or info.get("peak_rss_gib"),
            "training_s": training_seconds(self.manifest),
        }


def open_candidates(base: str | None, tuned: dict[str, str]) -> list[Candidate]:
    """Return the base, the base in NF4 where a tuned model has it so, and the tuned models, each by its name.

    ``tuned`` maps names to run or adapter folders. All must come from one base model. The base is judged in the
    precision of those that are not in NF4, so that a difference is the tuning's; where all are, and it does not fit in
    memory otherwise, in NF4 alone. Raises UserError: 64 without a tuned model, 66 for folders that hold none, 78 when
    they do not belong together.
    """
    if not tuned:
        options = "--qlora_model, --adapter_model, --ptuning_model"
        raise UserError(Problem("there is no tuned model to judge", f"one or more of {options}"), ExitCode.USAGE)
    found = [_open_tuned(name, folder, base) for name, folder in tuned.items()]
    bases = sorted({str(candidate.base) for candidate in found})
    if len(bases) > 1:
        raise UserError(
            Problem(f"the models have {len(bases)} bases: {', '.join(bases)}", "one, or --base_model"), ExitCode.CONFIG
        )
    plain = [candidate.how for candidate in found if candidate.precision != "nf4"]
    in_nf4 = [candidate.how for candidate in found if candidate.precision == "nf4"]
    how = plain[0] if plain else as_trained({"settings": {"training": {"device": in_nf4[0]["device"]}}})
    if not plain and not _fits(found[0].base, how):
        print(f"the base does not fit in memory in {how['precision']}: it is judged in NF4, as the tuned models are")
        return [Candidate(BASE, found[0].base, in_nf4[0]), *found]
    return [
        Candidate(BASE, found[0].base, how),
        *(Candidate(BASE_NF4, found[0].base, its_own) for its_own in in_nf4[:1]),
        *found,
    ]


def _fits(base: Path, how: dict[str, str]) -> bool:
    return weights_gib(read_config(base), how["precision"]) < memory_gib(how["device"])[1]


def check_candidates(candidates: Sequence[Candidate], base_hashes: dict[str, str], test: Loaded) -> None:
    """Look at everything that may be wrong with a model, of all of them, before the weights of one are loaded.

    Raises UserError: 78 for adapters that are of another base, or do not fit it; 65 for items that fill the context.
    """
    found: list[UserError] = []
    conversations, sources = [list(item.prompt_messages) for item in test], [item.source for item in test]
    for candidate in candidates:
        model = candidate.open(base_hashes)
        try:
            if candidate.adapter:
                _require_base(candidate, model)
                check_adapter(candidate.adapter, candidate.base)
            LocalArm(candidate.name, model).check(conversations, sources)
        except UserError as error:
            found.append(error)
    if found:
        raise UserError([problem for error in found for problem in error.problems], found[0].exit_code)


def _require_base(candidate: Candidate, model: LocalModel) -> None:
    """Raise UserError (78) unless the candidate was tuned on this base: by its run's record, else by name."""
    if candidate.manifest.get("model", {}).get("files"):
        model.require_base_of(candidate.manifest)
        return
    try:
        named = find_local(str(candidate.adapter))[0]
    except UserError as error:
        print(f"warning: {candidate.name}: nothing tells whether it was tuned on this base: {error.problems[0].what}")
        return
    if named != candidate.base and LocalModel(named).base_hashes != model.base_hashes:
        what = f"the adapter in {candidate.adapter} was tuned on {named}, not on {candidate.base}"
        raise UserError(Problem(what, "models tuned on the base that is judged"), ExitCode.CONFIG)


@dataclass(frozen=True)
class TokenLimits:
    """The longest item and the longest answer, for all alike."""

    max_length_tokens: int
    max_new_tokens: int


def read_limits(candidates: Sequence[Candidate]) -> TokenLimits:
    """Return the largest limits that the candidates were trained with; the defaults where none is recorded."""
    settings = [candidate.manifest.get("settings", {}) for candidate in candidates]
    lengths = [s["data"]["max_length_tokens"] for s in settings if s]
    answers = [s["evaluation"]["max_new_tokens"] for s in settings if s]
    return TokenLimits(
        max(lengths, default=DataSettings().max_length_tokens),
        max(answers, default=EvaluationSettings().max_new_tokens),
    )


def read_test(path: str, candidates: Sequence[Candidate]) -> Loaded:
    """Return the test items, read by the rules of the first candidate's training; its columns need not be theirs."""
    rules = next((data_rules(candidate.manifest) for candidate in candidates if candidate.manifest), {})
    try:
        return load_examples(path, **rules)
    except UserError:
        if not rules.pop("columns", None):
            raise
        return load_examples(path, **rules)


def training_data(candidates: Sequence[Candidate]) -> dict[str, Loaded]:
    """Return what the candidates were trained and validated on, by name, to be compared with the test items.

    A file that is no longer there, or has changed since, cannot be compared: UserError (65).
    """
    files: dict[str, tuple[str, str, dict]] = {}
    for candidate in candidates:
        rules = data_rules(candidate.manifest) | {"on_bad_row": "drop", "allow_empty": True, "allow_duplicates": True}
        for part, entry in candidate.manifest.get("data", {}).items():
            files.setdefault(f"{entry['sha256'][:12]} {part}", (entry["path"], entry["sha256"], rules))
    loaded = {}
    for name, (path, sha256, rules) in files.items():
        found = ROOT / path
        if not found.is_file():
            raise UserError(
                Problem(
                    f"{path} is gone",
                    "the models were trained on it, so test items are looked for in it",
                    "put it back where it was",
                ),
                ExitCode.DATA,
            )
        loaded[name] = load_examples(found, **rules)
        if loaded[name].sha256 != sha256:
            raise UserError(
                Problem(f"{path} is not what the models were trained on", "it has changed", "put it back as it was"),
                ExitCode.DATA,
            )
    return loaded


def training_seconds(manifest: dict[str, Any]) -> float | None:
    """Return the time of all attempts of a run; None when one of them has no recorded end."""
    attempts = manifest.get("attempts") or [{}]
    try:
        spans = [(datetime.fromisoformat(a["started_at"]), datetime.fromisoformat(a["ended_at"])) for a in attempts]
    except (KeyError, TypeError, ValueError):
        return None
    return sum((end - start).total_seconds() for start, end in spans)


def _open_tuned(name: str, spec: str, base: str | None) -> Candidate:
    folder = Path(spec)
    kind, wanted = kind_of(folder), KINDS.get(name)
    if wanted and kind != wanted:
        right = next(option for option, its_kind in KINDS.items() if its_kind == kind)
        what = f"--{name}_model {spec} holds an adapter of kind {kind}"
        raise UserError(Problem(what, f"one of kind {wanted}", f"--{right}_model takes it"), ExitCode.CONFIG)
    path = folder / "run.json"
    manifest = read_json(path) if path.is_file() else {}
    base_folder = find_local(base)[0] if base else find_local(spec)[0]
    return Candidate(name, base_folder, as_trained(find_training(folder)), folder.resolve(), manifest)
