"""The command `export`: write an adapter or a merged model for others to load."""

import argparse
from functools import partial

from rlhf_engine.errors import UserError

HELP = "write an adapter, or the model merged with it, for others to load"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="bundled",
                        help="the base that the adapter was trained on: bundled, smollm2, a Hub id, a .gguf file or a "
                             "local folder")
    parser.add_argument("--adapter", required=True, help="bundled, a run folder, its checkpoint or a PEFT folder")
    parser.add_argument("--output", required=True, help="new folder to write; one that holds anything is refused")
    parser.add_argument("--merge", action="store_true",
                        help="a whole model: the adapter merged into the base in full precision")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16"),
                        help="of a merged model; auto is the base's own")
    parser.add_argument("--report", default="", metavar="FOLDER",
                        help="the folder of a report about this adapter, to go along; the model card links to it")
    parser.add_argument("--push", default="", metavar="OWNER/NAME",
                        help="push it to this new repository of the Hub, too; private")
    parser.add_argument("--public", action="store_true", help="push to a public repository")


def run(args: argparse.Namespace) -> None:
    """Write an adapter or a merged model for others to load."""
    for flag, needs in (("dtype", "merge"), ("public", "push")):
        if getattr(args, flag) not in ("auto", False) and not getattr(args, needs):
            raise UserError(f"--{flag} goes with --{needs}: leave it out, or add --{needs}")
    from rlhf_engine.export.checkpoint import export
    export(args.model, args.adapter, args.output, merge=args.merge, dtype=args.dtype, push_to=args.push,
           public=args.public, report=args.report, say=partial(print, flush=True))
