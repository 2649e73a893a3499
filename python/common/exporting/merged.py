"""Merged weights on disk: written, read back, and compared with the base that carries the adapter."""

import gc
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.chat import encode_examples, encode_prompt, stop_token_ids
from common.data import load_examples, parse_columns
from common.data.examples import Message
from common.errors import ExitCode, Problem, UserError
from common.footprint import weights_gib
from common.hardware import GIB, Choice, free_disk_gib, memory_gib
from common.methods.merging import logits_of, merge_adapter, relative_change, require_same
from common.model_files import read_config
from common.models import copy_tokenizer, load_model
from common.runs import ROOT
from common.weights import count_numbers

TRIED_ON = 8  # validation examples, or these prompts where the data are gone
LOGITS_BYTES = 2**29  # of all texts, kept several times over: of long texts the beginnings do
PROMPTS = (
    "What can you help me with?",
    "¿Dónde está la biblioteca?",
    "Write one sentence about the sea.",
    "List three requirements of a login page.",
)
BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Texts:
    """What the logits are compared on: token ids, and where they come from."""

    ids: Sequence[Sequence[int]]
    source: str


def pick_dtype(wanted: str, base: Path) -> Choice:
    """Return "bf16" or "fp32" for the merged weights; "auto" is what the base is kept in, where that is possible."""
    if wanted != "auto":
        return Choice(wanted, "asked for")
    config = read_config(base)
    own = config.get("dtype") or config.get("torch_dtype") or "unknown"
    if own == "bfloat16":
        return Choice("bf16", "as the base")
    return Choice("fp32", "as the base" if own == "float32" else f"the base is in {own}, which bf16 would round")


def check_room(run_folder: Path, base: Path, dtype: str, output: Path, *, trained_on_nf4: bool = False) -> None:
    """Raise UserError (73, 69) unless the merged weights fit on the disk and into memory, in 4 bits beside them too."""
    needed = count_numbers(base) * BYTES[dtype] / GIB
    free, (available, total) = free_disk_gib(output), memory_gib()
    if free < 1.05 * needed + 0.05:
        what = f"{free:.1f} GiB free for {output}, {1.05 * needed + 0.05:.1f} GiB needed"
        raise UserError(Problem(what, next_step="free some space, or OUTPUT=DIR elsewhere"), ExitCode.CANNOT_CREATE)
    in_memory = 1.2 * needed + (weights_gib(read_config(base), "nf4") if trained_on_nf4 else 0.0)
    if available < in_memory:
        what = f"{available:.1f} GiB of memory free, about {in_memory:.1f} GiB needed to merge in {dtype}"
        if dtype == "fp32":
            remedy = "DTYPE=bf16"
        elif in_memory < total:
            remedy = "close other programs"
        else:
            unmerged = f"llama.cpp's convert_lora_to_gguf.py {run_folder} --base {base} takes the run as it is"
            remedy = f"a machine with {in_memory:.1f} GiB; without merging, {unmerged}"
        raise UserError(Problem(what, next_step=remedy), ExitCode.UNAVAILABLE)


def texts_to_try(tokenizer, manifest: dict[str, Any], limit: int) -> Texts:
    """Return validation examples of the run, or prompts where they cannot be read.

    An example of more than ``limit`` tokens is left out; a long one counts with its beginning.
    """
    kept = LOGITS_BYTES // (4 * len(tokenizer) * TRIED_ON)
    settings = manifest["settings"]["data"]
    path = manifest["data"].get("validation", {}).get("path")
    try:
        loaded = load_examples(
            ROOT / path if path else "",
            columns=parse_columns(settings["columns"]) if settings.get("columns") else None,
            on_bad_row="drop",
            allow_empty=True,
            allow_duplicates=True,
            allow_secrets=True,
        )
        encoded = encode_examples(tokenizer, loaded.examples[:TRIED_ON], max_length_tokens=limit, on_overlong="drop")
        ids = [example.input_ids[:kept] for example in encoded]
    except (UserError, OSError):
        ids = []
    if ids:
        return Texts(ids, f"{len(ids)} validation examples of the run")
    ids = [encode_prompt(tokenizer, [Message("user", prompt)])[: min(kept, limit)] for prompt in PROMPTS]
    return Texts(ids, f"{len(ids)} prompts: the run has no validation data that can be read")


def save_merged(base: Path, run_folder: Path, folder: Path, texts: Texts, dtype: str, *, trained_on_nf4: bool) -> dict:
    """Write the merged model of a run into ``folder`` and return what the comparison of its logits gave.

    What is compared is what was saved: it is read back, and its logits over ``texts`` are held against those of the
    base that carries the adapter. Raises UserError (70) when they differ by more than the precision explains.
    """
    from common.models import load_tokenizer

    merge = merge_adapter(base, run_folder, texts.ids, precision=dtype, trained_on_nf4=trained_on_nf4)
    tokenizer = load_tokenizer(run_folder)
    set_stops(merge.model, tokenizer)
    merge.model.save_pretrained(folder, max_shard_size="5GB")
    found, unmerged = merge.as_dict(), merge.unmerged
    del merge
    gc.collect()  # one model in memory at a time

    write_tokenizer(run_folder, base, folder, tokenizer)
    saved = logits_of(load_model(folder, dtype), texts.ids)
    found["largest_change"] = relative_change(saved, unmerged)
    found["largest_difference"] = max((a - b).abs().max().item() for a, b in zip(saved, unmerged, strict=True))
    require_same(found["largest_change"], dtype)
    return found


def set_stops(model, tokenizer) -> None:
    """Have generation end at the template's end of turn, at the end of the sequence, and where the base ends it."""
    stops = stop_token_ids(tokenizer, model.generation_config.eos_token_id)
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.bos_token_id is not None:
        model.generation_config.bos_token_id = tokenizer.bos_token_id


def write_tokenizer(run_folder: Path, base: Path, folder: Path, tokenizer) -> None:
    """Write the run's tokenizer, byte for byte but for ``add_bos_token``, and the base's sentencepiece file.

    Converters to GGUF read from ``add_bos_token`` whether a server puts BOS before a prompt, and some need the
    sentencepiece file.
    """
    copy_tokenizer(run_folder, folder)
    if (base / "tokenizer.model").is_file():
        shutil.copyfile(base / "tokenizer.model", folder / "tokenizer.model")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"add_bos_token": begins_with_bos(tokenizer)}
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def begins_with_bos(tokenizer) -> bool:
    """True when every prompt of this tokenizer's chat template begins with BOS."""
    ids = encode_prompt(tokenizer, [Message("user", "?")])
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
