"""Pushes a folder to the Hub: checked before any work is done, private by default, and never over files that are
there."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_engine.errors import UserError, first_line


def check_repo(repo: str, public: bool) -> None:
    """Raises UserError unless a model may be pushed to `repo` (OWNER/NAME).

    Somebody must be logged in who may write there, and the repository must be new, or empty and as private as it is to
    be.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError
    if repo.count("/") != 1:
        raise UserError(f"--push {repo}: is no name on the Hub; give OWNER/NAME")
    api = HfApi()
    with plain_errors(repo):
        check_owner(repo, api.whoami())
        try:
            info = api.model_info(repo)
        except RepositoryNotFoundError:
            return
    if any(file.rfilename != ".gitattributes" for file in info.siblings or []):
        raise UserError(f"--push {repo}: holds files already, and nothing is overwritten; choose another name")
    if bool(info.private) == public:
        raise UserError(f"--push {repo}: is there, and is {'private' if public else 'public'}; "
                        f"{'leave out' if public else 'add'} --public, or choose another name")


def check_owner(repo: str, user: dict) -> None:
    """Raises UserError unless the user who is logged in, or one of their organisations, owns `repo`."""
    owners = [user["name"], *(organisation["name"] for organisation in user.get("orgs") or [])]
    if repo.split("/")[0].lower() not in [owner.lower() for owner in owners]:
        raise UserError(f"--push {repo}: you are logged in as {user['name']}, who may write to {', '.join(owners)}; "
                        "push there, or log in as somebody else with `hf auth login`")


def push(folder: Path, repo: str, public: bool) -> str:
    """Upload a folder in one commit, and return the address of the repository.

    Raises UserError that says how to push the folder by hand.
    """
    from huggingface_hub import HfApi
    api = HfApi()
    try:
        with plain_errors(repo):
            address = api.create_repo(repo, private=not public, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Made with RLHF Playground")
    except UserError as error:
        command = f"hf upload {repo} {shlex.quote(str(folder))} .{'' if public else ' --private'}"
        raise UserError(f"{error}. {folder} is complete; to push it later: {command}") from None
    return str(address)


@contextmanager
def plain_errors(repo: str) -> Iterator[None]:
    """Turn whatever huggingface_hub and its HTTP client raise into a UserError."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UserError(f"--push {repo}: is no name on the Hub ({first_line(error)}); give OWNER/NAME") from None
    except LocalTokenNotFoundError:
        raise UserError(f"--push {repo}: nobody is logged in to the Hub; log in with `hf auth login`, or set "
                        "HF_TOKEN") from None
    except Exception as error:  # of the file system, or of the HTTP client, which differs between versions
        status = getattr(getattr(error, "response", None), "status_code", 0)
        raise UserError(f"--push {repo}: {push_advice(status, error)}") from None


def push_advice(status: int, error: Exception) -> str:
    """What is wrong and what to do, by the HTTP status of the answer (0 if there was none)."""
    if status == 401:
        return "the Hub does not accept the token; log in again with `hf auth login`, or correct HF_TOKEN"
    if status == 403:
        return "the token has no right to write there; make one that has, and log in with it"
    return f"cannot be pushed to ({first_line(error)}); check the network and try again"
