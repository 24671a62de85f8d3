"""A folder onto the Hub: looked at before any work is done, private unless told otherwise, and never over what is there."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_engine.errors import UserError, first_line


def check_repo(repo: str, public: bool) -> None:
    """Whether a model may be pushed to `repo` (OWNER/NAME): somebody is logged in who may write there, and it is new, or empty and as
    private as it is to be. Raises UserError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError
    api = HfApi()
    if repo.count("/") != 1:
        raise UserError(f"--push {repo}: is no name on the Hub; give OWNER/NAME")
    with plain_errors(repo):
        who = api.whoami()
        owners = [who["name"], *(org["name"] for org in who.get("orgs") or [])]
        if repo.split("/")[0].lower() not in [owner.lower() for owner in owners]:
            raise UserError(f"--push {repo}: you are logged in as {who['name']}, who may write to {', '.join(owners)}; push there, "
                            "or log in as somebody else with `hf auth login`")
        try:
            found = api.model_info(repo)
        except RepositoryNotFoundError:
            return
    if any(file.rfilename != ".gitattributes" for file in found.siblings or []):
        raise UserError(f"--push {repo}: holds files already, and nothing is overwritten; choose another name")
    if bool(found.private) == public:
        raise UserError(f"--push {repo}: is there, and is {'private' if public else 'public'}; "
                        f"{'leave out' if public else 'add'} --public, or choose another name")


def push(folder: Path, repo: str, public: bool) -> str:
    """Upload a folder in one commit, and return the address of the repository. Raises UserError that says how to go on by hand."""
    from huggingface_hub import HfApi
    api = HfApi()
    try:
        with plain_errors(repo):
            made = api.create_repo(repo, private=not public, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Made with RLHF Playground")
    except UserError as error:
        again = f"hf upload {repo} {shlex.quote(str(folder))} .{'' if public else ' --private'}"
        raise UserError(f"{error}. {folder} is complete; to push it later: {again}") from None
    return str(made)


@contextmanager
def plain_errors(repo: str) -> Iterator[None]:
    """Whatever huggingface_hub and its HTTP client raise, as a UserError."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UserError(f"--push {repo}: is no name on the Hub ({first_line(error)}); give OWNER/NAME") from None
    except LocalTokenNotFoundError:
        raise UserError(f"--push {repo}: nobody is logged in to the Hub; log in with `hf auth login`, or set HF_TOKEN") from None
    except Exception as error:  # of the file system, and of an HTTP client that changes with the version of huggingface_hub
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status == 401:
            raise UserError(f"--push {repo}: the Hub does not take the token; log in anew with `hf auth login`, or mend HF_TOKEN") from None
        if status == 403:
            raise UserError(f"--push {repo}: the token has no right to write there; make one that has, and log in with it") from None
        raise UserError(f"--push {repo}: cannot be pushed to ({first_line(error)}); check the network and try again") from None
