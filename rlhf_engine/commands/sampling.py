"""The arguments of the commands that sample: a model, an adapter, and how to sample."""

import argparse


def add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="bundled", help="bundled, smollm2, a Hub id, a .gguf file or a local folder")
    parser.add_argument("--adapter", default="none", help="none, bundled, a run folder or a PEFT folder")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16", "nf4"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the most likely token")
    parser.add_argument("--seed", type=int, default=0)
