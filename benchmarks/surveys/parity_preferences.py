"""Are our numbers those of TRL's DPO and KTO? One step of both on the same weights and token rows, in one process.

    python -m venv --system-site-packages trl && trl/bin/pip install --no-deps trl
    trl/bin/python benchmarks/surveys/parity_preferences.py

TRL's side is `_compute_loss` of `DPOTrainer` and `KTOTrainer`, on a small random model with a LoRA adapter whose B is
not zero; both trainers copy it as their reference, as ours does. Then both policies move by the same noise, so that
log-ratios are not 0. For KTO, TRL gets our mismatched rows, and our weights.

Prints a line of JSON for each loss: ours, TRL's, the difference of the losses and the largest difference of the
adapter's gradients, beside the largest gradient, and whether both are within 1e-4. What differs, and why, is in
benchmarks/README.md.
"""

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.common import machine, make_model, say
from benchmarks.helpers.parity import SHAPE, disturb, load_for_trl, named, our_name
from rlhf_engine.config import DPOConfig
from rlhf_engine.data.examples import Preference, Thumb
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.trainers.preferences.dpo import DPO
from rlhf_engine.trainers.preferences.kto import KTO, mismatches

ROWS, START, NOISE, CLOSE = 8, 0.05, 0.05, 1e-4
CASES = [
    ("sigmoid", "sigmoid", {}), ("ipo", "ipo", {}), ("hinge", "hinge", {}),
    ("robust", "robust", {"label_smoothing": 0.2}), ("length-normalised", "sigmoid_norm", {}), ("kto", "kto", {}),
    ("kto", "kto", {"desirable_weight": 1.0, "undesirable_weight": 1.5})]
"""(our loss, TRL's name of it, further settings of both)."""


def text(rng: random.Random, longest: int) -> str:
    return " ".join(f"t{rng.randrange(3, SHAPE['vocab_size'])}" for _ in range(rng.randint(1, longest)))


def make_rows(loss: str) -> list[Preference | Thumb]:
    """Rows of different lengths; of KTO, a third is desirable and two share a prompt."""
    rng = random.Random(1)
    rows: list[Preference | Thumb] = []
    for i in range(ROWS):
        prompt = f"t{3 + i // 2 if i < 2 else 3 + i} {text(rng, 8)}" if loss != "kto" else f"t{3 + max(i, 1)}"
        one, other = text(rng, 10), text(rng, 10)
        rows.append(Thumb(prompt, one, i % 3 == 0) if loss == "kto" else Preference(prompt, one, other))
    return rows


def make_ours(folder: Path, loss: str, settings: dict) -> DPO:
    """Our trainer, whose policy has moved away from its reference."""
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    backbone.new_role("policy", rank=4, alpha=8, seed=0)
    disturb(backbone.named_parameters("policy"), START, 4)
    config = DPOConfig(loss=loss, batch_size=ROWS, held_out=0.0, max_tokens=64, max_new_tokens=8, reference_samples=2,
                       lora_rank=4, lora_alpha=8, **settings).validate()
    trainer = (KTO if loss == "kto" else DPO)(backbone, make_rows(loss), config)
    trainer.prepare_once()
    return trainer


def run_ours(trainer: DPO) -> tuple[float, dict[str, torch.Tensor]]:
    """(loss, gradients) of a step over all rows."""
    trainer._look_at(trainer.groups)
    with trainer.backbone.use("policy"):
        loss, _ = trainer._loss(trainer.groups, trainer.reference_sums)
        (loss / len(trainer.groups)).backward()
    parameters = trainer.backbone.named_parameters("policy")
    return loss.item() / len(trainer.groups), {name: p.grad for name, p in parameters.items()}


def padded(rows: list[tuple[list[int], list[int]]], prefix: str = "") -> dict[str, torch.Tensor]:
    """Token rows as TRL's collators hand them over: padded on the right, with masks."""
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    ids, attention, completion = [], [], []
    for prompt, response in rows:
        rest = longest - len(prompt) - len(response)
        ids.append(prompt + response + [1] * rest)
        attention.append([1] * (len(prompt) + len(response)) + [0] * rest)
        completion.append([0] * len(prompt) + [1] * len(response) + [0] * rest)
    names = ("input_ids", "attention_mask", "completion_mask")
    return {prefix + name: torch.tensor(values) for name, values in zip(names, (ids, attention, completion))}


def batch_for_trl(trainer: DPO) -> dict[str, Any]:
    """All our rows as one batch of TRL; of KTO with our mismatched rows."""
    groups = trainer.groups
    if not isinstance(trainer, KTO):
        order = [group.answers[0] for group in groups] + [group.answers[1] for group in groups]
        return padded([(answer.prompt_ids, answer.completion_ids) for answer in order])
    partners = mismatches(groups, groups, random.Random(f"{trainer.config.seed} mismatch {trainer.step}"))
    mixed = [(row.answers[0].prompt_ids, partner.answers[0].completion_ids) for row, partner in zip(groups, partners)]
    matched = [(row.answers[0].prompt_ids, row.answers[0].completion_ids) for row in groups]
    return {**padded(matched), **padded(mixed, "KL_"), "label": torch.tensor([row.desirable for row in groups])}


def make_trl(folder: Path, adapter: Path, trainer: DPO, name: str, output: Path):
    """TRL's trainer on the same base and the same adapter."""
    import datasets
    import trl
    from transformers import AutoTokenizer

    config = trainer.config
    model = load_for_trl(folder, adapter)
    options: dict[str, Any] = {"output_dir": str(output), "per_device_train_batch_size": ROWS, "use_cpu": True,
                               "beta": config.beta, "gradient_checkpointing": False, "bf16": False, "report_to": []}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if name == "kto":
        assert isinstance(trainer, KTO)
        good, bad = trainer.weights
        rows = datasets.Dataset.from_list([{"prompt": "t5", "completion": "t6", "label": i % 2 == 0} for i in range(8)])
        options |= {"desirable_weight": good, "undesirable_weight": bad, "loss_type": name}
        return trl.KTOTrainer(model, args=trl.KTOConfig(**options), train_dataset=rows, processing_class=tokenizer)
    rows = datasets.Dataset.from_list([{"prompt": "t5", "chosen": "t6", "rejected": "t7"}] * 8)
    options |= {"loss_type": [name], "label_smoothing": config.label_smoothing}
    return trl.DPOTrainer(model, args=trl.DPOConfig(**options), train_dataset=rows, processing_class=tokenizer)


def compare(folder: Path, place: Path, loss: str, name: str, settings: dict) -> dict[str, Any]:
    """Losses and gradients of one case, side by side."""
    ours = make_ours(folder, loss, settings)
    adapter = place / "adapter"
    ours.backbone.save_role("policy", adapter)
    theirs = make_trl(folder, adapter, ours, name, place / "trl")
    moving = named(theirs.model.named_parameters(), ".default.")
    ours_moving = named(ours.backbone.named_parameters("policy").items())
    assert moving.keys() == ours_moving.keys(), "the adapters have the same parameters"
    for parameters in (moving, ours_moving):
        disturb(parameters, NOISE, 5)
    value, gradients = run_ours(ours)
    theirs.model.train()
    loss_of_trl = theirs._compute_loss(theirs.model, batch_for_trl(ours), False)
    loss_of_trl.backward()
    gradients = {our_name(n): gradient for n, gradient in gradients.items()}
    apart = max((gradients[n] - moving[n].grad).abs().max().item() for n in moving)
    size = max(p.grad.abs().max().item() for p in moving.values())
    off = abs(value - loss_of_trl.item())
    found = {"loss": loss, "trl": name, **settings, "ours": value, "theirs": loss_of_trl.item(), "difference": off,
             "gradient difference": apart, "gradient size": size, "agree": off < CLOSE and apart < CLOSE}
    return found | ({"z0": ours.z0.item()} if isinstance(ours, KTO) else {})


def main() -> None:
    import trl
    say(machine() | {"trl": trl.__version__})
    with tempfile.TemporaryDirectory() as name:
        folder = make_model(Path(name) / "model", **SHAPE)
        for number, (loss, theirs, settings) in enumerate(CASES):
            place = Path(name) / str(number)
            place.mkdir()
            say(compare(folder, place, loss, theirs, settings))


if __name__ == "__main__":
    main()
