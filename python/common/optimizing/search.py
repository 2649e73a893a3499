"""A run of DSPy's MIPROv2 over demonstrations, and instructions where a model is there to write them.

The stock optimiser searches; two things are arranged around it. Everything it will ask of a candidate is answered in
one batch before it asks, and kept on disk, so that an interrupted search goes on where it was. And an error ends the
search: left alone, MIPROv2 would score a candidate 0 when its server is gone.

The plain prompt is the first candidate. Another one replaces it only with a better score on the dev rows, so where
demonstrations do harm the result is the plain prompt.
"""

import contextlib
import importlib.metadata
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from common.data.examples import Example
from common.errors import ExitCode, Problem, UserError
from common.generation import Decoding
from common.generation.answers import AnswerCache, without_thought
from common.generation.arms import Arm
from common.generation.programs import SEARCH_KEY
from common.runs.line import write_over
from common.scoring import Metric

PASS_MARK = 0.9  # an own answer scored so high may become a demonstration
PROPOSER_TOKENS = 1024
NO_LIMIT = 10**9


@dataclass(frozen=True)
class Task:
    """What is searched for. ``shown`` rows may become demonstrations, ``dev`` rows judge; both are training rows."""

    arm: Arm
    shown: Sequence[Example]
    dev: Sequence[Example]
    metric: Metric
    decoding: Decoding
    demonstrations: int
    candidates: int
    trials: int
    seed: int
    proposer: Arm | None = None
    in_batches: bool = True
    record: dict = field(default_factory=dict)  # what else the result says about itself


def search_program(task: Task, cache: AnswerCache, stream: TextIO) -> dict:
    """Run the search and return the best program: the JSON state of a DSPy program, with how it was found.

    ``stream`` is told how far it is. The result holds no time and no path of this machine: equal tasks give equal
    programs. Raises UserError: 65 when a prompt does not fit the model, 69 when a server stays away.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # nothing is fetched
    import dspy

    from common.optimizing.program import Answerer, ArmEngine, Asker, SearchEnded, TurnsAdapter, as_dspy

    told = _Teller(stream)
    asker = Asker(task.arm, task.decoding, cache, told.count)
    pool = [as_dspy(example) for example in task.shown]
    student = Answerer(asker, pool if task.in_batches else [])
    model = dspy.LM("local/arm", engine=ArmEngine(asker), cache=False, num_retries=0)
    writer = model
    if task.proposer is not None:
        decoding = Decoding(PROPOSER_TOKENS, seed=task.seed)
        engine = ArmEngine(Asker(task.proposer, decoding, cache, told.count))
        writer = dspy.LM("local/proposer", engine=engine, cache=False, num_retries=0)
    history: list[dict] = []
    optimiser = _optimiser(task, model, writer, history, told)
    with _quiet(), dspy.context(lm=model, adapter=TurnsAdapter()):
        try:
            best = optimiser.compile(
                student, trainset=pool, valset=[as_dspy(example) for example in task.dev], seed=task.seed,
                num_trials=task.trials, minibatch=False, program_aware_proposer=False, provide_traceback=False,
            )  # fmt: skip
        except SearchEnded as end:
            raise end.cause from end
    return _result(task, best, history, optimiser.proposer_note)


def _optimiser(task: Task, model, writer, history: list[dict], told: "_Teller"):
    """MIPROv2 with batches, errors that end it, and no proposer unless one is named."""
    import dspy

    from common.optimizing.program import SearchEnded

    def score(example, prediction, trace=None) -> float:
        try:
            return task.metric(prediction.completion, without_thought(example.completion))[0]
        except UserError as error:
            raise SearchEnded(error) from error

    class Search(dspy.MIPROv2):
        proposer_note = ""

        def _propose_instructions(self, program, *args, **options):
            plain = {n: [step.signature.instructions] for n, step in enumerate(program.predictors())}
            if task.proposer is None:
                return plain
            try:
                return super()._propose_instructions(program, *args, **options)
            except Exception as error:  # what a model writes may be unusable in any way
                self.proposer_note = f"Its instructions could not be used: {' '.join(str(error).split())[:300]}"
                return plain

        def _optimize_prompt_parameters(self, program, instructions, demos, evaluate, *args, **options):
            def evaluate_in_batches(candidate, devset, **more):
                told.begin(f"trial {len(history)} of {task.trials}")
                candidate.ask_ahead([example.prompt for example in devset])
                result = evaluate(candidate, devset=devset, num_threads=1, **more)
                history.append(_trial(len(history), candidate, result, task))
                told.finish(history)
                return result

            return super()._optimize_prompt_parameters(
                program, instructions, demos, evaluate_in_batches, *args, **options
            )

    told.begin("choosing demonstrations")
    return Search(
        metric=score, metric_threshold=PASS_MARK, prompt_model=writer, task_model=model, auto=None, seed=task.seed,
        num_candidates=task.candidates, num_threads=1, max_errors=NO_LIMIT, max_labeled_demos=task.demonstrations,
        max_bootstrapped_demos=1 if task.demonstrations else 0,
    )  # fmt: skip


def _trial(number: int, candidate, result, task: Task) -> dict:
    """One line of the history. A row that DSPy could not score ends the search, instead of counting as 0."""
    from common.generation.programs import used_instructions
    from common.optimizing.program import SearchEnded

    lost = [example for example, prediction, _ in result.results if "completion" not in prediction]
    if lost:
        problem = Problem(f"{len(lost)} dev rows could not be scored", next_step="run with --debug")
        raise SearchEnded(UserError(problem, ExitCode.INTERNAL))
    scores = [float(score) for *_, score in result.results]
    return {
        "trial": number,
        "score": sum(scores) / len(scores),
        "instructions": used_instructions(candidate.answer.signature.instructions),
        "demonstrations": _sources(candidate.answer.demos, task.shown),
    }


def _sources(demos: Sequence, shown: Sequence[Example]) -> list[str]:
    """Where the demonstrations of a candidate come from: a row, or a row's question with the model's own answer."""
    from common.optimizing.program import as_dspy

    by_prompt = {repr(as_dspy(example).prompt): example for example in shown}
    names = []
    for demo in demos:
        example = by_prompt[repr(demo["prompt"])]
        own = demo["completion"] != example.completion
        names.append(f"{example.source} (own answer)" if own else example.source)
    return names


def _result(task: Task, best, history: list[dict], proposer_note: str) -> dict:
    plain = history[0]["score"]
    chosen = max(history, key=lambda trial: trial["score"])  # the earliest of equals, as MIPROv2 takes it
    state = best.dump_state()
    state["metadata"] = {"dependency_versions": {"dspy": importlib.metadata.version("dspy")}}  # where DSPy looks for it
    state[SEARCH_KEY] = {
        "optimiser": f"MIPROv2 of DSPy {importlib.metadata.version('dspy')}",
        "seed": task.seed,
        "model": task.arm.identity,
        "proposer": task.proposer.identity if task.proposer else None,
        "metric": task.metric.name,
        "decoding": {"max_new_tokens": task.decoding.max_new_tokens, "temperature": task.decoding.temperature},
        "settings": {
            "demonstrations": task.demonstrations, "candidates": task.candidates, "trials": task.trials,
            "pass_mark": PASS_MARK,
        },
        "dev_rows": [example.source for example in task.dev],
        **task.record,
        "notes": [note for note in (*task.record.get("notes", []), proposer_note, _outcome(plain, chosen)) if note],
        "plain_score": plain,
        "score": chosen["score"],
        "instructions": chosen["instructions"],
        "demonstrations": chosen["demonstrations"],
        "history": history,
    }  # fmt: skip
    return state


def _outcome(plain: float, chosen: dict) -> str:
    if chosen["trial"] == 0:
        return f"No candidate beat the plain prompt on the dev rows ({100 * plain:.1f} %), so the plain prompt is kept."
    gain = f"{100 * plain:.1f} % with the plain prompt, {100 * chosen['score']:.1f} % with the one that was found"
    return f"On the dev rows: {gain}."


class _Teller:
    """Turns what happens in a search into lines for a person: off a terminal, one a trial."""

    def __init__(self, stream: TextIO):
        self._stream, self._stage = stream, ""

    def begin(self, stage: str) -> None:
        self._stage = stage
        write_over(self._stream, stage)

    def count(self, asked: int) -> None:
        write_over(self._stream, f"{self._stage}, {asked} answers")

    def finish(self, history: list[dict]) -> None:
        best = max(trial["score"] for trial in history)
        last = history[-1]
        write_over(
            self._stream,
            f"trial {last['trial']}: {100 * last['score']:.1f} % with {len(last['demonstrations'])} demonstrations"
            f"{' and instructions' if last['instructions'] else ''} (best {100 * best:.1f} %)",
            last=True,
        )


@contextlib.contextmanager
def _quiet():
    """DSPy prints and logs as it goes; the search tells of itself what is worth telling."""
    names = ("dspy", "optuna")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
