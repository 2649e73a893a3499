"""Bad inputs 52 to 90 that no command line shows: what happens around a training, and while it runs.

pytest tests/bad/test_bad_conditions.py -k _65_
"""

import errno
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cooking import STEPS, ask_to_stop, patched
from make_inputs import DEMO_MODEL

from common import checks, hardware

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).resolve().parents[2]
SPARE_BYTES = 300_000  # less than a checkpoint takes, and enough for a line in a log


def ends_as_undisturbed(kitchen, name="stopped") -> bool:
    code, said = kitchen.resume(name)
    assert code == 0, said
    return kitchen.adapter(name) == kitchen.adapter("finished")


@pytest.fixture
def size_limit():
    """A function that limits the size of files this process may write; the limit goes with the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path, spare_bytes: int = 0) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\1" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(file.tell() - spare_bytes)


def test_52_a_resume_with_data_that_changed_in_place(kitchen):
    path = kitchen.data / "train.jsonl"
    before, manifest = path.read_bytes(), kitchen.read("stopped", "run.json")
    path.write_bytes(before.replace(b"wild", b"tame"))
    try:
        code, said = kitchen.resume("stopped")
    finally:
        path.write_bytes(before)
    assert code == 78 and "error: data.train" in said and "FORCE=1" in said, said
    assert kitchen.read("stopped", "run.json") == manifest
    assert not (kitchen.runs / "stopped" / "DONE.json").exists()
    assert ends_as_undisturbed(kitchen)


def test_52_data_that_a_resume_was_forced_to_take_did_not_change_afterwards(kitchen):
    path = kitchen.data / "train.jsonl"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"wild", b"tame"))
    try:
        code, said = kitchen.resume("stopped", "--force")
    finally:
        path.write_bytes(before)
    assert code == 0 and "changed after it was read" not in said, said
    assert kitchen.read("stopped", "DONE.json")["data_changed"] == []


def test_52_data_that_cannot_be_read_any_more_at_the_end_fails_nothing(kitchen):
    from common import artifacts
    from common.data import loading
    from common.hashing import sha256_of

    path, ended = kitchen.data / "train.jsonl", []

    def read(file):
        if ended and Path(file) == path:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(file))
        return sha256_of(file)

    at_the_end = kitchen.at_step(STEPS, ended.append, "on_train_end")
    with patched(loading, "sha256_of", read), patched(artifacts, "sha256_of", read), at_the_end:
        code, said = kitchen.resume("stopped")
    assert code == 0 and f"warning: {path} can no longer be read (Stale file handle)" in said, said
    assert kitchen.read("stopped", "DONE.json")["data_changed"] == ["train"]
    assert kitchen.adapter("stopped") == kitchen.adapter("finished")


def test_59_padding_that_is_the_end_token_leaves_the_end_trained(tmp_path):
    """The stock collator masks every pad token, so that with pad = eos a model never learns to stop."""
    from common.batches import IGNORED, pad
    from common.chat import encode_examples
    from common.data.examples import Example, Message
    from common.models import load_tokenizer

    folder = shutil.copytree(DEMO_MODEL, tmp_path / "base")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "pad_token"}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    examples = [Example((Message("user", "q"), Message("assistant", answer))) for answer in ("a", "a b c d")]
    encoded = encode_examples(tokenizer, examples, max_length_tokens=64)
    batch = pad(encoded[:], tokenizer.pad_token_id)
    for row, example in enumerate(encoded):
        assert batch["labels"][row, len(example) - 1] == tokenizer.eos_token_id
        assert (batch["labels"][row, len(example) :] == IGNORED).all()


def test_61_another_base_than_the_one_it_began_with(kitchen):
    manifest = kitchen.read("stopped", "run.json")
    base = shutil.copytree(DEMO_MODEL, kitchen.runs.parent / "base")
    (base / "generation_config.json").write_text("{}")
    manifest["settings"]["model"]["name"] = str(base)
    (kitchen.runs / "stopped" / "run.json").write_text(json.dumps(manifest))
    code, said = kitchen.resume("stopped")
    assert code == 78 and "error: model.generation_config.json: was" in said and "FORCE=1" in said


def test_61_an_adapter_is_not_judged_on_another_base(kitchen):
    from common.errors import ExitCode, UserError
    from common.generation.local import LocalModel

    manifest, adapter = kitchen.read("finished", "run.json"), kitchen.runs / "finished"
    base = shutil.copytree(DEMO_MODEL, kitchen.runs.parent / "base")
    LocalModel(base, "fp32", adapter).require_base_of(manifest)
    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    with pytest.raises(UserError, match=r"is not the model that .*finished was trained on.*config\.json") as caught:
        LocalModel(base, "fp32", adapter).require_base_of(manifest)
    assert caught.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize("larger", ["adapter_model.safetensors", "optimizer.pt"])
def test_65_a_save_that_cannot_be_written(kitchen, size_limit, larger):
    size = (kitchen.runs / "stopped" / "checkpoint-4" / larger).stat().st_size
    with kitchen.at_step(3, lambda run: size_limit(size - 1)):
        code, said = kitchen.train("full")
    size_limit(resource.RLIM_INFINITY)
    assert code == 74 and "error: cannot write" in said and "make resume RUN=full" in said, said
    assert kitchen.read("full", "status.json")["state"] == "failed"
    assert (kitchen.runs / "full" / "checkpoint-2" / "COMMIT.json").is_file()
    assert not (kitchen.runs / "full" / "checkpoint-3").exists()
    assert ends_as_undisturbed(kitchen, "full")


def test_65_a_disk_that_runs_full(kitchen, small_disk):
    with kitchen.at_step(3, lambda run: fill(small_disk)):
        code, said = kitchen.train("full", "--output", str(small_disk / "run"))
    assert code == 74 and "make resume" in said, said
    assert (small_disk / "run" / "checkpoint-2" / "COMMIT.json").is_file()
    (small_disk / "ballast").unlink()
    assert ends_as_undisturbed(kitchen, "full")


@pytest.mark.parametrize(
    ("at", "words"), [((0, "on_train_begin"), "cannot write"), ((3, "on_step_end"), "GiB needed for a checkpoint")]
)
def test_65_a_disk_without_room_for_a_checkpoint(kitchen, small_disk, at, words):
    """The first is begun in vain; where one was saved, its size tells before the next, and in a resumed run too."""
    words_of_start = ("--output", str(small_disk / "run"), "--set", "training.save_every_minutes=60")
    saved = 2 if at[0] else 0
    for place, start in (
        (at, lambda: kitchen.train("full", *words_of_start)),
        ((saved, "on_train_begin"), lambda: kitchen.resume("full")),
    ):
        with kitchen.at_step(place[0], lambda run: fill(small_disk, SPARE_BYTES), place[1]):
            code, said = start()
        assert code == 74 and words in said and "make resume" in said, said
        status = kitchen.read("full", "status.json")
        assert (status["state"], status["exit_code"]) == ("failed", 74)
        assert [path.name for path in small_disk.glob("run/*checkpoint-*")] == [f"checkpoint-{saved}"] * bool(saved)
        (small_disk / "ballast").unlink()
    assert ends_as_undisturbed(kitchen, "full")


def test_65_a_disk_without_room_for_another_file(kitchen, small_disk):
    def use_up(_):
        disk = os.statvfs(small_disk)
        remount(small_disk, f"nr_inodes={disk.f_files - disk.f_ffree}")

    with kitchen.at_step(3, use_up):
        code, said = kitchen.train("full", "--output", str(small_disk / "run"))
    assert code == 74 and "No space left on device" in said and "make resume" in said, said
    assert (small_disk / "run" / "checkpoint-2" / "COMMIT.json").is_file()
    remount(small_disk, "nr_inodes=0")
    assert ends_as_undisturbed(kitchen, "full")


@pytest.mark.parametrize("words", [(), ("--set", "training.keep_epochs=true")])
def test_65_a_tokenizer_that_cannot_be_written(kitchen, words):
    """The tokenizers' library has no error of its own for it."""
    from transformers import PreTrainedTokenizerBase

    def fail(*_, **__):
        raise Exception("No space left on device (os error 28)")

    with patched(PreTrainedTokenizerBase, "save_pretrained", fail):
        code, said = kitchen.train("full", *words)
    assert code == 74 and "error: cannot write" in said and "make resume RUN=full" in said, said
    assert not [path.name for path in (kitchen.runs / "full").iterdir() if path.name in (".final", ".epoch")]
    assert ends_as_undisturbed(kitchen, "full")


def test_66_a_log_that_cannot_be_written(small_disk, monkeypatch):
    fake = [sys.executable, str(ROOT / "tests" / "scripts" / "fake_training.py"), "--run", "x"]
    monkeypatch.setenv("RECETARIO_RUNS", str(small_disk))
    monkeypatch.setenv("TMPDIR", "/nowhere")
    run = subprocess.Popen([*fake, "--set", "steps=100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (small_disk / "x" / "step").exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    fill(small_disk)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 74 and "Traceback" not in said, said
    (small_disk / "ballast").unlink()
    done = json.loads((small_disk / "x" / "step").read_text())["step"]
    again = [*fake, "--resume", "--set", f"steps={done + 1}"]
    assert subprocess.run(again, capture_output=True, check=False).returncode == 0


def test_67_a_disk_that_is_mounted_to_be_read(kitchen, small_disk):
    remount(small_disk, "ro")
    code, said = kitchen.train("never", "--output", str(small_disk / "run"))
    assert code == 73 and f"cannot write in {small_disk}: Read-only file system" in said
    assert not (kitchen.runs / "never").exists()


def test_68_a_limit_for_the_size_of_files(kitchen, size_limit):
    size_limit(1_000_000)
    code, said = kitchen.train("limited")
    assert code == 74 and "files may have 1.0 MiB here" in said and "ulimit -f unlimited" in said
    assert not (kitchen.runs / "limited").exists()


def test_75_a_gpu_that_is_not_here(kitchen):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    code, said = kitchen.train("gpu", "--set", "training.device=cuda")
    assert code == 69 and "cuda" in said
    assert not (kitchen.runs / "gpu").exists()


def test_76_too_little_memory_is_said_before_the_model_is_loaded(kitchen):
    with patched(hardware, "memory_gib", lambda device: (0.4, 0.5)):
        code, said = kitchen.train("small")
        again, said_again = kitchen.resume("stopped")
    assert code == again == 69 and "0.4 of 0.5 GiB free" in said
    assert "a new run" not in said and "0.4 of 0.5 GiB free — a new run with" in said_again, said_again
    assert not (kitchen.runs / "small").exists()


def test_77_and_84_a_training_opens_no_port_and_asks_no_network(kitchen):
    def refuse(*_):
        raise AssertionError("a training has no business with sockets")

    with patched(socket.socket, "connect", refuse), patched(socket.socket, "bind", refuse):
        code, said = kitchen.train("alone")
    assert code == 0, said
    assert kitchen.adapter("alone") == kitchen.adapter("finished")


def test_84_a_download_without_a_network(tmp_path):
    environment = os.environ | {"RECETARIO_RUNS": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, str(ROOT / "python" / "download_model.py"), "org/name"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 69 and "Traceback" not in done.stderr, done.stderr


def test_code_that_comes_with_a_model_is_never_run(kitchen):
    base, ran = shutil.copytree(DEMO_MODEL, kitchen.runs.parent / "base"), kitchen.runs.parent / "ran"
    (base / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    for name, maps in (
        ("config.json", {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.OwnTokenizer", None]}),
    ):
        (base / name).write_text(json.dumps(json.loads((base / name).read_text()) | {"auto_map": maps}))
    words = ("--recipe", "demo", "--run", "own", "--check", "--base-model", str(base))
    assert kitchen.cook(*words)[0] == 0, "a known type: what is in transformers is used"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    code, said = kitchen.cook(*words)
    assert code == 66 and "is a model of type 'own'" in said and "never run" in said
    assert not ran.exists()


@pytest.mark.parametrize(("method", "step"), [("on_train_begin", 0), ("on_prediction_step", 2), ("on_save", 3)])
def test_81_a_stop_in_the_load_in_an_evaluation_in_a_save(kitchen, method, step):
    def stop_twice(run):
        ask_to_stop(run)
        os.kill(os.getpid(), 15)

    with kitchen.at_step(step, stop_twice, method):
        code, said = kitchen.train("asked")
    assert code == 75 and "make resume RUN=asked" in said, said
    assert kitchen.read("asked", "status.json")["state"] == "stopped"
    assert kitchen.read("asked", "status.json").get("step", 0) <= step
    assert not (kitchen.runs / "asked" / "stop-request").exists()
    assert ends_as_undisturbed(kitchen, "asked")


def test_82_a_clock_that_jumps(kitchen):
    real = time.time
    jumps = iter(range(10**9))
    with patched(time, "time", lambda: real() - 86_400 * (next(jumps) % 3)):
        with kitchen.at_step(3, ask_to_stop):
            code, said = kitchen.train("jumping")
        assert code == 75, said
        status = kitchen.read("jumping", "status.json")
        assert 0 <= status["elapsed_s"] < 600 and status["tokens_per_s"] > 0
    for step, age_s in ((2, 0), (3, 10**6)):
        os.utime(kitchen.runs / "jumping" / f"checkpoint-{step}", (real() - age_s, real() - age_s))
    code, said = kitchen.resume("jumping")
    assert code == 0 and "resuming at step 3" in said
    assert kitchen.adapter("jumping") == kitchen.adapter("finished")


def test_85_packages_that_are_not_those_of_the_lock(kitchen, capsys):
    import doctor

    with patched(checks, "locked_versions", lambda: {"torch": "0.0.1", "peft": "0.0.2"}):
        code, said = kitchen.train("drift")
        with patched(sys, "argv", ["doctor.py", "demo"]):
            assert doctor.main() != 0
    assert "✗ versions" in (found := capsys.readouterr().out) and "requirements.lock says 0.0.1" in found
    assert code == 78 and "requirements.lock says 0.0.1 — make setup" in said and "error: peft" in said
    assert not (kitchen.runs / "drift").exists()


def test_86_another_processor_than_it_began_on(kitchen):
    manifest = kitchen.read("stopped", "run.json")
    manifest["hardware"]["cpu"] = "Z80"
    (kitchen.runs / "stopped" / "run.json").write_text(json.dumps(manifest))
    code, said = kitchen.resume("stopped")
    assert code == 0 and "warning: machine.cpu: was 'Z80'" in said
    assert kitchen.read("stopped", "run.json")["breaks"][0].startswith("machine.cpu: was 'Z80'")


def test_87_odd_surroundings(kitchen):
    odd = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "TZ": "Nowhere/X",
        "TMPDIR": "/nowhere",
    }  # no HOME, no TERM, no USER
    odd["RECETARIO_RUNS"] = str(kitchen.runs.parent / "a b" / "ü")
    words = ["--recipe", "demo", "--run", "odd", "--train", str(kitchen.data / "train.jsonl")]
    words += [
        "--val",
        str(kitchen.data / "validation.jsonl"),
        "--set",
        "training.max_steps=2",
        "--set",
        "training.threads=1",
    ]
    words += ["--set", "training.warmup_steps=0"]
    command = [sys.executable, str(ROOT / "python" / "finetune_ba.py"), *words]
    done = subprocess.run(command, env=odd, capture_output=True, text=True, umask=0, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    folder = Path(odd["RECETARIO_RUNS"]) / "odd"
    assert (folder / "DONE.json").is_file()
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.rglob("*")])


def test_89_a_loss_that_is_not_finite(kitchen):
    from common.recipe_trainer import RecipeTrainer

    original = RecipeTrainer.sum_loss

    def diverge(trainer, part, *beginning):
        return original(trainer, part, *beginning) * (float("nan") if trainer.state.global_step == 3 else 1)

    with patched(RecipeTrainer, "sum_loss", diverge):
        code, said = kitchen.train("nan")
    assert code == 70 and "the loss is nan at step 4" in said and "mend the data and make resume FORCE=1" in said
    names = {path.name for path in (kitchen.runs / "nan").glob("checkpoint-*")}
    assert names == {"checkpoint-2", "checkpoint-3"} and STEPS > 4
    assert ends_as_undisturbed(kitchen, "nan")


def test_89_weights_that_are_not_finite_are_never_committed(kitchen):
    """The loss was finite and its gradient was not, in a step that is saved and not logged."""
    from common.recipe_trainer import RecipeTrainer

    original = RecipeTrainer.sum_loss

    def diverge(trainer, part, *beginning):
        loss = original(trainer, part, *beginning)
        return loss + 0 * (loss * 0).sqrt() if trainer.state.global_step == 3 and loss.requires_grad else loss

    with patched(RecipeTrainer, "sum_loss", diverge):
        code, said = kitchen.train("nan", "--set", "training.log_every_steps=10")
    assert code == 70 and "the trained weights are not finite at step 4" in said, said
    committed = {path.parent.name for path in (kitchen.runs / "nan").glob("checkpoint-*/COMMIT.json")}
    assert committed == {"checkpoint-2", "checkpoint-3"}
    assert ends_as_undisturbed(kitchen, "nan")


def test_a_kill_between_a_checkpoint_and_the_note_of_its_epoch_loses_no_epoch(kitchen):
    """The checkpoint is committed, epoch_info.json is not written: of the first epoch, and of the last."""
    from common.epochs import Epochs

    write = Epochs.write

    def died(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with patched(Epochs, "write", died):
        code, said = kitchen.train("unnoted")
        assert code == 74, said
        assert kitchen.resume("unnoted")[0] == 74  # the same epoch again, not the next one
    assert not (kitchen.runs / "unnoted" / "epoch_info.json").exists()
    with patched(
        Epochs, "write", lambda epochs: died() if epochs.entries[-1]["global_step"] == STEPS else write(epochs)
    ):
        assert kitchen.resume("unnoted")[0] == 74
    assert ends_as_undisturbed(kitchen, "unnoted")

    def noted(name):
        return [{k: v for k, v in e.items() if k != "timestamp"} for e in kitchen.read(name, "epoch_info.json")]

    assert noted("unnoted") == noted("finished") and len(noted("finished")) == 3


def test_before_the_first_checkpoint_a_run_is_resumed_with_what_it_began_with(kitchen, tmp_path):
    train = tmp_path / "train.jsonl"
    rows = (kitchen.data / "train.jsonl").read_text().splitlines(keepends=True)
    train.write_text("".join(rows))
    with kitchen.at_step(0, ask_to_stop, "on_train_begin"):
        code, said = kitchen.train("early", "--train", str(train))
    assert code == 75 and not list((kitchen.runs / "early").glob("checkpoint-*")), said
    train.write_text("".join(reversed(rows)))
    code, said = kitchen.resume("early")
    assert code == 78 and "data.train.sha256: was" in said and "FORCE=1" in said
    train.write_text("".join(rows))
    assert kitchen.resume("early")[0] == 0
