"""The table of stage views: how the pages show each stage of `rlhf_engine.stages`.

A row is optional, and so is everything in it. What a row leaves out comes from the stage's config, its help, and its
metrics.
"""

from dataclasses import dataclass, field, replace

from playground.components import text
from playground.components.panels import (
    ACCURACY_PANEL,
    GRADIENT_PANEL,
    GROUPS_PANEL,
    KL_PANEL,
    LOG_RATIO_PANEL,
    LOSSES_PANEL,
    MARGIN_PANEL,
    RATE_PANEL,
    SCORE_PANEL,
    TEXT_PANEL,
    TIME_PANEL,
    VOTES_PANEL,
    Panel,
    loss_panel,
    measured_keys,
    measured_panels,
)
from rlhf_engine import config as configs
from rlhf_engine.files import ASSETS
from rlhf_engine.measures import (
    ACCURACY_HELD_OUT,
    ACCURACY_TRAIN,
    CHOSEN_HELD_OUT,
    CLIP_FRACTION,
    DEAD_GROUPS,
    ENTROPY,
    EXPLAINED_VARIANCE,
    GRADIENT_NORM,
    GUESSED,
    KL,
    LEARNING_RATE,
    LENGTH,
    LOSS_HELD_OUT,
    LOSS_POLICY,
    LOSS_PTX,
    LOSS_TRAIN,
    LOSS_VALUE,
    MARGIN,
    MASK_KEPT,
    NATS_PAIR,
    NATS_TOKEN,
    REJECTED_HELD_OUT,
    SCORES,
    TIME,
)
from rlhf_engine.stages import (
    DEMONSTRATIONS,
    DPO,
    GRPO,
    NLPO,
    PPO,
    PREFERENCES,
    PROMPTS,
    REWARD,
    RFT,
    SFT,
    STAGES,
    TEACH,
    THUMBS,
)
from rlhf_engine.yaml_files import read_yaml

PANELS = 4
"""Plots of a run on the Train page."""


@dataclass(frozen=True)
class Preset:
    """Settings for a purpose, under a name."""

    name: str
    about: str
    """One line: what the settings are for, and what they cost."""
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class StageView:
    """One row of the table. `stage_view` fills in what a row leaves empty."""

    stage: str
    title: str = ""
    """Its name in the list of stages; empty takes the label of the stage."""
    about: str = ""
    """What it does, in Markdown with LaTeX formulas; empty takes the help of the stage."""
    basic: tuple[str, ...] = ()
    """Settings that are in sight at once; empty takes those that are not marked as advanced."""
    presets: tuple[Preset, ...] = ()
    panels: tuple[Panel, ...] = ()
    """Plots of a run; empty takes one for each measure that the run has."""
    key_measures: tuple[str, ...] = ()
    """Measures that tell most about a run, the most telling first; empty takes those that the run has."""


ROWS = (
    StageView(
        SFT, "1 · SFT",
        r"Learns to answer like the demonstrations: the loss is the surprise at each token $y_t$ of the demonstrated "
        r"answer, given the prompt $x$. $$\mathcal{L} = -\frac{1}{T}\sum_t \log \pi_\theta(y_t \mid x, y_{<t})$$",
        basic=("data", "epochs", "learning_rate", "batch_size"),
        presets=(
            Preset("A quick look",
                   "Half a pass over 200 demonstrations: enough to see that it learns, not to learn much.",
                   {"epochs": 0.5, "limit": 200, "evaluate_every": 5}),
            Preset("As in InstructGPT",
                   "16 passes over the demonstrations: the held-out loss rises after the first, the answers do not "
                   "get worse.",
                   {"epochs": 16.0, "warmup": 0.0}),
            Preset("One evening",
                   "Ten passes with adapters of rank 32, for data of your own and a model that has more to learn.",
                   {"epochs": 10.0, "lora_rank": 32, "lora_alpha": 32})),
        panels=(loss_panel(NATS_TOKEN), GRADIENT_PANEL, RATE_PANEL, TIME_PANEL),
        key_measures=(LOSS_TRAIN, LOSS_HELD_OUT, LEARNING_RATE, GRADIENT_NORM)),
    StageView(
        REWARD, "2 · Reward model",
        r"Learns one number $r$ for an answer, so that of a pair the chosen one scores above the rejected one. "
        r"$$\mathcal{L} = -\log \sigma\big(r(x, y_\mathrm{chosen}) - r(x, y_\mathrm{rejected})\big)$$",
        basic=("data", "adapter", "epochs", "learning_rate", "batch_size"),
        presets=(
            Preset("A quick look", "One pass over 160 pairs, normalised on few samples.",
                   {"limit": 160, "evaluate_every": 5, "reference_samples": 32}),
            Preset("As in InstructGPT", "One pass over the pairs and no more, for reward models overfit; no warm-up.",
                   {"epochs": 1.0, "warmup": 0.0}),
            Preset("One that knows its doubt",
                   "Eight heads, each with its own weighting of the pairs; where they differ, the pairs do not decide.",
                   {"ensemble": 8, "centring": 0.01})),
        panels=(loss_panel(NATS_PAIR), ACCURACY_PANEL, MARGIN_PANEL, GRADIENT_PANEL),
        key_measures=(LOSS_TRAIN, LOSS_HELD_OUT, ACCURACY_TRAIN, ACCURACY_HELD_OUT, MARGIN, GRADIENT_NORM)),
    StageView(
        DPO, "DPO",
        r"Learns from pairs alone, without a reward model and without sampling: the chosen answer $y_w$ becomes "
        r"likelier than the rejected one $y_l$, compared with the reference that the policy started from. The loss "
        r"`kto` learns from thumbs in place of pairs. "
        r"$$\mathcal{L} = -\log \sigma\Big(\beta \log \frac{\pi_\theta(y_w \mid x)}{\pi_\mathrm{ref}(y_w \mid x)} "
        r"- \beta \log \frac{\pi_\theta(y_l \mid x)}{\pi_\mathrm{ref}(y_l \mid x)}\Big)$$",
        basic=("data", "loss", "beta", "adapter", "epochs", "learning_rate"),
        presets=(
            Preset("A quick look", "Ten steps on 160 pairs: watch the margin grow, and the log-ratios with it.",
                   {"limit": 160, "steps": 10, "evaluate_every": 5, "reference_samples": 16}),
            Preset("Thumbs (KTO)",
                   "Learns from thumbs, one answer at a time. A file of pairs will do: each is split into two.",
                   {"loss": "kto"}),
            Preset("With a target for the margin", "IPO: the margin of a pair stops growing where it is large enough.",
                   {"loss": "ipo"}),
            Preset("One answer in ten is labelled wrong",
                   "cDPO: it takes a tenth of the labels to be wrong, and trusts no pair more than that.",
                   {"label_smoothing": 0.1})),
        panels=(LOG_RATIO_PANEL, ACCURACY_PANEL, KL_PANEL, MARGIN_PANEL),
        key_measures=(ACCURACY_HELD_OUT, KL, CHOSEN_HELD_OUT, REJECTED_HELD_OUT, LOSS_TRAIN, LOSS_HELD_OUT, MARGIN,
                      LENGTH)),
    StageView(
        PPO, "3 · PPO",
        r"The policy writes answers, the reward model scores them, and answers with a high score become likelier. "
        r"A KL penalty keeps it near the reference that it started from. "
        r"$$\max_\theta\; \mathbb{E}\big[r(x, y)\big] - \beta\,"
        r"\mathrm{KL}\big(\pi_\theta \,\|\, \pi_\mathrm{ref}\big)$$",
        basic=("reward", "adapter", "steps", "kl_target", "learning_rate", "max_new_tokens"),
        presets=(
            Preset("A quick look", "Five steps: watch the reward move, and the KL with it.",
                   {"steps": 5, "reference_samples": 16}),
            Preset("As in InstructGPT",
                   "One pass over each rollout in eight minibatches, and a fixed KL coefficient of 0.02, without "
                   "a target.",
                   {"steps": 60, "ppo_epochs": 1, "minibatches": 8, "kl_coef": 0.02, "kl_target": 0.0}),
            Preset("As in Ziegler et al. 2019",
                   "Four passes over each rollout, and a controller that aims at a KL of 6 nats.",
                   {"steps": 60, "ppo_epochs": 4, "minibatches": 1, "kl_coef": 0.15, "kl_target": 6.0}),
            Preset("One evening", "200 steps at 8 nats, with a checkpoint every 20 to go back to.",
                   {"steps": 200, "checkpoint_every": 20, "kl_target": 8.0})),
        panels=(SCORE_PANEL, KL_PANEL, TEXT_PANEL, LOSSES_PANEL),
        key_measures=(SCORES, KL, LENGTH, ENTROPY, LOSS_POLICY, LOSS_VALUE, LOSS_PTX, EXPLAINED_VARIANCE,
                      CLIP_FRACTION)),
    StageView(
        NLPO, "NLPO",
        r"PPO that chooses among likely tokens alone: those to which an older copy of the policy gives most of its "
        r"probability. The others are masked, so the text cannot fall apart into rare words. "
        r"$$\mathcal{V}_t = \text{the most probable tokens with } \sum_{v \in \mathcal{V}_t} "
        r"\pi_\mathrm{mask}(v \mid y_{<t}) \ge p$$",
        basic=("reward", "adapter", "steps", "top_p", "mask_refresh", "kl_target"),
        presets=(
            Preset("A quick look", "Five steps: watch how much of its probability the mask leaves to the policy.",
                   {"steps": 5, "reference_samples": 16}),
            Preset("As in Ramamurthy et al. 2022", "Nine tenths of the probability, and a new mask every 20 rollouts.",
                   {"steps": 60, "top_p": 0.9, "mask_refresh": 20})),
        panels=(SCORE_PANEL, KL_PANEL, TEXT_PANEL, LOSSES_PANEL),
        key_measures=(SCORES, KL, MASK_KEPT, LENGTH, ENTROPY, LOSS_POLICY, LOSS_VALUE, EXPLAINED_VARIANCE)),
    StageView(
        GRPO, "GRPO, RLOO",
        r"The policy answers each prompt several times, and what beats the other answers of its group becomes "
        r"likelier. So there is no value function to learn. "
        r"$$A_i = \frac{r_i - \mathrm{mean}(r_1, \dots, r_G)}{\mathrm{std}(r_1, \dots, r_G)}$$",
        basic=("reward", "adapter", "estimator", "group_size", "steps", "kl_target"),
        presets=(
            Preset("A quick look", "Five steps: watch the reward move, and how many groups say nothing.",
                   {"steps": 5, "reference_samples": 32}),
            Preset("RLOO", "Each answer against the mean of the others, without a division by their spread.",
                   {"estimator": "rloo"}),
            Preset("As in DeepSeekMath",
                   "The loss of each answer is divided by its own length, and the KL stands in the loss.",
                   {"loss_normaliser": "grpo", "kl_in": "loss", "kl_coef": 0.04, "kl_target": 0.0}),
            Preset("DAPO",
                   "Wider clipping upwards, new prompts in the places of groups that say nothing, no KL penalty.",
                   {"clip_high": 0.28, "dead_groups": "resample", "kl_coef": 0.0, "kl_target": 0.0})),
        panels=(SCORE_PANEL, KL_PANEL, TEXT_PANEL, GROUPS_PANEL),
        key_measures=(SCORES, KL, LENGTH, DEAD_GROUPS, ENTROPY, LOSS_POLICY, CLIP_FRACTION)),
    StageView(
        RFT, "Best answers (RFT)",
        r"The policy answers each prompt several times, and learns to imitate the best answer by the reward. Each "
        r"round fine-tunes the start anew on the best answers of all rounds. "
        r"$$\mathcal{L} = -\log \pi_\theta\big(y^* \mid x\big), \quad y^* = \arg\max_i r(x, y_i)$$",
        basic=("reward", "adapter", "rounds", "samples", "epochs", "learning_rate"),
        presets=(
            Preset("A quick look", "One round over 40 prompts.",
                   {"rounds": 1, "round_prompts": 40, "samples": 4, "reference_samples": 16}),
            Preset("The top tenth", "The best tenth of all answers, whatever their prompts: easy ones then have more.",
                   {"keep": "top", "top_share": 0.1}))),
    StageView(
        TEACH, "4 · Teach",
        r"PPO and a reward that learns while it runs: a labeler sees answers of the policy and votes, the reward "
        r"learns to predict the votes, and the policy follows. The labeler is you, on the Teach tab, or a simulated "
        r"one. "
        r"$$P(y_1 \succ y_2) = \sigma\big(r(x, y_1) - r(x, y_2)\big)$$",
        basic=("labeler", "votes", "adapter", "steps", "kl_target", "max_new_tokens"),
        presets=(
            Preset("A quick look", "Twelve votes and six steps: enough to see how the loop goes.",
                   {"votes": 12, "votes_first": 8, "steps": 6, "reference_samples": 64, "candidates": 8}),
            Preset("One evening", "120 votes, 40 of them before the first step, and 50 steps.",
                   {"votes": 120, "votes_first": 40, "steps": 50}),
            Preset("Without a leash",
                   "No KL penalty, no doubt, no guard: watch the policy find what the reward likes and nobody "
                   "else does.",
                   {"kl_target": 0.0, "kl_coef": 0.0, "kl_floor": 0.0, "pessimism": 0.0, "guard": False})),
        panels=(SCORE_PANEL, KL_PANEL, TEXT_PANEL, VOTES_PANEL),
        key_measures=(SCORES, KL, GUESSED, LENGTH, ENTROPY, LOSS_POLICY, LOSS_VALUE, LOSS_PTX, EXPLAINED_VARIANCE)),
)
VIEWS = {row.stage: row for row in ROWS}
GROUP_OF_KIND = {DEMONSTRATIONS: "demonstrations", PREFERENCES: "preferences", THUMBS: "preferences", PROMPTS: "online"}
"""The group in which a stage is offered, by the kind of data that it reads."""


def stage_view(name: str) -> StageView:
    """The row of a stage, with its title, description and basic settings filled in where the row leaves them out."""
    row = VIEWS.get(name, StageView(name))
    stage = STAGES.get(name)
    if stage is None:  # a run folder of a stage that this version does not know
        return replace(row, title=row.title or name)
    return replace(row, title=row.title or stage.label, about=row.about or f"{stage.help[:1].upper()}{stage.help[1:]}.",
                   basic=row.basic or plain_settings(stage.config))


def stages_by_group() -> dict[str, list[str]]:
    """The names of all stages, by what they learn from: the title of each group, and its stages."""
    groups: dict[str, list[str]] = {title: [] for title in text.STAGE_GROUPS.values()}
    for name, stage in STAGES.items():
        groups[text.STAGE_GROUPS[GROUP_OF_KIND[stage.reads(stage.config())]]].append(name)
    return {title: names for title, names in groups.items() if names}


def model_presets(stage: str) -> list[Preset]:
    """The recipes of a stage for models that have one: assets/presets/MODEL/STAGE.yaml."""
    files = {model: ASSETS / "presets" / model / f"{stage}.yaml" for model in text.MODEL_PRESETS}
    return [Preset(*text.MODEL_PRESETS[model], read_yaml(str(file)))
            for model, file in files.items() if file.exists()]


def stage_label(name: str) -> str:
    """The short name of a stage, such as "SFT"; an unknown stage has the name that stands in its run folder."""
    return STAGES[name].label if name in STAGES else name


def plain_settings(config: type[configs.RunConfig]) -> tuple[str, ...]:
    """The settings of a config that are not marked as advanced."""
    fields = config.__dataclass_fields__
    return tuple(name for name in configs.field_types(config) if not fields[name].metadata.get("advanced"))


def key_measures(stage: str, metrics: list[dict]) -> tuple[str, ...]:
    """The measures that tell most about a run: those of the row, or else those that it has, without durations."""
    row = VIEWS.get(stage, StageView(stage))
    return row.key_measures or tuple(key for key in measured_keys(metrics) if not key.startswith(TIME))


def panels_of(config: dict, metrics: list[dict]) -> list[Panel]:
    """The plots of a run, PANELS of them. `config` is the run's settings with its `stage`."""
    panels = VIEWS.get(config["stage"], StageView("")).panels or measured_panels(metrics)
    panels = [panel.for_config(config) for panel in panels[:PANELS]]
    return [*panels, *[Panel("")] * (PANELS - len(panels))]
