"""Fetch a model from the Hugging Face hub into runs/models/, once: pinned, resumable, verified.

  python python/download_model.py mistralai/Mistral-7B-Instruct-v0.1 --revision ec5deb64f2c6e6fa90c1abf74a91d5c93a9669ca

Only this and publish_run.py need the hub. A gated model needs `.venv/bin/hf auth login`, or HF_TOKEN; a token is never
an option.
"""

import shutil
from pathlib import Path

from common.errors import CommandParser, ExitCode, Problem, UserError, first_line, run_command

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "LICENSE*", "README.md"]
UNWANTED = ["consolidated*", "*/*"]  # the same weights once more, in the publisher's own format


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("model", help="hub id, as in org/name")
    parser.add_argument("--revision", help="commit hash, branch or tag (default: the newest, pinned in MODEL.json)")
    args = parser.parse_args()

    from common.model_files import MARKER, holds_revision, hub_id, model_folder, read_marker

    if not hub_id(args.model):
        raise UserError(Problem(f"'{args.model}' is no hub id", "org/name", "see the recipe's header"), ExitCode.USAGE)
    folder = model_folder(args.model)
    if (folder / MARKER).is_file():
        marker = read_marker(folder)
        if holds_revision(marker, args.revision):
            print(f"{args.model} at {marker['revision']} is here already: {folder}")
            return
        what = f"{folder} holds revision {marker['revision']}"
        problem = Problem(what, "one revision at a time", f"delete {folder} first")
        raise UserError(problem, ExitCode.CANNOT_CREATE)

    sizes, revision = list_files(args.model, args.revision, folder)
    check_space(folder, sum(sizes.values()))
    fetch(args.model, revision, folder)
    finish(folder, args.model, revision, args.revision or "main", sizes)


def list_files(model: str, revision: str | None, folder: Path) -> tuple[dict[str, int], str]:
    """Ask the hub for the wanted files' sizes in bytes and for the full commit hash."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    try:
        info = HfApi().model_info(model, revision=revision, files_metadata=True)
    except GatedRepoError:
        raise gated(model) from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what, allowed = f"the hub has no {model} at {revision or 'main'}", "a public model, or one you may read"
        remedy = "check the name, or .venv/bin/hf auth login"
        raise UserError(Problem(what, allowed, remedy), ExitCode.NO_INPUT) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise offline(model, revision, folder, error) from error
    sizes = {file.rfilename: file.size for file in info.siblings}
    names = filter_repo_objects(sizes, allow_patterns=WANTED, ignore_patterns=UNWANTED)
    return {name: sizes[name] for name in names}, info.sha


def gated(model: str) -> UserError:
    """Return the error for a model whose terms this account has not accepted; its list of files may be open to all."""
    remedy = "accept its terms on the hub, then: .venv/bin/hf auth login"
    return UserError(Problem(f"{model} is gated", "an account that was let in", remedy), ExitCode.UNAVAILABLE)


def offline(model: str, revision: str | None, folder: Path, error: Exception) -> UserError:
    """Return the error for a hub that cannot be reached, with the other way to get the model here."""
    pinned = f" --revision {revision}" if revision else ""
    remedy = f"on a machine with a network: hf download {model}{pinned} --local-dir DIR, then copy DIR to {folder}"
    problem = Problem(f"the hub cannot be reached ({first_line(error)})", next_step=remedy)
    return UserError(problem, ExitCode.UNAVAILABLE)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise UserError (73) unless the model fits on the disk."""
    from common.hardware import GIB, free_disk_gib

    free = free_disk_gib(folder)
    if free < needed_bytes / GIB + 1:
        what = f"{needed_bytes / GIB:.1f} GiB needed, {free:.1f} GiB free in {folder.parent}"
        raise UserError(Problem(what, next_step="free some space"), ExitCode.CANNOT_CREATE)


def fetch(model: str, revision: str, folder: Path) -> None:
    """Download the files; what an earlier attempt left is carried on."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        snapshot_download(
            model, revision=revision, local_dir=folder, allow_patterns=WANTED, ignore_patterns=UNWANTED, max_workers=4
        )
    except GatedRepoError:
        raise gated(model) from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        what = f"the download broke off: {first_line(error)}"
        problem = Problem(what, "what has arrived is kept", "run the same command again")
        raise UserError(problem, ExitCode.UNAVAILABLE) from error


def finish(folder: Path, model: str, revision: str, asked: str, sizes: dict[str, int]) -> None:
    """Check sizes and headers, hash every file, and write the marker last.

    ``revision`` is the commit's hash, ``asked`` what it was asked for by: a branch, a tag, or the hash.
    """
    from common.hashing import sha256_of
    from common.model_files import MARKER, check_model_folder
    from common.runs import write_json

    problems = [
        Problem(f"{folder / name} has the wrong size", f"{size:,} bytes", "delete it and run the same command again")
        for name, size in sizes.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]
    problems += check_model_folder(folder)
    if problems:
        raise UserError(problems, ExitCode.NO_INPUT)
    files = {name: {"size": size, "sha256": sha256_of(folder / name)} for name, size in sizes.items()}
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    write_json(folder / MARKER, {"model": model, "revision": revision, "asked": asked, "files": files})
    print(f"{model} at {revision}: {len(files)} files in {folder}")


if __name__ == "__main__":
    run_command(main)
