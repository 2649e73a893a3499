"""The test items, and what the arms may have seen: read by the run's rules, as the run recorded them, kept apart."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from common.data import Example, Loaded, load_examples, parse_columns
from common.errors import ExitCode, Problem, UserError
from common.generation.programs import Prompt
from common.runs import ROOT

OWN_DATA = "the run's training data"  # where other data than the run's were named with --train
SEARCHED_DATA = "the prompt's search"


def load_data(args: argparse.Namespace, manifest: dict) -> tuple[Loaded, dict[str, Loaded]]:
    """The test items, and the splits the arms may have seen, the run's own among them, as they were when it trained."""
    recorded = manifest.get("data", {})
    paths = {"train": args.train, "validation": recorded.get("validation", {}).get("path")}
    own = recorded.get("train", {}).get("path")
    if own and args.train and locate(own).resolve() != locate(args.train).resolve() and locate(own).is_file():
        paths[OWN_DATA] = own
    rules = data_rules(manifest)
    test = load_examples(locate(args.dataset), **rules)
    if any(not example.messages for example in test):
        raise UserError(
            Problem(f"{args.dataset}: rows of running text", "rows with a question and an answer"), ExitCode.DATA
        )
    known = {
        name: load_examples(locate(path), **rules)
        for name, path in paths.items()
        if path and locate(path).resolve() != locate(args.dataset).resolve()
    }
    if args.train and "train" not in known:
        raise UserError(
            Problem(f"{args.dataset} is the training data", "held-out items no arm has seen"), ExitCode.DATA
        )
    _check_unchanged(manifest, {"validation": test, **known})
    return test, known


def _check_unchanged(manifest: dict, loaded: dict[str, Loaded]) -> None:
    """Raise UserError (65) where a file is not what the run was trained with: nothing would be known of leaks then.

    What a run went on with by FORCE=1 is among its breaks, with its sha256.
    """
    problems, breaks = [], "\n".join(manifest.get("breaks", []))
    for name, part in (("train", "train"), (OWN_DATA, "train"), ("validation", "validation")):
        file, entry = loaded.get(name), manifest.get("data", {}).get(part, {})
        if not file or "path" not in entry or locate(file.path).resolve() != locate(entry["path"]).resolve():
            continue
        if file.sha256 != entry["sha256"] and file.sha256 not in breaks:
            what = f"{file.path} is not what the run had as its {part} data"
            problems.append(Problem(what, f"its sha256 began with {entry['sha256'][:12]}", "put it back as it was"))
    if problems:
        raise UserError(problems, ExitCode.DATA)


def add_searched_data(prompt: Prompt, known: dict[str, Loaded], test: Loaded, rules: dict) -> list[str]:
    """Add to ``known`` the data that the prompt was searched for on, or return a note that they are not there."""
    data = prompt.origin.get("search", {}).get("data") or {}
    path, sha256 = data.get("path"), data.get("sha256")
    if not sha256 or sha256 in [test.sha256, *(loaded.sha256 for loaded in known.values())]:
        return []  # the test items themselves are refused with the other leaks
    with suppress(UserError):
        loaded = load_examples(locate(path or ""), **rules)
        if loaded.sha256 == sha256:
            known[SEARCHED_DATA] = loaded
            return []
    return [
        f"The prompt was searched for on {path}, which is gone, changed or not readable: leaks from it cannot be seen."
    ]


def check_separation(test: Loaded, known: Mapping[str, Loaded], prompt: Prompt) -> dict:
    """Compare the test items with every split the arms may have seen; counts by split, for the report.

    Raises UserError (65) with every item that is in one of them, or among the demonstrations of ``prompt``: same, same
    but for case and spacing, the same question, or large shared parts (13-word sequences); and when ``prompt`` was
    searched for on the test items themselves.
    """
    counts, problems = {}, []
    if prompt.origin.get("search", {}).get("data", {}).get("sha256") == test.sha256:
        problems.append(Problem(f"the optimised prompt was searched for on {test.path} itself"))
    splits = {name: list(loaded.examples) for name, loaded in known.items()}
    for name, examples in splits.items():
        # Demonstrations are looked for among the training data: alone they are too few to tell a copied answer from
        # the fixed instructions, which every prompt shares.
        shown = [example for example in prompt.demonstrations if name == "train" and example not in examples]
        counts[name] = _count_leaks({name: [*examples, *shown], "test": test.examples}, problems)
    if prompt.demonstrations and "train" not in splits:
        # Without training data the test items tell what is fixed.
        counts["demonstrations"] = _count_leaks(
            {"test": test.examples, "demonstrations": prompt.demonstrations}, problems
        )
    if problems:
        advice = Problem(
            "test items are known to an arm", "a comparison needs items no arm has seen", "use another --dataset"
        )
        raise UserError([*problems, advice], ExitCode.DATA)
    return {name: count for name, count in counts.items() if count}


def _count_leaks(splits: dict[str, Sequence[Example]], problems: list[Problem]) -> dict:
    """Leaks by kind between two splits; what is found goes to ``problems``."""
    from common.data.leaks import check_leaks

    try:
        return check_leaks(splits) if all(splits.values()) else {}
    except UserError as error:
        problems += error.problems[:-1]
        return {}


def data_rules(manifest: dict) -> dict:
    """What the run accepted in its data, the comparison accepts too."""
    settings = manifest.get("settings", {}).get("data", {})
    names = ("on_bad_row", "allow_empty", "allow_duplicates", "allow_secrets")
    rules = {name: settings[name] for name in names if name in settings}
    if settings.get("columns"):
        rules["columns"] = parse_columns(settings["columns"])
    return rules


def locate(path: str) -> Path:
    """A data file as named, or below the project's folder, as recipes name theirs."""
    return Path(path) if Path(path).exists() or not (ROOT / path).exists() else ROOT / path
