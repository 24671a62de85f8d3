"""Are our numbers those of TRL's GRPO and RLOO? One step of both on the same weights and token rows, in one process.

    python -m venv --system-site-packages trl && trl/bin/pip install --no-deps trl
    trl/bin/python benchmarks/surveys/parity_groups.py

TRL's side is `_generate_and_score_completions` and `_compute_loss` of `GRPOTrainer` and `RLOOTrainer`, on a small
random model with a LoRA adapter whose B is not zero; both trainers copy it as their reference, as ours does. Their
sampler is made to return fixed responses, and the reward function fixed rewards. Both policies move by the same noise
before the rollout, so that the KL is not 0, and in most cases once more before the update, so that ratios leave the
clip range.

Prints a line of JSON for each case: the largest differences of the log-probabilities under the sampling policy (`old`)
and the reference, in nats per sequence, of the advantages and of the adapter's gradients; both losses; the share of
clipped tokens on both sides; and whether all are within 1e-4 of one another. `factor` is what our loss and gradients
are multiplied with where the two divide by different constants. Cases that differ by definition say so in `rule`. The
table in benchmarks/README.md explains them.
"""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.common import machine, make_model, say
from benchmarks.helpers.parity import END, SHAPE, disturb, gradient, load_for_trl, named, update
from rlhf_engine import measures
from rlhf_engine.config import GroupConfig
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.rollout import Rollout, make_rollout
from rlhf_engine.trainers.group import GroupLearner

GROUPS, SIZE, WIDTH, TEMPERATURE, CLOSE = 4, 4, 12, 0.7, 1e-4
START, BEFORE, BETWEEN = 0.05, 0.05, 0.03
"""Size of the adapter's B, and of the noise before the rollout and between rollout and update."""
PROMPTS = (3, 9, 5, 7)
LENGTHS = (12, 5, 1, 9, 12, 3, 12, 7, 2, 11, 6, 8, 4, 12, 10, 1)
ENDLESS = (0, 6, 13)
"""Responses that do not end."""
SPREAD = (0.3, 1.7, -0.4, 0.9, 2.0, 1.0, 1.5, 0.2, -1.0, 0.0, 0.5, 0.7, 3.0, -2.0, 1.0, 0.1)
ONE_DEAD = (0.5, 0.5, 0.5, 0.5, *SPREAD[4:])
ROUNDED = (0.5, 0.5005, 0.4995, 0.5, *SPREAD[4:])
LONGEST, MEAN_LENGTH, LIVE_SHARE = "longest", "mean length", "live share"


@dataclass(frozen=True)
class Case:
    """One comparison: settings of both sides and what is given to them."""

    name: str
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    rewards: tuple[float, ...] = SPREAD
    between: float = BETWEEN
    parts: int = 1
    """Micro-batches of the optimiser step."""
    factor: str = ""
    """What our loss and gradients are multiplied with: `LONGEST`, `MEAN_LENGTH`, `LIVE_SHARE`, or nothing."""
    rule: str = ""
    """Why the two differ; empty if they should agree."""

    @property
    def estimator(self) -> str:
        return self.ours.get("estimator", "grpo")


KL = {"kl_in": "loss", "kl_coef": 0.2}
CASES = [
    Case("grpo", {"loss_normaliser": "grpo"}, {"loss_type": "grpo"}),
    Case("dapo", {"loss_normaliser": "dapo"}, {"loss_type": "dapo"}),
    Case("dr_grpo", {"loss_normaliser": "dr_grpo"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    Case("grpo, no std", {"loss_normaliser": "grpo", "scale": "none"}, {"loss_type": "grpo", "scale_rewards": "none"}),
    Case("dapo, no std", {"loss_normaliser": "dapo", "scale": "none"}, {"loss_type": "dapo", "scale_rewards": "none"}),
    Case("dr_grpo, std", {"loss_normaliser": "dr_grpo", "scale": "std"}, {"loss_type": "dr_grpo"}),
    Case("dapo, on-policy", {}, {"loss_type": "dapo"}, between=0.0),
    Case("dapo, clip .1 and .28", {"clip": 0.1, "clip_high": 0.28}, {"epsilon": 0.1, "epsilon_high": 0.28}),
    Case("dapo, dual clip 1.3", {"dual_clip": 1.3}, {"delta": 1.3}),
    Case("dapo, entropy .1", {"entropy_coef": 0.1}, {"entropy_coef": 0.1}),
    Case("grpo, KL k3", {"loss_normaliser": "grpo", **KL},
         {"loss_type": "grpo", "beta": 0.2, "use_bias_correction_kl": False}),
    Case("dapo, KL k3", {"loss_normaliser": "dapo", **KL}, {"beta": 0.2, "use_bias_correction_kl": False}),
    Case("dr_grpo, KL k3", {"loss_normaliser": "dr_grpo", **KL},
         {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.2, "use_bias_correction_kl": False}),
    Case("dapo, KL k3 times the ratio", {**KL, "kl_in": "corrected"}, {"beta": 0.2}),
    Case("dapo, KL k3 times the ratio, on-policy", {**KL, "kl_in": "corrected"}, {"beta": 0.2}, between=0.0),
    Case("grpo, two micro-batches", {"loss_normaliser": "grpo"}, {"loss_type": "grpo"}, parts=2),
    Case("dapo, two micro-batches", {"loss_normaliser": "dapo"}, {"loss_type": "dapo"}, parts=2),
    Case("dr_grpo, two micro-batches", {"loss_normaliser": "dr_grpo"},
         {"loss_type": "dr_grpo", "scale_rewards": "none"}, parts=2),
    Case("dapo, overlong from 4 tokens before the end", {"overlong_tokens": 4}, {}),
    Case("dapo, dead group kept", {"dead_groups": "keep", **KL}, {"beta": 0.2, "use_bias_correction_kl": False},
         ONE_DEAD),
    Case("dapo, dead group dropped", {"dead_groups": "drop"}, {}, ONE_DEAD, factor=LIVE_SHARE),
    Case("dapo, dead group dropped, KL k3", {"dead_groups": "drop", **KL},
         {"beta": 0.2, "use_bias_correction_kl": False}, ONE_DEAD, factor=LIVE_SHARE,
         rule="we leave dead groups out (DAPO); TRL's KL pulls on them"),
    Case("dapo, a group that differs by rounding", {"dead_groups": "keep"}, {}, ROUNDED,
         rule="TRL divides by the group's std + 1e-4, however small; we do not below 1e-3 of the reference's"),
    Case("rloo, on-policy", {"estimator": "rloo", "loss_normaliser": "dr_grpo"}, {}, between=0.0, factor=LONGEST),
    Case("rloo by tokens, on-policy", {"estimator": "rloo"}, {}, between=0.0, factor=MEAN_LENGTH),
    Case("rloo, KL in the reward", {"estimator": "rloo", "loss_normaliser": "dr_grpo", "kl_coef": 0.2},
         {"beta": 0.2}, between=0.0, factor=LONGEST),
    Case("rloo, off-policy", {"estimator": "rloo", "loss_normaliser": "dr_grpo"}, {}, factor=LONGEST,
         rule="TRL's ratio is that of the whole response; ours is that of a token"),
]


def token_rows() -> tuple[list[list[int]], list[list[int]]]:
    """Prompts, each for all rows of its group, and responses."""
    generator = torch.Generator().manual_seed(3)

    def random_ids(count: int) -> list[int]:
        return torch.randint(3, SHAPE["vocab_size"], (count,), generator=generator).tolist()

    prompts = [ids for ids in map(random_ids, PROMPTS) for _ in range(SIZE)]
    responses = [random_ids(count) for count in LENGTHS]
    return prompts, [ids if i in ENDLESS else ids[:-1] + [END] for i, ids in enumerate(responses)]


def make_ours(folder: Path, case: Case) -> GroupLearner:
    """Our learner, whose policy starts from the adapter that is also its reference."""
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    backbone.new_role("policy", rank=4, alpha=8, seed=0)
    disturb(backbone.named_parameters("policy"), START, 4)
    settings = {"kl_coef": 0.0, "dead_groups": "keep", **case.ours}
    config = GroupConfig(batch_size=GROUPS * SIZE, group_size=SIZE, minibatches=1, max_new_tokens=WIDTH, max_tokens=64,
                         micro_batch=GROUPS * SIZE // case.parts, lora_rank=4, lora_alpha=8, temperature=TEMPERATURE,
                         normalise_reward=False, missing_end="none", kl_target=0.0,
                         kl_floor=0.0, **settings).validate()
    rewards = torch.tensor(case.rewards)
    return GroupLearner(backbone, ["t3"] * GROUPS, lambda rollout: rewards, config)


def run_ours(trainer: GroupLearner, moving: dict[str, torch.nn.Parameter], case: Case) -> dict[str, Any]:
    """The numbers of our step."""
    backbone, config = trainer.backbone, trainer.config
    prompts, responses = token_rows()
    rollout = make_rollout(backbone, [backbone.tokenizer.decode(ids) for ids in prompts], prompts, responses)
    rollout.group_size = SIZE
    disturb(moving, BEFORE, 5)
    trainer.measure(rollout)
    raw = trainer.score_responses(rollout)
    targets = trainer.targets(rollout, trainer.shape_scores(raw.total, rollout), None)
    disturb(moving, case.between, 6)
    stats = update(trainer, rollout, targets)
    loss = stats[measures.LOSS_POLICY] + config.kl_coef * stats.get(measures.LOSS_KL, 0.0)
    loss -= config.entropy_coef * stats.get(measures.POLICY_ENTROPY, 0.0)
    factor = factor_of(case, rollout, targets.rows)
    return {"old": rollout.logprobs.sum(1), "reference": rollout.ref_logprobs.sum(1),
            "advantages": targets.advantages[:, 0], "loss": loss * factor, "clipped": stats[measures.CLIP_FRACTION],
            "factor": factor, "gradients": {name: gradient(parameter) * factor for name, parameter in moving.items()}}


def factor_of(case: Case, rollout: Rollout, rows: list[int] | None) -> float:
    """What our loss is multiplied with, so that it is divided by what TRL's is divided by."""
    lengths = rollout.mask.sum(1)
    factors = {LONGEST: WIDTH, MEAN_LENGTH: lengths.mean().item(), "": 1.0,
               LIVE_SHARE: (lengths[rows].sum() / lengths.sum()).item()}
    return factors[case.factor]


def make_trl(folder: Path, adapter: Path, case: Case, output: Path) -> Any:
    """TRL's trainer on the same base and the same adapter, with our responses and rewards."""
    import datasets
    import trl
    from transformers import AutoTokenizer
    from trl.rewards import get_soft_overlong_punishment

    # Two passes over a rollout, so that the log-probabilities of the sampling policy are kept.
    options: dict[str, Any] = {"output_dir": str(output), "per_device_train_batch_size": GROUPS * SIZE // case.parts,
                               "gradient_accumulation_steps": case.parts, "num_generations": SIZE, "num_iterations": 2,
                               "max_completion_length": WIDTH, "temperature": TEMPERATURE, "beta": 0.0, "bf16": False,
                               "use_cpu": True, "gradient_checkpointing": False, "report_to": [], **case.theirs}
    rewards: list[Any] = [lambda completions, **_: list(case.rewards)]
    overlong = case.ours.get("overlong_tokens", 0)
    if overlong:
        rewards.append(get_soft_overlong_punishment(WIDTH, overlong))
    rows = datasets.Dataset.from_list([{"prompt": "t5"}] * GROUPS * SIZE)
    kind, config = (trl.GRPOTrainer, trl.GRPOConfig) if case.estimator == "grpo" else (trl.RLOOTrainer, trl.RLOOConfig)
    trainer: Any = kind(load_for_trl(folder, adapter), rewards, args=config(**options), train_dataset=rows,
                        processing_class=AutoTokenizer.from_pretrained(folder))
    responses = token_rows()[1]
    sampled = (responses, None) if case.estimator == "grpo" else responses
    trainer._generate_single_turn = lambda *args, **options: sampled
    trainer.current_gradient_accumulation_steps = case.parts  # what the loop of `train` sets
    return trainer


def run_trl(trainer: Any, moving: dict[str, torch.nn.Parameter], case: Case, ours: list[str]) -> dict[str, Any]:
    """The numbers of TRL's step on prompts with these texts."""
    from trl.trainer.utils import split_tensor_dict

    disturb(moving, BEFORE, 5)
    trainer.model.train()
    found = trainer._generate_and_score_completions([{"prompt": text} for text in ours])
    lengths = found["prompt_mask"].sum(1)
    ids = [row[-count:].tolist() for row, count in zip(found["prompt_ids"], lengths)]
    assert ids == token_rows()[0], "both tokenised the prompts alike"
    disturb(moving, case.between, 6)
    loss = 0.0
    for part in split_tensor_dict(found, case.parts):
        part_loss = trainer._compute_loss(trainer.model, part)
        if case.estimator == "rloo":
            part_loss = part_loss / case.parts  # what the loop of `train` does
        part_loss.backward()
        loss += part_loss.item()
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"]
    old = found["old_logps"] if case.estimator == "rloo" else total(found, "old_per_token_logps")
    return {"old": old, "reference": total(found, "ref_per_token_logps"),
            "advantages": found["advantages"], "loss": loss, "clipped": sum(clipped) / len(clipped),
            "gradients": {name: gradient(parameter) for name, parameter in moving.items()}}


def total(found: dict[str, torch.Tensor], name: str) -> torch.Tensor | None:
    """[B]: log-probabilities of TRL in nats per sequence; None where it has none."""
    return (found[name] * found["completion_mask"]).sum(1) if name in found else None


def far(one: torch.Tensor, other: torch.Tensor | None) -> float:
    """The largest difference; 0 where TRL has no such tensor."""
    return 0.0 if other is None else (one - other).abs().max().item()


def compare(folder: Path, place: Path, case: Case) -> dict[str, Any]:
    """The numbers of one case, side by side."""
    trainer = make_ours(folder, case)
    adapter = place / "adapter"
    trainer.backbone.save_role("policy", adapter)
    other = make_trl(folder, adapter, case, place / "trl")
    moving = named(trainer.backbone.named_parameters("policy").items())
    others = named(other.model.named_parameters(), ".default.")
    assert moving.keys() == others.keys(), "the adapters have the same parameters"
    ours = run_ours(trainer, moving, case)
    texts = [trainer.backbone.tokenizer.decode(ids) for ids in token_rows()[0]]
    theirs = run_trl(other, others, case, texts)
    gradients = [(ours["gradients"][name], theirs["gradients"][name]) for name in others]
    differences = {name: far(ours[name], theirs[name]) for name in ("old", "reference", "advantages")}
    differences["gradients"] = max(far(one, two) for one, two in gradients)
    if case.estimator == "grpo":  # RLOO's loss of a whole response is another number with the same gradient
        differences["loss"] = abs(ours["loss"] - theirs["loss"])
    return {"case": case.name, "differences": {name: float(f"{x:.1e}") for name, x in differences.items()},
            "agree": all(x < CLOSE for x in differences.values()), "rule": case.rule, "factor": ours["factor"],
            "loss": [ours["loss"], theirs["loss"]], "clipped": [ours["clipped"], theirs["clipped"]],
            "largest advantage": theirs["advantages"].abs().max().item(),
            "largest gradient": max(two.abs().max().item() for _, two in gradients)}


def main() -> None:
    import trl
    say(machine() | {"trl": trl.__version__})
    with tempfile.TemporaryDirectory() as name:
        folder = make_model(Path(name) / "model", **SHAPE)
        for number, case in enumerate(CASES):
            place = Path(name) / str(number)
            place.mkdir()
            say(compare(folder, place, case))


if __name__ == "__main__":
    main()
