"""The export folder: made beside its place under another name, moved there when all of it is there and verified."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import psutil

from common.checkpoints import named_disk_errors
from common.errors import ExitCode, Problem, UserError
from common.exporting import serving
from common.exporting.merged import save_merged, texts_to_try
from common.exporting.ollama import modelfile
from common.exporting.plan import Plan
from common.exporting.turns import learn_turns, token_note
from common.hashing import sha256_of
from common.methods.kinds import CONFIG_FILE, WEIGHTS_FILE
from common.model_files import read_config
from common.models import load_tokenizer
from common.runs import read_json, utc_now, write_json
from common.runs.folders import sync_files, sync_folder

_VERSIONS = ("torch", "transformers", "peft", "safetensors")


def make_export(plan: Plan) -> dict[str, Any]:
    """Write the export of ``plan`` and return what its export.json records. After an error nothing is left behind."""
    with _place(plan.output) as draft:
        merged, adapter = draft / "merged", draft / "adapter"
        merged.mkdir()
        adapter.mkdir()
        tokenizer = load_tokenizer(plan.run_folder)
        positions = read_config(plan.base).get("max_position_embeddings") or 2048
        limit = min(positions, plan.manifest["settings"]["data"]["max_length_tokens"])
        texts = texts_to_try(tokenizer, plan.manifest, limit)
        with named_disk_errors(plan.output):
            found = save_merged(
                plan.base, plan.run_folder, merged, texts, plan.dtype.value, trained_on_nf4=plan.trained_on_nf4
            )
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(plan.run_folder / name, adapter / name)
        notes = write_modelfiles(plan, draft, tokenizer, positions)
        notes += filter(None, [token_note(tokenizer)])
        (draft / "README.md").write_text(serving_page(plan, draft, notes), encoding="utf-8")
        record = {
            "run": plan.name,
            "base": plan.base_name,
            "revision": plan.manifest["settings"]["model"].get("revision"),
            "dtype": plan.dtype.value,
            "trained_on_nf4": plan.trained_on_nf4,
            "compared_on": texts.source,
            **found,
            "notes": notes,
            "versions": {name: version(name) for name in _VERSIONS},
            "created_at": utc_now(),
            "files": {
                str(path.relative_to(draft)): sha256_of(path) for path in sorted(draft.rglob("*")) if path.is_file()
            },
        }
        write_json(draft / "export.json", record)
    return record


def write_modelfiles(plan: Plan, draft: Path, tokenizer, positions: int) -> list[str]:
    """Write both forms of the Modelfile; return what a user has to know of them."""
    try:
        turns = learn_turns(tokenizer)
    except UserError as error:
        return [f"No Modelfile: {error.problems[0]}."]
    eos = read_json(draft / "merged" / "generation_config.json")["eos_token_id"]
    stops = tokenizer.convert_ids_to_tokens(eos if isinstance(eos, list) else [eos])
    notes = [note for note in (serving.ollama_note(plan),) if note]
    if turns.strips:
        roles = ", ".join(sorted(turns.strips))
        notes.append(f"The chat template takes white space off the ends of what {roles} say; Ollama's cannot.")
    bos = f"BOS ({tokenizer.bos_token}) is put before the text by the server" if turns.starts_with_bos else "no BOS"
    shared = (f"The text of a conversation is what '{plan.name}' was trained with; {bos}.", *notes)
    sources = {
        "merged": ["FROM ."],
        "adapter": [f"FROM {os.path.relpath(plan.base, plan.output / 'adapter')}", "ADAPTER ."],
    }
    for form, source in sources.items():
        text = modelfile(source, turns, stops, context=positions, comments=shared)
        (draft / form / "Modelfile").write_text(text, encoding="utf-8")
    return notes


def serving_page(plan: Plan, draft: Path, notes: list[str]) -> str:
    """Return the README.md of the export in ``draft``: how each form is served."""
    vllm, ollama, gguf = serving.vllm_lines(plan), serving.ollama_lines(plan, draft), serving.gguf_lines(plan)
    return _PAGE.substitute(
        name=plan.name,
        base=plan.base_name,
        dtype=plan.dtype.value,
        notes="".join(f"\n- {note}" for note in notes),
        **{f"vllm_{form}": line for form, line in vllm.items()},
        ollama_rows="".join(f"\n| Ollama | {form} | `{line}` |" for form, line in ollama.items()),
        about_ollama=_ABOUT_OLLAMA * bool(ollama),
        **{f"gguf_{form}": line for form, line in gguf.items()},
    )


@contextmanager
def _place(output: Path) -> Iterator[Path]:
    """Yield a folder to write in; when the block ends without an error it becomes ``output``."""
    draft = output.with_name(f".{output.name}.making-{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(output)
        draft.mkdir()
    except OSError as error:
        problem = Problem(f"cannot write in {output.parent} ({error.strerror})", next_step="OUTPUT=DIR")
        raise UserError(problem, ExitCode.CANNOT_CREATE) from error
    try:
        yield draft
        _move(draft, output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, output: Path) -> None:
    mode = (draft / "README.md").stat().st_mode  # the user's umask; safetensors makes its files for the owner alone
    for path in draft.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    sync_files(draft)
    old = output.with_name(f"{draft.name}.old")
    if output.exists():
        output.rename(old)
    draft.rename(output)
    sync_folder(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(output: Path) -> None:
    """Remove what killed exports have left; put back an export that was moved aside for one that never came."""
    for path in output.parent.glob(f".{output.name}.making-*"):
        pid = path.name.split("-")[-1].removesuffix(".old")
        if pid.isdigit() and psutil.pid_exists(int(pid)):
            continue
        if path.name.endswith(".old") and not output.exists():
            path.rename(output)
        else:
            shutil.rmtree(path, ignore_errors=True)


_PAGE = Template("""# $name, exported

Tuned from `$base`. `merged/` is a whole model in $dtype; `adapter/` holds the LoRA alone, to be put on the base.
`export.json` tells how far the logits of the merged model are from those of the base that carries the adapter.
Run the commands in this folder.
$notes

| server | form | command |
|---|---|---|
| vLLM | merged | `$vllm_merged` |
| vLLM | adapter | `$vllm_adapter` |$ollama_rows
| transformers | merged | `transformers serve` and model `merged` |

GGUF, for llama.cpp and for what Ollama does not read itself, with a clone of https://github.com/ggml-org/llama.cpp in
the place of LLAMA_CPP:

```bash
$gguf_merged
$gguf_adapter
```
$about_ollama
Answers end at the stop tokens of `generation_config.json` everywhere.
""")
_ABOUT_OLLAMA = """
Ollama's template writes the text that the model was trained with and no BOS, which the server puts there. Ask it
through `/api/chat` or `/v1/chat/completions`."""
