"""The English that several pages share."""

TITLE = "RLHF Playground"
GRADIO_WORDS = {"common.complete": "Done"}
"""Words that Gradio asks for and does not have."""
TAGLINE = ("Take one small language model through the three steps of RLHF: show it (SFT), learn what people prefer "
           "(reward model), and practise against that (PPO). Vote while it trains and see it follow, watch every "
           "number, and talk to any checkpoint.")
PREVIEW = ("Vote on the stories of a small language model and watch it learn your taste, live: reward model and PPO, "
           "on a laptop.")
LABELS = {"kl_target": "KL target (nats per sequence)", "kl_coef": "KL coefficient", "kl_horizon": "KL horizon",
          "kl_stop": "KL hard stop", "lora_rank": "LoRA rank", "lora_alpha": "LoRA alpha",
          "ppo_epochs": "PPO epochs", "model": "Base model", "data": "Data",
          "adapter": "Start from", "reward": "Reward model", "output": "Run name",
          "votes_first": "Votes before the first step", "dtype": "Number format", "gae_lambda": "GAE lambda",
          "ptx_coef": "PPO-ptx coefficient", "ptx_data": "PPO-ptx text", "ptx_subset": "PPO-ptx subset",
          "ptx_split": "PPO-ptx split", "ptx_rows": "PPO-ptx rows", "max_new_tokens": "Longest response (tokens)",
          "max_tokens": "Longest prompt and response (tokens)"}
UPLOAD = "Upload data (.jsonl, .json, .csv, .parquet)"
STARTED = "{name} is starting."

# run
RUN_LABEL = "Run"
FOLLOW = "Live run, or else the newest"
RUN_CHOICE = "{name} · {stage} · {state}"
NO_RUNS = "No run yet. Press Start: the defaults train on the bundled model and data."
NO_RUN_LIVE = "No run is going on."
LIVE = "{name} is {state}, step {step} of {total}"
PROGRESS = "step {step} of {total}"
PREPARING = "loading the model and the data"
CONVERTING = "Unpacking {model}, once: {done} of {total} written. Later starts find it in the cache."
ETA = "about {time} left"
EVENTS, SAMPLES = "What happened", "Latest samples"
NO_EVENTS, NO_SAMPLES = "Nothing to report yet.", "PPO and DPO write their samples here, as they go."
EVENT = {
    "base": "Base: {text}.",
    "data": "Data: {text}",
    "fitted": "Learning rate {learning_rate:.2g}, fitted to a model {width} wide.",
    "warning": "Warning at step {step}: {text}",
    "memory": "Memory ran out at step {step}: micro-batches have {micro_batch} rows now, and had {was} before; the "
              "gradients are the same.",
    "passes": "A pass reads {rows} rows of {longest:,} tokens, or more shorter ones, {tokens:,} tokens in all: the run "
              "takes about {need_mb:,} MB then, and {free_mb:,} MB are free.",
    "resumed": "Resumed from the checkpoint of step {step}.",
    "normalised": "Reward normalised on {samples} samples (step {step}): mean 0, standard deviation 1.",
    "changed": "Step {step}: {name} is {new:.6g} from now on; it was {old:.6g}.",
    "rewound": "Back from step {was} to the checkpoint of step {step}. Votes that came in since are learned again.",
    "turned": "Step {step}: the newest votes contradict those before. {outdated} older votes count no more.",
    "turned_opposite": "Step {step}: the newest votes say the opposite of those before. {outdated} older votes count "
                       "the other way round now.",
    "takeover_adapter": "Step {step}: the larger reward (an adapter) takes over. Of {votes} votes that both predicted, "
                        "it had guessed {adapter_accuracy:.0%} right, the smaller one {features_accuracy:.0%}.",
    "takeover_features": "Step {step}: the smaller reward takes over again. Of {votes} votes that both predicted, it "
                         "had guessed {features_accuracy:.0%} right, the larger one {adapter_accuracy:.0%}.",
    "takeover_anew": "Step {step}: the larger reward starts anew, because votes that it had learned count no more.",
    "reward": "Step {step}: the reward learned {new} votes ({votes} now); of {guesses} it had guessed {guessed:g} "
              "before.",
    "reference": "The reference scores {score_mean:.3g} on average (standard deviation {score_std:.3g}); "
                 "{ended:.0%} of its {samples} samples end in time.",
    "kept": "Round {round}: {kept} of {samples} different samples are kept, {earlier} of them from earlier rounds. All "
            "score {score_mean:.3g} on average, the kept ones {kept_score_mean:.3g}. The starting checkpoint learns "
            "from them.",
    "reference_alike": "{ended:.0%} of the reference's {samples} samples end in time. The reward tells none of them "
                       "apart yet.",
}
SAMPLE_HEADS = ("Step", "Prompt", "Response", "Score", "KL")
NOT_ENDED = "cut off"

# plots
STEP_AXIS = "step"
PLOT_EMPTY = "no steps yet"
TRAINING, HELD_OUT, TARGET, CHANCE = "training", "held-out", "target", "chance"
PEAK_LINE, PAST_PEAK_LINE = "peak of its like", "past the peak of its like"
"""The KL at which gold reward peaked in a study of runs like this one, before a run has passed it and after."""
LOSS, ACCURACY, SECONDS = "Loss", "Accuracy", "Seconds per step"
ENTROPY_LENGTH, LOSSES = "Entropy and length", "Losses"
GUESSED_LINE, VOTES = "hits", "votes"
PTX, WINS_LINE = "PPO-ptx", "by the labeler's score"
POLICY, VALUE, ENTROPY, LENGTH = "policy", "value", "entropy", "length"
SCORE_LINE, KL_LINE = "mean score", "KL"
LOG_RATIOS, CHOSEN_LINE, REJECTED_LINE = "Log-ratios to the reference", "chosen, train", "rejected, train"
CHOSEN_HELD_OUT_LINE, REJECTED_HELD_OUT_LINE = "chosen", "rejected"
MOVED_LINE, DIFFER_LINE = "drift", "spread"
DRIFT_AND_SPREAD = "Drift and spread"
PLOT_ALT = "{title} over {count} steps; latest {latest}"
PLOT_ALT_VOTES = "{title} over {count} votes; latest {latest}"
BEST = ("is better", "is best")
TIE, BOTH_BAD = ("Equally good", "All equally good"), ("Both bad", "All bad")
EMPTY_RESPONSE = "(an empty answer)"
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
FIXED_PROMPT, FIXED_START, FIXED_NOW, FIXED_NOT_YET = "Prompt", "At the start", "Now (step {step})", "Now"
LEARNED_LINE = "reward updated"

# stages
STAGE_GROUPS = {"demonstrations": "Demonstrations", "preferences": "Preferences", "online": "Online"}
"""What the stages of a group learn from: texts to imitate, judgements of answers, or answers that they sample."""

# recipes for models
MODEL_PRESETS = {"smollm2": ("SmolLM2 on two cores", "SmolLM2-135M in bf16, with batch and lengths that two cores "
                                                     "can do.")}

# data
DATA, FILES, FEEDBACK = "Data", "Files", "Feedback"
KINDS_OF_DATA = {"prompts": "prompts", "demonstrations": "demonstrations", "preferences": "preferences",
                 "thumbs": "thumbs"}
BUNDLED_DATA = {"bundled-prompts": "bundled prompts", "bundled-heldout": "bundled prompts, held out",
                "bundled-demonstrations": "bundled demonstrations", "bundled-preferences": "bundled preferences"}
OWN_PROMPTS = "bundled prompts for {model}"
READ_HUB = "Read from the Hub"
ASK_HUB = "{name} is on the Hub: press “Read from the Hub” to fetch it."
NO_DATA_CHOSEN = "choose data: bundled, an uploaded file, or a Hub id"
UNREADABLE = "{name}: cannot be read ({error}); upload it again, or choose another file"
IN_THE_DATA = "What is in this data"
ROWS, ROWS_OF = "rows: {count:,}", "of {total:,} in the file"
BECOMES, FROM_COLUMN, MEDIAN_LENGTH, LONGEST = "Becomes", "From", "Median characters", "Longest"
TEXT_NAMES = {"prompt": "prompt", "completion": "completion", "chosen": "chosen", "rejected": "rejected",
              "response": "responses", "desirable": "desirable", "undesirable": "undesirable"}
PARTS_OF_DATA = {"prompts": ("prompt",), "demonstrations": ("prompt", "completion"),
                 "preferences": ("prompt", "chosen", "rejected", "response"),
                 "thumbs": ("prompt", "desirable", "undesirable")}
READ_AS = "Read as {name}."
ALSO_USED = {"input": "The column input stands below the instruction.",
             "context": "The column context stands below the instruction.",
             "system": "The column system is a system turn before the prompt.",
             "system_prompt": "The column system_prompt is a system turn before the prompt.",
             "history": "The column history has the turns before the prompt.",
             "label": "Rows whose label is false are left out.",
             "kto_tag": "Rows whose kto_tag is false are left out.",
             "margin": "The column margin says by how much the chosen one should win."}
UNUSED = "Columns that are not used: {names}."
ONLY_FIRST = "Only the first {count:,} rows were read, to be looked at; a run reads them all."
NO_ROW_MATCHES = "No row holds this text."
ROW_NUMBER, RANK = "row {number}", "rank {rank:g}"
NO_PROMPT = "(no prompt)"
CLIPPED = "{count:,} more characters"
PAGE_LABEL, PREVIOUS, NEXT = "Page", "Previous", "Next"
PAGE_OF = "{first:,} to {last:,} of {count:,}, page {page:,} of {pages:,}"
DOWNLOAD = "Download {name}"
SETTING, DEFAULT, NOT_THERE, YES, NO, EMPTY_VALUE = "Setting", "Default", "–", "yes", "no", "(empty)"

# train: memory
MEMORY = "Memory"
PARTS = {"base": "base model", "policy": "policy", "reference": "reference", "reward": "reward", "value": "value",
         "mask": "mask policy", "rollout": "rollout", "update": "update", "runtime": "runtime"}
PARTS_ABOUT = {"base": "frozen weights, shared by all roles", "policy": "adapter, gradient, Adam",
               "reference": "frozen adapter", "reward": "adapter and head",
               "value": "adapter or head, gradient, Adam", "mask": "frozen adapter",
               "rollout": "KV cache while responses are sampled",
               "update": "activations and logits of a micro-batch", "runtime": "Python, torch and libraries"}
FITS = "About {need}, of {free} free on {device}: it fits."
TIGHT = "About {need}, of {free} free on {device}: tight. The estimate may be a fifth off."
TOO_MUCH = "About {need}, and {free} are free on {device}: too much."
WAY_OUT = "With {changes} it would be about {need}."
NO_WAY_OUT = "Take a smaller model, or shorter responses."
CHANGED_TO = {"dtype": "4-bit weights (nf4)", "gradient_checkpointing": "gradient checkpointing",
              "micro_batch": "micro-batches of {}"}
ROWS_KNOWN = "For rows of up to {tokens} tokens, the longest of the bundled data."
ROWS_UNKNOWN = "For rows of up to {tokens} tokens, as far as the settings let them grow; shorter rows take less."
IN_PASSES = "A pass reads {rows} such rows ({tokens:,} tokens); the rest of the batch follows in further passes."
FREE = "free"
MEASURED = "Memory: {peak} at the peak, measured; the estimate was {need}."
MEASURED_ONLY = "Memory: {peak} at the peak, measured."

# a run that is done, made longer
GO_ON_LABELS = {"steps": "Steps in all", "votes": "Votes in all"}
GO_ON, GOES_ON, TO_GO_ON = "Go on with more", "{name} goes on to step {steps:.0f}.", "to go on with it:"

# models
MODELS = "Models"
REPORT = "Report"
