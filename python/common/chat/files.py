"""A data file too large for a list of examples: encoded into the cache by several processes, read row by row."""

import json
from dataclasses import asdict
from pathlib import Path

from common.chat.cache import cached, combine
from common.chat.dataset import EncodedDataset, check_limit, open_encoded
from common.chat.encoder import encoder_for
from common.chat.lengths import LengthPolicy
from common.chat.pipeline import process_file
from common.chat.worker import FileJob
from common.data.checking import Rules
from common.data.files import open_data_file
from common.data.loading import check_unchanged
from common.hashing import sha256_of


def encode_file(
    tokenizer,
    path: str | Path,
    *,
    cache_folder: Path,
    max_length_tokens: int,
    on_overlong: str = "error",
    loss_on: str = "assistant",
    rules: Rules | None = None,
    model_positions: int | None = None,
    workers: int | None = None,
) -> tuple[EncodedDataset, dict]:
    """Check and encode a whole file; return (the data set, what a manifest keeps of the file).

    Gives what ``load_examples`` and ``encode_examples`` give, without an object for each row: tokens stay on disk, in
    ``cache_folder``, under a key of the file's hash, the rules, the tokenizer, the limits and this code. Raises
    UserError as they do.
    """
    rules = rules or Rules()
    check_limit(tokenizer, max_length_tokens, model_positions)
    file = open_data_file(path)
    sha256 = sha256_of(file.path)
    policy = LengthPolicy(encoder_for(tokenizer), max_length_tokens, on_overlong, loss_on)
    key = combine(policy, json.dumps([file.name, file.format, sha256, asdict(rules)]))
    job = FileJob(file.name, rules, tokenizer, max_length_tokens, on_overlong, loss_on)

    def fill(folder: Path) -> None:
        outcome = process_file(file, job, folder, workers=workers)
        check_unchanged(file.path, sha256)
        summary = {
            "rows": outcome.checker.rows,
            "examples": sum(outcome.checker.shapes.values()),
            "shape": outcome.checker.shape(),
            "sha256": sha256,
            "notes": outcome.notes,
        }
        (folder / "file.json").write_text(json.dumps(summary, ensure_ascii=False), encoding="utf-8")

    entry = cached(Path(cache_folder), key, fill)
    summary = {"path": str(path)} | json.loads((entry / "file.json").read_text(encoding="utf-8"))
    return open_encoded(entry / "train"), summary
