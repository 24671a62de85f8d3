"""Pre-train the bundled storyteller: tokenizer, model, measured bits per character. It can stop and go on at any time.

    python assets/recipe/pretrain.py --data roneneldan/TinyStories --output model
    python assets/recipe/pretrain.py --data train.jsonl.gz train_more.jsonl.gz --validation validation.jsonl.gz \\
        --tokens 100000000 --output model
    the same line with --finish 8000000

The first lines start a run and, given again, go on with it: after Ctrl-C, `kill`, `kill -9`, or on another machine to
which the state folder was copied. A resumed run ends with the very weights of a run that never stopped (same machine,
same number of threads). Changed settings or data are refused, unless --allow-change names them; then the state's
history keeps the change.

The rate depends on the tokens seen, never on the clock: it rises, is constant, then falls linearly to zero over the
last part of --tokens. Nobody has to know the hours in advance: the last line above begins the fall now and
ends it after so many more tokens. The state of the constant phase is kept, so it can go on later without --finish.

Whole stories, never windows: every row starts at `<|story|>` with position 0, as it does when the model is used.
Matrices are trained by Muon, embeddings and norms by AdamW. The exponential average of the weights is what is written.

Few characters are read many times, and memorising them is what costs quality. Against it: other names each time
(`NameSwap`), whole channels dropped for a whole story, some wrong tokens in the input, weight decay.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from training_run import Run
from training_state import CHANGEABLE, NEW_EPOCH, Refused, low_priority


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", default=["roneneldan/TinyStories"],
        help="Hub ids or local files with a text column; the last one gives the stories that are held out")
    add("--validation", help="Hub id or local file; bits per character are measured on all of it, and no copy of its "
                             "stories is trained on")
    add("--exclude", nargs="*", default=[], help="files whose stories are not trained on either")
    add("--limit", type=int, help="read only the first N stories of each file")
    add("--weights", nargs="*", default=[], metavar="SOURCE=NUMBER",
        help="how often an epoch reads the stories of a source (a value of the column `source`); 1 where nothing is "
             "said, 0.5 for every other epoch, 2 for twice an epoch")
    add("--init", help="start from the model in this folder; with more --layers it gets new ones that change nothing "
                       "at first")
    add("--output", required=True, help="folder of the model")
    add("--state", default=str(Path(__file__).parent / "state"), help="folder of the state; a run in it goes on")
    add("--finish", type=int, metavar="TOKENS", help="let the rate fall to zero over the next TOKENS, then measure")
    add("--allow-change", nargs="*", default=[], metavar="SETTING",
        help=f"settings that may differ from the state's: {', '.join(sorted(CHANGEABLE | NEW_EPOCH))}")
    add("--save-minutes", type=float, default=5, help="minutes between two saves")
    add("--threads", type=int, default=1)
    add("--nice", type=int, default=19, help="19 lets all other processes have the processor first, 0 none")
    add("--no-compile", action="store_true", help="for machines without a C++ compiler; half as fast")
    add("--seed", type=int, default=0)
    for name, value in dict(vocabulary=4000, hidden=256, layers=6, heads=4, intermediate=704, context=512,
                            tokens=28_000_000, batch_tokens=8192, evaluate_every=500, log_every=50).items():
        add("--" + name.replace("_", "-"), type=int, default=value)
    for name, value in dict(dropout=0.15, wrong=0.1, swap=0.8, ema=0.995, decay=0.4, muon_lr=0.02, adam_lr=3e-3,
                            weight_decay=0.1).items():
        add("--" + name.replace("_", "-"), type=float, default=value)
    return parser.parse_args(arguments)


def check_arguments(args: argparse.Namespace) -> None:
    if not hasattr(torch.optim, "Muon"):
        raise Refused(f"The recipe needs torch 2.9 or later (it has Muon, an optimiser); this is {torch.__version__}.")
    if unknown := set(args.allow_change) - CHANGEABLE - NEW_EPOCH:
        raise Refused(f"--allow-change knows no {', '.join(sorted(unknown))}.")
    if args.init and not Path(args.init, "model.safetensors").exists():
        raise Refused(f"--init: there is no model.safetensors in {args.init}.")


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if args.threads == 1 else "true")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(args.threads))
    try:
        check_arguments(args)
        with low_priority(args.nice):
            run = Run(args)
            print(f"{run.facts['parameters']:,} parameters, {len(run.data.stories):,} stories, "
                  f"{len(run.data.swap.pronoun)} names to swap, from step {run.facts['step']}", flush=True)
            if run.train():
                run.finish()
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
