"""Dropdowns above the form of a stage: settings for a purpose, for the memory of a machine, and for one model.

They fill the form, where every setting can be seen. The first two name different settings, so that one of each can be
chosen, in any order. The third is a whole recipe: the files of assets/presets, which the command line reads with
`--config`.
"""

from dataclasses import dataclass, field

import gradio as gr
from markupsafe import Markup

from playground.components.html import empty
from playground.components.inputs import label
from playground.components.stage_views import Preset, model_presets, stage_view
from playground.pages.train import text
from playground.pages.train.form import Form
from rlhf_engine.stages import find_stage

GIB = 1 << 30
FILL = 0.9
"""Share of a GPU's memory that a preset may fill: the screen takes some, and so does what no estimate knows."""
GPU_ROWS = 32
"""A step on a GPU has at most this many rows, whatever the default of the stage."""


@dataclass(frozen=True)
class MachineSize:
    """Settings that suit a machine."""

    name: str
    about: str
    memory: int
    """Bytes of the GPU; 0 for a machine without one."""
    settings: dict
    sampling: dict = field(default_factory=dict)
    """Further settings of stages that sample responses."""

    def preset(self, stage: str) -> Preset:
        """The settings for a stage."""
        config, sampled = find_stage(stage).config, find_stage(stage).memory.sampled
        settings = dict(self.settings)
        if sampled(config()):
            settings.update(self.sampling)
        if self.memory and config.batch_size > GPU_ROWS:
            settings["batch_size"] = GPU_ROWS
        return Preset(self.name, self.about, settings)


def four_bits(model: str, micro_batch: int, *, checkpointing: bool = True) -> dict:
    """The settings of a model in 4 bits."""
    return {"model": model, "dtype": "nf4", "gradient_checkpointing": checkpointing, "micro_batch": micro_batch,
            "max_tokens": 512}


SIZES = (
    MachineSize(*text.SIZE_CPU, 0, {"model": "bundled", "dtype": "auto", "max_tokens": 256}, {"max_new_tokens": 96}),
    MachineSize(*text.SIZE_8, 8 * GIB, four_bits("Qwen/Qwen3-1.7B", 4), {"max_new_tokens": 128}),
    MachineSize(*text.SIZE_12, 12 * GIB, four_bits("Qwen/Qwen3-4B", 4), {"max_new_tokens": 128}),
    MachineSize(*text.SIZE_16, 16 * GIB, four_bits("Qwen/Qwen3-8B", 2), {"max_new_tokens": 128}),
    MachineSize(*text.SIZE_24, 24 * GIB, four_bits("Qwen/Qwen3-8B", 2, checkpointing=False), {"max_new_tokens": 192}),
)


class PresetMenu:
    """One dropdown. A chosen preset sets its settings; settings of the other presets go back to their defaults."""

    def __init__(self, stage: str, name: str, title: str, info: str, presets: list[Preset]):
        self.config, self.presets = find_stage(stage).config, {preset.name: preset for preset in presets}
        self.names = list(dict.fromkeys(name for preset in presets for name in preset.settings))
        """The settings of any of the presets."""
        self.dropdown = gr.Dropdown([(text.AS_IT_IS, ""), *self.presets], value="", label=title, info=info,
                                    min_width=180,
                                    elem_id=f"{stage}-{name}")

    def values(self, name: str) -> dict:
        """The settings of any of the presets, as the chosen one has them."""
        settings = self.presets[name].settings if name in self.presets else {}
        return {each: settings.get(each, getattr(self.config, each)) for each in self.names}

    def describe(self, name: str) -> Markup:
        """A line about the chosen preset. Without one, `Presets` looks at the whole form after that."""
        if name not in self.presets:
            return describe_changes([])
        preset = self.presets[name]
        fields = ", ".join(label(each) for each in preset.settings)
        return empty(text.PRESET_SAYS.format(about=preset.about, fields=fields))


def describe_changes(changed: list[str]) -> Markup:
    """A line about the settings of a form that are not at their default."""
    fields = ", ".join(label(each) for each in changed)
    return empty(text.CHANGED_SAY.format(fields=fields) if changed else text.DEFAULTS_SAY)


class Presets:
    """The dropdowns of a stage, and a line about the preset that was chosen last."""

    def __init__(self, stage: str):
        with gr.Row(elem_classes="fields presets"):
            self.menus = [PresetMenu(stage, "preset", text.PRESET, text.PRESET_INFO, list(stage_view(stage).presets)),
                          PresetMenu(stage, "size", text.SIZE, text.SIZE_INFO, [size.preset(stage) for size in SIZES])]
            if recipes := model_presets(stage):
                self.menus.append(PresetMenu(stage, "recipe", text.RECIPE, text.RECIPE_INFO, recipes))
        self.line = gr.HTML("", elem_id=f"{stage}-preset-said", padding=False)

    def fill(self, form: Form) -> None:
        """Let the dropdowns fill a form, and let the line follow what somebody changes in it."""
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        for menu in self.menus:
            def choose(name: str, menu: PresetMenu = menu) -> list:
                return [*(gr.update(value=value) for value in menu.values(name).values()), menu.describe(name)]

            def look_again(values: dict, menu: PresetMenu = menu):
                return gr.skip() if values[menu.dropdown] else describe_changes(form.changed(values))

            # `input`, not `change`: only a choice of the visitor counts, not one that a reload of the page restores.
            filled = [*(form.fields[name] for name in menu.names), self.line]
            chosen = menu.dropdown.input(choose, menu.dropdown, filled, **quick)
            chosen.then(look_again, {menu.dropdown, *form.components}, self.line, **quick)
        gr.on([field.input for field in form.components], lambda values: describe_changes(form.changed(values)),
              {*form.components}, self.line, trigger_mode="always_last", **quick)
