"""The form of a stage, made from its config dataclass."""

import gradio as gr

from playground.components.inputs import Choice, label
from playground.components.stage_views import stage_view
from playground.pages.train import text
from playground.voting import PERSON
from playground.workspace import Workspace
from rlhf_engine import config as configs
from rlhf_engine.feedback.labelers import RANDOM
from rlhf_engine.feedback.scoring_functions import BUILT_IN
from rlhf_engine.stages import find_stage

SCORES = (*BUILT_IN, "keyword=dog")
LABELERS = (PERSON, *SCORES, RANDOM)
"""The labelers that the form offers; any word may stand in the place of "dog"."""
FREE_CHOICES = ("model", "data", "ptx_data")
"""Dropdowns into which anything may be typed."""


class Form:
    """One component for each setting: the basic ones in sight, the others behind "All settings"."""

    def __init__(self, stage: str, workspace: Workspace):
        self.stage, self.workspace = stage, workspace
        self.config = find_stage(stage).config
        basic, more = self._order()
        offered = self._offered()  # reads all run folders
        with gr.Row(elem_classes="fields"):
            self.fields = {name: self._field(name, offered) for name in basic}
        with gr.Accordion(text.MORE_SETTINGS, open=False), gr.Row(elem_classes="fields"):
            for name in more:
                self.fields[name] = self._field(name, offered)

    @property
    def components(self) -> list:
        """All fields, in the order in which they stand on the page."""
        return list(self.fields.values())

    def _order(self) -> tuple[tuple[str, ...], list[str]]:
        """(basic settings, the others): those that are marked as advanced come last."""
        basic, fields = stage_view(self.stage).basic, self.config.__dataclass_fields__
        others = [name for name in configs.field_types(self.config) if name not in basic]
        usual = [name for name in others if not fields[name].metadata.get("advanced")]
        advanced = [name for name in fields if name in others and name not in usual]
        return basic, [*usual, *advanced]

    def read(self, values: dict) -> dict:
        """The values of the components as settings, without those that are at their default."""
        settings = {name: values[field] for name, field in self.fields.items()}
        if not settings.get("reward", ""):
            settings.pop("reward", None)
        return {name: value for name, value in settings.items() if value != getattr(self.config, name)}

    def changed(self, values: dict) -> list[str]:
        """The settings that are not at their default. A reward is not among them: it has none."""
        return [name for name in self.read(values) if name != "reward"]

    def changing_fields(self) -> list:
        """The dropdowns whose choices change with the workspace."""
        offered = self._offered()
        return [field for name, field in self.fields.items() if name in offered]

    def choices(self, values: dict) -> dict:
        """Updates of the dropdowns whose choices change with the workspace. If no reward is chosen, the newest one
        becomes chosen."""
        offered = self._offered()
        updates = {field: {"choices": offered[name]} for name, field in self.fields.items() if name in offered}
        reward = self.fields.get("reward")
        if reward and not values[reward] and offered["reward"]:
            updates[reward]["value"] = offered["reward"][0][1]
        return {field: gr.update(**update) for field, update in updates.items()}

    def _offered(self) -> dict:
        """The choices of each setting that names something in the workspace."""
        data = self.workspace.data_choices()
        built_in = [(text.BUILT_IN_SCORE.format(name=name), name) for name in SCORES]
        return {"model": self.workspace.model_choices(), "data": data, "ptx_data": data,
                "adapter": self.workspace.adapter_choices(),
                "reward": [*self.workspace.reward_choices(), *built_in]}

    def _field(self, name: str, offered: dict):
        """The component of a setting, by its type. offered: the choices of `_offered`."""
        kind, value = configs.field_types(self.config)[name], getattr(self.config, name)
        info = text.INFO.get(name, configs.docs(self.config).get(name, ""))
        common = {"label": label(name), "info": info, "min_width": 180,
                  "elem_id": f"{self.stage}-{name}".replace("_", "-")}
        if name in offered:
            return Choice(offered[name], value=value or None, allow_custom_value=name in FREE_CHOICES, **common)
        if name == "labeler":
            return gr.Dropdown(list(LABELERS), value=PERSON, allow_custom_value=True, **common)
        options = configs.choices(kind)
        if options:
            return gr.Dropdown(list(options), value=value, **common)
        if kind is bool:
            return gr.Checkbox(value=value, **common)
        if kind is str:
            return gr.Textbox(value=value, **common)
        return gr.Number(value=value, step=1 if kind is int else (value / 10 or 0.1), **common)
