"""Starts the playground: `python app.py`, then open http://127.0.0.1:7860.

It is also the entry point of a Hugging Face Space.
"""

import sys

from playground.app import launch
from rlhf_engine.errors import UserError

if __name__ == "__main__":
    try:
        launch()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
