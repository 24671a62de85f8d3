"""Settings as what one would type elsewhere: the command (from `form`), the YAML for it, and a cell for a notebook."""

from pathlib import Path

import gradio as gr

from playground.pages.train import text
from playground.pages.train.form import command_line, nearer
from playground.voting import PERSON
from rlhf_engine import config as configs
from rlhf_engine.stages import STAGES


def differing(stage: str, settings: dict, here: Path | None = None) -> dict:
    """What is not the default, in the order of the fields, paths as seen from `here`."""
    config = STAGES[stage].config
    found = {name: settings.get(name, getattr(config, name)) for name in configs.field_types(config)}
    return {name: nearer(value, here or Path.cwd()) if isinstance(value, str) else value
            for name, value in found.items() if value != getattr(config, name)}


def as_yaml(stage: str, settings: dict, *, resume: bool = False, here: Path | None = None) -> str:
    """A file for `--config`, with the command that takes it in its first line."""
    command = f"# python -m rlhf_engine {stage} --config FILE.yaml{' --resume' if resume else ''}\n"
    return command + configs.yaml_text({"stage": stage} | differing(stage, settings, here))


def as_cell(stage: str, settings: dict, *, resume: bool = False, here: Path | None = None) -> str:
    """Python that does the same in a notebook, its curves below the cell. It writes no run folder; a resumed run begins at its last
    checkpoint. A `person` is whoever sits before the notebook.
    """
    config, found = STAGES[stage].config, differing(stage, settings, here)
    output, asks = found.pop("output", ""), found.get("labeler") == PERSON
    if asks:
        found.pop("labeler")
    begin = f", checkpoint=Run({output!r}).last_checkpoint()" if resume else ""
    labeler = ", labeler=You()" if asks else ""
    arguments = ", ".join(f"{name}={value!r}" for name, value in found.items())
    if len(arguments) > 90:
        arguments = "\n    " + ",\n    ".join(f"{name}={value!r}" for name, value in found.items()) + ",\n"
    return "\n".join([
        f"from playground.notebook import {'You, ' if asks else ''}live",
        f"from rlhf_engine.config import {config.__name__}",
        *(["from rlhf_engine.runs.folder import Run"] if resume else []),
        "from rlhf_engine.build import make_trainer", "",
        f"config = {config.__name__}({arguments})",
        f"trainer = make_trainer(config{labeler}{begin})",
        f"for step in live(trainer):  # {text.CELL_STEP}", "    pass", "trainer.report()", ""])


def codes(stage: str, settings: dict, *, resume: bool = False) -> tuple[str, str, str]:
    """Settings as command, YAML and notebook cell."""
    return tuple(write(stage, settings, resume=resume) for write in (command_line, as_yaml, as_cell))


class Codes:
    """The three, each on a tab with a button to copy it; `parts` are the components."""

    def __init__(self, prefix: str, *values: str):
        self.parts = []
        with gr.Tabs():
            for (title, name, language), value in zip(((text.CODE_COMMAND, "command", "shell"), (text.CODE_YAML, "yaml", "yaml"),
                                                       (text.CODE_CELL, "cell", "python")), values or ("", "", "")):
                with gr.Tab(title):
                    self.parts.append(gr.Code(value, language=language, interactive=False, show_label=False, wrap_lines=True,
                                              elem_id=f"{prefix}{name}"))
