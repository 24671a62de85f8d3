"""The console: it belongs to the lines of the playground, and it may be another than UTF-8.

The libraries' warnings and log lines stay off it; their errors are shown. What it cannot show is escaped, and what was
typed on it is read as UTF-8.
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
    imported. Whoever wants to see the warnings starts Python with `-W default`."""
    for name, value in VERBOSITY.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if logging.lastResort is not None:  # prints what a library logs that set up no handler of its own
        logging.lastResort.setLevel(logging.ERROR)


def accept_any_text() -> None:
    """Let print write any text, and input read any.

    What the console's encoding lacks becomes an escape such as \\u2026. Without this a text by a model ends a command
    with an error where the encoding is ASCII or cp1252. What is typed goes through `typed_text`.
    """
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"),
                           (sys.stdin, "surrogateescape")):
        reconfigure = getattr(stream, "reconfigure", None)  # a notebook's streams have none
        if reconfigure:
            reconfigure(errors=errors)


def typed_text(text: str) -> str:
    """A text that came from an argument or the keyboard, without half-decoded bytes.

    In the locale C, Python leaves bytes beyond ASCII as surrogates. They were UTF-8 when they were typed.
    """
    if text.isascii():
        return text
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a character, which no console gives
        data = text.encode("utf-8", "replace")
    return data.decode("utf-8", "replace")
