"""The upload to the hub, and what its errors mean. The token comes from HF_TOKEN or the hub login, nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ExitCode, Problem, UserError, first_line
from common.sharing.contents import Contents

_LOGIN = "set the environment variable HF_TOKEN, or log in with `.venv/bin/hf auth login`"


def check_repository(repo: str, *, public: bool, force: bool) -> str:
    """Return the name of the hub's user; nothing is written.

    Raises UserError: 69 without a token that the hub knows or without a hub, 73 for a repository that is there already,
    unless ``force``, or that is not as private or public as is wanted: what is there stays as it is.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if not get_token():
        raise UserError(Problem("no token for the hub", "one that may write", _LOGIN), ExitCode.UNAVAILABLE)
    api = HfApi()
    with named_errors(repo):
        user = api.whoami()["name"]
        try:
            there = api.model_info(repo)
        except RepositoryNotFoundError:
            return user
    state = "private" if there.private else "public"
    if not there.private and not public:
        problem = Problem(f"{repo} is there already and is public", "private unless asked", "PUBLIC=1 if you mean it")
        raise UserError(problem, ExitCode.CANNOT_CREATE)
    if there.private and public:
        allowed = "PUBLIC=1 makes a new one public"
        remedy = "make it public on the hub, or leave PUBLIC=1 out"
        raise UserError(Problem(f"{repo} is there already and is private", allowed, remedy), ExitCode.CANNOT_CREATE)
    if not force:
        problem = Problem(f"{repo} is there already ({state})", "a new one", "FORCE=1 adds a commit to it")
        raise UserError(problem, ExitCode.CANNOT_CREATE)
    return user


def upload(repo: str, contents: Contents, message: str, *, public: bool) -> str:
    """Create the repository if it is not there, commit ``contents`` to it, and return its address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    operations = [
        CommitOperationAdd(name, str(content) if isinstance(content, Path) else content)
        for name, content in contents.items()
    ]
    with named_errors(repo):
        address = api.create_repo(repo, private=not public, exist_ok=True)
    with named_errors(repo, next_step=f"{repo} is there, without these files: the same with FORCE=1 carries on"):
        api.create_commit(repo, operations, commit_message=message)
    return str(address)


@contextmanager
def named_errors(repo: str, next_step: str = "") -> Iterator[None]:
    """Turn what the hub's client raises into a UserError (69) with the next step."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except RepositoryNotFoundError:
        raise
    except OfflineModeIsEnabled:
        problem = Problem("HF_HUB_OFFLINE forbids to ask the hub", next_step="unset HF_HUB_OFFLINE, or DRY_RUN=1")
        raise UserError(problem, ExitCode.UNAVAILABLE) from None
    except HfHubHTTPError as error:
        raise UserError(_explain(repo, error, next_step), ExitCode.UNAVAILABLE) from error
    except (httpx.HTTPError, OSError) as error:
        step = next_step or "try again with a network; DRY_RUN=1 works without"
        problem = Problem(f"the hub cannot be reached ({first_line(error)})", next_step=step)
        raise UserError(problem, ExitCode.UNAVAILABLE) from error


def _explain(repo: str, error, next_step: str) -> Problem:
    status = error.response.status_code if error.response is not None else None
    said = getattr(error, "server_message", None) or first_line(error)
    said = " ".join(said.split())[:200]
    if status == 401:
        return Problem(f"the hub does not know this token ({said})", "one that may write", _LOGIN)
    if status == 403:
        owner = repo.split("/")[0]
        return Problem(
            f"this token may not write to {repo} ({said})", f"one with the right to write for {owner}", _LOGIN
        )
    return Problem(f"the hub refuses: {said} ({status})", next_step=next_step or "try again later")
