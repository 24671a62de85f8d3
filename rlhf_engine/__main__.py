"""`python -m rlhf_engine`: the command line."""

import sys

from rlhf_engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
