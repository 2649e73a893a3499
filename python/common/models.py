"""Base models and tokenizers: found on this machine, checked file by file, loaded safely.

Only safetensors are read, no code of a model is run, and nothing is fetched: fetching is `make download`. A tensor that
is missing or unexpected is an error, not a warning.
"""

import json
import os
import re
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event, Thread
from typing import Any

from common import hardware, process_memory, weights
from common.errors import ExitCode, Problem, UserError
from common.hashing import sha256_of
from common.runs import ROOT, read_json, runs_dir
from common.settings import ModelSettings

MARKER = "MODEL.json"  # written last by a download: file → size and sha256
PACKABLE = ("mistral", "llama", "phi3", "qwen2", "qwen3")  # each held against one-by-one training by a test
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_GIVE_BACK_S = 2.0  # between two times: what is read meanwhile stays below a GiB
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def hub_id(name: str) -> str | None:
    """Return ``name`` if it looks like a model's id on the hub (org/name), else None."""
    return name if _HUB_ID.fullmatch(name) and not name.startswith((".", "/")) else None


def model_folder(name: str) -> Path:
    """Return the folder in runs/models/ that `make download` gives to hub model ``name``."""
    return runs_dir() / "models" / name.replace("/", "--")


def find_model(settings: ModelSettings) -> Path:
    """Return the folder that holds the model: a folder as named, runs/models/, or the hub's own cache.

    Raises UserError (66) with the command that fetches it, or (78) when another revision lies there.
    """
    name, revision = settings.name, settings.revision
    for folder in (Path(name), ROOT / name):
        if folder.is_dir():
            return folder
    if not hub_id(name):
        problem = Problem(f"no model folder '{name}'", "a folder, or a hub id as in org/name", "check the path")
        raise UserError(problem, ExitCode.NO_INPUT)
    folder = model_folder(name)
    if (folder / MARKER).is_file():
        _require_revision(folder, revision)
    if folder.is_dir() and not check_model_folder(folder):
        return folder  # without a marker it was copied here by hand: complete, of a revision nobody can tell
    cached = _find_in_hub_cache(name, revision)
    if cached:
        return cached
    fetch = f"make download MODEL={name}" + (f" REVISION={revision}" if revision else "")
    state = "is only half here" if folder.is_dir() else "is not on this machine"
    raise UserError(Problem(f"model {name} {state}", f"it belongs in {folder}", f"run: {fetch}"), ExitCode.NO_INPUT)


def read_marker(folder: Path) -> dict[str, Any]:
    """Return what `make download` recorded of a model: its hub id, revision, and each file's size and sha256."""
    return read_json(folder / MARKER)


def check_model_folder(folder: Path) -> list[Problem]:
    """Return what is wrong with the files in ``folder``; an empty list when it can be loaded.

    Looks at names, sizes and safetensors headers only, so it is quick for any size.
    """
    if not (folder / "config.json").is_file():
        what, allowed = f"{folder} holds no config.json", "a model folder in the hub's layout is needed"
        return [Problem(what, allowed, "copy all its files")]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return [Problem(f"{folder} holds no tokenizer", "tokenizer.json is needed", "copy it from the model's page")]
    kind = read_config(folder).get("model_type")
    if not _is_known(kind):
        what = f"{folder} is a model of type '{kind}', which transformers does not know"
        return [Problem(what, "code that comes with a model is never run", "choose a model of a known type")]
    shards, problems = weights.list_weight_files(folder)
    return problems + [problem for shard in shards if (problem := weights.check_safetensors(shard))]


def _is_known(model_type: str | None) -> bool:
    if model_type in PACKABLE:
        return True
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def hash_model_files(folder: Path) -> dict[str, str]:
    """Return file name → sha256 of everything in ``folder`` that decides what the model computes."""
    names = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors", ".jinja", ".model")]
    return {path.name: sha256_of(path) for path in names if path.name != MARKER}


def verify_hashes(folder: Path, hashes: dict[str, str]) -> None:
    """Raise UserError (66) when a file's hash differs from the one that the download recorded."""
    marker = folder / MARKER
    if not marker.is_file():
        return
    recorded = read_marker(folder)["files"]
    remedy = f"delete {folder} and run make download again"
    problems = [
        Problem(f"{folder / name} is not the file that was downloaded", "its sha256 differs", remedy)
        for name, digest in hashes.items()
        if name in recorded and recorded[name]["sha256"] != digest
    ]
    if problems:
        raise UserError(problems, ExitCode.NO_INPUT)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the model's config.json."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(f"cannot read {folder / 'config.json'}: {error}", next_step="copy or download it again")
        raise UserError(problem, ExitCode.NO_INPUT) from None


def why_no_packs(config: dict[str, Any]) -> str | None:
    """Return why a model of this config cannot run packs of examples, or None when it can."""
    kind = config.get("model_type")
    return None if kind in PACKABLE else f"its attention ({kind}) is none of {', '.join(PACKABLE)}"


def is_plain(config: dict[str, Any]) -> bool:
    """True for a model whose tensors lie in its files under the names, and in the shapes, that the model has."""
    return config.get("model_type") in PACKABLE and "quantization_config" not in config


def load_tokenizer(folder: Path):
    """Return the tokenizer of a model or run folder. A missing pad token becomes EOS: padding is masked everywhere."""
    quieten_libraries()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.chat_template is None:
        what, allowed = f"the tokenizer in {folder} has no chat template", "an instruction-tuned model is needed"
        raise UserError(Problem(what, allowed, "use the model's instruct form"), ExitCode.CONFIG)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer from one folder to another, byte for byte."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def load_model(
    folder: Path,
    precision: str = "fp32",
    device: str = "cpu",
    compute: str = "auto",
    device_map: str | dict | None = None,
):
    """Return the causal language model in ``folder`` with its weights in ``precision`` (bf16, fp16, fp32 or nf4).

    ``compute`` says in what weights in nf4 are multiplied, and kept where they are not quantised. All of it is on
    ``device``, unless a ``device_map`` as transformers knows it spreads it.
    Raises UserError (66) for missing, unexpected or misshapen tensors and for files that cannot be read.
    """
    quieten_libraries()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if hardware.pick_device().value == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where a library imports it, warns of no GPU
    problems = check_model_folder(folder)
    if problems:
        raise UserError(problems, ExitCode.NO_INPUT)
    kind = hardware.pick_compute(compute, precision, device).value
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[kind]
    options: dict[str, Any] = {"dtype": dtype}
    if precision == "nf4":
        options["quantization_config"] = _nf4_config(dtype)
    if device != "cpu":
        options["device_map"] = {"": device}
    if device_map:
        options["device_map"] = device_map
    few_stay = precision == "nf4" and device == "cpu" and not device_map  # of what is read from the files
    if few_stay:
        process_memory.return_freed_memory()
    try:
        with _give_back_pages(folder) if few_stay else nullcontext():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, with all that is wrong, instead of a traceback
                **options,
            )
    except (SafetensorError, OSError) as error:
        problem = Problem(f"cannot load the model in {folder}: {error}", next_step="copy or download it again")
        raise UserError(problem, ExitCode.NO_INPUT) from error
    wrong = [f"{kind.replace('_', ' ')}: {sorted(map(str, info[kind]))[:5]}" for kind in info if info[kind]]
    if wrong:
        what = f"the weights in {folder} do not fit the model: {'; '.join(wrong)}"
        raise UserError(Problem(what, "every tensor, and no other", "copy or download it again"), ExitCode.NO_INPUT)
    if few_stay:  # a tensor that lies in a file's mapping keeps all of the file's pages
        for weight in model.parameters():
            if weight.is_floating_point():
                weight.data = weight.data.clone()
    return model


@contextmanager
def _give_back_pages(folder: Path):
    """While the files in ``folder`` are read, give back what was read of them, again and again."""
    done = Event()

    def give_back() -> None:
        while not done.wait(_GIVE_BACK_S):
            process_memory.give_back_pages(folder)

    helper = Thread(target=give_back, daemon=True)
    helper.start()
    try:
        yield
    finally:
        done.set()
        helper.join()


def quieten_libraries() -> None:
    """No progress bars, load reports or hints about optional kernels: what matters is checked and said here."""
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _nf4_config(dtype):
    """NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), computing in ``dtype``."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _require_revision(folder: Path, revision: str | None) -> None:
    have = read_marker(folder)["revision"]
    if revision and have != revision:
        what = f"{folder} holds revision {have}, the recipe asks for {revision}"
        remedy = f"delete the folder and run make download again, or set model.revision={have}"
        raise UserError(Problem(what, next_step=remedy), ExitCode.CONFIG)


def _find_in_hub_cache(name: str, revision: str | None) -> Path | None:
    """Return the snapshot of ``name`` in the hub's cache if it is complete enough to have a config and weights."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return None if check_model_folder(folder) else folder
