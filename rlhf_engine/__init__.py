"""The RLHF engine: SFT, reward model and PPO as adapters on one frozen base. Importable without Gradio."""

import logging

# At import, bitsandbytes warns on some CPUs about an optional kernel package; its own kernels are used, and nothing is wrong.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
