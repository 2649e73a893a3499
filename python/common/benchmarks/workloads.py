"""The examples of the training benchmark: with a common beginning, and without one."""

import json
from pathlib import Path

from common.data import Example, Message
from common.data.business_analyst import render_document, render_prompt
from common.samples import business_analyst

WORKLOADS = ("shared", "plain")


def write_workload(name: str, count: int, path: Path, seed: int = 0) -> list[Example]:
    """Write ``count`` prompt/completion rows of a workload to ``path`` and return them as examples.

    "shared" is the business-analyst task: its instructions come first, the same in every prompt. "plain" asks to repeat
    a document after its concept, with nothing before the document: about the same lengths, no common beginning.
    """
    examples = []
    for row in business_analyst.generate_dataset(seed)["train"][:count]:
        prompt, answer = render_prompt(row["concept"]), render_document(row["requirements"])
        if name == "plain":
            prompt, answer = answer, f"{row['concept']}\n{answer}"
        examples.append(Example((Message("user", prompt), Message("assistant", answer))))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            row = {"prompt": [example.messages[0].as_dict()], "completion": [example.messages[1].as_dict()]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return examples
