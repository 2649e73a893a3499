"""One block of a data file from raw lines to tokens, hashes and a split: what each process of the pipeline does."""

import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from common.chat.encoder import ChatEncoder
from common.chat.lengths import LengthPolicy, LengthReport
from common.data.checking import RowChecker, Rules
from common.data.examples import Example
from common.data.fingerprints import fingerprint
from common.data.leaks import hash_texts
from common.data.overlaps import is_sampled
from common.data.rows import Block, rows_of
from common.data.splits import split_of
from common.errors import ExitCode, Problem, UserError


@dataclass(frozen=True, slots=True)
class FileJob:
    """What is to be done with every block of a file. Without a tokenizer nothing is encoded."""

    name: str
    rules: Rules
    tokenizer: object = None
    max_length_tokens: int = 0
    on_overlong: str = "error"
    loss_on: str = "assistant"
    shares: Mapping[str, float] = field(default_factory=lambda: {"train": 1.0})
    seed: int = 0
    write_rows: bool = False
    write_tokens: bool = True
    placed_in: str = ""  # the split of every row; by its hash, unless given
    phrase_stride: int = 1  # one training row in so many gives its phrases, for the leak check


@dataclass(slots=True)
class Part:
    """What became of one block. Arrays have one entry a usable row, ``lengths`` only one for each encoded row."""

    checker: RowChecker
    report: LengthReport | None = None
    numbers: np.ndarray = None  # row numbers in the file
    splits: np.ndarray = None  # index into the shares
    fingerprints: np.ndarray = None  # uint64 [rows, 3]
    kept: np.ndarray = None  # which rows were encoded
    tokens: np.ndarray = None
    lengths: np.ndarray = None
    ngrams: np.ndarray = None
    ngram_lengths: np.ndarray = None  # of each text
    phrases: np.ndarray = None
    phrase_lengths: np.ndarray = None  # of each text
    texts: np.ndarray = None  # texts of each row
    lines: list[bytes] = field(default_factory=list)
    error: tuple[list[Problem], ExitCode] | None = None


class Worker:
    """Does the job block after block."""

    def __init__(self, job: FileJob):
        self.job = job
        self.encoder = ChatEncoder(job.tokenizer) if job.tokenizer is not None else None

    def work(self, block: Block) -> Part:
        checker = RowChecker(self.job.name, self.job.rules)
        examples, numbers = [], []
        for number, row in rows_of(block, self.job.rules.max_row_chars):
            example = checker.check(number, row)
            if example is not None:
                examples.append(example)
                numbers.append(number)
        part = Part(checker.detach(), numbers=np.array(numbers, np.int64))
        try:
            self._summarise(part, examples)
            self._encode(part, examples)
        except UserError as error:  # which does not travel between processes by itself
            part.error = (error.problems, error.exit_code)
            return part
        if self.job.write_rows:
            part.lines = [write_row(example) for example in examples]
        return part

    def _summarise(self, part: Part, examples: list[Example]) -> None:
        prints, words = [], []
        for example in examples:
            hashes, normalised = fingerprint(example)
            prints.append(hashes)
            words.append(normalised)
        names = list(self.job.shares)
        job = self.job
        split_names = (job.placed_in or split_of(each.prompt, job.shares, job.seed) for each in prints)
        part.splits = np.fromiter(map(names.index, split_names), np.uint8, len(prints))
        part.fingerprints = np.array(prints, np.uint64).reshape(-1, 3)
        if len(names) > 1:
            speaks = (part.splits > 0) | is_sampled(part.numbers, job.phrase_stride)
            part.ngrams, lengths, part.phrases, phrase_lengths, part.texts = hash_texts(words, speaks)
            part.ngram_lengths, part.phrase_lengths = lengths.astype(np.uint32), phrase_lengths.astype(np.uint32)

    def _encode(self, part: Part, examples: list[Example]) -> None:
        """Encode; in ``examples``, those that got a shorter prompt take the place of the originals."""
        part.kept = np.ones(len(examples), bool)
        if self.encoder is None or not examples:
            part.lengths = np.zeros(len(examples), np.int64)
            return
        job = self.job
        policy = LengthPolicy(self.encoder, job.max_length_tokens, job.on_overlong, job.loss_on)
        part.tokens, part.lengths, part.kept = policy.encode(examples)
        part.report = policy.report
        for at, shorter in policy.shortened.items():
            examples[at] = shorter
        if not job.write_tokens:
            part.tokens = None


def write_row(example: Example) -> bytes:
    """An example as a line of JSONL in normal form: ``messages``, or ``text`` for running text."""
    if example.messages:
        row = {"messages": [message.as_dict() for message in example.messages]}
    else:
        row = {"text": example.text}
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


_worker: Worker | None = None


def start(job: FileJob) -> None:
    """Make this process's worker (the initialiser of a pool)."""
    global _worker
    _worker = Worker(job)
    gc.freeze()  # what is here stays; and a row makes thousands of short-lived objects, none of them in a cycle
    gc.set_threshold(200_000, 20, 100)


def work(block: Block) -> Part:
    """Do a block with this process's worker."""
    return _worker.work(block)
