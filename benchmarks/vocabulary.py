"""P3: peak memory of log-probabilities against the size of the vocabulary, forward and backward.

    python benchmarks/vocabulary.py [--dtype bf16] [--entropy] [--sizes 4 16 32 64 128 152]

A random Llama (5.8 million parameters with 4k tokens; embedding and output layer are one), LoRA r=8, 8 rows of 384
tokens, of which 256 are the response. Measured are the log-probabilities under the policy, a loss of them (and of
entropies), and its gradient. `ours` reads them as training does, `plain` from the log-softmax of the model's own
logits. Each point is a process of its own. `peak_mb` is the most memory that it holds, minus what it held before
(weights and libraries). `seconds` is the time of a second pass. Only Linux can forget a peak.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.common import machine, make_model, say

ROWS, PROMPT, RESPONSE = 8, 128, 256


def measure(folder: str, who: str, dtype: str, entropy: bool) -> dict:
    import torch

    from rlhf_engine.loop import peak_memory_mb, reset_peak_memory
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.logprobs import read_tokens, response_positions

    backbone = Backbone.load(folder, dtype=dtype)
    backbone.new_role("policy", rank=8)
    backbone.train("policy")
    ids = torch.randint(3, backbone.vocabulary, (ROWS, PROMPT + RESPONSE), generator=torch.Generator().manual_seed(0))
    where = response_positions([PROMPT] * ROWS, [RESPONSE] * ROWS, ids.device)

    def plain() -> tuple[torch.Tensor, torch.Tensor | None]:
        logp = backbone.base(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
        chosen = logp[:, :-1].gather(-1, ids[:, 1:, None])[..., 0][where]
        return chosen, -(logp.exp() * logp).sum(-1)[where] if entropy else None

    def ours() -> tuple[torch.Tensor, torch.Tensor | None]:
        tokens = read_tokens(backbone, ids, *where, entropy=entropy)
        return tokens.logprobs, tokens.entropy

    def update() -> float:
        start = time.perf_counter()
        with backbone.use("policy"):
            logprobs, entropies = plain() if who == "plain" else ours()
            loss = -logprobs.mean() if entropies is None else -logprobs.mean() - 0.01 * entropies.mean()
            loss.backward()
        return time.perf_counter() - start

    # Weights are read from the file when they are first touched.
    sum(parameter.sum() for parameter in backbone.base.parameters())
    reset_peak_memory()
    before = peak_memory_mb()
    update()
    return {"peak_mb": peak_memory_mb() - before, "seconds": round(update(), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[4, 16, 32, 64, 128, 152], help="thousands of tokens")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--only", nargs="*", default=["ours", "plain"])
    parser.add_argument("--entropy", action="store_true",
                        help="with an entropy bonus, which PPO has only where it is asked for")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        say(measure(args.model, args.run, args.dtype, args.entropy))
        return
    say(machine())
    for thousands in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            make_model(Path(folder), vocab_size=1000 * thousands, tie_word_embeddings=True)
            for who in args.only:
                done = subprocess.run([sys.executable, __file__, "--run", who, "--model", folder, "--dtype", args.dtype,
                                       *(["--entropy"] if args.entropy else [])], capture_output=True, text=True)
                failed = {"failed": done.stderr[-300:]}
                result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else failed
                say({"vocabulary": 1000 * thousands, "who": who} | result)


if __name__ == "__main__":
    main()
