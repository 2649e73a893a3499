"""Whole data sets: the length policy, counts for the manifest, the cache, and the pipeline for large files.

pytest tests/unit/test_chat_dataset.py
"""

import copy
import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from chat_tokenizers import demo_tokenizer, mistral_tokenizer

from common.chat import cache as cache_module
from common.chat import encode_example, encode_examples, encode_prompt
from common.chat.dataset import open_encoded
from common.chat.pipeline import Sink, process_file
from common.chat.separation import compare_files
from common.chat.worker import FileJob
from common.data import Example, Message, load_examples
from common.data.checking import Rules
from common.data.files import open_data_file
from common.data.leaks import check_leaks
from common.data.splits import split_shares
from common.errors import ExitCode, UserError


def conversation(*contents: str, source: str = "t.jsonl:1") -> Example:
    roles = ("user", "assistant") * len(contents)
    return Example(tuple(map(Message, roles, contents)), source=source)


def some_examples(count: int = 30) -> list[Example]:
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(["fox", "dog", "jumps", "over", "</s>", "é😀"]) for _ in range(words))

    return [conversation(text(rng.randint(1, 30)), text(rng.randint(1, 20)), source=f"t:{n}") for n in range(count)]


def test_a_data_set_holds_what_each_example_encodes_to():
    tokenizer, examples = demo_tokenizer(), some_examples()
    dataset = encode_examples(tokenizer, examples, max_length_tokens=1400)
    expected = [encode_example(tokenizer, example) for example in examples]
    assert list(dataset) == expected
    assert dataset[-1] == expected[-1]
    assert dataset[2:4] == expected[2:4]
    assert dataset.lengths.tolist() == [len(encoded) for encoded in expected]
    summary = dataset.summary()
    assert summary["encoded"] == len(dataset) == 30
    assert summary["tokens"] == sum(len(encoded) for encoded in expected)
    assert summary["trained_tokens"] == sum(sum(encoded.completion_mask) for encoded in expected)
    assert summary["longest_tokens"] == max(len(encoded) for encoded in expected)
    assert json.loads(json.dumps(summary)) == summary
    with pytest.raises(IndexError):
        dataset[30]


def test_loss_on_all_trains_every_token():
    dataset = encode_examples(demo_tokenizer(), some_examples(5), max_length_tokens=1400, loss_on="all")
    assert all(all(encoded.completion_mask) for encoded in dataset)


def test_overlong_is_an_error_that_lists_the_longest():
    examples = [
        *some_examples(5),
        conversation("fox", "dog " * 300, source="t:6"),
        conversation("a " * 900, "b", source="t:7"),
    ]
    with pytest.raises(UserError, match=r"2 of 7 examples exceed max_length_tokens=200; the longest: t:7") as caught:
        encode_examples(demo_tokenizer(), examples, max_length_tokens=200)
    assert "t:6" in str(caught.value)
    assert caught.value.exit_code == ExitCode.DATA


def test_dropped_examples_are_named_in_the_manifest():
    examples = [*some_examples(5), conversation("fox", "dog " * 300, source="t:6")]
    dataset = encode_examples(demo_tokenizer(), examples, max_length_tokens=200, on_overlong="drop")
    assert len(dataset) == 5
    assert dataset.sources == [f"t:{n}" for n in range(5)]
    assert dataset.summary()["overlong_dropped"] == 1
    assert dataset.summary()["overlong_dropped_rows"] == ["t:6"]


def test_truncation_takes_from_the_prompt_and_never_from_the_answer():
    tokenizer = mistral_tokenizer()
    system = Message("system", "Be brief.")
    turns = (Message("user", "first"), Message("assistant", "one"), Message("user", "w " * 60 + "end"))
    answer = Message("assistant", "the whole answer stays")
    long = Example((system, *turns, answer), source="t:1")
    full = encode_example(tokenizer, long)
    trained = [i for i, is_trained in zip(full.input_ids, full.completion_mask, strict=True) if is_trained]
    for limit in (len(full) - 1, 60, 40):
        dataset = encode_examples(tokenizer, [long], max_length_tokens=limit, on_overlong="truncate-prompt")
        (short,) = dataset
        kept = [i for i, is_trained in zip(short.input_ids, short.completion_mask, strict=True) if is_trained]
        assert limit - 10 <= len(short) <= limit, "as much of the prompt stays as fits"
        assert trained[-len(kept) :] == kept
        text = tokenizer.decode(short.input_ids)
        assert "Be brief." in text
        assert text.endswith("end [/INST] the whole answer stays</s>")
        assert "first" not in text, "earlier turns go first"
        assert dataset.summary()["prompts_truncated"] == 1
    with pytest.raises(UserError, match="the answers of 1 examples alone exceed max_length_tokens=14: t:1"):
        encode_examples(
            tokenizer,
            [conversation("q", "dog " * 20, source="t:1"), conversation("q", "a")],
            max_length_tokens=14,
            on_overlong="truncate-prompt",
        )


def test_a_limit_beyond_the_model_is_a_configuration_error():
    with pytest.raises(UserError, match="the model holds 64 tokens") as caught:
        encode_examples(demo_tokenizer(), some_examples(), max_length_tokens=65, model_positions=64)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_the_cache_gives_the_same_and_is_never_stale(tmp_path, monkeypatch):
    tokenizer, examples = copy.deepcopy(demo_tokenizer()), some_examples()

    def encode(**options):
        return encode_examples(tokenizer, examples, **({"max_length_tokens": 500} | options), cache_folder=tmp_path)

    def entries() -> int:
        assert not list(tmp_path.glob(".*")), "no half-made entry stays"
        return len(list(tmp_path.iterdir()))

    first = encode()
    assert list(encode()) == list(first) == list(encode_examples(tokenizer, examples, max_length_tokens=500))
    assert encode().summary() == first.summary()
    assert encode().sources == first.sources
    assert entries() == 1
    encode(max_length_tokens=499)
    encode(loss_on="all")
    encode(on_overlong="drop")
    assert entries() == 4
    examples[3] = conversation("fox", "another dog")
    encode()
    assert entries() == 5
    tokenizer.chat_template = tokenizer.chat_template.replace("[INST] ", "[INST]")
    encode()
    assert entries() == 6
    tokenizer.add_tokens(["jumps"])
    assert encode()[0] != first[0] or "jumps" not in examples[0].prompt
    assert entries() == 7
    monkeypatch.setattr(cache_module, "code_version", lambda: "newer code")
    encode()
    assert entries() == 8


def _cut_words(path):
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tokens.u32", _cut_words),
        ("tokens.u32", Path.unlink),
        ("offsets.npy", _cut_words),
        ("offsets.npy", lambda path: np.save(path, np.load(path)[:-1])),
        ("about.json", Path.unlink),
        ("about.json", _cut_words),
    ],
)
def test_a_damaged_entry_of_the_cache_is_made_anew(tmp_path, name, damage):
    options = {"max_length_tokens": 500, "cache_folder": tmp_path}
    expected = list(encode_examples(demo_tokenizer(), some_examples(), **options))
    (entry,) = tmp_path.iterdir()
    damage(entry / name)
    assert list(encode_examples(demo_tokenizer(), some_examples(), **options)) == expected
    assert list(open_encoded(entry)) == expected and list(tmp_path.iterdir()) == [entry]


@pytest.mark.parametrize("changed", ["chat/encoder.py", "data/shapes.py"])
def test_the_code_version_is_that_of_all_code_that_makes_tokens(tmp_path, monkeypatch, changed):
    common = Path(cache_module.__file__).parents[1]
    for room in ("chat", "data"):
        shutil.copytree(common / room, tmp_path / room)
    monkeypatch.setattr(cache_module, "__file__", str(tmp_path / "chat" / "cache.py"))
    code_version = cache_module.code_version.__wrapped__
    assert code_version() == cache_module.code_version()
    with (tmp_path / changed).open("a") as file:
        file.write("# changed")
    assert code_version() != cache_module.code_version()


def test_an_interrupted_encoding_leaves_no_entry(tmp_path):
    examples = [*some_examples(3), conversation("fox", "dog " * 300)]
    with pytest.raises(UserError):
        encode_examples(demo_tokenizer(), examples, max_length_tokens=140, cache_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def rows_file(tmp_path):
    rng = random.Random(9)
    path = tmp_path / "train.jsonl"
    rows = [
        {
            "prompt": f"Question {n} " + "fox " * rng.randint(1, 30),
            "completion": f"Answer {n} 😀 " + "dog " * rng.randint(1, 30),
        }
        for n in range(400)
    ]
    rows[5] = {"prompt": "long", "completion": "dog " * 400}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_the_pipeline_gives_what_the_plain_way_gives(rows_file, tmp_path, workers):
    tokenizer, shares = demo_tokenizer(), split_shares(0.7)
    job = FileJob("train.jsonl", Rules(), tokenizer, 300, "drop", shares=shares, seed=3, write_rows=True)
    folder = tmp_path / "out"
    folder.mkdir()
    outcome = process_file(open_data_file(rows_file), job, folder, workers=workers, allow_leak=True, block_bytes=5000)
    loaded = load_examples(rows_file)
    whole = encode_examples(tokenizer, loaded.examples, max_length_tokens=300, on_overlong="drop")
    by_source = dict(zip(whole.sources, whole, strict=True))
    assert outcome.report.summary() == whole.summary()
    assert outcome.report.dropped == ["train.jsonl:6"]
    seen, parts = [], {}
    for name in shares:
        rows = np.load(folder / name / "rows.npy")
        dataset = open_encoded(folder / name)
        assert [by_source[f"train.jsonl:{row}"] for row in rows] == list(dataset)
        assert outcome.sizes[name] == len(dataset) > 0
        parts[name] = load_examples(folder / f"{name}.jsonl").examples
        assert [e.messages for e in parts[name]] == [loaded.examples[row - 1].messages for row in rows]
        assert rows.tolist() == sorted(rows)
        seen += rows.tolist()
    assert sorted(seen) == [n for n in range(1, 401) if n != 6], "every row is in exactly one split"
    assert outcome.leaks.counts() == check_leaks(parts, allow_leak=True)
    assert not (folder / "ngrams.u64").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_separate_files_are_compared_as_examples_in_memory_are(rows_file, tmp_path, workers):
    lines = rows_file.read_text().splitlines(keepends=True)
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    passage = " ".join(f"w{n}" for n in range(20))
    lines[3] = json.dumps({"prompt": "A passage", "completion": f"so {passage}"}) + "\n"
    lines[310] = json.dumps({"prompt": "Another", "completion": f"{passage} ends"}) + "\n"
    lines[360] = lines[301]
    paths["train"].write_text("".join(lines[:300]))
    paths["validation"].write_text("\n" + "".join(lines[300:350]))
    paths["test"].write_text("".join(lines[350:]))
    loaded = {name: load_examples(path).examples for name, path in paths.items()}
    with pytest.raises(UserError) as plain:
        check_leaks(loaded)
    with pytest.raises(UserError) as caught:
        compare_files(paths, Rules(), workers=workers)
    assert str(caught.value) == str(plain.value)
    assert "validation.jsonl:12 (validation) repeats a passage of 20 words of train.jsonl:4 (train)" in str(
        caught.value
    )
    assert "test.jsonl:11 (test) is the same as validation.jsonl:3 (validation)" in str(caught.value)
    report = compare_files(paths, Rules(), workers=workers, allow_leak=True)
    assert report.counts() == check_leaks(loaded, allow_leak=True)


def test_adding_rows_moves_no_old_row(rows_file, tmp_path):
    def split(path, folder):
        folder.mkdir()
        job = FileJob(path.name, Rules(), shares=split_shares(0.7), seed=3, write_rows=True)
        process_file(open_data_file(path), job, folder, allow_leak=True)
        return {name: set((folder / f"{name}.jsonl").read_text().splitlines()) for name in job.shares}

    before = split(rows_file, tmp_path / "before")
    more = tmp_path / "more.jsonl"
    new = "".join(json.dumps({"prompt": f"New {n}", "completion": f"Row {n}"}) + "\n" for n in range(100))
    more.write_text(new + rows_file.read_text())
    after = split(more, tmp_path / "after")
    for name, rows in before.items():
        assert rows < after[name]


def test_errors_of_workers_are_those_of_one_process(rows_file, tmp_path):
    lines = rows_file.read_text().splitlines()
    for n in range(300, 330):
        lines[n] = '{"prompt": "q"}'
    rows_file.write_text("\n".join(lines))
    said = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        with pytest.raises(UserError) as caught:
            process_file(
                open_data_file(rows_file),
                FileJob("train.jsonl", Rules(), demo_tokenizer(), 900),
                folder,
                workers=workers,
            )
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith("train.jsonl:301: field 'completion' is missing")
    assert said[0].endswith(
        "… and 10 more — leave such rows out: --on-bad-row drop (make inspect ON_BAD_ROW=drop; "
        "when training: --set data.on_bad_row=drop, with make SET=data.on_bad_row=drop)"
    )


def test_a_prompt_for_use_is_the_beginning_of_the_training_example():
    tokenizer = mistral_tokenizer()
    for example in some_examples():
        prompt = encode_prompt(tokenizer, [message.as_dict() for message in example.prompt_messages])
        assert encode_example(tokenizer, example).input_ids[: len(prompt)] == prompt


@pytest.mark.parametrize("workers", [0, 2])
def test_a_large_file_gives_what_a_list_of_examples_gives(rows_file, tmp_path, workers):
    tokenizer, folder = demo_tokenizer(), tmp_path / "out"
    folder.mkdir()
    job = FileJob("train.jsonl", Rules(), tokenizer, 300, "drop")
    outcome = process_file(open_data_file(rows_file), job, folder, workers=workers)
    dataset, loaded = open_encoded(folder / "train"), load_examples(rows_file)
    plain = encode_examples(tokenizer, loaded.examples, max_length_tokens=300, on_overlong="drop")
    assert list(dataset) == list(plain)
    assert dataset.summary() == plain.summary()
    found = {"rows": outcome.checker.rows, "shape": outcome.checker.shape(), "notes": outcome.notes}
    assert found.items() <= loaded.summary().items()
    assert sum(outcome.checker.shapes.values()) == loaded.summary()["examples"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
@pytest.mark.parametrize("write_rows", [True, False])
def test_a_full_disk_is_told_with_its_folder(rows_file, tmp_path, monkeypatch, write_rows):
    real_open = Sink._open

    def open_full(sink, name, path):
        real_open(sink, name, Path("/dev/full"))

    monkeypatch.setattr(Sink, "_open", open_full)
    job = FileJob("train.jsonl", Rules(), demo_tokenizer(), 900, write_rows=write_rows, write_tokens=not write_rows)
    with pytest.raises(UserError, match=f"cannot write in {tmp_path}") as caught:
        process_file(open_data_file(rows_file), job, tmp_path)
    assert caught.value.exit_code == ExitCode.IO


def test_a_killed_worker_is_an_error_and_no_hang(rows_file, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    job = FileJob("train.jsonl", Rules(), KillsItsProcess(), 300)
    with pytest.raises(UserError, match="a worker process was killed") as caught:
        process_file(open_data_file(rows_file), job, folder, workers=2)
    assert caught.value.exit_code == ExitCode.UNAVAILABLE


class KillsItsProcess:
    """Stands for a tokenizer; its process dies, as by the out-of-memory killer, when it is unpacked there."""

    def __reduce__(self):
        return kill_this_process, ()


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)
