"""Better prompts: instructions and demonstrations that go around a question.

They come from the JSON state of a DSPy program, written by `make optimize` or by DSPy's own ``program.save("x.json")``.
It is read as data: DSPy is not needed, nothing in it is run, and pickled programs are refused. What comes out are
plain messages, which the one encode function or a server turns into a prompt like any other conversation.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.data.business_analyst import render_prompt
from common.data.examples import Example, Message
from common.data.problems import RowError
from common.data.shapes import ShapeReader
from common.errors import ExitCode, Problem, UserError
from common.runs import runs_dir

PROGRAM_FILE = "program.json"
SEARCH_KEY = "search"  # what `make optimize` adds to the state: how the program was found
_PICKLED = (".pkl", ".pickle")
MAX_BYTES = 16 * 1024 * 1024
# Fields of DSPy's own in a demonstration; the reasoning of a chain of thought is not part of the answer.
_NOT_SHOWN = ("augmented", "reasoning", "rationale", "dspy_uuid", "dspy_split")
# What DSPy writes where nobody gave instructions.
_NO_INSTRUCTIONS = re.compile(r"Given the fields? .{1,500}, produce the fields? .{1,500}\.", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """Instructions and demonstrations; empty, it leaves every question as it is. ``origin`` is for reports."""

    instructions: str = ""
    demonstrations: tuple[Example, ...] = ()
    origin: Mapping = field(default_factory=dict, compare=False)

    @property
    def is_plain(self) -> bool:
        return not self.instructions and not self.demonstrations

    def around(self, question: Sequence[Message]) -> list[Message]:
        """The conversation that asks ``question``: demonstrations first, behind a system message if there is one.

        Instructions join the system message, or else begin the first user turn: not every template knows a system.
        """
        head = list(question[:1]) if question and question[0].role == "system" else []
        shown = [message for example in self.demonstrations for message in example.messages if message.role != "system"]
        turns = [*head, *shown, *question[len(head) :]]
        if not self.instructions or not turns:
            return turns
        first = turns[0]
        pair = (first.content, self.instructions) if head else (self.instructions, first.content)
        return [Message(first.role, "\n\n".join(pair)), *turns[1:]]

    def describe(self) -> dict:
        """For reports: where it comes from, its instructions, and the sources of its demonstrations."""
        return {
            **self.origin,
            "instructions": self.instructions,
            "demonstrations": [example.source for example in self.demonstrations],
        }


def program_of(recipe: str) -> str:
    """Return where make optimize keeps the program of a recipe that names no place of its own."""
    return str(runs_dir() / "dspy" / recipe / PROGRAM_FILE)


def is_program(spec: str) -> bool:
    """Whether an arm's name is a program: a JSON or pickle file, or a folder of such that holds no model."""
    path = Path(spec)
    if not path.is_dir():
        return path.suffix in (".json", *_PICKLED)
    has_model = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    return not has_model and any(file.suffix in (".json", *_PICKLED) for file in path.iterdir())


def read_program(path: str | Path) -> Prompt:
    """Read the JSON state of a DSPy program of one step: a file, or a folder that holds it.

    A demonstration may have any of the shapes of training rows, or one question and one answer field of any name; a
    lone ``concept`` is asked as the business-analyst task asks it. Raises UserError: 66 when there is no such program,
    65 when it is no program, has several steps, or is pickled.
    """
    file = _find_file(Path(path))
    content = file.read_bytes()
    if len(content) > MAX_BYTES:
        raise _unusable(file, f"{len(content):,} bytes", f"at most {MAX_BYTES:,}")
    try:
        state = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _unusable(file, f"is no JSON ({str(error)[:200]})") from error
    steps = _find_steps(state)
    if len(steps) != 1:
        found = ", ".join(steps) or "none"
        raise _unusable(file, f"steps in it: {found}", "a program of one step, as DSPy's save('x.json') writes it")
    (step,) = steps.values()
    instructions = step["signature"].get("instructions", "")
    if not isinstance(instructions, str):
        raise _unusable(file, "its instructions are not text")
    search = state.get(SEARCH_KEY) if isinstance(state.get(SEARCH_KEY), dict) else {}
    sources = search.get("demonstrations") or []
    demonstrations = []
    for number, demo in enumerate(step["demos"], start=1):
        source = sources[number - 1] if len(sources) >= number else f"{file.name}, demonstration {number}"
        try:
            demonstrations.append(read_demonstration(demo, str(source)))
        except RowError as error:
            raise _unusable(file, f"demonstration {number}: {error}") from error
    origin = {
        "kind": "DSPy program",
        "path": str(path),
        "sha256": hashlib.sha256(content).hexdigest(),
        "search": search,
    }
    return Prompt(used_instructions(instructions), tuple(demonstrations), origin)


def read_demonstration(demo: object, source: str) -> Example:
    """A demonstration of a step as an example. Raises RowError saying what it lacks."""
    if not isinstance(demo, dict):
        raise RowError("is no object")
    row = {name: value for name, value in demo.items() if name not in _NOT_SHOWN and value is not None}
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), str):
        row["completion"] = [{"role": "assistant", "content": row["completion"]}]
    try:
        example = ShapeReader().read(row, source)
    except RowError:
        if len(row) != 2 or not all(isinstance(value, str) and value.strip() for value in row.values()):
            raise
        (name, question), (_, answer) = row.items()
        question = render_prompt(question) if name == "concept" else question
        example = Example((Message("user", question), Message("assistant", answer)), source=source)
    if not example.messages:
        raise RowError("is running text, without a question")
    return example


def used_instructions(instructions: str) -> str:
    """``instructions`` of a step, or "" where they are the sentence DSPy writes when nobody gave any."""
    text = instructions.strip()
    return "" if _NO_INSTRUCTIONS.fullmatch(text) else text


def _find_file(path: Path) -> Path:
    if path.is_dir():
        files = [path / PROGRAM_FILE] if (path / PROGRAM_FILE).is_file() else sorted(path.glob("*.json"))
        files = [file for file in files if file.name != "metadata.json"]
        if len(files) == 1:
            return files[0]
        if any(path.glob("*.pkl")):
            raise _unusable(path, "a pickled program runs whatever is in it", "save it with program.save('x.json')")
        names = ", ".join(file.name for file in files) or "none"
        raise UserError(Problem(f"{path}: JSON files in it: {names}", f"{PROGRAM_FILE}, or one"), ExitCode.NO_INPUT)
    if not path.is_file():
        problem = Problem(
            f"there is no program {path}", "a JSON file or its folder", "make optimize RECIPE=… finds one"
        )
        raise UserError(problem, ExitCode.NO_INPUT)
    if path.suffix in _PICKLED:
        raise _unusable(path, "a pickled program runs whatever is in it", "save it with program.save('x.json')")
    return path


def _find_steps(state: object) -> dict[str, dict]:
    """The predictors in a state, by name: the state itself when it is one."""
    if not isinstance(state, dict):
        return {}
    candidates = {"self": state, **state}
    return {
        name: part
        for name, part in candidates.items()
        if isinstance(part, dict) and isinstance(part.get("demos"), list) and isinstance(part.get("signature"), dict)
    }


def _unusable(
    path: Path, what: str, allowed: str = "the JSON state of a DSPy program", next_step: str = ""
) -> UserError:
    return UserError(Problem(f"{path}: {what}", allowed, next_step), ExitCode.DATA)
