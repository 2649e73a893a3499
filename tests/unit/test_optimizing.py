"""The search for a better prompt: a real MIPROv2 run over arms that answer by rule, without a model."""

import io
import json
from dataclasses import replace

import pytest
from reports import DATA

from common.data import Example, Message, load_examples
from common.errors import ExitCode, Problem, UserError
from common.generation import Answer, Decoding
from common.generation.answers import AnswerCache
from common.generation.programs import read_program
from common.optimizing.search import Task, search_program
from common.optimizing.setup import split_rows
from common.runs import write_json
from common.scoring import load_metric

TRAIN = load_examples(DATA / "train.jsonl").examples[:30]
ANSWERS = {example.prompt: example.completion for example in TRAIN}
POOR = "title: a title of some length\ndescription: short"


class RuleArm:
    """Answers well or poorly by what it is shown; may go away after some answers, as a server does."""

    name, identity, description = "model", {"kind": "rule"}, {}

    def __init__(self, is_good, leaves_after=None):
        self.is_good, self.leaves_after, self.asked = is_good, leaves_after, []

    def check(self, conversations, sources):
        assert len(conversations) == len(sources)

    def answer(self, requests, decoding):
        for request in requests:
            if self.leaves_after is not None and len(self.asked) >= self.leaves_after:
                raise UserError(Problem("the server is gone"), ExitCode.UNAVAILABLE)
            self.asked.append(request)
            question = request.messages[-1].content.removeprefix("Work well.\n\n")
            yield [(request, Answer(ANSWERS[question] if self.is_good(request.messages) else POOR, "stop", 5, 5))]


class WritingArm:
    """A proposer: answers every request of DSPy's proposer in its own form, or with nothing useful."""

    name, identity, description = "proposer", {"kind": "writer"}, {}

    def __init__(self, useful=True):
        self.useful = useful

    def check(self, conversations, sources):
        pass

    def answer(self, requests, decoding):
        fields = ("observations", "summary", "program_description", "module_description", "proposed_instruction")
        text = "\n\n".join(f"[[ ## {name} ## ]]\nWork well." for name in fields) + "\n\n[[ ## completed ## ]]"
        for request in requests:
            yield [(request, Answer(text if self.useful else "title: x", "stop", 5, 5))]


def make_task(arm, **changes) -> Task:
    shown, dev = split_rows(TRAIN, 8, 2, seed=3)
    options = {"demonstrations": 2, "candidates": 4, "trials": 4, "seed": 3}
    metric = changes.pop("metric", load_metric("common.scoring:score_ba"))
    return Task(arm, shown, dev, metric, Decoding(50), **(options | changes))


def search(arm, cache=None, **changes) -> dict:
    return search_program(make_task(arm, **changes), cache or AnswerCache(None), io.StringIO())


def is_shown_examples(messages) -> bool:
    return len(messages) > 1


@pytest.fixture(scope="module")
def helped():
    """The arm that demonstrations help, and what was found for it."""
    arm = RuleArm(is_shown_examples)
    return arm, search(arm)


def test_demonstrations_that_help_are_found_among_training_rows(helped, tmp_path):
    arm, found = helped
    record = found["search"]
    assert record["score"] == 1.0 > record["plain_score"] == record["history"][0]["score"] > 0
    assert record["history"][0]["demonstrations"] == [] and len(record["history"]) == 5
    assert len(record["demonstrations"]) == 2 and not set(record["demonstrations"]) & set(record["dev_rows"])
    write_json(tmp_path / "program.json", found)
    prompt = read_program(tmp_path)
    question = TRAIN[0].prompt_messages
    assert [message.role for message in prompt.around(question)] == ["user", "assistant", "user", "assistant", "user"]
    for shown in prompt.demonstrations:
        assert ANSWERS[shown.prompt] == shown.completion
    asked = {request.messages for request in arm.asked}
    dev = [row for row in TRAIN if row.source in record["dev_rows"]]
    assert all(tuple(prompt.around(row.prompt_messages)) in asked for row in dev), "judged as it will be compared"


def test_dspy_reads_the_program_too(helped, tmp_path):
    import dspy

    from common.optimizing.program import AnswerQuestion

    class Answerer(dspy.Module):
        def __init__(self):
            super().__init__()
            self.answer = dspy.Predict(AnswerQuestion)

    write_json(tmp_path / "program.json", helped[1])
    program = Answerer()
    program.load(str(tmp_path / "program.json"))
    assert len(program.answer.demos) == 2 and program.answer.demos[0]["completion"] in ANSWERS.values()


def test_equal_searches_give_equal_programs_and_another_seed_another(helped):
    again = search(RuleArm(is_shown_examples))
    assert json.dumps(again) == json.dumps(helped[1])
    assert search(RuleArm(is_shown_examples), seed=4)["search"]["history"] != again["search"]["history"]


def test_where_demonstrations_harm_the_plain_prompt_is_kept_and_that_is_said(tmp_path):
    found = search(RuleArm(lambda messages: len(messages) == 1))
    assert found["search"]["score"] == found["search"]["plain_score"] == 1.0
    assert "the plain prompt is kept" in " ".join(found["search"]["notes"])
    write_json(tmp_path / "program.json", found)
    assert read_program(tmp_path).is_plain


def test_server_that_goes_away_ends_the_search_and_nothing_is_asked_twice(tmp_path, helped):
    path = tmp_path / "answers.jsonl"
    gone = RuleArm(is_shown_examples, leaves_after=20)
    with pytest.raises(UserError, match="gone") as error:
        search(gone, AnswerCache(path))
    assert error.value.exit_code is ExitCode.UNAVAILABLE and len(gone.asked) == 20
    back = RuleArm(is_shown_examples)
    found = search(back, AnswerCache(path))
    assert found == helped[1], "as if it had not been interrupted"
    assert not {request.messages for request in back.asked} & {request.messages for request in gone.asked}


def test_a_proposer_writes_instructions_and_they_are_tried(tmp_path):
    arm = RuleArm(lambda messages: messages[0].content.startswith("Work well."))
    found = search(arm, proposer=WritingArm(), demonstrations=0)
    assert found["search"]["instructions"] == "Work well." and found["search"]["score"] == 1.0
    write_json(tmp_path / "program.json", found)
    prompt = read_program(tmp_path)
    assert prompt.instructions == "Work well." and prompt.demonstrations == ()


def test_a_proposer_without_use_leaves_the_search_to_demonstrations():
    found = search(RuleArm(is_shown_examples), proposer=WritingArm(useful=False))
    assert found["search"]["score"] == 1.0 and found["search"]["instructions"] == ""


def test_an_empty_answer_is_scored_like_any_other():
    arm = RuleArm(is_shown_examples)
    arm.answer = lambda requests, decoding: ([(request, Answer("", "stop", 5, 0))] for request in requests)
    assert search(arm)["search"]["score"] == 0.0


def test_a_thought_in_a_reference_is_no_part_of_what_is_scored():
    metric = load_metric("common.evaluation.texts:score_exact")
    taught = [Message("assistant", f"<think>So.</think>{row.completion}") for row in TRAIN]
    pairs = zip(TRAIN, taught, strict=True)
    rows = [Example((*row.prompt_messages, answer), source=row.source) for row, answer in pairs]
    shown, dev = split_rows(rows, 8, 2, seed=3)
    task = replace(make_task(RuleArm(is_shown_examples)), shown=shown, dev=dev, metric=metric)
    assert search_program(task, AnswerCache(None), io.StringIO())["search"]["score"] == 1.0


def test_a_metric_that_fails_ends_the_search_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "broken_for_test.py").write_text("def broken(answer):\n    return {}[answer], {}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="metric broken_for_test:broken ended with KeyError") as error:
        search(RuleArm(is_shown_examples), metric=load_metric("broken_for_test:broken"))
    assert error.value.exit_code is ExitCode.DATA


def test_questions_with_several_turns_are_searched_too():
    turns = (Message("user", "first"), Message("assistant", "so"))
    long = [Example((*turns, *row.messages), source=row.source) for row in TRAIN]
    shown, dev = split_rows(long, 8, 2, seed=3)
    task = Task(RuleArm(lambda messages: len(messages) > 3), shown, dev, load_metric("common.scoring:score_ba"),
                Decoding(50), 2, 4, 4, 3)  # fmt: skip
    assert search_program(task, AnswerCache(None), io.StringIO())["search"]["score"] == 1.0


def test_rows_are_split_by_seed_whatever_their_order_and_no_question_is_in_both():
    shown, dev = split_rows(TRAIN, 8, 2, seed=1)
    assert len(dev) == 8 and len(shown) == 22
    again = split_rows(TRAIN[::-1], 8, 2, seed=1)
    assert again == (shown, dev) and split_rows(TRAIN, 8, 2, seed=2)[1] != dev
    twice = [*TRAIN, *TRAIN]
    shown, dev = split_rows(twice, 8, 2, seed=1)
    assert not {row.prompt for row in shown} & {row.prompt for row in dev}
    assert len(split_rows(TRAIN, 100, 2, seed=1)[1]) == 10, "a third at most"
    with pytest.raises(UserError, match="6 training rows") as error:
        split_rows(TRAIN[:6], 8, 2, seed=1)
    assert error.value.exit_code is ExitCode.DATA
