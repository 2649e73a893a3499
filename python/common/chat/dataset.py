"""All examples of a data set as token ids: compact, in memory or in a file, one entry an example."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.chat.cache import cache_key, cached
from common.chat.encoder import ID_BITS, encoder_for, unpack
from common.chat.lengths import LengthPolicy
from common.data.examples import Example
from common.errors import ExitCode, Problem, UserError

_BATCH = 256


class EncodedDataset(Sequence):
    """Encoded examples, read like a list of :class:`Encoded`.

    ``tokens`` is uint32 [all tokens], an array or a memory map, the loss mask in the highest bit; ``offsets`` int64
    [examples + 1] says where each begins. ``report`` holds the counts for the manifest.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, report: dict, sources: Sequence[str] = ()):
        self.tokens, self.offsets, self.report, self.sources = tokens, offsets, report, sources

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return unpack(np.asarray(self.tokens[self.offsets[index] : self.offsets[index + 1]]))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [examples]."""
        return np.diff(self.offsets)

    @property
    def max_token_id(self) -> int:
        """The greatest id in the data; the model's embedding must have a row for it."""
        return int((self.tokens & ID_BITS).max(initial=0))

    def summary(self) -> dict:
        """What a run's manifest keeps."""
        return dict(self.report)


def write_encoded(dataset: EncodedDataset, folder: Path) -> None:
    """Write a data set as the files of an entry."""
    dataset.tokens.tofile(folder / "tokens.u32")
    np.save(folder / "offsets.npy", dataset.offsets)
    about = {"report": dataset.report, "sources": list(dataset.sources)}
    (folder / "about.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def open_encoded(entry: Path) -> EncodedDataset:
    """Open an entry; its tokens stay on disk until they are read. Raises ValueError when its parts do not fit."""
    offsets = np.load(entry / "offsets.npy")
    about = json.loads((entry / "about.json").read_text(encoding="utf-8"))
    empty = not offsets[-1]
    tokens = np.empty(0, np.uint32) if empty else np.memmap(entry / "tokens.u32", np.uint32, "r")
    examples = len(offsets) - 1
    if offsets[-1] != len(tokens) or len(about["sources"]) not in (0, examples):  # the pipeline's have no sources
        raise ValueError(f"the files of {entry} do not fit each other")
    return EncodedDataset(tokens, offsets, about["report"], about["sources"])


def encode_examples(
    tokenizer,
    examples: Sequence[Example],
    *,
    max_length_tokens: int,
    on_overlong: str = "error",
    loss_on: str = "assistant",
    model_positions: int | None = None,
    cache_folder: Path | None = None,
) -> EncodedDataset:
    """Encode all examples and apply the length policy (see :mod:`common.chat.lengths`).

    ``model_positions`` is the longest sequence the model knows, if the caller knows it. With ``cache_folder`` the
    result is kept there under a key of everything it depends on, and read from there the next time.

    Raises UserError 65 for examples that cannot be encoded, 78 for a limit the model cannot hold.
    """
    check_limit(tokenizer, max_length_tokens, model_positions)
    policy = LengthPolicy(encoder_for(tokenizer), max_length_tokens, on_overlong, loss_on)
    if cache_folder is None:
        return _encode(policy, examples)
    key = cache_key(policy, examples)
    return cached(cache_folder, key, lambda folder: write_encoded(_encode(policy, examples), folder), open_encoded)


def check_limit(tokenizer, max_length_tokens: int, model_positions: int | None = None) -> None:
    """Raise UserError 78 when the limit is more than the model (or its tokenizer) says it holds."""
    known = [limit for limit in (model_positions, getattr(tokenizer, "model_max_length", None)) if limit]
    if known and max_length_tokens > min(known):
        raise UserError(
            Problem(
                f"max_length_tokens is {max_length_tokens:,}",
                f"the model holds {min(known):,} tokens",
                f"set max_length_tokens to at most {min(known)}",
            ),
            ExitCode.CONFIG,
        )


def _encode(policy: LengthPolicy, examples: Sequence[Example]) -> EncodedDataset:
    tokens, lengths, sources = [np.empty(0, np.uint32)], [np.zeros(1, np.int64)], []
    for start in range(0, len(examples), _BATCH):
        batch = examples[start : start + _BATCH]
        batch_tokens, batch_lengths, kept = policy.encode(batch)
        tokens.append(batch_tokens)
        lengths.append(batch_lengths)
        sources += [example.source for example, is_kept in zip(batch, kept, strict=True) if is_kept]
    policy.report.check(policy.max_length_tokens, policy.on_overlong)
    return EncodedDataset(np.concatenate(tokens), np.cumsum(np.concatenate(lengths)), policy.report.summary(), sources)
