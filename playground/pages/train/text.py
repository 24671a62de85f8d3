"""The English of the Train page."""

STAGE_LABEL = "Stage"

# form
MORE_SETTINGS = "All settings"
INFO = {
    "adapter": "The checkpoint to start from. Automatic is the bundled SFT adapter for all stages but SFT on the "
               "bundled model, and none otherwise.",
    "model": "`bundled`, `smollm2`, a Hub id such as `Qwen/Qwen3-0.6B`, or a folder or a `.gguf` file under `models/` "
             "of the workspace.",
    "data": "`bundled`, an uploaded file, `feedback.sqlite` (the votes given here), or a Hub id such as "
            "`trl-lib/tldr`.",
    "ptx_data": "The text that is mixed in if the coefficient is above 0: plain text (a column `text`) or "
                "demonstrations, named like the data.",
    "reward": "What scores the responses: a finished reward run, or a built-in score.",
    "output": "Name of the new run. If it is empty, a name is found.",
    "labeler": "Who votes: `person` is you, on the Teach tab; the others are simulated (`keyword=` takes any word; "
               "`random` votes at random, as a negative control).",
}
BUILT_IN_SCORE = "{name} (built in)"
START = "Start"
AS_COMMAND = "Show me this as a command, YAML or notebook cell"
STARTED_ASKING = "{name} is starting. Its questions come on the Teach tab."
UPLOADED = "{name} is in the workspace and chosen as data."
BUTTONS = {"pause": "Pause", "resume": "Resume", "step": "One step", "stop": "Stop and save", "discard": "Discard"}
RESUME_RUN = "Resume this run"
DISCARD_SURE = "Stop {name} and delete its folder with all checkpoints?"
DISCARD_YES, DISCARD_NO = "Yes, delete it", "Keep it"
ASKED = {"pause": "{name} pauses after this step.", "resume": "{name} goes on.", "step": "{name} takes one step.",
         "stop": "{name} stops after this step and is saved.", "discard": "{name} is stopped and deleted."}
RUN_COMMAND = "This run as a command, YAML or notebook cell"

# train: presets
PRESET, PRESET_INFO = "Preset", "Fills the fields below; change any of them."
SIZE, SIZE_INFO = "Fits on", "Model, number format, batch and lengths for a machine."
AS_IT_IS = "Defaults"
PRESET_SAYS = "{about} It sets {fields}."
DEFAULTS_SAY = "Every field is at its default."
CHANGED_SAY = "Not at their defaults: {fields}."
RECIPE, RECIPE_INFO = "For a model", "All settings of a recipe for it; it replaces the other two."
SIZE_CPU = ("A computer without a GPU", "The bundled model in fp32, and rows of up to 256 tokens.")
SIZE_8 = ("8 GB GPU", "Qwen3 1.7B in 4 bits, recomputing activations.")
SIZE_12 = ("12 GB GPU", "Qwen3 4B in 4 bits, recomputing activations.")
SIZE_16 = ("16 GB GPU", "Qwen3 8B in 4 bits, recomputing activations.")
SIZE_24 = ("24 GB GPU", "Qwen3 8B in 4 bits, activations kept, and longer responses.")

# train: as code
CODE_COMMAND, CODE_YAML, CODE_CELL = "Command", "YAML", "Notebook cell"
CODE_CHANGED = "These were changed while the run went on. The code below has the values of its start:"
CODE_CHANGE = "{value} from step {step} on"
CELL_PLACE = "Run it in the folder of the playground; elsewhere begin with: %cd FOLDER-OF-THE-PLAYGROUND"
CELL_SAVED = "the adapter is in its folder {role}: name that as --adapter or --reward"
CELL_STEP = "one step of training; its metrics are in `step`"

# train: live controls
LIVE_CONTROLS = "Change it while it runs"
LIVE_INFO = {"steps": "of the whole run, including those already done", "epochs": "of the whole run, if steps is 0",
             "votes": "to ask for in all",
             "kl_target": "0 keeps the coefficient as it is", "learning_rate": "0 is fitted to the model: {fitted}",
             "temperature": "of sampling, and of the logits in training", "max_new_tokens": "tokens",
             "pessimism": "standard deviations taken off the reward"}
LIVE_LABELS = {"steps": "Steps", "epochs": "Epochs", "votes": "Votes", "kl_target": "KL target (nats)",
               "learning_rate": "Learning rate", "temperature": "Temperature", "max_new_tokens": "Longest response",
               "pessimism": "Pessimism"}
LIVE_IN_FORCE = "In force now: {values}."
LIVE_VALUE = "{name} {value} (was {was})"
LIVE_SAME = "{name} {value}"
LIVE_APPLY = "Change from the next step on"
LIVE_NOTHING = "All values are already in force."
LIVE_ASKED = "{name}: {changes}, from the next step on."

# train: the way back
REWIND_TO, REWIND_STEP, REWIND = "Checkpoint", "step {step}", "Rewind"
REWIND_NONE = "There is none yet. The first comes with step {step}."
REWIND_CHOOSE = "choose a checkpoint of {name} to go back to"
REWIND_SURE = ("Take {name} back to step {step}? Its later steps and checkpoints are removed. Votes are kept, and the "
               "reward learns from them again.")
REWIND_YES, REWIND_NO = "Yes, go back", "Stay"
REWIND_ASKED = "{name} goes back to step {step}."
