"""Every English sentence of the page, in one place."""

TITLE = "RLHF Playground"
TAGLINE = ("Take one small language model through the three steps of RLHF: show it (SFT), learn what people prefer (reward model), "
           "and practise against that (PPO). Watch every number, and talk to any checkpoint while it trains.")
TRAIN, VOTE, CHAT = "Train", "Vote", "Chat"
STAGES = {"sft": "SFT", "reward": "Reward", "ppo": "PPO", "teach": "Teach"}
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
             r"predict the votes, and the policy follows. The labeler is you, on the Vote tab, or a simulated one. "
             r"$$P(y_1 \succ y_2) = \sigma\big(r(x, y_1) - r(x, y_2)\big)$$",
}

# form
MORE_SETTINGS = "All settings"
LABELS = {"kl_target": "KL target (nats per sequence)", "kl_coef": "KL coefficient", "kl_horizon": "KL horizon",
          "kl_stop": "KL hard stop", "lora_rank": "LoRA rank", "lora_alpha": "LoRA alpha",
          "ppo_epochs": "PPO epochs", "model": "Base model", "data": "Data",
          "adapter": "Start from", "reward": "Reward model", "output": "Run name",
          "votes_first": "Votes before the first step", "dtype": "Number format", "lam": "GAE lambda",
          "max_new_tokens": "Longest response (tokens)", "max_tokens": "Longest prompt and response (tokens)"}
INFO = {
    "adapter": "The checkpoint to start from; automatic is the bundled SFT adapter for reward and PPO on the bundled model, else none.",
    "model": "`bundled`, a Hub id such as `Qwen/Qwen3-0.6B`, or a folder under `models/` of the workspace.",
    "data": "`bundled`, an uploaded file, or a Hub id such as `trl-lib/tldr`.",
    "reward": "A finished reward run scores the responses.",
    "output": "Name of the new run; empty finds one.",
    "labeler": "Who votes: `person` is you, on the Vote tab; the others are simulated (`keyword=` takes any word).",
}
UPLOAD = "Upload data (.jsonl, .json, .csv, .parquet)"
START = "Start"
AS_COMMAND = "Show me this as a command, YAML or notebook cell"
AUTO, NO_ADAPTER, SFT_BUNDLED = "Automatic", "Base model, no adapter", "SFT (bundled)"
FROM_GALLERY = "{name} (gallery)"
RUN_ADAPTER = "{name}, newest checkpoint"
ON_MODEL = "{name} (on {model})"
NO_REWARD = "PPO needs a reward model: train one first (stage 2), then choose it here."
STARTED = "{name} is starting."
STARTED_ASKING = "{name} is starting. Its questions come on the Vote tab."
UPLOADED = "{name} is in the workspace and chosen as data."

# run
RUN_LABEL = "Run"
FOLLOW = "Live run, or else the newest"
RUN_CHOICE = "{name} · {stage} · {state}"
PAUSE, RESUME, STEP, STOP, DISCARD = "Pause", "Resume", "One step", "Stop and save", "Discard"
RESUME_RUN = "Resume this run"
DISCARD_SURE, DISCARD_YES, DISCARD_NO = "Stop {name} and delete its folder with all checkpoints?", "Yes, delete it", "Keep it"
STATES = {"waiting": "waiting", "running": "running", "paused": "paused", "done": "done", "stopped": "stopped",
          "failed": "failed"}
NO_RUNS = "No run yet. Press Start: the defaults train on the bundled model and data."
NO_RUN_LIVE = "No run is going on."
LIVE = "{name} is {state}, step {step} of {total}"
PROGRESS = "step {step} of {total}"
PREPARING = "loading the model and the data"
WORKER_LOADING = "The model is being loaded."
ETA = "about {time} left"
ASKED = {"pause": "{name} pauses after this step.", "resume": "{name} goes on.", "step": "{name} takes one step.",
         "stop": "{name} stops after this step and is saved.", "discard": "{name} is stopped and deleted."}
RUN_COMMAND = "This run as a command, YAML or notebook cell"
EVENTS, SAMPLES = "What happened", "Latest samples"
NO_EVENTS, NO_SAMPLES = "Nothing to report yet.", "PPO writes its samples here, step by step."
EVENT = {
    "data": "Data: {text}",
    "fitted": "Learning rate {learning_rate:.2g}, fitted to a model {width} wide.",
    "warning": "Warning at step {step}: {text}",
    "memory": "Memory ran out at step {step}: micro-batches of {micro_batch} rows now, {was} before; the gradients are the same.",
    "resumed": "Resumed from the checkpoint of step {step}.",
    "normalised": "Reward normalised on {samples} samples (step {step}): mean 0, standard deviation 1.",
    "changed": "Step {step}: {name} is {new:.4g} from now on; it was {old:.4g}.",
    "rewound": "Back from step {was} to the checkpoint of step {step}. Votes that came in since are learned again.",
    "reward": "Step {step}: the reward learned {new} votes ({votes} now); of {guesses} it had guessed {guessed:g} before.",
    "reference": "The reference scores {score_mean:.3g} on average (standard deviation {score_std:.3g}); "
                 "{ended:.0%} of its {samples} samples end in time.",
}
SAMPLE_HEADS = {"step": "Step", "prompt": "Prompt", "response": "Response", "score": "Score", "kl": "KL"}
NOT_ENDED = "cut off"
COMMAND_UNKNOWN = "there is no command {command!r}; it is one of {known}"

# errors
NO_SUCH_RUN = "there is no run {name!r} in the workspace"
NO_SUCH_CHECKPOINT = "run {name} has no checkpoint {step!r}"
OUTSIDE = ("{what} is {value!r}, which is neither known nor a path inside the workspace ({home}); "
           "use the command line for anything outside it")
BAD_NAME = "{name!r} is no name for a run: use letters, digits, dot, dash and underscore"
NOT_DATA = "{name} is no data file; it ends with one of {endings}"
UNEXPECTED = "Something went wrong: {error}"

# plots
STEP_AXIS = "step"
PLOT_EMPTY = "no steps yet"
TRAINING, HELD_OUT, TARGET, CHANCE = "training", "held-out", "target", "chance"
LOSS, LEARNING_RATE, GRADIENT, SECONDS = "Loss", "Learning rate", "Gradient norm", "Seconds per step"
ACCURACY, MARGIN = "Accuracy", "Margin"
SCORE, KL, ENTROPY_LENGTH, LOSSES = "Reward", "KL to the reference", "Entropy and length", "Losses"
NATS_TOKEN, NATS_PAIR, NATS_SEQUENCE = "nats per token", "nats per pair", "nats per sequence"
GUESSED, GUESSED_LINE, VOTES = "Votes guessed before they were learned", "guessed right", "votes"
SHARE, VOTE_SHARE, SCORE_UNIT, TOKENS = "share of pairs", "share of votes", "score", "tokens"
POLICY, VALUE, ENTROPY, LENGTH, SCORE_LINE, KL_LINE = "policy", "value", "entropy", "length", "mean score", "KL"
PLOT_ALT = "{title} over {count} steps; latest {latest}"

# vote
VOTE_ABOUT = ("You are shown answers of the policy as it is. Choose the best: the reward learns your taste while PPO runs, and the policy "
              "follows it.")
WHICH = ("Which answer is better?", "Which answer is best?")
"""Sentences in pairs are about two responses, and about more."""
BEST = ("is better", "is best")
TIE, BOTH_BAD = ("Equally good", "All equally good"), ("Both bad", "All bad")
SKIP, UNDO = "Skip", "Undo"
EMPTY_RESPONSE = "(an empty answer)"
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
SAID_BEST = "answer {place}"
SAID_TIE, SAID_BOTH_BAD = ("equally good", "all equally good"), ("both bad", "all bad")
UNDONE = "Your vote “{choice}” on “{prompt}” is taken back. Here is the question again."
UNDONE_GONE = "Your vote “{choice}” on “{prompt}” is taken back."
HOW_TO_ASK = "On the Train tab, choose stage 4, Teach, with the labeler “person”, and press Start."
NOBODY_ASKS = f"No run asks for votes. {HOW_TO_ASK}"
ASKS_NOBODY = f"{{name}} asks nobody for votes. {HOW_TO_ASK}"
ASKS_NO_MORE = f"{{name}} is {{state}} and has no more questions for you. To start another run: {HOW_TO_ASK[0].lower()}{HOW_TO_ASK[1:]}"
ALL_VOTES_IN = "All {wanted} votes are in. The policy goes on learning from them."
QUESTION_COMES = "The next question is being drawn."
NOTHING_TO_UNDO = "there is no vote of yours in run {name} to take back"
NO_EVENT_ID = "event_id is empty: make a new one (a UUID, say) for each vote, so that one that is sent twice counts once"
VOTES_SO_FAR = "{votes} of {wanted} votes"
VOTES_KEPT = "your votes are kept; resume it on the Train tab"
EFFECT_GUESSED = "The reward guessed {guessed:g} of the last {guesses} votes before it learned them; it has learned {votes} now."
EFFECT_NO_GUESS = "The reward has learned {votes} votes; among the last {new} there was no order to guess."
EFFECT_MOVED = ("They moved its scores by {drift:.2f} (1 is the spread over the answers at the start); "
                "its members differ by {spread:.2f}.")
EFFECT_WORDS = "By now it likes {likes}, and dislikes {dislikes}."
NO_EFFECT = "What the votes do is measured here: how many of them the reward guessed before it learned them."
FIXED = "The same prompts, answered at the start and now"
FIXED_PROMPT, FIXED_START, FIXED_NOW, FIXED_NOT_YET = "Prompt", "At the start", "Now (step {step})", "Now"
NOT_MOVED = "still the policy of the start"
NO_FIXED = "A run that learns from votes answers the same few prompts again and again; here you see what has changed."

# chat
CHAT_ABOUT = ("One prompt, two checkpoints, answered at the same time. It works while a run is training; "
              "the live run answers as it is right now.")
CHAT_MODEL = "Base model"
LEFT, RIGHT = "Left checkpoint", "Right checkpoint"
RUN_LIVE, RUN_NEWEST, RUN_STEP = "{name}, live", "{name}, newest checkpoint", "{name}, step {step}"
CHAT_INPUT, CHAT_PLACEHOLDER = "Your message", "Tell me a story about ..."
SEND, CHAT_STOP, CLEAR = "Send", "Stop", "Clear"
SAMPLING = "Sampling"
TEMPERATURE, TEMPERATURE_INFO = "Temperature", "1 samples as trained; 0 takes the most likely token."
TOP_P, TOP_P_INFO = "Top-p", "Sample from the most likely tokens that hold this share; 1 takes all."
MAX_TOKENS, MAX_TOKENS_INFO = "Longest answer (tokens)", "Where an answer is cut off."
EXAMPLES = ["Tell me a story about a dog.", "Tell me a story about a girl and the rain.",
            "Tell me a story about a brave little boat."]
EXAMPLES_LABEL = "Try one of these"
WAITING = "Waiting for the model. The first answer takes longest."
EMPTY_CHAT = "Nothing said yet."
ENDED = "Both answers are done."
NOTHING_TO_SAY = "Write a message first."

# launch
READY = "RLHF Playground is ready on {url} (Ctrl-C ends it)"
LEFT_RUNNING = "{name} goes on without the page; start the playground again to see it, or stop it there"

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

# train: memory
MEMORY = "Memory"
PARTS = {"base": "base model", "policy": "policy", "reference": "reference", "reward": "reward", "value": "value",
         "rollout": "rollout", "update": "update", "runtime": "runtime"}
PARTS_ABOUT = {"base": "frozen weights, shared by all roles", "policy": "adapter, gradient, Adam", "reference": "frozen adapter",
               "reward": "adapter and head", "value": "adapter or head, gradient, Adam", "rollout": "KV cache while responses are sampled",
               "update": "activations and logits of a micro-batch", "runtime": "Python, torch and libraries"}
FITS = "About {need}, of {free} free on {device}: it fits."
TIGHT = "About {need}, of {free} free on {device}: tight. The estimate may be a fifth off."
TOO_MUCH = "About {need}, and {free} are free on {device}: too much."
WAY_OUT = "With {changes} it would be about {need}."
NO_WAY_OUT = "A smaller model, or shorter responses, would have to be taken."
CHANGED_TO = {"dtype": "4-bit weights (nf4)", "gradient_checkpointing": "gradient checkpointing", "micro_batch": "micro-batches of {}"}
ROWS_KNOWN = "For rows of up to {tokens} tokens, the longest of the bundled data."
ROWS_UNKNOWN = "For rows of up to {tokens} tokens, as far as the settings let them grow; shorter ones take less."
NOT_DOWNLOADED = "{model} is not on this machine, so its memory is not known before it is downloaded (the Models page shows what fits)."
FREE = "free"
THIS_MACHINE = "this computer"
MEASURED = "Memory: {peak} at the peak, measured; the estimate was {need}."
MEASURED_ONLY = "Memory: {peak} at the peak, measured."

# train: as code
CODE_COMMAND, CODE_YAML, CODE_CELL = "Command", "YAML", "Notebook cell"
CELL_STEP = "one step of training; its metrics are in `step`"

# train: live controls
LIVE_CONTROLS = "Change it while it runs"
LIVE_INFO = {"kl_target": "0 keeps the coefficient as it is", "learning_rate": "0 is fitted to the model: {fitted}",
             "temperature": "of sampling, and of the logits in training", "max_new_tokens": "tokens",
             "pessimism": "deviations taken off the reward"}
LIVE_LABELS = {"kl_target": "KL target (nats)", "learning_rate": "Learning rate", "temperature": "Temperature",
               "max_new_tokens": "Longest response", "pessimism": "Pessimism"}
LIVE_IN_FORCE = "In force now: {values}."
LIVE_VALUE = "{name} {value} (was {was})"
LIVE_SAME = "{name} {value}"
LIVE_APPLY = "Change from the next step on"
LIVE_NOTHING = "Nothing differs from what is in force."
LIVE_ASKED = "{name}: {changes}, from the next step on."
REWIND_TO, REWIND_STEP, REWIND = "Checkpoint", "step {step}", "Rewind"
REWIND_SURE = "Take {name} back to step {step}? Its later steps and checkpoints are removed; votes are kept, and learned again."
REWIND_YES, REWIND_NO = "Yes, go back", "Stay"
REWIND_ASKED = "{name} goes back to step {step}."

# models
MODELS = "Models"
MODELS_ABOUT = ("Base models: the one that ships with the playground, folders under `models/` of the workspace, and any causal language "
                "model on the Hub with safetensors weights. Code that comes with a model is never run.")
MODEL_FIELD, MODEL_FIELD_INFO = "Model", "Choose one, or type a Hub id such as Qwen/Qwen3-0.6B."
MODEL_DTYPE = "Number format"
MODEL_LOAD = "Load"
MODEL_HEADS = ("Model", "Architecture", "Parameters", "Vocabulary", "Chat template")
MODEL_FACTS = {"architecture": "Architecture", "parameters": "Parameters", "vocabulary": "Vocabulary", "template": "Chat template",
               "longest": "Longest row", "weights": "Weights"}
YES, NO, UNKNOWN = "yes", "no", "not known yet"
POSITIONS = "{count:,} tokens"
ON_HUB = "not downloaded"
NOT_DOWNLOADED_YET = "{model} is not on this machine. Load fetches it from the Hub; its size is known then."
SAFETENSORS, NO_SAFETENSORS = "safetensors", "no safetensors: pickled weights are never loaded"
FITS_TITLE = "What fits on {device} ({free} free)"
FITS_HEADS = {"cpu": {"auto": "fp32", "nf4": "4-bit (nf4)"}, "cuda": {"auto": "bf16", "nf4": "4-bit (nf4)"}}
"""For each kind of machine, what `dtype: auto` is there, and the smallest."""
FITS_NOTE = ("With the defaults of each stage and rows of up to 512 tokens; where they are too much, with gradient checkpointing and "
             "micro-batches of one row (“in small pieces”). Worked out from the model's config.json.")
VERDICTS = {"fits": "fits", "small": "fits in small pieces", "no": "too much"}
LOAD_WAITING = "The worker is asked for {model}."
LOAD_FETCHING = "Fetching {model} from the Hub: {done} of {total}."
LOAD_LOOKING = "Looking for {model}."
LOAD_LOADING = "Loading {model} into memory."
LOADED = "{model} is loaded ({dtype}, on {device})."
CHOOSE_A_MODEL = "Choose a model, or type a Hub id, first."
