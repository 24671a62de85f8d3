"""Settings as what one would type elsewhere: a command, a YAML file for `--config`, and a notebook cell."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import gradio as gr

import rlhf_engine
from playground.pages.train import text
from playground.voting import PERSON
from rlhf_engine.arguments import command_line, differing
from rlhf_engine.stages import find_stage
from rlhf_engine.yaml_files import yaml_text

ONE_LINE = 90
"""Characters of the arguments of a config, above which each stands on a line of its own."""


def as_yaml(stage: str, settings: dict, *, resume: bool = False, here: Path | None = None) -> str:
    """A file for `--config`; its first line is the command that takes it."""
    command = f"# python -m rlhf_engine {stage} --config FILE.yaml{' --resume' if resume else ''}\n"
    return command + yaml_text({"stage": stage, **differing(stage, settings, here)})


def as_cell(stage: str, settings: dict, *, resume: bool = False, here: Path | None = None) -> str:
    """Python that trains in a notebook, with its curves below the cell.

    It writes no run folder, and at the end a checkpoint beside the notebook; a resumed run begins at its last
    checkpoint. If a person votes, whoever runs the cell is asked.
    """
    config, values = find_stage(stage).config, differing(stage, settings, here)
    output, asks = values.pop("output", ""), values.get("labeler") == PERSON
    if asks:
        values.pop("labeler")
    checkpoint = f", checkpoint=Run({output!r}).last_checkpoint()" if resume else ""
    labeler = ", labeler=You()" if asks else ""
    names = [config.__name__, "make_trainer", *(["Run"] if resume else [])]
    folder = f"{Path(output).name or stage}-notebook"
    lines = [f"# {text.CELL_PLACE}", "from pathlib import Path", "",
             f"from playground.notebook import {'You, ' if asks else ''}live"]
    if config.__name__ not in rlhf_engine.__all__:  # a stage that was registered from outside
        lines.append(f"from {config.__module__} import {names.pop(0)}")
    lines += [f"from rlhf_engine import {', '.join(sorted(names))}", "",
              f"config = {config.__name__}({arguments(values)})",
              f"trainer = make_trainer(config{labeler}{checkpoint})",
              f"for step in live(trainer):  # {text.CELL_STEP}", "    pass",
              f"trainer.save(Path({folder!r}))  # {text.CELL_SAVED.format(role=find_stage(stage).makes)}",
              "trainer.report()", ""]
    return "\n".join(lines)


def arguments(values: dict) -> str:
    """Keyword arguments in Python: on one line if they are short, else a line for each."""
    pairs = [f"{name}={value!r}" for name, value in values.items()]
    line = ", ".join(pairs)
    return line if len(line) <= ONE_LINE else "\n    " + ",\n    ".join(pairs) + ",\n"


Language = Literal["shell", "yaml", "python"]
WRITERS: dict[str, tuple[str, Language, Callable[..., str]]] = {
    "command": (text.CODE_COMMAND, "shell", command_line), "yaml": (text.CODE_YAML, "yaml", as_yaml),
    "cell": (text.CODE_CELL, "python", as_cell)}
"""Each form of the settings: its title, its language, and the function that writes it."""


def snippets(stage: str, settings: dict, *, resume: bool = False) -> list[str]:
    """The settings in each form of `WRITERS`."""
    return [write(stage, settings, resume=resume) for _, _, write in WRITERS.values()]


class Snippets:
    """The forms of the settings, each on a tab with a button to copy it; `parts` are the components."""

    def __init__(self, prefix: str, values: list[str] | None = None):
        self.parts = []
        with gr.Tabs():
            for (name, (title, language, _)), value in zip(WRITERS.items(), values or [""] * len(WRITERS)):
                with gr.Tab(title):
                    self.parts.append(gr.Code(value, language=language, interactive=False, show_label=False,
                                              wrap_lines=True,
                                              elem_id=f"{prefix}{name}"))
