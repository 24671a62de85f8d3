"""The memory that a run is estimated to take, as a stacked bar against what this machine has free. Nothing here imports
torch."""

import dataclasses

from markupsafe import Markup

from playground.components import text
from playground.components.charts import POLICY, REFERENCE, REWARD, VALUE
from playground.components.formatting import byte_size
from playground.components.html import empty, render
from playground.machine import Machine, machine
from playground.model_files import model_shape
from playground.workspace import Workspace
from rlhf_engine.config import RunConfig
from rlhf_engine.errors import UserError
from rlhf_engine.runs.memory.passes import FILL, PassSize, choose_pass_size
from rlhf_engine.runs.memory_estimate import Estimate, Shape, estimate
from rlhf_engine.stages import BUNDLED_PROMPT_TOKENS, OWN_PROMPT_TOKENS, find_stage, make_config

COLOURS = {"base": "#4a5564", "policy": POLICY, "reference": REFERENCE, "reward": REWARD, "value": VALUE,
           "mask": "#9ecae1", "rollout": "#56B4E9", "update": "#8298ad", "runtime": "#b4bdc9"}
"""The colour of each part of an estimate: roles have their own colours, the rest has greys and a light blue."""
TIGHT = FILL
"""Share of the free memory above which a run may not fit, because an estimate can be wrong by a fifth."""
MOST_DRAWN = 1.5
"""The bar shows at most this many times the need; free memory beyond that fades out."""
SAVINGS = (("micro_batch", 4), ("gradient_checkpointing", True), ("dtype", "nf4"), ("micro_batch", 1))
"""Settings that save memory, in the order in which they are proposed."""


def longest_row(config: RunConfig) -> int:
    """Tokens of the longest row of the bundled data on the bundled model, or on one with bundled prompts of its own; 0
    for any other data or model, where it is not known."""
    profile = find_stage(config.stage).memory
    if config.data == "bundled" and config.model in OWN_PROMPT_TOKENS and profile.online:
        return OWN_PROMPT_TOKENS[config.model] + getattr(config, "max_new_tokens", 0)
    if (config.model, config.data) != ("bundled", "bundled"):
        return 0
    if not profile.sampled(config):
        return profile.bundled_tokens
    sampled = BUNDLED_PROMPT_TOKENS + getattr(config, "max_new_tokens", 0)
    return sampled if profile.online else max(sampled, profile.bundled_tokens)


# -- on the page -------------------------------------------------------------------------------------------------------

def budget(workspace: Workspace, stage: str, settings: dict) -> Markup:
    """The memory of a run that has not started yet, as HTML; where it cannot be estimated, the reason."""
    try:
        config = make_config(stage, settings)
        shape = model_shape(workspace, config.model)
        return memory_section(config, shape, machine(workspace.home, config.device))
    except UserError as error:
        return render("components/memory_unknown.html", reason=error)


def memory_section(config: RunConfig, shape: Shape, here: Machine) -> Markup:
    """A sentence, the bar, its legend, and for which length of rows they hold."""
    tokens = longest_row(config)
    need = estimate(config, shape, device=here.device, tokens=tokens)
    passes = limited_passes(config, shape, here, tokens, need)
    if passes:
        need = estimate(config, shape, device=here.device, tokens=tokens, pass_tokens=passes.tokens)
    sentence = verdict(need, here)
    if need.total > here.free:
        sentence = f"{sentence} {way_out(config, shape, here, tokens)}"
    rows = min(tokens or config.max_tokens, config.max_tokens, shape.longest)
    note = (text.ROWS_KNOWN if tokens else text.ROWS_UNKNOWN).format(tokens=rows)
    if passes:
        note = f"{note} {text.IN_PASSES.format(rows=passes.rows, tokens=passes.tokens)}"
    return render("components/memory.html", state=state_of(need, here), sentence=sentence, bar=bar(need, here),
                  parts=legend(need), note=note)


def limited_passes(config: RunConfig, shape: Shape, here: Machine, tokens: int, whole: Estimate) -> PassSize | None:
    """The passes into which a run of this size is cut when `micro_batch` is 0; None where each step is one pass.

    `whole` is the estimate with one pass a step. Where that fits, the bundled model needs no others.
    """
    if config.model == "bundled" and whole.total <= TIGHT * here.free:
        return None
    passes = choose_pass_size(config, shape, device=here.device, free=here.free, tokens=tokens)
    return passes if passes.tokens else None


def state_of(need: Estimate, here: Machine) -> str:
    """"over", "tight" or "fits"."""
    if need.total > here.free:
        return "over"
    return "tight" if need.total > TIGHT * here.free else "fits"


def verdict(need: Estimate, here: Machine) -> str:
    """Whether the run fits, in words."""
    sentence = {"over": text.TOO_MUCH, "tight": text.TIGHT, "fits": text.FITS}[state_of(need, here)]
    return sentence.format(need=byte_size(need.total), free=byte_size(here.free), device=here.name)


def used_parts(need: Estimate) -> dict[str, int]:
    """Bytes of each part that takes any."""
    return {name: count for name, count in need.parts.items() if count}


def bar(need: Estimate, here: Machine) -> Markup:
    """The parts side by side. The scale ends with the free memory or with the need, whichever is more, but shows no
    more than MOST_DRAWN times the need; then the bar fades out before its end."""
    scale = max(need.total, min(here.free, MOST_DRAWN * need.total))
    parts = used_parts(need)
    widths = [{"width": f"{100 * count / scale:.2f}", "colour": COLOURS[name]} for name, count in parts.items()]
    free_mark = f"{100 * here.free / scale:.2f}" if here.free < scale else ""
    sizes = ", ".join(f"{text.PARTS[name]} {byte_size(count)}" for name, count in parts.items())
    description = f"{text.MEMORY}: {byte_size(need.total)}; {text.FREE} {byte_size(here.free)}; {sizes}"
    return render("components/memory_bar.html", beyond=here.free > scale, description=description, parts=widths,
                  free_mark=free_mark)


def legend(need: Estimate) -> list[dict]:
    """The name, colour, explanation and size of each part."""
    return [{"colour": COLOURS[name], "name": text.PARTS[name],
             "about": text.PARTS_ABOUT[name], "size": byte_size(count)} for name, count in used_parts(need).items()]


def way_out(config: RunConfig, shape: Shape, here: Machine, tokens: int) -> str:
    """The fewest of the usual savings, one after another, with which a run fits."""
    changes: dict = {}
    for name, value in SAVINGS:
        if saves_already(config, name, value):
            continue
        changes[name] = value
        need = estimate(dataclasses.replace(config, **changes), shape, device=here.device, tokens=tokens)
        if need.total <= TIGHT * here.free:
            words = ", ".join(text.CHANGED_TO[changed].format(to) for changed, to in changes.items())
            return text.WAY_OUT.format(changes=words, need=byte_size(need.total))
    return text.NO_WAY_OUT


def saves_already(config: RunConfig, name: str, value) -> bool:
    """Whether the settings of a run have a saving already."""
    if name == "micro_batch":
        return 0 < config.micro_batch <= value
    return getattr(config, name) == value


def measured(workspace: Workspace, settings: dict, status: dict) -> Markup | str:
    """The memory that a run took at its peak, beside the estimate; an empty string before its first step."""
    peak = status.get("peak_memory_mb")
    if not peak:
        return ""
    try:
        values = {name: value for name, value in settings.items() if name != "stage"}
        config = make_config(settings["stage"], {**values, "model": workspace.name_of(settings["model"])})
        device = machine(workspace.home, config.device).device
        need = estimate(config, model_shape(workspace, config.model), device=device, tokens=longest_row(config)).total
        sentence = text.MEASURED.format(peak=byte_size(peak << 20), need=byte_size(need))
    except UserError:  # the model has been removed, or its architecture is not known
        sentence = text.MEASURED_ONLY.format(peak=byte_size(peak << 20))
    return empty(sentence)
