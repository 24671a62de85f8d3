"""The command `chat`: talk to a model or a checkpoint."""

import argparse
from collections.abc import Iterator

from rlhf_engine.arguments import add_sampling, check_sampling
from rlhf_engine.console import typed_text

HELP = "talk to a model or a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", help="what to say; without it, a conversation line by line")
    add_sampling(parser)


def run(args: argparse.Namespace) -> None:
    """Answer a prompt, or a conversation line by line."""
    from rlhf_engine.data.tokenization import encode_prompt
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling, prompt_room, seeded_generator, stream
    from rlhf_engine.runs.resolve import resolve_adapter
    sampling = Sampling(*check_sampling(args))
    adapter = resolve_adapter(args.adapter, args.model)
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    if adapter:
        backbone.load_role("policy", adapter, head=False)
    room, generator = prompt_room(backbone, sampling.max_new_tokens), seeded_generator(args.seed)
    has_template = bool(backbone.tokenizer.chat_template)
    messages: list[dict] = []
    for line in [args.prompt] if args.prompt is not None else iter_lines():
        messages.append({"role": "user", "content": line})
        encoded, reply = encode_prompt(backbone.tokenizer, messages if has_template else line, room), ""
        if encoded.cut:
            print(f"(too long for the model: the first {encoded.cut} tokens are left out)")
        with backbone.use("policy" if adapter else None):
            for piece in stream(backbone, encoded.ids, sampling, generator):
                reply += piece
                print(piece, end="", flush=True)
        print()
        messages.append({"role": "assistant", "content": reply})


def iter_lines() -> Iterator[str]:
    """What somebody types, line by line, until Ctrl-D or Ctrl-C."""
    while True:
        try:
            yield typed_text(input("> "))
        except (EOFError, KeyboardInterrupt):
            return
