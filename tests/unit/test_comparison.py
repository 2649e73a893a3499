"""What a comparison asks, counts, refuses and concludes."""

import argparse
import json
from dataclasses import replace

import pytest
from reports import DATA, load_items, make_comparison, make_report

from common.comparison.apparatus import check_apparatus
from common.comparison.comparing import choose_demonstrations, compare
from common.comparison.held_out import add_searched_data, check_separation, load_data
from common.comparison.setup import find_program
from common.comparison.thresholds import Thresholds
from common.data import Example, Message, load_examples
from common.errors import ExitCode, UserError
from common.generation import Answer, Decoding
from common.generation.programs import Prompt
from common.scoring import load_metric, score_ba

METRIC = load_metric("common.scoring:score_ba")


def test_report_holds_what_was_answered_scored_and_concluded():
    items = load_items()
    report = make_report(items)
    gold = [item.completion for item in items]
    halves = [score_ba(text[: len(text) // 2])[0] for text in gold]
    assert report["models"]["finetuned"]["scores"]["mean"] == 1.0
    assert report["models"]["optimized"]["scores"]["mean"] == pytest.approx(sum(halves) / 22)
    assert [p["score"] for p in report["models"]["optimized"]["predictions"]] == halves
    assert report["models"]["finetuned"]["component_scores"] == dict.fromkeys(score_ba(gold[0])[1], 1.0)
    counts = report["models"]["baseline"]["answers"]
    assert (counts["total"], counts["truncated"], counts["empty"], counts["errors"]) == (22, 1, 1, 0)
    assert report["comparison"]["ranking"][0] == {"model": "finetuned", "mean": 1.0}
    test = report["comparison"]["tests"]["finetuned_vs_optimized"]
    assert test["difference"] == pytest.approx(1 - sum(halves) / 22) and test["interval"]["low"] > 0
    assert report["comparison"]["decision"]["verdict"] == "ADOPT" and report["comparison"]["decision"]["reasons"]
    assert report["metadata"]["data"]["train"]["sha256"] == load_examples(DATA / "train.jsonl").sha256
    assert [item["source"] for item in report["items"]] == [item.source for item in items]


def test_apparatus_tells_good_from_bad_and_itself_from_nothing():
    checks = check_apparatus(load_items().examples, METRIC, Thresholds())
    assert checks["gold"] == {"mean": 1.0, "wanted": "at least 0.9", "ok": True}
    assert checks["shuffled_words"]["ok"] and checks["shuffled_words"]["mean"] < 0.05
    assert checks["self"]["ok"] and checks["self"]["verdict"] != "ADOPT"
    assert "answers_of_other_items" not in checks, "the metric does not look at the reference"
    taught = [Message("assistant", f"<think>So.</think>{item.completion}") for item in load_items()]
    pairs = zip(load_items(), taught, strict=True)
    thinking = [replace(item, messages=(*item.messages[:-1], answer)) for item, answer in pairs]
    assert check_apparatus(thinking, METRIC, Thresholds())["gold"] == checks["gold"]


def test_apparatus_check_fails_for_a_metric_that_likes_everything(tmp_path, monkeypatch):
    (tmp_path / "lenient_for_test.py").write_text(
        "def always(answer):\n    return 1.0, {}\n"
        "def same(answer, reference):\n    return float(answer == reference), {'same': float(answer == reference)}\n"
    )
    monkeypatch.chdir(tmp_path)
    checks = check_apparatus(load_items().examples, load_metric("lenient_for_test:always"), Thresholds())
    assert checks["gold"]["ok"] and not checks["shuffled_words"]["ok"]
    checks = check_apparatus(load_items().examples, load_metric("lenient_for_test:same"), Thresholds())
    assert checks["answers_of_other_items"] == {"mean": 0.0, "wanted": "at most 0.2", "ok": True}


def test_a_metric_made_for_other_answers_is_refused_before_anything_is_asked():
    items = load_items(4)
    texts = dict.fromkeys(("baseline", "optimized", "finetuned"), ["word"] * 4)
    work = make_comparison(texts, items)
    for item in range(4):
        items.examples[item] = replace(items.examples[item], messages=(
            *items.examples[item].messages[:-1], Message("assistant", "A short answer.")))  # fmt: skip
    with pytest.raises(UserError, match=r"gives the reference answers themselves 0.0 %.*score_exact") as refused:
        compare(work)
    assert refused.value.exit_code == ExitCode.DATA
    assert not any(arm.asked for arm in work.arms.values())
    report = compare(replace(work, metric=load_metric("common.evaluation.texts:score_exact")))
    assert report["checks"]["gold"]["ok"] and set(report["models"]["baseline"]["component_scores"]) == {
        "exact_match", "token_f1", "rouge_l"}  # fmt: skip


@pytest.mark.parametrize("text", ["title: x", "", "gold"])
def test_three_times_the_same_arm_is_not_adopted(text):
    items = load_items()
    answers = [item.completion if text == "gold" else text for item in items]
    report = compare(make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), answers), items))
    assert report["comparison"]["decision"]["verdict"] != "ADOPT"


def test_refused_answer_counts_as_zero_and_as_refused():
    items = load_items(3)
    gold = [item.completion for item in items]
    refused = [Answer(gold[0], "error", error="the server ended with 'content_filter'"), *gold[1:]]
    texts = {"baseline": gold, "optimized": gold, "finetuned": refused}
    report = compare(make_comparison(texts, items, known={}))
    assert report["models"]["finetuned"]["answers"]["errors"] == 1
    assert report["models"]["finetuned"]["predictions"][0]["score"] == 0.0
    assert report["models"]["finetuned"]["scores"]["mean"] == pytest.approx(2 / 3)


def test_an_items_score_is_the_mean_of_its_samples():
    items = load_items(4)
    gold = [item.completion for item in items]
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), gold), items, known={})
    work.decoding = Decoding(temperature=0.7, samples=3)
    arm = work.arms["finetuned"]

    def answer(requests, decoding):
        return ([(r, Answer(arm.table[r.messages[-1].content].text if r.sample else "", "stop"))] for r in requests)

    arm.answer = answer
    report = compare(work)
    assert report["models"]["finetuned"]["predictions"][0]["score"] == pytest.approx(2 / 3)
    assert report["models"]["finetuned"]["scores"]["n"] == 4
    assert report["models"]["finetuned"]["answers"]["total"] == 12


def test_only_the_optimised_arm_is_shown_demonstrations_and_all_get_the_same_question():
    train = load_examples(DATA / "train.jsonl").examples
    items = load_items(2)
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), ["a", "b"]), items)
    work.prompt = Prompt("", tuple(choose_demonstrations(train, 2, METRIC, 0)))
    shown = work.conversations("optimized")[0]
    assert [m.role for m in shown] == ["user", "assistant", "user", "assistant", "user"]
    assert shown[:2] == list(work.prompt.demonstrations[0].messages) and shown[-1] == items.examples[0].messages[0]
    assert work.conversations("baseline") == work.conversations("finetuned")
    assert work.conversations("baseline")[0] == list(items.examples[0].prompt_messages)


def test_a_fourth_arm_is_the_tuned_model_with_the_optimised_prompt():
    items = load_items()
    gold = [item.completion for item in items]
    texts = {"baseline": [""] * 22, "optimized": ["title: x"] * 22, "finetuned": gold, "finetuned_optimized": [""] * 22}
    prompt = Prompt(
        "Work well.", tuple(choose_demonstrations(load_examples(DATA / "train.jsonl").examples, 1, METRIC, 0))
    )
    work = make_comparison(texts, items, prompt=prompt)
    report = compare(work)
    assert list(report["models"]) == ["baseline", "optimized", "finetuned", "finetuned_optimized"]
    assert work.conversations("finetuned_optimized") == work.conversations("optimized")
    assert report["comparison"]["tests"]["finetuned_optimized_vs_finetuned"]["difference"] == -1.0
    assert report["comparison"]["decision"]["verdict"] == "ADOPT", "the verdict is on the three"
    assert "scores 0.0 %: −100.0 points" in " ".join(report["comparison"]["decision"]["notes"])
    assert report["metadata"]["prompt"]["instructions"] == "Work well."


def test_a_prompt_searched_for_on_the_test_items_fails_the_comparison():
    items = load_items(5)
    prompt = Prompt("Work well.", (), {"search": {"data": {"sha256": items.sha256}}})
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), ["x"] * 5), items, prompt=prompt)
    with pytest.raises(UserError, match="searched for on") as error:
        compare(work)
    assert error.value.exit_code is ExitCode.DATA


def test_demonstrations_are_checked_without_training_data_and_fixed_instructions_are_no_leak():
    items, train = load_items(), load_examples(DATA / "train.jsonl").examples
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), ["x"] * 22), items, known={})
    work.prompt = Prompt("", tuple(train[:2]))
    leaks = compare(work)["checks"]["leaks"]
    assert leaks["demonstrations"]["exact"] == leaks["demonstrations"]["13-gram"] == 0
    work.prompt = Prompt("", (train[0], items.examples[2]))
    with pytest.raises(UserError, match=r"validation\.jsonl:3"):
        compare(work)


def test_demonstrations_go_behind_a_system_message():
    item = Example((Message("system", "s"), Message("user", "q"), Message("assistant", "a")), source="x:1")
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), ["a"]))
    work.test.examples[:] = [item]
    work.prompt = Prompt("", (Example((Message("system", "t"), Message("user", "p"), Message("assistant", "b"))),))
    assert [m.content for m in work.conversations("optimized")[0]] == ["s", "p", "b", "q"]


def test_demonstrations_are_the_same_for_a_seed_whatever_the_order_of_the_file():
    train = load_examples(DATA / "train.jsonl").examples
    chosen = choose_demonstrations(train, 3, METRIC, 0)
    assert chosen == choose_demonstrations(train[::-1], 3, METRIC, 0)
    assert chosen != choose_demonstrations(train, 3, METRIC, 1)
    assert choose_demonstrations(train, 0, METRIC, 0) == []


def test_demonstrations_are_the_best_examples():
    poor = [Example((Message("user", f"q{i}"), Message("assistant", f"title: t{i}"))) for i in range(20)]
    good = load_examples(DATA / "train.jsonl").examples[:2]
    assert set(choose_demonstrations([*poor, *good], 2, METRIC, 5)) == set(good)
    with pytest.raises(UserError, match="22 training examples") as error:
        choose_demonstrations([*poor, *good], 23, METRIC, 5)
    assert error.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("change", ["none", "spaces and case"])
def test_test_item_in_the_training_data_fails_the_comparison(change):
    items = load_items(5)
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), ["x"] * 5), items)
    known = items.examples[3]
    if change != "none":
        texts = [message.content.upper().replace(" ", "  ") for message in known.messages]
        known = Example((Message("user", texts[0]), Message("assistant", texts[1])), source="train.jsonl:7")
    work.known["train"].examples.append(known)
    with pytest.raises(UserError, match=r"validation\.jsonl:4") as error:
        compare(work)
    assert error.value.exit_code is ExitCode.DATA
    assert not any(arm.asked for arm in work.arms.values()), "nothing is asked before the check"


def test_test_item_among_demonstrations_from_elsewhere_fails_too():
    items = load_items(5)
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), ["x"] * 5), items)
    work.prompt = Prompt("", (items.examples[2],))
    with pytest.raises(UserError, match=r"validation\.jsonl:3"):
        compare(work)


def test_one_item_is_no_comparison():
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), ["x"]))
    with pytest.raises(UserError, match="two or more") as error:
        compare(work)
    assert error.value.exit_code is ExitCode.DATA


@pytest.mark.parametrize(("on_train", "meaning"), [("gold", "learnt them by heart"), ("", "no better there")])
def test_a_tuned_model_below_the_prompt_is_scored_on_its_training_data_too(on_train, meaning):
    items = load_items()
    gold = [item.completion for item in items]
    work = make_comparison({"baseline": [""] * 22, "optimized": gold, "finetuned": ["title: x"] * 22}, items)
    table = work.arms["finetuned"].table
    for example in work.known["train"]:
        table[example.prompt_messages[-1].content] = Answer(example.completion if on_train else "", "stop")
    decision = compare(work)["comparison"]["decision"]
    assert decision["verdict"] == "KEEP_OPTIMIZED"
    assert any(meaning in note and "22 of its training examples" in note for note in decision["notes"])


def test_often_cut_answers_are_noted():
    items = load_items(4)
    cut = [Answer("title: half", "length", 10, 20)] * 4
    whole = [item.completion for item in items]
    texts = {"baseline": cut, "optimized": whole, "finetuned": whole}
    report = compare(make_comparison(texts, items, decoding=Decoding(20)))
    notes = " ".join(report["comparison"]["decision"]["notes"])
    assert "4 of 4 answers of the baseline arm were cut" in notes and "optimized arm" not in notes
    report = compare(make_comparison(texts, items, decoding=Decoding(21)))
    notes = " ".join(report["comparison"]["decision"]["notes"])
    assert "4 of 4 answers of the baseline arm ended where the model's context does" in notes
    assert "raise --max-new-tokens" not in notes


def test_demonstrations_that_a_server_left_out_are_noted():
    items = load_items(4)
    gold = [Answer(item.completion, "stop", 10, 20) for item in items]
    prompt = Prompt("", tuple(load_examples(DATA / "train.jsonl").examples[:1]))
    work = make_comparison(dict.fromkeys(("baseline", "optimized", "finetuned"), gold), items, prompt=prompt)
    assert not any("without demonstrations" in note for note in compare(work)["comparison"]["decision"]["notes"])
    work.arms["optimized"].identity = work.arms["baseline"].identity  # else another tokenizer may have counted
    assert any("4 of 4 items reached the optimised arm without demonstrations" in note
               for note in compare(work)["comparison"]["decision"]["notes"])  # fmt: skip
    table = work.arms["optimized"].table
    table |= {question: replace(answer, prompt_tokens=99) for question, answer in table.items()}
    assert not any("without demonstrations" in note for note in compare(work)["comparison"]["decision"]["notes"])


@pytest.mark.parametrize("program", ["the recipe's", "none named"])
def test_a_prompt_found_on_other_data_is_no_rival(tmp_path, monkeypatch, program):
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    path = tmp_path / "dspy" / "mine" / "program.json"
    state = {"demos": [], "signature": {"instructions": "Work well."}}
    data = {"path": "elsewhere.jsonl", "sha256": "1" * 64}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"self": state, "search": {"data": data}}))
    manifest = {"recipe": "mine", "data": {"train": {"sha256": "1" * 64}}}
    recipe = {"program": str(path) if program == "the recipe's" else None}
    args = argparse.Namespace(optimized=None, demonstrations=None)
    assert find_program(args, manifest, recipe) == (str(path), [])
    manifest["data"]["train"]["sha256"] = "2" * 64
    found, (note,) = find_program(args, manifest, recipe)
    assert found is None and "was searched for on elsewhere.jsonl" in note
    assert find_program(argparse.Namespace(optimized=str(path), demonstrations=None), manifest, recipe)[0] == str(path)


def test_rows_that_ask_the_same_are_one_item():
    """Three references a question must not make an interval narrower."""
    items = load_items(5)
    gold = [item.completion for item in items]
    texts = {"baseline": ["x"] * 5, "optimized": ["x"] * 5, "finetuned": [*gold[:3], "x", "x"]}
    once = compare(make_comparison(texts, items, known={}))
    items.examples[:] = [item for item in items for _ in range(3)]
    texts = {name: [text for text in answers for _ in range(3)] for name, answers in texts.items()}
    thrice = compare(make_comparison(texts, items, known={}))
    for arm in texts:
        assert thrice["models"][arm]["scores"] == once["models"][arm]["scores"]
    assert thrice["comparison"]["tests"] == once["comparison"]["tests"]
    assert len(thrice["models"]["finetuned"]["predictions"]) == len(thrice["items"]) == 15
    assert any("15 rows ask 5 questions" in note for note in thrice["comparison"]["decision"]["notes"])


def test_what_a_run_was_trained_with_must_be_as_it_was(tmp_path):
    """Split anew in place, the new test items were among the old training rows."""
    paths = {part: tmp_path / f"{part}.jsonl" for part in ("train", "validation", "other")}
    for path in paths.values():
        path.write_bytes((DATA / ("train.jsonl" if path.stem == "other" else path.name)).read_bytes())
    manifest = {"data": {part: load_examples(paths[part]).summary() for part in ("train", "validation")}}
    args = argparse.Namespace(dataset=str(paths["validation"]), train=str(paths["train"]))
    test, known = load_data(args, manifest)
    assert len(test) == 22 and list(known) == ["train"]
    args.train = str(paths["other"])  # what was named does not stand for what it was trained on
    assert list(load_data(args, manifest)[1]) == ["train", "the run's training data"]

    rows = paths["train"].read_text().splitlines(keepends=True)
    paths["train"].write_text("".join(rows[1:]))
    for args.train in (str(paths["train"]), str(paths["other"])):
        with pytest.raises(UserError, match="is not what the run had as its train data") as refused:
            load_data(args, manifest)
        assert refused.value.exit_code is ExitCode.DATA
    manifest["breaks"] = [f"data.train.sha256: was 'x', is {load_examples(paths['train']).sha256!r}"]  # FORCE=1
    assert list(load_data(args, manifest)[1]) == ["train", "the run's training data"]
    paths["train"].unlink()
    assert list(load_data(args, manifest)[1]) == ["train"]


def test_items_that_judged_a_prompt_are_known_to_it(tmp_path):
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes((DATA / "train.jsonl").read_bytes() + (DATA / "validation.jsonl").read_bytes())
    data = {"path": str(whole), "sha256": load_examples(whole).sha256}
    prompt, test, known = Prompt("", (), {"search": {"data": data}}), load_items(), {}
    assert add_searched_data(prompt, known, test, {}) == [] and len(known["the prompt's search"]) == 120
    with pytest.raises(UserError, match="test items are known to an arm"):
        check_separation(test, known, prompt)
    whole.unlink()
    (note,) = add_searched_data(prompt, {}, test, {})
    assert "gone, changed or not readable" in note


def test_a_thought_is_taken_off_the_reference_as_off_the_answer():
    items = load_items(3)
    for row, item in enumerate(items.examples):
        taught = Message("assistant", f"<think>So be it.</think>Answer {row}.")
        items.examples[row] = replace(item, messages=(*item.messages[:-1], taught))
    texts = dict.fromkeys(("baseline", "optimized", "finetuned"), [f"Answer {row}." for row in range(3)])
    metric = load_metric("common.evaluation.texts:score_exact")
    report = compare(make_comparison(texts, items, known={}, metric=metric))
    assert report["models"]["finetuned"]["scores"]["mean"] == 1.0
