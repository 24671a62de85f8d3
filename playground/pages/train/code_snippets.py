"""Settings as what one would type elsewhere: a command, a YAML file for `--config`, and a notebook cell."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import gradio as gr

import rlhf_engine
from playground.pages.train import text
from playground.voting import PERSON
from rlhf_engine import config as configs
from rlhf_engine.stages import find_stage
from rlhf_engine.yaml_files import yaml_text

ONE_LINE = 90
"""Characters of the arguments of a config, above which each stands on a line of its own."""


def differing(stage: str, settings: dict, here: Path | None = None) -> dict:
    """The settings that are not at their default, in the order of the fields, with paths relative to `here` (the
    working directory)."""
    config = find_stage(stage).config
    values = {name: settings.get(name, getattr(config, name)) for name in configs.field_types(config)}
    return {name: relative_path(value, here or Path.cwd()) if isinstance(value, str) else value
            for name, value in values.items() if value != getattr(config, name)}


def relative_path(value: str, here: Path) -> str:
    """An absolute path inside `here` as a relative one; anything else as it is."""
    path = Path(value)
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else value


def command_line(stage: str, settings: dict, *, resume: bool = False, here: Path | None = None) -> str:
    """`python -m rlhf_engine STAGE` with a flag for each setting that is not at its default, a flag a line.

    A resumed run needs only its folder. Paths are relative to `here`.
    """
    words = [f"python -m rlhf_engine {stage}"]
    for name, value in differing(stage, settings, here).items():
        if resume and name != "output":
            continue
        if isinstance(value, bool):
            words.append(configs.flag(name) if value else configs.flag("no_" + name))
        else:
            words.append(f"{configs.flag(name)} {shlex.quote(str(value))}")
    if resume:
        words.append("--resume")
    return " \\\n  ".join(words)


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
