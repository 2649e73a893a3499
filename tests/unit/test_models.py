"""Model folders: what is refused and why, before and while loading. Run: pytest tests/unit/test_models.py"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file

import download_model
from common import checks, model_files, models
from common.errors import ExitCode, UserError
from common.hashing import sha256_of
from common.methods import add_method
from common.runs import write_json
from common.settings import MethodSettings, ModelSettings

WEIGHTS = "model.safetensors"


def problems_of(folder):
    return "\n".join(str(problem) for problem in model_files.check_model_folder(folder))


def test_a_sound_folder_has_no_problems_and_loads(tiny_folder):
    assert model_files.check_model_folder(tiny_folder) == []
    assert models.load_model(tiny_folder, "fp32").dtype == torch.float32
    assert models.load_model(tiny_folder, "bf16").dtype == torch.bfloat16


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="where files are mapped, only Linux tells")
def test_in_nf4_nothing_stays_of_the_files_and_no_weight_grows(tiny_folder):
    model = models.load_model(tiny_folder, "nf4")
    assert str(tiny_folder) not in Path("/proc/self/maps").read_text()
    adapted = add_method(model, MethodSettings(targets=["q_proj"]), "tiny", tiny_folder)
    kinds = {weight.dtype for weight in adapted.parameters() if not weight.requires_grad}
    assert kinds == {torch.uint8, model.config.dtype}


def test_a_half_downloaded_file_is_named_with_both_sizes(tiny_folder):
    weights = tiny_folder / WEIGHTS
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"has {size - 100:,} bytes, its header promises {size:,}" in problems_of(tiny_folder)
    with pytest.raises(UserError) as caught:
        models.load_model(tiny_folder)
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_a_git_lfs_pointer_is_recognised(tiny_folder):
    (tiny_folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "git-lfs pointer" in problems_of(tiny_folder)
    assert "git lfs pull" in problems_of(tiny_folder)


def test_pickled_weights_are_refused(tiny_folder):
    (tiny_folder / WEIGHTS).rename(tiny_folder / "pytorch_model.bin")
    assert "holds only .bin weights — safetensors only" in problems_of(tiny_folder)


def test_every_missing_shard_is_listed(tiny_folder):
    shards = {"a": "model-00001-of-00003.safetensors", "b": "model-00002-of-00003.safetensors", "c": WEIGHTS}
    (tiny_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert problems_of(tiny_folder).count("is missing — the index lists 3") == 2


def test_a_folder_without_tokenizer_or_config(tiny_folder):
    (tiny_folder / "tokenizer.json").unlink()
    assert "holds no tokenizer" in problems_of(tiny_folder)
    (tiny_folder / "config.json").unlink()
    assert "holds no config.json" in problems_of(tiny_folder)


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_tensors_that_do_not_fit_are_an_error_not_a_warning(tiny_folder, change):
    tensors = load_file(tiny_folder / WEIGHTS)
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del tensors[name]
    elif change == "unexpected":
        tensors["model.layers.9.mlp.up_proj.weight"] = torch.zeros(3)
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, tiny_folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match="layers"):
        models.load_model(tiny_folder)


def test_one_flipped_byte_is_found_by_the_recorded_hash(tiny_folder):
    weights = tiny_folder / WEIGHTS
    write_json(
        tiny_folder / model_files.MARKER,
        {"revision": "abc", "files": {WEIGHTS: {"size": weights.stat().st_size, "sha256": sha256_of(weights)}}},
    )
    model_files.verify_hashes(tiny_folder, model_files.hash_model_files(tiny_folder))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="is not the file that was downloaded") as caught:
        model_files.verify_hashes(tiny_folder, model_files.hash_model_files(tiny_folder))
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_a_model_that_is_not_here_names_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    with pytest.raises(UserError, match="run: make download MODEL=org/name REVISION=abc") as caught:
        model_files.find_model(ModelSettings(name="org/name", revision="abc"))
    assert caught.value.exit_code == ExitCode.NO_INPUT
    with pytest.raises(UserError, match="no model folder './nowhere'"):
        model_files.find_model(ModelSettings(name="./nowhere"))


def test_a_downloaded_model_is_found_and_its_revision_checked(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    folder = model_files.model_folder("org/name")
    folder.parent.mkdir(parents=True)
    tiny_folder.rename(folder)
    assert model_files.find_model(ModelSettings(name="org/name", revision="abc")) == folder  # copied by hand
    write_json(folder / model_files.MARKER, {"revision": "abc", "files": {}})
    assert model_files.find_model(ModelSettings(name="org/name", revision="abc")) == folder
    with pytest.raises(UserError, match="holds revision abc, the recipe asks for def") as caught:
        model_files.find_model(ModelSettings(name="org/name", revision="def"))
    assert caught.value.exit_code == ExitCode.CONFIG


@pytest.fixture
def hub(tiny_folder, tmp_path, monkeypatch):
    """A hub with org/name, whose branch main is at commit abc."""
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    files = [SimpleNamespace(rfilename=path.name, size=path.stat().st_size) for path in tiny_folder.iterdir()]
    info = SimpleNamespace(siblings=files, sha="abc")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(sys, "argv", ["download_model.py", "org/name", "--revision", "main"])

    def set_download(download):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    set_download(lambda *_, local_dir, **__: shutil.copytree(tiny_folder, local_dir))
    return SimpleNamespace(set_download=set_download)


def test_a_download_is_known_by_its_commit_and_by_the_name_it_was_asked_for_by(hub, capsys):
    download_model.main()
    download_model.main()
    assert "org/name at abc is here already" in capsys.readouterr().out
    for revision in ("abc", "main", None):
        found = model_files.find_model(ModelSettings(name="org/name", revision=revision))
        assert found == model_files.model_folder("org/name")


def test_a_gated_model_is_told_where_only_its_files_are_closed(hub):
    def refuse(*_, **__):
        response = httpx.Response(403, request=httpx.Request("GET", "https://hub.test"))
        raise GatedRepoError("no", response=response)

    hub.set_download(refuse)
    with pytest.raises(UserError, match="org/name is gated .*bin.hf auth login"):
        download_model.main()


def test_weights_that_a_config_does_not_tell_of_are_named_before_memory_runs_out(tmp_path):
    """Experts, for one: counted as a single MLP, a model of 47 B would seem to fit where one of 7 B does."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"experts": torch.zeros(10_000)}, tmp_path / "model.safetensors")
    settings = ModelSettings(name=str(tmp_path))
    config = {"model_type": "mixtral", "num_attention_heads": 2, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "\nwarning: its files hold 0.0 million; memory and time" in checks.check_model(settings)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 8}')
    with pytest.raises(UserError, match="its config has no 'num_hidden_layers'") as refused:
        checks.check_model(settings)
    assert refused.value.exit_code == ExitCode.CONFIG
