"""The form of a stage, made from its config dataclass; and a config as the command that does the same."""

import shlex
from pathlib import Path

import gradio as gr

from playground.components.inputs import Choice, label
from playground.pages.train import text
from playground.voting import PERSON
from playground.workspace import Workspace
from rlhf_engine import config as configs
from rlhf_engine.feedback.scoring_functions import BUILT_IN
from rlhf_engine.stages import STAGES

BASIC = {"sft": ("data", "epochs", "learning_rate", "batch_size"),
         "reward": ("data", "adapter", "epochs", "learning_rate", "batch_size"),
         "ppo": ("reward", "adapter", "steps", "kl_target", "learning_rate", "max_new_tokens"),
         "teach": ("labeler", "votes", "adapter", "steps", "kl_target", "max_new_tokens")}
LABELERS = (PERSON, *BUILT_IN, "keyword=dog")


class Form:
    """One component per field: a handful in sight, the rest behind "All settings"."""

    def __init__(self, stage: str, workspace: Workspace):
        self.stage, self.workspace = stage, workspace
        self.config = STAGES[stage].config
        basic, names = BASIC[stage], configs.field_types(self.config)
        with gr.Row(elem_classes="fields"):
            self.fields = {name: self._field(name, names[name]) for name in basic}
        with gr.Accordion(text.MORE_SETTINGS, open=False), gr.Row(elem_classes="fields"):
            advanced = [name for name, field in self.config.__dataclass_fields__.items() if field.metadata.get("advanced")]
            usual = [name for name in names if name not in (*basic, *advanced)]
            self.fields |= {name: self._field(name, names[name]) for name in (*usual, *advanced) if name not in basic}

    @property
    def components(self) -> list:
        return list(self.fields.values())

    def read(self, values: dict) -> dict:
        """Component values as settings; what equals the default stays out."""
        given = {name: values[field] for name, field in self.fields.items()}
        if not given.get("reward", ""):
            given.pop("reward", None)
        return {name: value for name, value in given.items() if value != getattr(self.config, name)}

    def moving(self) -> list:
        """The dropdowns whose choices follow the workspace."""
        return [field for name, field in self.fields.items() if name in self._offered()]

    def choices(self, values: dict) -> dict:
        """Their updates. Where no reward is chosen, the newest is."""
        offered = self._offered()
        updates = {field: {"choices": offered[name]} for name, field in self.fields.items() if name in offered}
        reward = self.fields.get("reward")
        if reward and not values[reward] and offered["reward"]:
            updates[reward]["value"] = offered["reward"][0][1]
        return {field: gr.update(**update) for field, update in updates.items()}

    def _offered(self) -> dict:
        data = self.workspace.data_choices()
        return {"model": self.workspace.model_choices(), "data": data, "ptx_data": data, "adapter": self.workspace.adapter_choices(),
                "reward": self.workspace.reward_choices()}

    def _field(self, name: str, kind):
        value = getattr(self.config, name)
        about = {"label": label(name), "info": text.INFO.get(name, configs.docs(self.config)[name]), "min_width": 180,
                 "elem_id": f"{self.stage}-{name}".replace("_", "-")}
        offered = self._offered()
        if name in offered:
            return Choice(offered[name], value=value or None, allow_custom_value=name in ("model", "data", "ptx_data"), **about)
        if name == "labeler":
            return gr.Dropdown(list(LABELERS), value=PERSON, allow_custom_value=True, **about)
        if options := configs.choices(kind):
            return gr.Dropdown(list(options), value=value, **about)
        if kind is bool:
            return gr.Checkbox(value=value, **about)
        if kind is str:
            return gr.Textbox(value=value, **about)
        return gr.Number(value=value, step=1 if kind is int else (value / 10 or 0.1), **about)


def command_line(stage: str, settings: dict, *, resume: bool = False, here: Path | None = None) -> str:
    """`python -m rlhf_engine STAGE` with the flags that differ from the defaults, paths as seen from `here`."""
    config, flags = STAGES[stage].config, []
    for name in configs.field_types(config):
        value = settings.get(name, getattr(config, name))
        if value == getattr(config, name) or (resume and name != "output"):
            continue
        if isinstance(value, bool):
            flags.append(configs.flag(name) if value else configs.flag("no_" + name))
        else:
            flags.append(f"{configs.flag(name)} {shlex.quote(nearer(str(value), here or Path.cwd()))}")
    return " \\\n  ".join([f"python -m rlhf_engine {stage}", *flags, *(["--resume"] if resume else [])])


def nearer(value: str, here: Path) -> str:
    path = Path(value)
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else value
