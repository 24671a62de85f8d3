"""The base model, its tokenizer and its adapters."""

import sys

# Where the package `kernels` is installed, bitsandbytes and transformers fetch code from the Hub when they are
# imported, and run it. Nothing here runs code that was fetched, so for them the package is not there.
sys.modules.setdefault("kernels", None)  # pyright: ignore[reportArgumentType]
