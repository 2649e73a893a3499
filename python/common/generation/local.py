"""Local models as arms. Arms of one base share its weights: the adapter is switched on and off, never loaded twice."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

from common.data.examples import Message
from common.errors import ExitCode, Problem, UserError
from common.generation.answers import Answer, Decoding, Request, without_thought
from common.generation.decoding import BatchDecoder, Row, noise_seed
from common.hardware import pick_compute, pick_device, pick_precision, pick_threads

# A step of a small model is shorter than it takes threads to meet. On two cores, 22 answers of a 4 M parameter model
# took 2.0 s with one thread, 2.0 (fp32) to 4.8 s (bf16) with two, and 16 s with two while the machine had other work.
SMALL_MODEL = 50_000_000
PACKAGES = ("torch", "transformers", "peft")


def find_training(folder: Path) -> dict:
    """Return run.json of a run, or of one of its checkpoints; of a published adapter what its training_info.json tells
    in its place; {} of any other folder."""
    from common.runs import read_json

    for path in (folder / "run.json", folder.parent / "run.json"):
        if path.is_file():
            return read_json(path)
    info = folder / "training_info.json"
    precision = read_json(info).get("precision") if info.is_file() else None
    return {"model": {"precision": precision}} if precision else {}


def as_trained(manifest: dict) -> dict[str, str]:
    """Return how a :class:`LocalModel` computes as the run of ``manifest`` did: precision, device and compute.

    Where the run's device is not here, or no run says one, on the one that is picked here. Raises UserError (69, 78)
    for a precision that this machine has not.
    """
    settings = manifest.get("settings", {})
    trained_on, model = settings.get("training", {}).get("device", "auto"), settings.get("model", {})
    try:
        device = pick_device(trained_on).value
    except UserError:
        device = pick_device().value
    precision = manifest.get("model", model).get("precision", "auto")
    compute = model.get("compute", "auto") if trained_on in ("auto", device) else "auto"
    compute = "auto" if compute == "int8" else compute  # rounding is the training's: what is used afterwards is judged
    return {"precision": pick_precision(precision, device).value, "device": device, "compute": compute}


class LocalModel:
    """A base model, and perhaps one adapter on it; loaded when first asked."""

    def __init__(
        self, folder: Path, precision: str = "fp32", adapter: Path | None = None, *, device: str = "auto",
        compute: str = "auto",
    ):  # fmt: skip
        self.folder = Path(folder)
        self.precision = precision
        self.adapter = Path(adapter) if adapter else None
        self._device = device
        self._compute = compute

    @cached_property
    def device(self) -> str:
        return pick_device(self._device).value

    @cached_property
    def compute(self) -> str:
        """In what frozen weights are multiplied."""
        return pick_compute(self._compute, self.precision, self.device).value

    @cached_property
    def tokenizer(self):
        """The base model's: training saves the same one beside the adapter."""
        from common.models import load_tokenizer

        return load_tokenizer(self.folder)

    @cached_property
    def model(self):
        import torch

        from common.methods import check_adapter, load_adapter
        from common.models import load_model

        if self.adapter:
            check_adapter(self.adapter, self.folder)
        model = load_model(self.folder, self.precision, self.device, self.compute).eval()
        small = model.num_parameters() < SMALL_MODEL
        torch.set_num_threads(1 if small else pick_threads().value)
        return load_adapter(model, self.adapter) if self.adapter else model

    @cached_property
    def stop_ids(self) -> list[int]:
        """End of turn and end of sequence by the template, and what the model itself names."""
        from common.chat import stop_token_ids

        return stop_token_ids(self.tokenizer, self.model.generation_config.eos_token_id)

    def decoder(self, batch_size: int | None = None) -> BatchDecoder:
        return BatchDecoder(self.model, self.stop_ids, self.tokenizer.pad_token_id, batch_size=batch_size)

    @cached_property
    def max_positions(self) -> int:
        """The longest sequence of real tokens: those that p-tuning puts before it take room, too."""
        from common.model_files import read_config
        from common.runs import read_json

        limit = read_config(self.folder).get("max_position_embeddings") or 2**31
        taken = read_json(self.adapter / "adapter_config.json").get("num_virtual_tokens") if self.adapter else 0
        return limit - (taken or 0)

    @cached_property
    def base_hashes(self) -> dict[str, str]:
        from common.model_files import hash_model_files

        return hash_model_files(self.folder)

    @cached_property
    def adapter_hashes(self) -> dict[str, str]:
        from common.hashing import sha256_of
        from common.methods.kinds import CONFIG_FILE, WEIGHTS_FILE

        names = (CONFIG_FILE, WEIGHTS_FILE) if self.adapter else ()
        return {name: sha256_of(self.adapter / name) for name in names}

    def require_base_of(self, manifest: dict) -> None:
        """Raise UserError (78) unless the base model's files are those that the run of ``manifest`` was trained on."""
        wanted = manifest.get("model", {}).get("files", {}) if self.adapter else {}
        changed = [name for name, digest in wanted.items() if self.base_hashes.get(name) != digest]
        if changed:
            raise UserError(
                Problem(f"{self.folder} is not the model that {self.adapter} was trained on",
                        f"changed: {', '.join(sorted(changed)[:5])}", "train again, or bring the base model back"),
                ExitCode.CONFIG,
            )  # fmt: skip


class LocalArm:
    """A local model that answers, with its adapter or without."""

    def __init__(self, name: str, model: LocalModel, *, use_adapter: bool = False, batch_size: int | None = None):
        if use_adapter and model.adapter is None:
            raise ValueError("this model has no adapter")
        self.name = name
        self._local = model
        self._use_adapter = use_adapter
        self._batch_size = batch_size

    @cached_property
    def identity(self) -> dict:
        """What decides the answers: hashes of weights, tokenizer and adapter, how is computed, library versions."""
        in_4_bits = self._local.precision == "nf4"
        packages = (*PACKAGES, "bitsandbytes") if in_4_bits else PACKAGES
        return {
            "kind": "local",
            "precision": self._local.precision,
            **({"compute": self._local.compute} if in_4_bits else {}),
            **({"device": self._local.device} if self._local.device != "cpu" else {}),
            "base_sha256": self._local.base_hashes,
            "adapter_sha256": self._local.adapter_hashes if self._use_adapter else {},
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }

    @property
    def description(self) -> dict:
        """Where it came from, for reports; not part of the identity, for a folder may be moved."""
        adapter = str(self._local.adapter) if self._use_adapter else None
        return {"model": str(self._local.folder), "adapter": adapter, "precision": self._local.precision}

    def answer(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[list[tuple[Request, Answer]]]:
        """Yield answered requests batch by batch, in no particular order."""
        rows = self.rows(requests, decoding)
        model = self._local.model
        decoder = self._local.decoder(self._batch_size)
        plain = self._local.adapter is not None and not self._use_adapter
        for_each_batch = decoder.decode(rows, decoding.temperature)
        while True:
            # Only while a batch runs: between batches another arm may use the same weights.
            with model.disable_adapter() if plain else nullcontext():
                batch = next(for_each_batch, None)
            if batch is None:
                return
            yield [(requests[row.index], self._finish(row)) for row in batch]

    def check(self, conversations: Sequence[Sequence[Message]], sources: Sequence[str]) -> None:
        """Raise UserError (65) naming the ``sources`` of prompts that fill the model's context. Loads no weights."""
        from common.chat import encode_prompt

        limit = self._local.max_positions
        lengths = [len(encode_prompt(self._local.tokenizer, messages)) for messages in conversations]
        advice = (f"the model reads at most {limit}", "use fewer demonstrations, or another model")
        problems = [
            Problem(f"{self.name}: {source}: a prompt of {length} tokens", *advice)
            for source, length in zip(sources, lengths, strict=True)
            if length >= limit
        ]
        if problems:
            raise UserError(problems[:20], ExitCode.DATA)

    def rows(self, requests: Sequence[Request], decoding: Decoding) -> list[Row]:
        """Encode the requests as training does. An answer ends where the model's context does, if it comes so far."""
        from common.chat import encode_prompt

        limit = self._local.max_positions
        rows = []
        for index, request in enumerate(requests):
            prompt = encode_prompt(self._local.tokenizer, request.messages)
            seed = noise_seed(prompt, decoding.seed, request.sample) if decoding.temperature > 0 else None
            rows.append(Row(index, prompt, min(decoding.max_new_tokens, max(1, limit - len(prompt))), seed))
        return rows

    def _finish(self, row: Row) -> Answer:
        text = self._local.tokenizer.decode(row.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(without_thought(text), row.finish_reason, len(row.prompt), len(row.tokens))
