"""Settings under a name: for a purpose (per stage), and for the memory of a machine. They fill the form, where all of it can be seen.

The two kinds name different fields, so that one of each can be chosen, in any order.
"""

from dataclasses import dataclass, field

import gradio as gr

from playground.components.html import escape
from playground.components.inputs import label
from playground.pages.train import text
from playground.pages.train.form import Form
from rlhf_engine.stages import STAGES


@dataclass(frozen=True)
class Preset:
    name: str
    about: str
    """One line: what it is for, what it costs."""
    settings: dict = field(default_factory=dict)


PURPOSES: dict[str, tuple[Preset, ...]] = {
    "sft": (Preset(*text.QUICK_SFT, {"epochs": 0.5, "limit": 200, "evaluate_every": 5}),
            Preset(*text.INSTRUCT_SFT, {"epochs": 16.0, "warmup": 0.0}),
            Preset(*text.THOROUGH_SFT, {"epochs": 10.0, "lora_rank": 32, "lora_alpha": 32})),
    "reward": (Preset(*text.QUICK_REWARD, {"limit": 160, "evaluate_every": 5, "reference_samples": 32}),
               Preset(*text.INSTRUCT_REWARD, {"epochs": 1.0, "warmup": 0.0}),
               Preset(*text.DOUBTFUL_REWARD, {"ensemble": 8, "centring": 0.01})),
    "ppo": (Preset(*text.QUICK_PPO, {"steps": 5, "reference_samples": 16}),
            Preset(*text.INSTRUCT_PPO, {"steps": 60, "ppo_epochs": 1, "minibatches": 8, "kl_coef": 0.02, "kl_target": 0.0}),
            Preset(*text.ZIEGLER_PPO, {"steps": 60, "ppo_epochs": 4, "minibatches": 1, "kl_coef": 0.15, "kl_target": 6.0}),
            Preset(*text.EVENING_PPO, {"steps": 200, "checkpoint_every": 20, "kl_target": 8.0})),
    "teach": (Preset(*text.QUICK_TEACH, {"votes": 12, "votes_first": 8, "steps": 6, "reference_samples": 64, "candidates": 8}),
              Preset(*text.PATIENT_TEACH, {"votes": 120, "votes_first": 40, "steps": 50}),
              Preset(*text.UNLEASHED_TEACH, {"kl_target": 0.0, "kl_coef": 0.0, "kl_floor": 0.0, "pessimism": 0.0, "guard": False})),
}
GIB = 1 << 30
ROOM = 0.9
"""Share of a GPU's memory that a preset may fill: the screen takes some, and so does what no arithmetic knows."""


@dataclass(frozen=True)
class Size:
    """What suits a machine. `memory` in bytes; 0 stands for a machine without a GPU."""

    name: str
    about: str
    memory: int
    settings: dict
    steps: dict = field(default_factory=dict)
    """What is added for stages that sample responses."""

    def of(self, stage: str) -> dict:
        if stage == "sft":
            return self.settings
        return self.settings | self.steps | ({"batch_size": 32} if self.memory and stage == "teach" else {})


def _four_bits(model: str, micro_batch: int, *, checkpointing: bool = True) -> dict:
    return {"model": model, "dtype": "nf4", "gradient_checkpointing": checkpointing, "micro_batch": micro_batch, "max_tokens": 512}


SIZES = (
    Size(*text.SIZE_CPU, 0, {"model": "bundled", "dtype": "auto", "max_tokens": 256}, {"max_new_tokens": 96}),
    Size(*text.SIZE_8, 8 * GIB, _four_bits("Qwen/Qwen3-1.7B", 4), {"max_new_tokens": 128}),
    Size(*text.SIZE_12, 12 * GIB, _four_bits("Qwen/Qwen3-4B", 4), {"max_new_tokens": 128}),
    Size(*text.SIZE_16, 16 * GIB, _four_bits("Qwen/Qwen3-8B", 2), {"max_new_tokens": 128}),
    Size(*text.SIZE_24, 24 * GIB, _four_bits("Qwen/Qwen3-8B", 2, checkpointing=False), {"max_new_tokens": 192}),
)


def filled(offered: list[dict], chosen: dict, defaults) -> dict:
    """The fields of all presets in a dropdown with their values under the chosen one: what another one had set is the default again."""
    return {name: chosen.get(name, getattr(defaults, name)) for settings in offered for name in settings}


class Presets:
    """The two dropdowns of a stage above its form, and a line that says what the one chosen last has set."""

    def __init__(self, stage: str):
        self.stage = stage
        self.offered = ({preset.name: preset for preset in PURPOSES[stage]}, {size.name: size for size in SIZES})
        with gr.Row(elem_classes="fields presets"):
            self.pickers = [gr.Dropdown([(text.AS_IT_IS, ""), *offered], value="", label=title, info=info, min_width=180,
                                        elem_id=f"{stage}-{name}")
                            for (title, info, name), offered in zip(((text.PRESET, text.PRESET_INFO, "preset"), (text.SIZE, text.SIZE_INFO, "size")),
                                                                    self.offered)]
        self.said = gr.HTML("", elem_id=f"{stage}-preset-said", padding=False)

    def settings(self, which: int, name: str) -> dict:
        """What an entry of a dropdown sets, without what it leaves at the default."""
        chosen = self.offered[which].get(name)
        return {} if chosen is None else chosen.settings if which == 0 else chosen.of(self.stage)

    def fill(self, form: Form) -> None:
        """Let the dropdowns fill the form."""
        for which, picker in enumerate(self.pickers):
            every = [self.settings(which, name) for name in self.offered[which]]
            names = dict.fromkeys(name for settings in every for name in settings)

            def choose(name, which=which, every=every, names=names):
                settings = self.settings(which, name)
                values = filled(every, settings, STAGES[self.stage].config)
                return [*(gr.update(value=values[n]) for n in names), self.say(which, name, settings)]

            # `input`, not `change`: what a visitor does, not what a reload brings back.
            picker.input(choose, picker, [*(form.fields[n] for n in names), self.said], queue=False, show_progress="hidden",
                         api_visibility="private")

    def say(self, which: int, name: str, settings: dict) -> str:
        chosen = self.offered[which].get(name)
        fields = ", ".join(label(n) for n in settings)
        said = text.PRESET_SAYS.format(about=chosen.about, fields=fields) if chosen else text.DEFAULTS_SAY
        return f'<p class="empty">{escape(said)}</p>'
