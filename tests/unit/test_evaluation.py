"""Several tuned models beside their base: text measures, the recommendation, the report.

Run: pytest tests/unit/test_evaluation.py
"""

import json
from pathlib import Path

import pytest

import evaluate_models
from common.errors import ExitCode, UserError
from common.evaluation.candidates import check_candidates, open_candidates, read_test, training_data, training_seconds
from common.evaluation.judging import Judged, answer_losses, compare_pairs
from common.evaluation.recommending import MIB, Limits, recommend
from common.evaluation.texts import corpus_bleu, score_exact, score_rouge, score_texts, token_f1
from common.model_files import hash_model_files
from common.report.evaluation import write_evaluation

ITEMS = 20


def model(loss, kind="lora", mib=1.0, memory=1.0, f1=0.5, spread=0.01):
    losses = [loss + spread * (-1) ** k for k in range(ITEMS)]
    texts = {name: [f1] * ITEMS for name in ("exact_match", "token_f1", "rouge_l", "bleu")}
    return {
        "kind": kind, "precision": "fp32", "loss": loss, "perplexity": 2.7**loss, "token_f1": f1, "exact_match": f1,
        "rouge_l": f1, "bleu": f1, "corpus_bleu": f1, "tokens_per_s": 10.0, "cut": 0, "trainable": 10, "share": 0.01,
        "adapter_bytes": kind and mib * MIB, "peak_gib": kind and memory, "training_s": 5.0,
        "item_scores": {"loss": losses, **texts}, "answers": ["a"] * ITEMS,
    }  # fmt: skip


BASE = model(3.0, kind=None)


def test_the_lowest_loss_wins_where_it_is_shown():
    advice = recommend({"base": BASE, "qlora": model(1.0), "adapter": model(1.5, mib=0.5)}, Limits())
    assert advice["choice"] == "qlora"
    assert "from 3.000 to 1.000" in advice["reasons"][0]
    assert any(reason.startswith("adapter is behind by +0.500") for reason in advice["reasons"])


def test_a_small_gain_that_is_the_same_on_every_item_is_shown():
    """Losses have no item that is failed altogether: what would survive one says nothing of them."""
    models = {"base": model(3.0, kind=None, spread=0.01), "qlora": model(2.9, spread=0.01)}
    assert recommend(models, Limits())["choice"] == "qlora"
    models |= {"adapter": model(2.8, mib=50, spread=0.01)}
    assert recommend(models, Limits())["choice"] == "adapter"


def test_of_what_cannot_be_told_apart_the_smallest_is_taken():
    models = {"base": BASE, "qlora": model(1.0, spread=0.3), "ptuning": model(1.02, mib=0.1, spread=-0.3)}
    advice = recommend(models, Limits())
    assert advice["choice"] == "ptuning"
    assert "qlora is as good as these items can tell" in advice["reasons"][-1]


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(max_memory_gib=2), "training memory 3 GiB, asked for: at most 2"),
        (Limits(max_adapter_mib=4), "adapter on disk 5 MiB, asked for: at most 4"),
        (Limits(min_token_f1=0.4), "token F1 0.3, asked for: at least 0.4"),
    ],
)
def test_what_breaks_a_limit_is_out_whatever_its_loss(limits, why):
    models = {"base": BASE, "qlora": model(1.0, memory=3, mib=5, f1=0.3), "adapter": model(2.0)}
    advice = recommend(models, limits)
    assert advice["choice"] == "adapter" and advice["excluded"] == {"qlora": [why]}


def test_without_a_shown_gain_the_base_stays():
    worse = recommend({"base": BASE, "qlora": model(3.2)}, Limits())
    same = recommend({"base": BASE, "qlora": model(2.999, spread=-0.5)}, Limits())
    unknown = recommend({"base": BASE, "qlora": model(1.0, memory=None)}, Limits(max_memory_gib=2))
    assert {advice["choice"] for advice in (worse, same, unknown)} == {"base"}
    assert "is not shown to be below" in worse["excluded"]["qlora"][0]
    assert unknown["excluded"]["qlora"] == ["training memory is not known"]


@pytest.mark.parametrize("limits", [{"max_adapter_mib": -1}, {"max_memory_gib": float("nan")}, {"min_token_f1": 40}])
def test_a_limit_that_is_none_is_refused(limits):
    (name,) = limits
    with pytest.raises(UserError, match=f"--{name} .* — above 0") as caught:
        Limits(**limits)
    assert caught.value.exit_code == ExitCode.USAGE


def test_measures_of_answers():
    scores = score_texts(["No. 37.5 is below 38.", "¿Qué? 0.5", ""], ["no, 37.5 is below 38", "qué 0.6", "yes"])
    assert scores["exact_match"] == [1, 0, 0]
    assert scores["token_f1"] == [1, 0.5, 0]
    assert scores["rouge_l"] == pytest.approx([1, 0.5, 0])
    assert all(0 <= value <= 1 for values in scores.values() for value in values)
    assert token_f1("a a b", "a b b") == pytest.approx(2 / 3)
    assert corpus_bleu(["one two three four five"], ["one two three four five"]) == pytest.approx(1)
    assert score_texts(["one two three four"], ["one two three four"])["bleu"] == pytest.approx([1])


def test_a_falling_loss_is_a_gain():
    gains = compare_pairs({"base": BASE, "qlora": model(1.0)})["qlora"]
    assert gains["loss"]["difference"] == pytest.approx(2.0)
    assert (gains["loss"]["wins"], gains["token_f1"]["ties"]) == (ITEMS, ITEMS)


def test_the_report_is_written_with_every_figure(tmp_path):
    models = {"base": BASE, "qlora": model(1.0)}
    metadata = {
        "base_model": "tiny", "test": {"path": "test.jsonl", "examples": ITEMS, "sha256": "0"}, "limits": {"x": None},
        "decoding": {"temperature": 0, "max_new_tokens": 8}, "statistics": {"resamples": 9999},
    }  # fmt: skip
    merge = {"qlora": {"largest_change": 1e-6, "nf4_change": 0.02, "nf4_same_choice": 0.98}}
    report = {"metadata": metadata, "models": models, "differences": compare_pairs(models), "merge": merge,
              "recommendation": recommend(models, Limits())}  # fmt: skip
    paths = write_evaluation(report, tmp_path / "results.json")
    assert [path.name for path in paths] == ["results.json", "results.md", "results.png"]
    text = paths[1].read_text()
    assert text.startswith("# Recommended: qlora") and "| qlora | 1.000 |" in text and "98.0 % of the tokens" in text
    assert "| qlora | loss (nats, lower is a gain) | +2.000 |" in text and "| qlora | ROUGE-L (points) |" in text
    assert "\n\n## How" in text and "1.000 %" in text
    assert json.loads(paths[0].read_text())["recommendation"]["choice"] == "qlora"
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    report.pop("merge")  # nobody asked for it
    assert "Written into the weights" in text
    assert "Written into the weights" not in write_evaluation(report, tmp_path / "plain.json")[1].read_text()


def test_the_loss_of_an_item_is_that_of_its_answer_alone(tiny_model):
    import torch

    from common.chat import Encoded

    example = Encoded([5, 6, 7, 8, 9], [False, False, False, True, True])
    sums, counts = answer_losses(tiny_model.eval(), [example], 0)
    with torch.no_grad():
        log_probabilities = tiny_model(input_ids=torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
    assert counts == [2]
    assert sums[0] == pytest.approx(-(log_probabilities[2, 8] + log_probabilities[3, 9]).item(), rel=1e-5)


def test_exact_match_as_a_metric_says_how_near_a_wrong_answer_comes():
    assert score_exact("Strong, the force is!", "strong the force is")[0] == 1.0
    score, components = score_exact("The force is strong", "Strong the force is")
    assert score == 0.0 and components == {"exact_match": 0.0, "token_f1": 1.0, "rouge_l": pytest.approx(0.75)}


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("5", "-5", False),
        ("−5", "-5", True),
        ("3-5", "3 5", True),
        ("", "-", False),
        ("+", "-", False),
        ("✓", "✓", True),
    ],
)
def test_a_sign_and_an_answer_without_words_count(answer, reference, same):
    assert score_exact(answer, reference)[0] == float(same)


def test_rouge_l_as_a_metric_is_for_free_text():
    reference = "Thank you for your letter. The delivery comes on Monday."
    assert score_rouge(reference, reference) == (1.0, {"rouge_l": 1.0, "token_f1": 1.0, "bleu": pytest.approx(1.0)})
    near = score_rouge("Thank you for your letter! It will be delivered on Monday.", reference)[0]
    far = score_rouge("We are closed.", reference)[0]
    assert 0.5 < near < 0.9 and far == 0.0


def test_time_of_a_training_is_that_of_all_its_attempts():
    attempts = [
        {"started_at": "2026-01-01T00:00:00+00:00", "ended_at": "2026-01-01T00:01:00+00:00"},
        {"started_at": "2026-01-01T01:00:00+00:00", "ended_at": "2026-01-01T01:00:30+00:00"},
    ]
    assert training_seconds({"attempts": attempts}) == 90
    assert training_seconds({"attempts": [*attempts, {"started_at": "2026-01-01T02:00:00+00:00"}]}) is None
    assert training_seconds({}) is None


def test_what_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no tuned model to judge"):
        open_candidates(None, {})
    with pytest.raises(UserError, match="holds no adapter"):
        open_candidates(None, {"qlora": str(tmp_path)})


def test_test_items_are_read_by_the_runs_rules_or_as_they_are(tmp_path):
    from types import SimpleNamespace

    path, columns = tmp_path / "test.jsonl", ["prompt=Question", "completion=Answer"]
    found = [SimpleNamespace(manifest={}), SimpleNamespace(manifest={"settings": {"data": {"columns": columns}}})]
    for row in ('{"Question": "q", "Answer": "a"}', '{"question": "q", "answer": "a"}'):
        path.write_text(row + "\n")
        assert read_test(str(path), found).examples[0].completion == "a"
    path.write_text('{"what": "q"}\n')
    with pytest.raises(UserError, match="test.jsonl:1"):
        read_test(str(path), found)


def test_training_data_that_changed_are_not_compared_with(tmp_path):
    from types import SimpleNamespace

    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "a b c", "answer": "d"}\n')
    candidate = SimpleNamespace(manifest={"data": {"train": {"path": str(path), "sha256": "0" * 64}}})
    with pytest.raises(UserError, match="is not what the models were trained on"):
        training_data([candidate])
    path.unlink()
    with pytest.raises(UserError, match="is gone"):
        training_data([candidate])


@pytest.fixture
def adapters(tiny_model, tiny_folder, tmp_path):
    """Folders of a LoRA and of bottleneck adapters of the tiny model, and a base of the same shape, other weights."""
    import torch

    from common import methods
    from common.models import load_model
    from common.settings import MethodSettings

    found = {}
    for kind in ("lora", "adapter"):
        adapted = methods.add_method(load_model(tiny_folder), MethodSettings(kind=kind, size=4), str(tiny_folder))
        methods.save_adapter(adapted, tmp_path / kind)
        found[kind] = str(tmp_path / kind)
    with torch.no_grad():
        tiny_model.model.embed_tokens.weight.add_(1.0)
    tiny_model.save_pretrained(tmp_path / "twin")
    (tmp_path / "twin" / "tokenizer.json").write_text("{}")
    return found | {"twin": str(tmp_path / "twin")}


def test_an_adapter_of_another_kind_is_refused(adapters):
    with pytest.raises(UserError, match="--qlora_model .* kind adapter — one of kind lora — --adapter_model takes it"):
        open_candidates(None, {"qlora": adapters["adapter"]})


@pytest.mark.parametrize("recorded", [True, False], ids=["run.json tells", "the adapter names it"])
def test_adapters_of_another_base_of_the_same_shape_are_all_named_before_a_weight_is_loaded(
    adapters, tiny_folder, monkeypatch, recorded
):
    monkeypatch.setattr("common.models.load_model", lambda *words: pytest.fail("weights were loaded"))
    monkeypatch.setattr("common.generation.local.LocalArm.check", lambda *words: None)  # there is no real tokenizer
    if recorded:
        for kind in ("lora", "adapter"):
            record = {"model": {"files": hash_model_files(tiny_folder)}}
            (Path(adapters[kind]) / "run.json").write_text(json.dumps(record))
    named = {"qlora": adapters["lora"], "adapter": adapters["adapter"]}
    right = open_candidates(None, named)
    check_candidates(right, hash_model_files(tiny_folder), [])
    wrong = open_candidates(adapters["twin"], named)
    with pytest.raises(UserError) as caught:
        check_candidates(wrong, hash_model_files(Path(adapters["twin"])), [])
    assert caught.value.exit_code == ExitCode.CONFIG
    text = str(caught.value)
    assert len(caught.value.problems) == 2 and adapters["lora"] in text and adapters["adapter"] in text


def test_where_all_are_in_nf4_and_the_base_fits_only_so_it_is_judged_so(adapters, monkeypatch, capsys):
    named = {"qlora": adapters["lora"]}
    for name, record in (("training_info.json", {"precision": "nf4"}), ("run.json", {"model": {"precision": "nf4"}})):
        (Path(adapters["lora"]) / name).write_text(json.dumps(record))  # published, and where it was trained
        with monkeypatch.context() as patch:
            found = [(candidate.name, candidate.precision) for candidate in open_candidates(None, named)]
            assert [name for name, _ in found] == ["base", "base in NF4", "qlora"] and found[0][1] != "nf4"
            assert [precision for _, precision in found[1:]] == ["nf4", "nf4"]
            patch.setattr("common.evaluation.candidates.memory_gib", lambda device: (0.0, 1e-6))
            found = [(candidate.name, candidate.precision) for candidate in open_candidates(None, named)]
            assert found == [("base", "nf4"), ("qlora", "nf4")]
            assert "it is judged in NF4" in capsys.readouterr().out


def test_what_was_judged_is_kept_until_the_report_is_there(tmp_path):
    path = tmp_path / "results.partial.json"
    key = Judged.key({"weights": "a"}, "test")
    Judged(path).put(key, {"loss": 1.5})
    assert Judged(path).get(key) == {"loss": 1.5}
    assert Judged(path).get(Judged.key({"weights": "b"}, "test")) is None
    Judged(path).forget()
    assert not path.exists() and Judged(path).get(key) is None


@pytest.mark.parametrize("name", ["results.md", "results", "."])
def test_a_report_that_would_overwrite_itself_is_refused(name):
    with pytest.raises(UserError, match="a file name that ends in .json"):
        evaluate_models.output_path(name)
