"""Inputs that are no plain text, or too large to keep: made when a case runs, by the number of the case."""

import gzip
import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

DEMO_MODEL = Path(__file__).resolve().parents[2] / "recipes" / "demo" / "model"
ROWS = [
    {"prompt": "What is a fox?", "completion": "A small wild dog."},
    {"prompt": "Where does it live?", "completion": "In a den."},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def make_inputs(number: int, folder: Path) -> None:
    """Write the generated inputs of case ``number`` into ``folder``; most cases have none."""
    maker = _MAKERS.get(number)
    if maker:
        maker(folder)


def _byte_order_mark(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES.encode())


def _carriage_returns(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(LINES.replace("\n", "\r\n").encode())
    (folder / "train.csv").write_bytes(b'prompt,completion\r\nq,"first line\r\nsecond line"\r\nr,b\r\n')


def _latin_1(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(LINES.replace("den", "caf\u00e9").encode("latin-1"))
    (folder / "train.csv").write_bytes("prompt,completion\nq,caf\u00e9\n".encode("latin-1"))
    (folder / "train.json").write_bytes('[\n{"prompt": "q", "completion": "caf\u00e9"}]'.encode("latin-1"))


def _utf_16(folder: Path) -> None:
    (folder / "train.jsonl").write_text(LINES, encoding="utf-16")


def _late_type(folder: Path) -> None:
    _many_rows(folder, lambda n: {"prompt": f"q {n}", "completion": n if n == 20_001 else f"a {n}"})


def _late_column(folder: Path) -> None:
    _many_rows(folder, lambda n: {"prompt": f"q {n}", "completion": f"a {n}"} | ({"extra": "x"} if n > 20_000 else {}))


def _many_rows(folder: Path, make_row) -> None:
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(make_row(number)) + "\n" for number in range(1, 20_011))


def _damaged_text(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(LINES.replace("den", "d\x00en").encode())
    (folder / "half.jsonl").write_bytes(b'{"prompt": "q", "completion": "\\ud83d"}\n')
    (folder / "train.csv").write_bytes(b"prompt,completion\nq,a\x00b\n")


def _endless_line(folder: Path) -> None:
    endless = json.dumps({"prompt": "q", "completion": "word " * 2_400_000})
    (folder / "train.jsonl").write_text(LINES.splitlines(keepends=True)[0] + endless + "\n", encoding="utf-8")
    (folder / "train.csv").write_text("prompt,completion\nq," + "word " * 2_400_000 + "\n", encoding="utf-8")


def _gzip_content(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(gzip.compress(LINES.encode()))


def _secrets(folder: Path) -> None:
    """Put together here, so that no scanner takes the repository's own files for a leak."""
    secrets = ["hf" + "_" + "Ab3" * 12, "AK" + "IA" + "ABCD1234" * 2, "-----BEGIN RSA PRIVATE" + " KEY-----"]
    rows = [{"prompt": f"What is key {n}?", "completion": f"It is {secret} ."} for n, secret in enumerate(secrets)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    mail = {"prompt": "Whom do I ask?", "completion": "Write to jane.doe@example.org please."}
    (folder / "mail.jsonl").write_text(json.dumps(mail) + "\n", encoding="utf-8")


def _no_files(folder: Path) -> None:
    (folder / "folder.jsonl").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "train.txt").write_text(LINES, encoding="utf-8")


def _demo_model(folder: Path) -> Path:
    """Copy the demo model to base/ and return its weights."""
    shutil.copytree(DEMO_MODEL, folder / "base")
    return folder / "base" / "model.safetensors"


def _token_without_a_row(folder: Path) -> None:
    from tokenizers import Tokenizer

    _demo_model(folder)
    path = str(folder / "base" / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_tokens(["zyzzyva"])
    tokenizer.save(path)


def _others_files(folder: Path) -> None:
    _demo_model(folder)
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter-1.txt").write_text("years of work", encoding="utf-8")


def _half_downloaded(folder: Path) -> None:
    os.truncate(_demo_model(folder), 6_000_000)


def _lfs_pointer(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6824536\n"
    _demo_model(folder).write_text(pointer, encoding="utf-8")


def _flipped_byte(folder: Path) -> None:
    weights = _demo_model(folder)
    record = {"size": weights.stat().st_size, "sha256": sha256(weights.read_bytes()).hexdigest()}
    marker = {"model": "org/name", "revision": "abc", "files": {weights.name: record}}
    (weights.parent / "MODEL.json").write_text(json.dumps(marker), encoding="utf-8")
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)


def _missing_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = _demo_model(folder)
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, {"format": "pt"})


def _missing_shards(folder: Path) -> None:
    weights = _demo_model(folder)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    weights.rename(weights.with_name(names[0]))
    index = {"weight_map": {f"tensor.{number}": name for number, name in enumerate(names)}}
    (weights.parent / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


_MAKERS = {
    3: _byte_order_mark,
    4: _carriage_returns,
    7: _latin_1,
    8: _utf_16,
    15: _late_type,
    16: _late_column,
    23: _damaged_text,
    26: _endless_line,
    27: _gzip_content,
    50: _secrets,
    51: _no_files,
    60: _token_without_a_row,
    64: _others_files,
    70: _half_downloaded,
    71: _lfs_pointer,
    72: _flipped_byte,
    73: _missing_tensor,
    74: _missing_shards,
}
