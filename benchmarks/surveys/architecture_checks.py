"""What the survey of architectures asks of one model. Each check raises an error if the engine is wrong about it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.surveys.tiny_models import POSITIONS, VOCABULARY, WINDOW
from rlhf_engine.cli import main
from rlhf_engine.config import ActorCriticConfig
from rlhf_engine.data.readers import Demonstration
from rlhf_engine.data.tokenization import encode_examples
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.decoders import CachedDecoder
from rlhf_engine.model.generation import Sampling, prefill, sample
from rlhf_engine.model.logprobs import nll, pad_right, read_tokens, response_positions
from rlhf_engine.model.prefix_packing import supports_packing
from rlhf_engine.trainers.ppo import PPO

EXACT = 1e-4
LENGTHS = (3, 21, 13, 21)
"""Tokens of the prompts: some are longer than the window of the tiny models, and two are equally long."""
ANSWER = 14
FEW = ["--batch-size", 4, "--lora-rank", 2, "--max-tokens", 60, "--device", "cpu", "--dtype", "fp32"]
SCORE = "def length(prompt, response):\n    return len(response) % 7 + len(response.split()) / 10\n"


class Wrong(AssertionError):
    """A number that is not what it should be."""


class Refused(Exception):
    """The engine refused. The message is the line that the user sees."""


def words(count: int, seed: int) -> str:
    """A text of `count` tokens."""
    ids = torch.randint(8, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"t{i}" for i in ids.tolist())


def prompt_rows() -> list[list[int]]:
    """Token ids of the prompts."""
    return [[int(word[1:]) for word in words(count, i).split()] for i, count in enumerate(LENGTHS)]


def write_inputs(folder: Path) -> None:
    """Data for each stage and a score function, in `folder`."""
    demos = [{"prompt": words(4 + i, i), "completion": words(12, 50 + i)} for i in range(8)]
    pairs = [{"prompt": words(4 + i, i), "chosen": words(12, 50 + i), "rejected": words(9, 90 + i)} for i in range(8)]
    for name, rows in {"demos": demos, "pairs": pairs}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "score.py").write_text(SCORE)


def near(what: str, ours: torch.Tensor, theirs: torch.Tensor, allowed: float = EXACT) -> None:
    """Raises Wrong unless two tensors are equal up to `allowed`, relative to the second."""
    if ours.shape != theirs.shape:
        raise Wrong(f"{what}: shape {tuple(ours.shape)} is not {tuple(theirs.shape)}")
    error = ((ours - theirs).norm() / theirs.norm().clamp(min=1e-9)).item()
    if not error <= allowed:
        raise Wrong(f"{what}: off by {error:.2g}")


# -- the checks, in the order in which they run ------------------------------------------------------------------------

def check_states(folder: Path) -> None:
    """Logits of padded batches are those that plain transformers gives single rows."""
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    base = pristine(folder)
    rows = prompt_rows()
    with torch.no_grad():
        padded = backbone.head(backbone.hidden(pad_right(rows, backbone.pad_id, "cpu")))
        for i, row in enumerate(rows):
            near("logits", padded[i, :len(row)], base(input_ids=torch.tensor([row]), use_cache=False).logits[0].float())
        packed = backbone.head(backbone.hidden(torch.tensor([rows[0]])))
        near("logits of one row", packed[0], base(input_ids=torch.tensor([rows[0]]), use_cache=False).logits[0].float())


def check_greedy(folder: Path) -> None:
    """Greedy answers to a batch of unequal prompts are those of transformers' `generate` to each of them, and are what
    scoring finds most likely."""
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    base = pristine(folder)
    rows = prompt_rows()
    ours = sample(backbone, rows, Sampling(ANSWER, temperature=0))
    for row, answer in zip(rows, ours):
        most_likely(backbone, row, answer)
    # Some rows end early and leave the batch.
    backbone.stop_ids = [2, ours[0][4 % len(ours[0])], ours[1][2 % len(ours[1])]]
    stopped = sample(backbone, [*rows, rows[2]], Sampling(ANSWER, temperature=0))
    for full, cut in zip([*ours, ours[2]], stopped):
        end = next((i + 1 for i, token in enumerate(full) if token in backbone.stop_ids), ANSWER)
        if cut != full[:end]:
            raise Wrong("greedy answers change when other rows leave the batch")
    backbone.stop_ids = [2]
    for row, answer in zip(rows, ours):
        theirs = generate(base, row)
        if answer != theirs[:len(answer)] or (len(answer) < ANSWER and answer[-1] not in backbone.stop_ids):
            differ = next((i for i, (a, b) in enumerate(zip(answer, theirs)) if a != b), len(theirs))
            raise Wrong(f"greedy answer to {len(row)} tokens differs from generate at token {differ}")


def check_longest(folder: Path) -> None:
    """The longest row that the engine allows is a row that the model can read."""
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    length = min(backbone.longest, 4 * POSITIONS)
    row = torch.randint(8, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = backbone.head(backbone.hidden(row))
        near(f"logits of {length} tokens", ours, pristine(folder)(input_ids=row, use_cache=False).logits.float())
    if length == backbone.longest:
        sample(backbone, [row[0, :-3].tolist()], Sampling(3, temperature=0))


def facts(folder: Path) -> dict[str, Any]:
    """How the engine works with a model: what decodes it, whether rows are packed, whether layers were replaced."""
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    decoder, *_ = prefill(backbone, [[5, 6, 7]], WINDOW - 1)
    kind = type(decoder).__name__
    if isinstance(decoder, CachedDecoder) and not decoder.pass_positions:
        kind += " without positions" + ("" if decoder.pass_mask else " and masks")
    return {"decoder": kind, "attention": backbone.base.config._attn_implementation, "longest": backbone.longest,
            "packing": supports_packing(backbone, 64)}


def most_likely(backbone: Backbone, row: list[int], answer: list[int]) -> None:
    """Raises Wrong unless each token of a greedy answer is the most likely one in the pass that scores it."""
    with torch.no_grad():
        logits = backbone.head(backbone.hidden(torch.tensor([row + answer])))[0, len(row) - 1:-1]
    gap = logits.amax(-1) - logits[torch.arange(len(answer)), torch.tensor(answer)]
    if not gap.max() <= 1e-3:
        first = int((gap > 1e-3).nonzero()[0])
        raise Wrong(f"greedy answer to {len(row)} tokens: scoring sees a likelier token at {first}")


def generate(base: Any, row: list[int]) -> list[int]:
    """What transformers answers to one prompt."""
    ids = torch.tensor([row])
    # Of BART's kin, which end every answer by force.
    base.generation_config.forced_eos_token_id = base.generation_config.forced_bos_token_id = None
    options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": ANSWER, "eos_token_id": 2,
                               "pad_token_id": 1, "repetition_penalty": 1.0, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        try:
            out = base.generate(input_ids=ids, **options)
        except Exception:  # its cache is broken in transformers itself (xLSTM)
            out = base.generate(input_ids=ids, use_cache=False, **options)
    return out[0, len(row):].tolist()


def pristine(folder: Path) -> Any:
    """The model as plain transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def check_gradients(folder: Path) -> None:
    """Gradients of an adapter are those of plain autograd with gradient checkpointing, and do not depend on padding."""
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    backbone.new_role("policy", rank=2)
    backbone.train("policy")
    with torch.no_grad():
        for name, weight in backbone.named_parameters("policy").items():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    demos = [Demonstration(words(n, n), words(12, 50 + n)) for n in (4, 9)]
    rows, _ = encode_examples(backbone, [(d.prompt, d.completion) for d in demos], 60)
    found = []
    for batches, checkpointing in (([[row] for row in rows], False), ([rows], False), ([rows], True)):
        for batch in batches:
            with backbone.use("policy"), backbone.checkpointing(checkpointing):
                nll(backbone, batch).backward()
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in backbone.parameters("policy")]
        found.append(torch.cat([g.flatten() for g in gradients]))
        for p in backbone.parameters("policy"):
            p.grad = None
    if not found[0].norm() > 0:
        raise Wrong("no gradient reaches the adapter")
    near("gradients of a batch", found[1], found[0], 1e-4)
    near("gradients with checkpointing", found[2], found[1], 1e-5)


def check_ppo_step(folder: Path) -> None:
    """The first step of PPO has ratio 1, and KL 0 to a reference that is a copy of the policy."""
    for checkpointing in (False, True):
        backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
        backbone.new_role("policy", rank=2)
        with torch.no_grad():
            for weight in backbone.parameters("policy"):
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        config = ActorCriticConfig(batch_size=4, steps=1, ppo_epochs=1, minibatches=1, max_new_tokens=ANSWER,
                                   max_tokens=60, reference_samples=8, gradient_checkpointing=checkpointing,
                                   guard=False, warmup=0.0)
        trainer = PPO(backbone, [words(n, n) for n in LENGTHS], odd_share, config)
        metrics = next(trainer)
        for name, value in (("kl_k3", metrics["objective/kl_k3"]), ("kl", metrics["objective/kl"]),
                            ("ratio", metrics["val/ratio"] - 1), ("approxkl", metrics["policy/approxkl"])):
            if not abs(value) <= EXACT:
                raise Wrong(f"PPO's first step: {name} off by {value:.2g}, checkpointing {checkpointing}")
        if not math.isfinite(metrics["grad_norm"]) or metrics["grad_norm"] == 0:
            raise Wrong(f"PPO's first step: gradient norm {metrics['grad_norm']}")


def odd_share(rollout: Any) -> torch.Tensor:
    """A reward [B]: the share of odd token ids."""
    return torch.tensor([sum(i % 2 for i in ids) / len(ids) for ids in rollout.response_ids])


def check_checkpoint(folder: Path) -> None:
    """A role that was saved and loaded gives the same log-probabilities, bit for bit, and a merged one nearly."""
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    backbone.new_role("policy", rank=2)
    with torch.no_grad():
        for weight in backbone.parameters("policy"):
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    target = folder.parent / "adapter" / "policy"
    target.parent.mkdir()
    backbone.save_role("policy", target)
    before = read(backbone, "policy")
    if torch.equal(before, read(backbone, None)):
        raise Wrong("the adapter changes nothing")
    again = Backbone.load(str(folder), dtype="fp32", device="cpu")
    again.load_role("policy", target)
    again.copy_role("reference", "policy")
    for role in ("policy", "reference"):
        near(f"role {role} loaded again", read(again, role), before, 1e-6)
    near("the bare base beside it", read(again, None), read(backbone, None), 1e-6)


def read(backbone: Backbone, role: str | None) -> torch.Tensor:
    """Log-probabilities of the prompts under a role."""
    rows = prompt_rows()
    ids = pad_right(rows, backbone.pad_id, "cpu")
    positions = response_positions([1] * len(rows), [len(row) - 1 for row in rows], "cpu")
    with torch.no_grad(), backbone.use(role):
        return read_tokens(backbone, ids, *positions).logprobs


def command(name: str, *flags: Any) -> None:
    """Run the command line in this process. Raises Refused with its line if it ends with code 2."""
    import contextlib
    import io
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main([name, *map(str, flags)])
    if code == 2:
        raise Refused(errors.getvalue().strip().splitlines()[-1])
    if code:
        raise Wrong(f"{name} ended with code {code}: {errors.getvalue().strip()[-200:]}")


def check_sft(folder: Path) -> None:
    """`sft` from the command line, with gradient checkpointing."""
    home = folder.parent
    command("sft", "--model", folder, "--adapter", "none", "--data", home / "demos.jsonl", "--output", home / "sft",
            "--steps", 2, "--gradient-checkpointing", *FEW)


def check_reward(folder: Path) -> None:
    """`reward` from the command line."""
    home = folder.parent
    command("reward", "--model", folder, "--adapter", home / "sft", "--data", home / "pairs.jsonl", "--output",
            home / "reward", "--steps", 2, "--reference-samples", 8, "--max-new-tokens", ANSWER, *FEW)


def check_ppo(folder: Path) -> None:
    """`ppo` from the command line, against the reward model."""
    home = folder.parent
    command("ppo", "--model", folder, "--adapter", home / "sft", "--reward", home / "reward", "--data",
            home / "demos.jsonl", "--output", home / "ppo", "--steps", 2, "--reference-samples", 8, "--max-new-tokens",
            ANSWER, "--no-guard", *FEW)


def check_evaluate(folder: Path) -> None:
    """`evaluate` from the command line."""
    home = folder.parent
    command("evaluate", "--model", folder, "--adapter", home / "sft", "--against", "none", "--data",
            home / "demos.jsonl", "--judge", f"{home / 'score.py'}:length", "--output", home / "evaluation",
            "--limit", 4, "--max-new-tokens", ANSWER, "--device", "cpu", "--dtype", "fp32")


def check_merge(folder: Path) -> None:
    """`export --merge`: plain transformers loads it, and it says what the adapter says."""
    home = folder.parent
    adapter = home / "adapter" / "policy"
    command("export", "--model", folder, "--adapter", adapter, "--output", home / "merged", "--merge")
    merged = pristine(home / "merged")
    backbone = Backbone.load(str(folder), dtype="fp32", device="cpu")
    backbone.load_role("policy", adapter)
    row = torch.tensor([prompt_rows()[1]])
    with torch.no_grad(), backbone.use("policy"):
        ours = merged(input_ids=row, use_cache=False).logits.float()
        near("merged logits", ours, backbone.head(backbone.hidden(row)))


CHECKS: dict[str, Callable[[Path], None]] = {
    "states": check_states, "longest": check_longest, "greedy": check_greedy, "gradients": check_gradients,
    "first step": check_ppo_step,
    "checkpoint": check_checkpoint, "sft": check_sft, "reward": check_reward, "ppo": check_ppo,
    "evaluate": check_evaluate, "merge": check_merge,
}
