"""An arm from the name a person gives it, and the one call that gets answers out of any arm."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from common.data.examples import Message
from common.errors import ExitCode, Problem, UserError
from common.generation.answers import Answer, AnswerCache, Decoding, Request
from common.generation.local import LocalArm, LocalModel
from common.generation.servers import OllamaArm, ServerArm
from common.runs import read_json

ARM_FORMS = "a model folder or hub id, a run or adapter folder, ollama:NAME, or openai:NAME@URL"


class Arm(Protocol):
    """Anything that answers conversations."""

    name: str
    identity: dict
    description: dict

    def check(self, conversations: Sequence[Sequence[Message]], sources: Sequence[str]) -> None: ...

    def answer(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[list[tuple[Request, Answer]]]: ...


def generate(
    arm: Arm, conversations: Sequence[Sequence[Message]], decoding: Decoding, *,
    cache: AnswerCache | None = None, progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Answer]]:  # fmt: skip
    """Return the answers of ``arm``, ``decoding.samples`` for each conversation, in the conversations' order.

    Equal conversations are asked once a sample. Answers in ``cache`` are not asked again, and each new one is kept
    there as soon as it is there. ``progress`` is told how many of how many are done. Prompts must fit the model (see
    ``Arm.check``). Raises ``UserError`` (69) when a server stays away.
    """
    cache = cache or AnswerCache(None)
    wanted = [[Request(tuple(messages), k) for k in range(decoding.samples)] for messages in conversations]
    answers: dict[Request, Answer | None] = {request: None for row in wanted for request in row}
    for request in answers:
        answers[request] = cache.get(arm.identity, request, decoding)
    missing = [request for request, answer in answers.items() if answer is None]
    done = len(answers) - len(missing)
    progress(done, len(answers))
    for answered in arm.answer(missing, decoding) if missing else ():
        answers.update(answered)
        cache.put(arm.identity, decoding, answered)
        done += len(answered)
        progress(done, len(answers))
    return [[answers[request] for request in row] for row in wanted]


def open_arm(name: str, spec: str, *, models: dict | None = None, **how: str) -> Arm:
    """Return the arm that ``spec`` names (see ``ARM_FORMS``); nothing is loaded yet.

    ``how`` a local model computes: precision, device and compute of :class:`LocalModel`. ``models`` keeps the local
    models of a comparison by (folder, adapter), so that arms share weights.
    Raises ``UserError``: 64 for a form that is none of these, 66 for a model that is not on this machine.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "ollama" and rest:
        return OllamaArm(name, rest)
    if scheme == "openai":
        model, _, url = rest.rpartition("@")
        if not model or not re.match(r"https?://", url):
            raise UserError(Problem(f"arm '{spec}'", "openai:NAME@URL", "as in openai:mistral@http://localhost:8000/v1"),
                            ExitCode.USAGE)  # fmt: skip
        return ServerArm(name, model, url)
    base, adapter = find_local(spec)
    models = {} if models is None else models
    # An arm without an adapter takes a base that is loaded with one; the adapter is switched off for it.
    key = next((k for k in models if k[0] == base and (adapter is None or k[1] == adapter)), (base, adapter))
    local = models.setdefault(key, LocalModel(base, adapter=adapter, **how))
    return LocalArm(name, local, use_adapter=adapter is not None)


def find_local(spec: str) -> tuple[Path, Path | None]:
    """Return (base model folder, adapter folder or None) of a folder or hub id."""
    from common.model_files import find_model
    from common.settings import ModelSettings

    folder = Path(spec)
    if not (folder / "adapter_config.json").is_file():
        return find_model(ModelSettings(name=spec)).resolve(), None
    path = folder / "adapter_config.json"
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError, OSError) as error:
        problem = Problem(f"{path}: {error}", "a JSON object, as training writes it", "copy the adapter again")
        raise UserError(problem, ExitCode.NO_INPUT) from error
    if not base:
        problem = Problem(f"{path} names no base model", next_step="write its name there: base_model_name_or_path")
        raise UserError(problem, ExitCode.NO_INPUT)
    info = folder / "training_info.json"
    revision = read_json(info).get("revision") if info.is_file() else None
    return find_model(ModelSettings(name=base, revision=revision)).resolve(), folder.resolve()
