"""Are our numbers those of TRL 1.12.0? One PPO step of both on the same weights, prompts and responses, in one process.

    python -m venv trl && trl/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.12.0 peft pyyaml
    trl/bin/python benchmarks/parity.py

TRL's side is `PPOTrainer.train()` itself, on a small random model (policy: LoRA with B not zero; reference: the bare
base; value and reward: the base with a linear head). Its sampler is made to return fixed responses. Its tensors are
read from the frame of `train()` when that calls `accelerator.backward`. Between rollout and update, both policies and
value heads move by the same noise, so that ratios leave the clip range.

Prints a line of JSON for each quantity. `difference` is the largest absolute difference from end to end, each side with
its own inputs, where we have a token. `size` is the largest absolute value. `function` is the difference of our
function on TRL's tensors and masks, with TRL's definition where that is a factor (Bessel's correction, pads in a mean).
The line also says whether each is within 1e-4. What differs, and why, is in benchmarks/README.md.
"""

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.common import machine, make_model, say
from benchmarks.helpers.parity import END, SHAPE, disturb, update
from rlhf_engine.config import PPOConfig
from rlhf_engine.losses import ppo as rl_math
from rlhf_engine.losses.masked import masked_mean, whiten
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import RewardModel
from rlhf_engine.rollout.rollout import Batch, Rollout, make_rollout
from rlhf_engine.trainers.online import Targets
from rlhf_engine.trainers.ppo import PPO

GPT2 = dict(vocab_size=64, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.15, eos_token_id=2,
            bos_token_id=2)
WIDTH, TEMPERATURE, CLIP, KL_COEF, PENALTY, SEED = 12, 0.7, 0.2, 0.2, 1.0, 4
PROMPTS = (3, 9, 5, 7, 4, 11, 6, 8)
LEVEL = tuple((WIDTH, i % 2 == 0) for i in range(len(PROMPTS)))  # (length, whether it ends with the end token)
RAGGED = ((WIDTH, False), (5, True), (1, True), (9, True), (WIDTH, True), (3, True), (WIDTH, False), (7, True))


@dataclass(frozen=True)
class Case:
    name: str
    lengths: tuple = RAGGED
    lam: float = 1.0
    pad_is_end: bool = False
    micro_batch: int = 0
    whiten_rewards: bool = False
    estimator: str = "k1"  # of TRL's penalty; ours is k1
    dtype: str = "fp32"
    gpt2: bool = False
    start: float = 0.05  # size of B and of the value head; at 0 the policy is the reference
    noise: float = 0.02  # between rollout and update


CASES = [
    Case("level", LEVEL, 0.95), Case("level, rewards whitened", LEVEL, 0.95, whiten_rewards=True),
    Case("level, TRL with k3", LEVEL, 0.95, estimator="k3"), Case("ragged, lambda .95", lam=0.95),
    Case("ragged, lambda 1"), Case("ragged, GPT-2", gpt2=True), Case("ragged, pad is end", pad_is_end=True),
    Case("ragged, micro-batches of 4", micro_batch=4), Case("ragged, first minibatch", noise=0.0),
    Case("ragged, untouched policy in bf16", start=0.0, noise=0.0, dtype="bf16")]


def token_rows(case: Case) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses, the same for the same lengths."""
    generator = torch.Generator().manual_seed(3)
    prompts, responses = ([torch.randint(3, SHAPE["vocab_size"], (n,), generator=generator).tolist() for n in counts]
                          for counts in (PROMPTS, [length for length, _ in case.lengths]))
    return prompts, [ids[:-1] + [END] if ended else ids for ids, (_, ended) in zip(responses, case.lengths)]


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    """The policy adapter's, in one vector."""
    return torch.cat([g.flatten() for n, g in sorted(gradients.items()) if "lora" in n])


def make_ours(folder: Path, case: Case) -> tuple[PPO, Rollout, dict]:
    """Our trainer and rollout, measured, and the parameters that move: the policy's adapter and the value head."""
    backbone = Backbone.load(str(folder), dtype=case.dtype)
    backbone.pad_id = END if case.pad_is_end else backbone.pad_id
    config = PPOConfig(batch_size=len(PROMPTS), micro_batch=case.micro_batch, max_new_tokens=WIDTH, max_tokens=64,
                       gae_lambda=case.lam, temperature=TEMPERATURE, clip=CLIP, value_clip=CLIP,
                       whiten_rewards=case.whiten_rewards, kl_coef=KL_COEF, kl_target=0, normalise_reward=False,
                       missing_end="subtract", missing_end_score=PENALTY)
    trainer = PPO(backbone, ["t3"] * len(PROMPTS), RewardModel(backbone), config)
    backbone.new_role("reward")
    backbone.new_head("reward", seed=5)
    moving = backbone.named_parameters("policy") | {"score.weight": backbone.heads["value"].weight}
    disturb({n: p for n, p in moving.items() if "lora_A" not in n}, case.start, SEED)
    rollout = make_rollout(backbone, ["" for _ in PROMPTS], *token_rows(case))
    trainer.measure(rollout)
    return trainer, rollout, moving


def run_ours(trainer: PPO, rollout: Rollout, moving: dict, noise: float) -> dict:
    """All numbers of our step; grids are [B, R], zero where there is no token."""
    mask, config = rollout.mask, trainer.config
    scores = trainer.shape_scores(trainer.score_responses(rollout).total, rollout)
    kl = rl_math.kl_estimates(rollout.logprobs, rollout.ref_logprobs)[0] * mask
    targets = trainer.targets(rollout, scores, None)
    metrics = trainer.rollout_metrics(rollout, scores, targets, kl.sum(1).mean().item())
    rewards = rl_math.shaped_rewards(scores, rollout.logprobs, rollout.ref_logprobs, mask, KL_COEF)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    disturb(moving, noise, SEED)
    sums = update(trainer, rollout, targets)
    batch = Batch(trainer.backbone, rollout, list(range(len(rollout))))
    with torch.no_grad(), trainer.backbone.use("policy"):
        read = batch.read(config.temperature, entropy=True)
    new = batch.grid(read.logprobs)
    return {"logprobs": rollout.logprobs, "ref_logprobs": rollout.ref_logprobs, "values": rollout.values,
            "scores": scores, "kl": kl, "KL per sequence": kl.sum(1), "rewards": rewards,
            "reward per sequence": rewards.sum(1), "advantages, raw": targets.returns - rollout.values,
            "returns": targets.returns, "advantages": targets.advantages, "new_logprobs": new,
            "ratio": (new - rollout.logprobs).exp() * mask,
            "pg_loss": sums["loss/policy"], "vf_loss": sums["loss/value"], "approxkl": sums["policy/approxkl"],
            "clipfrac": sums["policy/clipfrac"], "vf_clipfrac": sums["value/clipfrac"], "mean ratio": sums["val/ratio"],
            "entropy": read.entropy.mean(), "objective/kl": metrics["objective/kl"],
            "objective/reward": metrics["objective/reward"],
            "gradient, policy": flat({n: p.grad for n, p in moving.items()}),
            "gradient, value head": moving["score.weight"].grad[0]}


def run_trl(folder: Path, adapter: Path, heads: dict[str, torch.Tensor], case: Case) -> dict:
    """The numbers of one step of TRL's trainer, in its own shapes and masks."""
    import numpy
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig as TheirConfig
    from trl.experimental.ppo import PPOTrainer, ppo_trainer

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case.dtype]
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    if case.pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), str(adapter),
                                       is_trainable=True)
    value, reward = (AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=dtype)
                     for _ in range(2))
    value.score.weight.data.copy_(heads["value"])
    reward.score.weight.data.copy_(heads["reward"])
    prompts, responses = token_rows(case)
    data, size = Dataset.from_dict({"input_ids": prompts}), case.micro_batch or len(PROMPTS)
    config = TheirConfig(output_dir=str(folder / "trl"), per_device_train_batch_size=size,
                         gradient_accumulation_steps=len(PROMPTS) // size, num_mini_batches=1, num_ppo_epochs=1,
                         total_episodes=len(PROMPTS), response_length=WIDTH, stop_token="eos",
                         local_rollout_forward_batch_size=len(PROMPTS), num_sample_generations=0, report_to="none",
                         save_strategy="no", bf16=False, use_cpu=True, gradient_checkpointing=False,
                         temperature=TEMPERATURE, lam=case.lam, cliprange=CLIP, missing_eos_penalty=PENALTY,
                         kl_coef=KL_COEF, cliprange_value=CLIP, kl_estimator=case.estimator,
                         whiten_rewards=case.whiten_rewards, disable_tqdm=True)
    trainer = PPOTrainer(args=config, processing_class=tokenizer, model=policy, ref_model=None, reward_model=reward,
                         value_model=value, train_dataset=data, eval_dataset=data)
    trainer.dataloader = [trainer.data_collator([{"input_ids": ids} for ids in prompts])]  # in our order
    moving = {n.removeprefix("base_model.model.").replace(".default", ""): p for n, p in policy.named_parameters()
              if "lora_" in n}
    moving["score.weight"] = value.score.weight
    generate, backward, whiten = ppo_trainer.batch_generation, trainer.accelerator.backward, ppo_trainer.masked_whiten
    frames, whitened, logged = [], [], {}

    def forced(*args):
        columns = iter(torch.tensor([ids + [0] * (WIDTH - len(ids)) for ids in responses]).T)
        with mock.patch.object(torch, "multinomial", lambda *args, **options: next(columns)[:, None]):
            return generate(*args)

    def unshuffled(count):  # called once, between rollout and update
        disturb(moving, case.noise, SEED)
        return numpy.arange(count)

    def spy(loss, **options):
        frames.append({n: x.detach().clone().float() for n, x in sys._getframe(1).f_locals.items()
                       if isinstance(x, torch.Tensor)})
        backward(loss, **options)
        frames[-1]["gradients"] = {n: p.grad.clone() for n, p in moving.items()}

    def spy_whiten(values, mask, shift_mean=True):
        whitened.append((values, mask, shift_mean, whiten(values, mask, shift_mean)))
        return whitened[-1][-1]

    trainer.accelerator.backward, trainer.log = spy, logged.update
    with mock.patch.multiple(ppo_trainer, batch_generation=forced, masked_whiten=spy_whiten), \
            mock.patch.object(numpy.random, "permutation", unshuffled), contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    found, gradients = frames[-1], frames[-1].pop("gradients")
    found |= {n: torch.cat([frame[n] for frame in frames]) for n in ("new_logprobs", "vpred", "ratio")}
    found |= {n: torch.stack([frame[n] for frame in frames]).mean() for n in ("pg_loss", "vf_loss", "vf_clipfrac")}
    return found | {
        "KL per sequence": found["kl"].sum(1), "reward per sequence": found["rewards"].sum(1), "whitened": whitened,
        "advantages, raw": found["returns"] - found["values"], "approxkl": logged["policy/approxkl_avg"],
        "clipfrac": logged["policy/clipfrac_avg"], "mean ratio": logged["val/ratio"],
        "entropy": logged["policy/entropy_avg"], "objective/kl": logged["objective/kl"],
        "objective/reward": logged["objective/rlhf_reward"], "gradient, policy": flat(gradients),
        "gradient, value head": gradients["score.weight"][0], "tokens": found["padding_mask"] == 0,
        "tokens_p1": found["padding_mask_p1"] == 0}


def on_their_tensors(theirs: dict, case: Case) -> dict:
    """(ours, theirs) of our functions on TRL's tensors and masks, with its definition where that is a factor."""
    mask, mask_p1, found = theirs["tokens"], theirs["tokens_p1"], {}
    tokens, cells = mask.sum().item(), mask.numel()
    for values, used, shift_mean, white in theirs["whitened"]:
        centre = 0.0 if shift_mean else masked_mean(values, used)
        ours = (whiten(values, used, shift_mean=shift_mean) - centre) * (1 - 1 / used.sum()).sqrt() + centre
        found["advantages" if shift_mean else "rewards"] = (ours * used, white * used)
    advantages, returns = rl_math.gae(theirs["rewards"], theirs["values"], mask_p1, gamma=1.0, lam=case.lam)
    policy, stats = rl_math.policy_loss(theirs["new_logprobs"], theirs["logprobs"], theirs["advantages"], mask,
                                        clip=CLIP, tokens=tokens)
    value, value_stats = rl_math.value_loss(theirs["vpred"], theirs["values"], theirs["returns"], mask_p1, clip=CLIP,
                                            tokens=mask_p1.sum().item())
    kl = rl_math.kl_estimates(theirs["logprobs"], theirs["ref_logprobs"])[{"k1": 0, "k3": 2}[case.estimator]]
    ours = {"kl": kl, "advantages, raw": advantages, "returns": returns, "pg_loss": policy, "vf_loss": value,
            "clipfrac": stats["clipfrac"], "vf_clipfrac": value_stats["clipfrac"],
            "approxkl": stats["approxkl"] * tokens / cells,
            "mean ratio": (stats["ratio"] * tokens + cells - tokens) / cells}
    return found | {name: (x, torch.as_tensor(theirs[name]) * (mask_p1 if x.dim() else 1)) for name, x in ours.items()}


def compare(case: Case, folder: Path) -> None:
    trainer, rollout, moving = make_ours(folder, case)
    trainer.backbone.save_role("policy", folder / "policy")
    heads = {role: trainer.backbone.heads[role].weight.detach().clone() for role in ("value", "reward")}
    ours, theirs = run_ours(trainer, rollout, moving, case.noise), run_trl(folder, folder / "policy", heads, case)
    functions, mask = on_their_tensors(theirs, case), rollout.mask.bool()
    rollout.logprobs, rollout.values = theirs["logprobs"], theirs["values"]
    update(trainer, rollout, Targets(theirs["advantages"], theirs["returns"]))
    shares = mask.sum() / theirs["tokens"].sum()  # ours divides by our tokens
    functions["gradient, policy"] = (shares * flat({n: p.grad for n, p in moving.items()}), theirs["gradient, policy"])
    say({"case": case.name, "tokens": int(mask.sum()), "tokens_trl": int(theirs["tokens"].sum()),
         "ratio_off_1": [(side["ratio"][mask] - 1).abs().max().item() for side in (ours, theirs)]})
    for quantity in ours:
        a, b = (torch.as_tensor(side[quantity]) for side in (ours, theirs))
        a, b = (a[mask], b[mask]) if a.shape == mask.shape else (a, b)
        line = {"difference": (a - b).abs().max().item(), "size": a.abs().max().item()}
        line["agree"] = line["difference"] < 1e-4
        if quantity in functions:
            a, b = map(torch.as_tensor, functions[quantity])
            line["function"] = (a - b).abs().max().item()
            line["function_agrees"] = line["function"] < 1e-4
        say({"quantity": quantity} | {n: x if isinstance(x, bool) else float(f"{x:.2g}") for n, x in line.items()})


def main() -> None:
    say(machine())
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = make_model(Path(name), **SHAPE)
            if case.gpt2:
                from transformers import GPT2Config, GPT2LMHeadModel
                torch.manual_seed(0)
                GPT2LMHeadModel(GPT2Config(**GPT2)).save_pretrained(folder)
            compare(case, folder)


if __name__ == "__main__":
    main()
