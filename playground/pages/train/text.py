"""The English of the Train page."""


STAGE_CHOICES = {"sft": "1 · SFT", "reward": "2 · Reward model", "ppo": "3 · PPO", "teach": "4 · Teach"}
STAGE_LABEL = "Stage"
ABOUT = {
    "sft": r"Learns to answer like the demonstrations: the loss is the surprise at each token $y_t$ of the shown answer, given the "
           r"prompt $x$. $$\mathcal{L} = -\frac{1}{T}\sum_t \log \pi_\theta(y_t \mid x, y_{<t})$$",
    "reward": r"Learns one number $r$ for an answer, so that of a pair the chosen one scores above the rejected one. "
              r"$$\mathcal{L} = -\log \sigma\big(r(x, y_\mathrm{chosen}) - r(x, y_\mathrm{rejected})\big)$$",
    "ppo": r"The policy writes answers, the reward model scores them, and what scored well becomes likelier. A KL penalty keeps it "
           r"near the reference it started from. $$\max_\theta\; \mathbb{E}\big[r(x, y)\big] - \beta\,"
           r"\mathrm{KL}\big(\pi_\theta \,\|\, \pi_\mathrm{ref}\big)$$",
    "teach": r"PPO and a reward that learns while it runs: a labeler is shown answers of the policy and votes, the reward learns to "
             r"predict the votes, and the policy follows. The labeler is you, on the Teach tab, or a simulated one. "
             r"$$P(y_1 \succ y_2) = \sigma\big(r(x, y_1) - r(x, y_2)\big)$$",
}

# form
MORE_SETTINGS = "All settings"
INFO = {
    "adapter": "The checkpoint to start from; automatic is the bundled SFT adapter for reward and PPO on the bundled model, else none.",
    "model": "`bundled`, a Hub id such as `Qwen/Qwen3-0.6B`, or a folder under `models/` of the workspace.",
    "data": "`bundled`, an uploaded file, or a Hub id such as `trl-lib/tldr`.",
    "ptx_data": "What is mixed in where the coefficient is above 0: plain text (a column `text`) or demonstrations, named as for the data.",
    "reward": "A finished reward run scores the responses.",
    "output": "Name of the new run; empty finds one.",
    "labeler": "Who votes: `person` is you, on the Teach tab; the others are simulated (`keyword=` takes any word).",
}
START = "Start"
AS_COMMAND = "Show me this as a command, YAML or notebook cell"
STARTED_ASKING = "{name} is starting. Its questions come on the Teach tab."
UPLOADED = "{name} is in the workspace and chosen as data."
PAUSE, RESUME, STEP, STOP, DISCARD = "Pause", "Resume", "One step", "Stop and save", "Discard"
RESUME_RUN = "Resume this run"
DISCARD_SURE, DISCARD_YES, DISCARD_NO = "Stop {name} and delete its folder with all checkpoints?", "Yes, delete it", "Keep it"
ASKED = {"pause": "{name} pauses after this step.", "resume": "{name} goes on.", "step": "{name} takes one step.",
         "stop": "{name} stops after this step and is saved.", "discard": "{name} is stopped and deleted."}
RUN_COMMAND = "This run as a command, YAML or notebook cell"

# train: presets
PRESET, PRESET_INFO = "Preset", "Fills the fields below; change any of them."
SIZE, SIZE_INFO = "Fits on", "Model, number format, batch and lengths for a machine."
AS_IT_IS = "Defaults"
PRESET_SAYS = "{about} It sets {fields}."
DEFAULTS_SAY = "Every field is at its default."
QUICK_SFT = ("A quick look", "Half a pass over 200 demonstrations: enough to see that it learns, not to learn much.")
INSTRUCT_SFT = ("As in InstructGPT",
                "16 passes over the demonstrations: the loss gets worse after the first, what people think of it does not.")
THOROUGH_SFT = ("One evening", "Ten passes with adapters of rank 32, for data of your own and a model that has more to learn.")
QUICK_REWARD = ("A quick look", "One pass over 160 pairs, normalised on few samples.")
INSTRUCT_REWARD = ("As in InstructGPT",
                   "One pass over the pairs and no more, for reward models overfit; no warm-up.")
DOUBTFUL_REWARD = ("One that knows its doubt",
                   "Eight heads, each with a weighting of the pairs of its own; where they differ, the pairs do not say.")
QUICK_PPO = ("A quick look", "Five steps: watch the reward move, and the KL with it.")
INSTRUCT_PPO = ("As in InstructGPT",
                "One pass over each rollout in eight minibatches, and a fixed KL coefficient of 0.02; no target holds the KL.")
ZIEGLER_PPO = ("As in Ziegler et al. 2019", "Four passes over each rollout, and a controller that aims at a KL of 6 nats.")
EVENING_PPO = ("One evening", "200 steps at 8 nats, with a checkpoint every 20 to go back to.")
QUICK_TEACH = ("A quick look", "Twelve votes and six steps: enough to see how the loop goes.")
PATIENT_TEACH = ("One evening", "120 votes, 40 of them before the first step, and 50 steps.")
UNLEASHED_TEACH = ("Without a leash",
                   "No KL penalty, no doubt, no guard: watch the policy find what the reward likes and nobody else does.")
SIZE_CPU = ("A computer without a GPU", "The bundled model in fp32, and rows of up to 256 tokens.")
SIZE_8 = ("8 GB GPU", "Qwen3 1.7B in 4 bits, recomputing activations.")
SIZE_12 = ("12 GB GPU", "Qwen3 4B in 4 bits, recomputing activations.")
SIZE_16 = ("16 GB GPU", "Qwen3 8B in 4 bits, recomputing activations.")
SIZE_24 = ("24 GB GPU", "Qwen3 8B in 4 bits, activations kept, and longer responses.")

# train: as code
CODE_COMMAND, CODE_YAML, CODE_CELL = "Command", "YAML", "Notebook cell"
CELL_STEP = "one step of training; its metrics are in `step`"

# train: live controls
LIVE_CONTROLS = "Change it while it runs"
LIVE_INFO = {"steps": "of the whole run, those done included", "epochs": "of the whole run, where steps is 0", "votes": "to ask for in all",
             "kl_target": "0 keeps the coefficient as it is", "learning_rate": "0 is fitted to the model: {fitted}",
             "temperature": "of sampling, and of the logits in training", "max_new_tokens": "tokens",
             "pessimism": "deviations taken off the reward"}
LIVE_LABELS = {"steps": "Steps", "epochs": "Epochs", "votes": "Votes", "kl_target": "KL target (nats)", "learning_rate": "Learning rate",
               "temperature": "Temperature", "max_new_tokens": "Longest response", "pessimism": "Pessimism"}
LIVE_IN_FORCE = "In force now: {values}."
LIVE_VALUE = "{name} {value} (was {was})"
LIVE_SAME = "{name} {value}"
LIVE_APPLY = "Change from the next step on"
LIVE_NOTHING = "Nothing differs from what is in force."
LIVE_ASKED = "{name}: {changes}, from the next step on."

# train: the way back
REWIND_TO, REWIND_STEP, REWIND = "Checkpoint", "step {step}", "Rewind"
REWIND_SURE = "Take {name} back to step {step}? Its later steps and checkpoints are removed; votes are kept, and learned again."
REWIND_YES, REWIND_NO = "Yes, go back", "Stay"
REWIND_ASKED = "{name} goes back to step {step}."
