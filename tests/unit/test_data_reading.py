"""Files and rows: every format gives the same rows, with their numbers, whatever the size of the blocks.

pytest tests/unit/test_data_reading.py
"""

import json
import random

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import Example, load_examples
from common.data.checks import TextFindings
from common.data.files import open_data_file
from common.data.json_rows import ArrayReader
from common.data.meter import meter
from common.data.rows import iter_blocks, rows_of
from common.errors import ExitCode, UserError
from common.hashing import sha256_of

ROWS = [{"prompt": f"q{i} «é» 😀\u2028", "completion": f'a,"{i}"\nsecond line'} for i in range(57)]


def write(path, rows):
    kind = path.suffix
    if kind == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif kind == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    elif kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        import csv

        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize(("kind", "first"), [("jsonl", 1), ("json", 1), ("csv", 2), ("tsv", 2), ("parquet", 1)])
def test_every_format_gives_the_same_examples(tmp_path, kind, first):
    path = write(tmp_path / f"train.{kind}", ROWS)
    loaded = load_examples(path)
    expected = [(row["prompt"], row["completion"]) for row in ROWS]
    assert [(example.prompt, example.completion) for example in loaded] == expected
    assert [example.source for example in loaded] == [f"train.{kind}:{n}" for n in range(first, first + len(ROWS))]
    assert loaded.sha256 == sha256_of(path)
    assert (loaded.rows, loaded.shape, loaded.notes) == (57, "prompt/completion", [])


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1000, 1 << 20])
def test_blocks_of_any_size_give_the_same_rows(tmp_path, block_bytes):
    path = write(tmp_path / "train.jsonl", ROWS)
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\r\n\n", 3).rstrip())
    file = open_data_file(path)
    rows = [row for block in iter_blocks(file, 1000, block_bytes) for row in rows_of(block, 1000)]
    assert [row for _, row in rows] == ROWS
    assert [number for number, _ in rows] == [2, 4, 6, *range(8, 62)]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_blocks_add_up_to_the_file(tmp_path, kind):
    file = open_data_file(write(tmp_path / f"train.{kind}", ROWS * 60))
    sizes = [block.size_bytes for block in iter_blocks(file, 1000, 1 << 16)]
    assert sum(sizes) == file.size_bytes and sizes[0] > 0 and len(sizes) > 3


def test_no_time_is_foretold_from_nothing(monkeypatch, capsys):
    monkeypatch.setattr("common.data.meter._LINE_EVERY_S", 0)
    with meter("reading", 1000) as advance:
        advance(0)
        advance(1000)
    assert capsys.readouterr().err.splitlines() == ["reading: 0%", "reading: 100%, about 0 s left"]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 300))
def test_an_array_is_read_the_same_in_any_pieces(tmp_path_factory, seed, piece):
    rng = random.Random(seed)
    rows = [
        {"a": "x" * rng.randint(0, 40), "n": rng.choice([1, -2.5e3, None, True, [1, {"b": "]"}]])} for _ in range(9)
    ]
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(rows, indent=rng.choice([None, 2]), ensure_ascii=False))

    class Slow:
        def __init__(self, file):
            self.file = file

        def read(self, _):
            return self.file.read(piece)

    with path.open("rb") as file:
        assert list(ArrayReader(Slow(file), 10_000)) == list(enumerate(rows, 1))


def test_nested_parquet_columns_are_messages(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    loaded = load_examples(write(tmp_path / "chat.parquet", [{"messages": turns}]))
    assert [message.as_dict() for message in loaded.examples[0].messages] == turns


@pytest.mark.parametrize("value", [7, 1.5, True, None])
def test_parquet_values_that_are_not_text_are_errors(tmp_path, value):
    path = write(tmp_path / "train.parquet", [{"prompt": "q", "completion": value}])
    with pytest.raises(UserError, match=r"train\.parquet:1: field 'completion' is "):
        load_examples(path)


def test_a_cut_parquet_file_is_an_error(tmp_path):
    path = write(tmp_path / "train.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a complete Parquet file") as caught:
        load_examples(path)
    assert caught.value.exit_code == ExitCode.DATA


def test_an_unreadable_file_is_no_input(tmp_path):
    path = write(tmp_path / "train.jsonl", ROWS)
    path.chmod(0)
    try:
        path.open("rb").close()
    except PermissionError:
        with pytest.raises(UserError, match="permission denied") as caught:
            load_examples(path)
        assert caught.value.exit_code == ExitCode.NO_INPUT
    else:
        pytest.skip("this user reads every file")


def test_messages_from_a_file_cannot_drive_the_terminal(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"\x1b[2Jevil\nname": "x"}) + "\n")
    with pytest.raises(UserError) as caught:
        load_examples(path)
    assert "\\x1b[2Jevil\\nname" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_huge_json_integer_is_a_row_error(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "q", "completion": "a", "n": ' + "9" * 5000 + "}\n")
    with pytest.raises(UserError, match=r"train\.jsonl:1: not readable JSON"):
        load_examples(path)
    array = tmp_path / "train.json"
    array.write_text(f"[\n{path.read_text()}]")
    with pytest.raises(UserError, match=r"train\.json: line 2: not valid JSON: Exceeds the limit"):
        load_examples(array)


@pytest.mark.parametrize(
    ("name", "start", "says"),
    [
        ("my data.csv.gz", b"\x1f\x8b", "gunzip -c '{}' > plain.csv"),
        ("train.jsonl", b"PK\x03\x04", "unzip -p {} > plain.jsonl"),
        ("my data.csv", b"\xff\xfe", "iconv -f UTF-16 -t UTF-8 '{}' > utf8.csv"),
        ("data.xlsx", b"PK\x03\x04", "a spreadsheet — text is read — save it as CSV UTF-8"),
        ("broken.csv", b'"a"x,b\n', "broken.csv: line 1: ',' expected .* look at row 1"),
    ],
)
def test_what_is_no_text_file_is_told_with_the_way_to_one(tmp_path, name, start, says):
    path = tmp_path / name
    path.write_bytes(start)
    with pytest.raises(UserError, match=says.format(path)):
        load_examples(path)


def test_signs_of_windows_read_as_latin_1_are_control_characters():
    findings = TextFindings()
    findings.check(Example(text="\x93quoted\x94"))
    assert findings.control.count == 1


def test_a_mail_address_beside_an_endless_word_is_found():
    """Looked for from each of its characters on, such a word takes minutes."""
    findings = TextFindings()
    for text in ("@" + "a" * 300_000, "a" * 300_000 + " jane.doe@example.org"):
        findings.check(Example(text=text))
    assert findings.mails.count == 1


def test_deep_nesting_is_a_row_error(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": ' + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"train\.jsonl:1: not readable JSON"):
        load_examples(path)
