"""Keeps the console for the lines of the playground: the libraries' warnings and log lines stay off it.

Errors are shown, of whichever library. A warning is shown to whoever asks for it, with `python -W default`.
"""

import logging
import os
import sys
import warnings

VERBOSITY = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error", "DATASETS_VERBOSITY": "error",
             "TORCH_CPP_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
"""What libraries read from the environment when they are imported. A user's own setting wins."""


def quiet_libraries() -> None:
    """Switch the libraries' warnings off in this process, and in those that it starts. Call it before they are
    imported."""
    for name, value in VERBOSITY.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if logging.lastResort is not None:  # prints what a library logs that set up no handler of its own
        logging.lastResort.setLevel(logging.ERROR)
