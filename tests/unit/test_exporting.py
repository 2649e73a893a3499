"""Exports: the merged model on disk is base + adapter, or there is none. Run: pytest tests/unit/test_exporting.py"""

import json
from pathlib import Path

import pytest
import torch
from chat_tokenizers import llama_tokenizer, phi_tokenizer
from finished_runs import make_base, make_run
from safetensors.torch import load_file

from common.chat import encode_prompt
from common.errors import ExitCode, Problem, UserError
from common.exporting import making, merged
from common.exporting.making import make_export
from common.exporting.merged import PROMPTS, texts_to_try
from common.exporting.plan import plan_export
from common.methods import load_adapter
from common.models import load_model, load_tokenizer
from common.settings import MethodSettings
from common.shapes import DEMO_MODEL
from export_model import report

QUESTION = [{"role": "user", "content": "the quick brown fox"}]


def export(tmp_path: Path, run: Path, *, dtype: str = "auto", force: bool = False, name: str = "tiny"):
    plan = plan_export(name, run, tmp_path / "export", dtype, force=force)
    return plan, make_export(plan)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_tied_embeddings_stay_tied_and_a_reload_gives_the_same_logits(tmp_path, kind):
    tokenizer = llama_tokenizer()
    base = make_base(tmp_path / "base", tokenizer, kind=kind, tie_word_embeddings=True)
    run = make_run(tmp_path / "run", base, tokenizer)
    _, record = export(tmp_path, run)
    out = tmp_path / "export" / "merged"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "export", "run"]

    ids = torch.tensor([encode_prompt(tokenizer, QUESTION)])
    again = load_model(out)
    with torch.no_grad():
        wanted = load_adapter(load_model(base), run)(input_ids=ids).logits
        plain = load_model(base)(input_ids=ids).logits
        found = again(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
    assert (found - plain).abs().max() > 0.01 * plain.abs().max()
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert record["largest_change"] < 1e-4 < record["effect"]
    assert record["compared_on"].startswith("4 prompts")


def test_what_servers_read(tmp_path):
    tokenizer = phi_tokenizer()
    base = make_base(tmp_path / "base", tokenizer, kind="phi3", dtype=torch.bfloat16)
    (base / "tokenizer.model").write_bytes(b"sentencepiece")
    method = MethodSettings(rank=24, alpha=8, targets=["qkv_proj", "o_proj"])
    run = make_run(tmp_path / "run", base, tokenizer, method=method, std=0.5)
    plan, record = export(tmp_path, run)
    out = tmp_path / "export"
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "README.md", "export.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
        "adapter/Modelfile", "merged/Modelfile", "merged/model.safetensors", "merged/config.json",
        "merged/generation_config.json", "merged/tokenizer.json", "merged/tokenizer_config.json",
        "merged/tokenizer.model", "merged/chat_template.jinja",
    }  # fmt: skip
    assert (plan.dtype.value, plan.dtype.reason, record["dtype"]) == ("bf16", "as the base", "bf16")
    assert json.loads((out / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
    stops = json.loads((out / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(stops) == ["<|endoftext|>", "<|end|>"]
    again = load_tokenizer(out / "merged")
    assert encode_prompt(again, QUESTION) == encode_prompt(tokenizer, QUESTION)
    assert json.loads((out / "merged" / "tokenizer_config.json").read_text())["add_bos_token"] is False
    lines = (out / "adapter" / "Modelfile").read_text().splitlines()
    source = [line for line in lines if line.startswith(("FROM", "ADAPTER"))]
    assert source == ["FROM ../../base", "ADAPTER ."]
    assert (out / "adapter" / "../../base").resolve() == base
    page = (out / "README.md").read_text()
    assert "--max-lora-rank 32 --lora-modules tiny=adapter" in page
    assert "not of phi3: convert it to GGUF" in page and "$" not in page


def test_without_a_modelfile_nothing_tells_to_use_one(tmp_path, monkeypatch, capsys):
    def refuse(tokenizer):
        raise UserError(Problem("the template asks for the day"), ExitCode.CONFIG)

    monkeypatch.setattr(making, "learn_turns", refuse)
    tokenizer = llama_tokenizer()
    run = make_run(tmp_path / "run", make_base(tmp_path / "base", tokenizer), tokenizer)
    plan, record = export(tmp_path, run)
    assert record["notes"][0] == "No Modelfile: the template asks for the day."
    report(plan, record)
    for text in ((tmp_path / "export" / "README.md").read_text(), capsys.readouterr().out):
        assert "No Modelfile" in text and "vllm serve merged" in text and "ollama create" not in text.lower()


def test_behind_a_link_the_base_is_found_from_where_the_export_really_is(tmp_path):
    tokenizer = llama_tokenizer()
    base = make_base(tmp_path / "base", tokenizer)
    run = make_run(tmp_path / "run", base, tokenizer)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    plan = plan_export("tiny", run, tmp_path / "near" / "export", "auto", force=False)
    make_export(plan)
    assert plan.base_shown == "../../../base"
    assert "FROM ../../../../base\n" in (tmp_path / "far/away/export/adapter/Modelfile").read_text()


def test_a_base_in_nf4_is_merged_in_full_precision_and_the_difference_told(tmp_path):
    tokenizer = llama_tokenizer()
    run = make_run(tmp_path / "run", make_base(tmp_path / "base", tokenizer), tokenizer)
    manifest = json.loads((run / "run.json").read_text())
    manifest["settings"]["model"]["precision"] = "nf4"
    (run / "run.json").write_text(json.dumps(manifest))
    _, record = export(tmp_path, run)
    assert record["dtype"] == "fp32" and record["trained_on_nf4"]
    assert record["largest_change"] < 1e-4 < record["nf4_change"]
    assert 0 < record["nf4_same_choice"] <= 1


def test_an_adapter_that_does_nothing_is_refused(tmp_path):
    tokenizer = llama_tokenizer()
    run = make_run(tmp_path / "run", make_base(tmp_path / "base", tokenizer), tokenizer, std=0)
    refused(tmp_path, run, 70, "the merged model is the base")


def test_rounding_that_eats_the_tuning_is_refused(tmp_path):
    tokenizer = llama_tokenizer()
    run = make_run(tmp_path / "run", make_base(tmp_path / "base", tokenizer), tokenizer, std=3e-5)
    refused(tmp_path, run, 70, "merge in fp32", dtype="bf16")
    assert export(tmp_path, run, dtype="fp32")[1]["effect"] > 0


def test_weights_that_read_back_otherwise_are_refused_and_removed(tmp_path, monkeypatch):
    tokenizer = llama_tokenizer()
    run = make_run(tmp_path / "run", make_base(tmp_path / "base", tokenizer), tokenizer)

    def load_other(folder, precision):
        model = load_model(folder, precision)
        with torch.no_grad():
            model.model.norm.weight.mul_(1.01)
        return model

    monkeypatch.setattr(merged, "load_model", load_other)
    refused(tmp_path, run, 70, "of the largest — at most 1e-04 in fp32")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (MethodSettings(kind="adapter", size=4), "bottleneck adapters compute something between the layers"),
        (MethodSettings(kind="ptuning", virtual_tokens=4), "p-tuning puts trained vectors before the prompt"),
    ],
    ids=["adapter", "ptuning"],
)
def test_what_cannot_be_merged_is_told_what_it_can(tmp_path, method, words):
    tokenizer = llama_tokenizer()
    run = make_run(tmp_path / "run", make_base(tmp_path / "base", tokenizer), tokenizer, method=method, std=0)
    refused(tmp_path, run, 78, words)
    refused(tmp_path, run, 78, "make chat RUN=tiny")


def test_another_base_a_full_disk_and_a_small_memory_are_refused_before_loading(tmp_path, monkeypatch):
    tokenizer = llama_tokenizer()
    base = make_base(tmp_path / "base", tokenizer)
    run = make_run(tmp_path / "run", base, tokenizer)
    monkeypatch.setattr(merged, "free_disk_gib", lambda folder: 0.01)
    refused(tmp_path, run, 73, "GiB free for")
    monkeypatch.setattr(merged, "free_disk_gib", lambda folder: 1.0)
    monkeypatch.setattr(merged, "memory_gib", lambda: (1e-6, 1.0))
    refused(tmp_path, run, 69, "GiB of memory free")
    refused(tmp_path, run, 69, "close other programs", dtype="bf16")
    monkeypatch.setattr(merged, "memory_gib", lambda: (1e-6, 1e-6))
    refused(tmp_path, run, 69, f"convert_lora_to_gguf.py {run} --base {base} takes the run as it is", dtype="bf16")
    monkeypatch.setattr(merged, "memory_gib", lambda: (1.0, 1.0))
    (base / "generation_config.json").write_text("{}")
    refused(tmp_path, run, 78, "is not the model that")


def test_an_export_is_replaced_when_asked_and_nothing_else_ever(tmp_path, monkeypatch):
    tokenizer = llama_tokenizer()
    run = make_run(tmp_path / "run", make_base(tmp_path / "base", tokenizer), tokenizer)
    export(tmp_path, run)
    record = tmp_path / "export" / "export.json"
    with pytest.raises(UserError, match="FORCE=1") as error:
        export(tmp_path, run)
    assert error.value.exit_code == 73

    before = record.read_bytes()
    monkeypatch.setattr(making, "serving_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(tmp_path, run, force=True)
    assert record.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "export", "run"]
    monkeypatch.undo()

    # What a killed export leaves: a draft, and perhaps the old export aside. The process of that number is gone.
    (tmp_path / ".export.making-99999999").mkdir()
    (tmp_path / "export").rename(tmp_path / ".export.making-99999999.old")
    monkeypatch.setattr(making, "serving_page", lambda *_: "a new page")
    export(tmp_path, run, force=True)
    assert (tmp_path / "export" / "README.md").read_text() == "a new page"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "export", "run"]

    record.unlink()
    with pytest.raises(UserError, match="is no export") as error:
        export(tmp_path, run, force=True)
    assert error.value.exit_code == 73


def refused(tmp_path: Path, run: Path, code: int, words: str, **options) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        export(tmp_path, run, **options)
    assert (error.value.exit_code, words in str(error.value)) == (code, True), error.value
    assert sorted(tmp_path.iterdir()) == before


def test_validation_data_of_the_project_are_found_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    manifest = {"settings": {"data": {}}, "data": {"validation": {"path": "recipes/demo/data/validation.jsonl"}}}
    assert "validation examples of the run" in texts_to_try(load_tokenizer(DEMO_MODEL), manifest, 512).source


def test_a_run_without_validation_data_is_compared_on_prompts():
    tokenizer = load_tokenizer(DEMO_MODEL)
    manifest = {"settings": {"data": {}}, "data": {"train": {"path": "gone.jsonl"}}}
    texts = texts_to_try(tokenizer, manifest, 512)
    assert len(texts.ids) == len(PROMPTS) and "no validation data" in texts.source
