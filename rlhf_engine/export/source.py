"""What an export starts from: an adapter, its base, and the run that it comes from."""

from dataclasses import dataclass
from pathlib import Path

from rlhf_engine.errors import UserError
from rlhf_engine.model.adapters import has_head, read_head
from rlhf_engine.model.checks.finite import check_file
from rlhf_engine.model.lora.options import read_lora
from rlhf_engine.model.lora.weights import read_weights
from rlhf_engine.runs import smollm2
from rlhf_engine.runs.folder import Run, step_of
from rlhf_engine.runs.resolve import check_adapter, fingerprint, is_on_hub, resolve_adapter, resolve_model


@dataclass(frozen=True)
class Source:
    """An adapter, the base that it belongs to, and where both come from."""

    model: str
    """MODEL, as the user named it."""
    base: Path
    """Its folder."""
    folder: Path
    """The adapter's folder."""
    reward: bool = False
    """Whether it is a reward model: an adapter with a head."""
    run: Run | None = None
    """The run whose checkpoint it is, if it is one."""
    step: int = 0
    """The step of this checkpoint."""

    @property
    def hub_id(self) -> str:
        """The base's id on the Hub; empty for one that is only on this machine."""
        if self.model == smollm2.NAME:
            return smollm2.HUB_ID if self.base == smollm2.hub_folder() else ""
        return self.model if is_on_hub(self.model) else ""

    @property
    def on_hub(self) -> bool:
        """Whether the base is on the Hub, where others can find it."""
        return bool(self.hub_id)

    @property
    def base_name(self) -> str:
        """The base's id on the Hub, or its folder on this machine."""
        return self.hub_id or str(self.base.absolute())


def find_source(model: str, adapter: str) -> Source:
    """What MODEL and ADAPTER name, with the base's fingerprint checked. Raises UserError."""
    if adapter in ("none", ""):
        raise UserError("--adapter none: the bare base is nothing to export; name a run folder, its checkpoint or a "
                        "PEFT folder")
    folder = find_adapter(adapter, model)
    if folder.name == "value" and (folder.parent / "trainer.json").exists():
        raise UserError(f"{folder}: a value function is of no use outside of its run; name the policy's folder")
    base = resolve_model(model)
    check_adapter(folder, fingerprint(base))
    read_lora(folder)
    check_file(folder, read_weights(folder))
    run, step = origin(folder)
    # The head of a policy is its value function.
    reward = folder.name not in ("policy", "reference") and has_head(folder)
    if reward:
        check_file(folder, read_head(folder))
    return Source(model, base, folder, reward, run, step)


def find_adapter(adapter: str, model: str) -> Path:
    """The folder of the policy that ADAPTER names, or of the reward model if it is a reward run. Raises UserError."""
    try:
        folder = resolve_adapter(adapter, model)
    except UserError as error:
        try:
            folder = resolve_adapter(adapter, model, role="reward")
        except UserError:
            raise error from None
    if folder is None:
        raise UserError(f"--adapter {adapter}: names no adapter; name a run folder, its checkpoint or a PEFT folder")
    return folder


def origin(folder: Path) -> tuple[Run | None, int]:
    """(run, step) of the checkpoint that a folder is in; (None, 0) for any other folder."""
    checkpoint = folder.absolute().parent
    run = Run(checkpoint.parent.parent)
    if checkpoint.parent.name != "checkpoints" or not run.exists():
        return None, 0
    name = checkpoint.resolve().name
    return run, step_of(Path(name)) if name.startswith("step-") else run.last_step()
