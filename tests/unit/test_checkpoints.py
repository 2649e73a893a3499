"""Checkpoints: committed, verified, quarantined, rotated. Run: pytest tests/unit/test_checkpoints.py"""

import errno
import json
import os

import pytest

from common import checkpoints
from common.errors import ExitCode, UserError
from common.hashing import sha256_of

FILES = {"adapter_model.safetensors": b"weights", "optimizer.pt": b"moments", "trainer_state.json": b"{}"}


def make_checkpoint(run_folder, step, *, commit=True):
    folder = run_folder / f"checkpoint-{step}"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content + str(step).encode())
    if commit:
        checkpoints.commit_checkpoint(folder, {"seed": 42})
    return folder


def test_a_commit_lists_every_file(tmp_path):
    folder = make_checkpoint(tmp_path, 3)
    commit = json.loads((folder / "COMMIT.json").read_text())
    assert commit["files"].keys() == FILES.keys()
    assert commit["step"] == 3
    assert checkpoints.find_damage(folder) is None


def test_the_newest_is_chosen_by_step_not_by_time_or_text(tmp_path):
    for step in (10, 9, 2):
        make_checkpoint(tmp_path, step)
    chosen, notes = checkpoints.choose_checkpoint(tmp_path)
    assert chosen.name == "checkpoint-10"
    assert notes == []


@pytest.mark.parametrize("name", [*FILES, "COMMIT.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "emptied", "flipped"])
def test_any_damage_falls_back_to_the_one_before(tmp_path, name, damage):
    make_checkpoint(tmp_path, 1)
    victim = make_checkpoint(tmp_path, 2) / name
    content = victim.read_bytes()
    changed = {"cut": content[:-2], "emptied": b"", "flipped": bytes([content[0] ^ 1]) + content[1:]}
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(changed[damage])
    chosen, notes = checkpoints.choose_checkpoint(tmp_path)
    assert chosen.name == "checkpoint-1"
    assert len(notes) == 1
    assert (tmp_path / "broken-checkpoint-2").is_dir()
    assert not (tmp_path / "checkpoint-2").exists()


def test_a_changed_fingerprint_is_damage_too(tmp_path):
    commit = make_checkpoint(tmp_path, 1) / "COMMIT.json"
    commit.write_text(commit.read_text().replace("42", "43"))
    assert checkpoints.choose_checkpoint(tmp_path)[0] is None


def test_a_file_that_the_disk_cannot_read_is_damage_too(tmp_path, monkeypatch):
    make_checkpoint(tmp_path, 1)
    victim = make_checkpoint(tmp_path, 2) / "optimizer.pt"

    def read(path):
        if path == victim:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return sha256_of(path)

    monkeypatch.setattr(checkpoints, "sha256_of", read)
    chosen, (note,) = checkpoints.choose_checkpoint(tmp_path)
    assert chosen.name == "checkpoint-1"
    assert note == "checkpoint-2: optimizer.pt cannot be read: Input/output error; moved to broken-checkpoint-2"


def test_what_was_never_completed_is_moved_away_and_kept(tmp_path):
    make_checkpoint(tmp_path, 5, commit=False)
    (tmp_path / "broken-checkpoint-5").mkdir()
    chosen, notes = checkpoints.choose_checkpoint(tmp_path)
    assert chosen is None
    assert "never completed" in notes[0]
    assert (tmp_path / "broken-checkpoint-5.1" / "optimizer.pt").is_file()


def test_rotation_keeps_two_and_never_counts_the_uncommitted(tmp_path):
    for step in (1, 2, 3):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 4, commit=False)
    checkpoints.rotate_checkpoints(tmp_path, keep=1)
    assert [folder.name for folder in checkpoints.list_checkpoints(tmp_path)] == [
        "checkpoint-2",
        "checkpoint-3",
        "checkpoint-4",
    ]


def test_what_a_kill_left_half_deleted_goes_with_the_next_rotation(tmp_path):
    make_checkpoint(tmp_path, 1, commit=False)
    for step in (2, 3):
        make_checkpoint(tmp_path, step)
    checkpoints.rotate_checkpoints(tmp_path, keep=2)
    assert [folder.name for folder in checkpoints.list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-3"]


def test_errors_of_the_writers_become_the_disk_error_they_were(tmp_path):
    errors = {
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598"): errno.EIO,
        RuntimeError("basic_ios::clear: iostream error"): errno.EIO,
        Exception("I/O error: No space left on device (os error 28)"): errno.ENOSPC,
    }
    for error, number in errors.items():
        with pytest.raises(OSError) as caught, checkpoints.named_disk_errors(tmp_path):
            raise error
        assert caught.value.errno == number
    with pytest.raises(RuntimeError, match="shape"), checkpoints.named_disk_errors(tmp_path):
        raise RuntimeError("shape mismatch")


def test_differences_are_named(tmp_path):
    folder = make_checkpoint(tmp_path, 1)
    begun = checkpoints.read_commit(folder)["fingerprint"]
    assert checkpoints.compare_fingerprints(begun, {"seed": 42}) == []
    assert checkpoints.compare_fingerprints(begun, {"seed": 43}) == ["seed: was 42, is 43"]


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="GiB needed for a checkpoint.*make resume") as caught:
        checkpoints.require_space(tmp_path, 10**18)
    assert caught.value.exit_code == ExitCode.IO
