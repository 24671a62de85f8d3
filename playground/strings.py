"""Every English sentence of the page, in one place."""

TITLE = "RLHF Playground"
TAGLINE = ("Take one small language model through the three steps of RLHF: show it (SFT), learn what people prefer (reward model), "
           "and practise against that (PPO). Vote while it trains and see it follow, watch every number, and talk to any checkpoint.")
TRAIN, TEACH, CHAT = "Train", "Teach", "Chat"
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
             r"predict the votes, and the policy follows. The labeler is you, on the Teach tab, or a simulated one. "
             r"$$P(y_1 \succ y_2) = \sigma\big(r(x, y_1) - r(x, y_2)\big)$$",
}

# form
MORE_SETTINGS = "All settings"
LABELS = {"kl_target": "KL target (nats per sequence)", "kl_coef": "KL coefficient", "kl_horizon": "KL horizon",
          "kl_stop": "KL hard stop", "lora_rank": "LoRA rank", "lora_alpha": "LoRA alpha",
          "ppo_epochs": "PPO epochs", "model": "Base model", "data": "Data",
          "adapter": "Start from", "reward": "Reward model", "output": "Run name",
          "votes_first": "Votes before the first step", "dtype": "Number format", "lam": "GAE lambda",
          "ptx_coef": "PPO-ptx coefficient", "ptx_data": "PPO-ptx text", "ptx_subset": "PPO-ptx subset", "ptx_split": "PPO-ptx split",
          "ptx_rows": "PPO-ptx rows", "max_new_tokens": "Longest response (tokens)", "max_tokens": "Longest prompt and response (tokens)"}
INFO = {
    "adapter": "The checkpoint to start from; automatic is the bundled SFT adapter for reward and PPO on the bundled model, else none.",
    "model": "`bundled`, a Hub id such as `Qwen/Qwen3-0.6B`, or a folder under `models/` of the workspace.",
    "data": "`bundled`, an uploaded file, or a Hub id such as `trl-lib/tldr`.",
    "ptx_data": "What is mixed in where the coefficient is above 0: plain text (a column `text`) or demonstrations, named as for the data.",
    "reward": "A finished reward run scores the responses.",
    "output": "Name of the new run; empty finds one.",
    "labeler": "Who votes: `person` is you, on the Teach tab; the others are simulated (`keyword=` takes any word).",
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
STARTED_ASKING = "{name} is starting. Its questions come on the Teach tab."
UPLOADED = "{name} is in the workspace and chosen as data."

# run
RUN_LABEL = "Run"
FOLLOW = "Live run, or else the newest"
FOLLOW_TAUGHT = "Live run, or else one that asks"
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
    "changed": "Step {step}: {name} is {new:.6g} from now on; it was {old:.6g}.",
    "rewound": "Back from step {was} to the checkpoint of step {step}. Votes that came in since are learned again.",
    "turned": "Step {step}: the newest votes contradict those before. {outdated} older votes count no more.",
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

# plots
STEP_AXIS = "step"
PLOT_EMPTY = "no steps yet"
TRAINING, HELD_OUT, TARGET, CHANCE = "training", "held-out", "target", "chance"
LOSS, LEARNING_RATE, GRADIENT, SECONDS = "Loss", "Learning rate", "Gradient norm", "Seconds per step"
ACCURACY, MARGIN = "Accuracy", "Margin"
SCORE, KL, ENTROPY_LENGTH, LOSSES = "Reward", "KL to the reference", "Entropy and length", "Losses"
NATS_TOKEN, NATS_PAIR, NATS_SEQUENCE = "nats per token", "nats per pair", "nats per sequence"
GUESSED, GUESSED_LINE, VOTES = "Votes it had guessed", "guessed right", "votes"
SHARE, VOTE_SHARE, SCORE_UNIT, TOKENS = "share of pairs", "share of votes", "score", "tokens"
PTX, PTX_LOSS = "text mixed in", "Loss on the text mixed in"
POLICY, VALUE, ENTROPY, LENGTH, SCORE_LINE, KL_LINE = "policy", "value", "entropy", "length", "mean score", "KL"
PLOT_ALT = "{title} over {count} steps; latest {latest}"

# vote
WHICH = ("Which answer is better?", "Which answer is best?")
"""Sentences in pairs are about two responses, and about more."""
BEST = ("is better", "is best")
TIE, BOTH_BAD = ("Equally good", "All equally good"), ("Both bad", "All bad")
SKIP, UNDO = "Skip", "Undo"
EMPTY_RESPONSE = "(an empty answer)"
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
SAID_BEST = "answer {place}"
SAID_REMARK = {"thumb": "thumb {value}", "score": "a {value} of 7", "edit": "your own answer"}
THUMBS = {"up": "Thumb up for answer {place}", "down": "Thumb down for answer {place}"}
SCORE_ANSWER, SCORE_NONE = "Score of answer {place}, from 1 to 7", "1–7"
SCORES = {1: "1 · terrible", 4: "4 · so-so", 7: "7 · perfect"}
EDIT, EDIT_SAVE, EDIT_CANCEL = "Edit", "Save my answer", "Cancel"
EDIT_ABOUT, EDIT_LABEL = "Write a better answer: yours is preferred to this one", "Your better version of answer {place}"
SAID_TIE, SAID_BOTH_BAD = ("equally good", "all equally good"), ("both bad", "all bad")
UNDONE = "Your vote “{choice}” on “{prompt}” is taken back. Here is the question again."
UNDONE_GONE = "Your vote “{choice}” on “{prompt}” is taken back."
HOW_TO_ASK = "Press “Teach it yourself” above, or choose your own settings on the Train tab (stage 4, with the labeler “person”)."
NOBODY_ASKS = f"No run asks for votes. {HOW_TO_ASK}"
ASKS_NOBODY = f"{{name}} asks nobody for votes. {HOW_TO_ASK}"
ASKS_NO_MORE = f"{{name}} is {{state}} and has no more questions for you. To start another run: {HOW_TO_ASK[0].lower()}{HOW_TO_ASK[1:]}"
ALL_VOTES_IN = "All {wanted} votes are in. The policy goes on learning from them."
QUESTION_COMES = "The next question is being drawn."
NOTHING_TO_UNDO = "there is no vote of yours in run {name} to take back"
NO_EVENT_ID = "event_id is empty: make a new one (a UUID, say) for each vote, so that one that is sent twice counts once"
VOTES_SO_FAR, VOTES_BEYOND = "{votes} of {wanted} votes", "{votes} votes, {wanted} were asked for"
VOTES_KEPT = "your votes are kept; resume it on the Train tab"
EFFECT_NO_GUESS = "The reward has learned {votes} votes; among the last {new} there was no order to guess."
EFFECT_MOVED = ("They moved its scores by {drift:.2f} (1 is the spread over the answers at the start); "
                "its members differ by {spread:.2f}.")
EFFECT_WORDS = "By now it likes {likes}, and dislikes {dislikes}."
NO_EFFECT = "What the votes do is measured here: how many of them the reward guessed before it learned them."
FIXED = "The same prompts, answered at the start and now"
FIXED_PROMPT, FIXED_START, FIXED_NOW, FIXED_NOT_YET = "Prompt", "At the start", "Now (step {step})", "Now"
NOT_MOVED = "still the policy of the start"
NO_FIXED = "A run that learns from votes answers the same few prompts again and again; here you see what has changed."

# teach: starting it, and what it has learned
BEGIN, WATCH, WATCHED = "Teach it yourself", "Watch it being taught", "by someone who likes"
TASTES = {"sentiment": "happy words", "dialogue": "dialogue", "short": "short answers", "long": "long answers",
          "keyword=dog": "the word dog"}
"""What the built-in labelers like."""
BEGIN_ABOUT = ("You are asked 24 times before the policy moves, then it practises while you go on. Or watch: somebody simulated votes "
               "40 times, and in a few minutes the bundled model writes what they like.")
NO_TASTE = "there is no built-in labeler {labeler!r}; choose one of the list"
TAUGHT_BY = "{name} is taught by a simulated labeler ({labeler}). This was its last vote, in step {step}."
TAUGHT_SOON = "{name} is taught by a simulated labeler ({labeler}). Its first {first} votes come before the first step: about a minute."
PICKED = "chosen"
TAKEN = "What the reward has learned"
RECENT_GUESSES = "It would have guessed {guessed:g} of the last {guesses} votes (by chance: 1 in {choices})."
WON_BY_VOTES = ("Where both stood side by side, answers of the policy as it was then won {won:g} of {count} votes against those of the "
                "start (by chance: {chance:.1f}).")
WON_BY_SCORE = "By the labeler's own score, an answer of the policy beats one of the start {wins:.0%} of the time."
FORMULAS = "The numbers of this step"
FORMULA_REWARD = "what PPO maximises = reward − β × KL = {scores:.2f} − {coef:.2f} × {kl:.2f} nats = {total:.2f}"
FORMULA_REWARD_ABOUT = ("KL says how far the policy has moved from its start: by so many nats it is more likely to write its own answers "
                        "than the start is.")
FORMULA_ADVANTAGE = "advantage = what came after a token − what the value head expected; it foresaw {variance:.0%} of the differences"
FORMULA_ADVANTAGE_ABOUT = "Tokens that did better than expected become likelier, the others less likely."
FORMULA_CLIP = ("ratio = new ÷ old probability of a token, counted only from {low:.2f} to {high:.2f}; {clipped:.1%} of the tokens were "
                "at that limit")
FORMULA_CLIP_ABOUT = "The clip keeps one step small, however much a few answers were liked."
EXTREMES = "Recent answers it likes most and least"
MOST, LEAST = "likes most", "likes least"
NO_EXTREMES = "Once PPO steps, the answers that the reward scores highest and lowest stand here."
PATH = "How this works, in one minute"
PATH_STEPS = (
    ("SFT", "A language model is shown good answers until it answers like them. The bundled model has been through this: it tells short "
            "stories."),
    ("Reward", "People compare answers. A reward learns one number for an answer, such that what people prefer gets the higher one."),
    ("Teach", "PPO lets the model practise: it writes, the reward scores, and what scored well becomes likelier. Here the votes are yours, "
              "they come while it practises, and the reward learns from each of them. A KL penalty keeps the text from falling apart."),
)
PATH_NOTEBOOK = "The same in ten lines of a notebook: notebooks/04_teach_it_live.ipynb"
WINS, WINS_LINE, WINS_UNIT = "Wins over the start", "by the labeler's score", "share of pairs"
LEARNED_LINE = "reward updated"

# chat
CHAT_ABOUT = ("One prompt, two to four checkpoints, answered at the same time. It works while a run is training; "
              "the live run answers as it is right now. Thumbs and edits are kept as feedback, and a live run that asks for votes "
              "learns from those on its own answers.")
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
WAITING = "Waiting for the model. The first answer takes longest."
EMPTY_CHAT = "Nothing said yet."
ENDED = "Both answers are done."
NOTHING_TO_SAY = "Write a message first."

# launch
READY = "RLHF Playground is ready on {url} (Ctrl-C ends it)"
LEFT_RUNNING = "{name} goes on without the page; start the playground again to see it, or stop it there"

# data
DATA, FILES, FEEDBACK = "Data", "Files", "Feedback"
FILES_ABOUT = "What a run would learn from: see what a file is taken for before anything starts, and read its rows."
DATA_LABEL, DATA_INFO = "Data", "Bundled, an uploaded file, or a Hub id such as `trl-lib/tldr`."
KIND_LABEL, KIND_INFO, KIND_AUTO = "Read as", "Each stage reads one kind; many files hold several.", "What it is"
KINDS_OF_DATA = {"prompts": "prompts", "demonstrations": "demonstrations", "preferences": "preferences"}
KIND_CHOICES = {"prompts": "Prompts (PPO, Teach)", "demonstrations": "Demonstrations (SFT)", "preferences": "Preferences (reward)"}
BUNDLED_DATA = {"bundled-prompts": "bundled prompts", "bundled-heldout": "bundled prompts, held out",
                "bundled-demonstrations": "bundled demonstrations", "bundled-preferences": "bundled preferences"}
SUBSET_LABEL, SPLIT_LABEL = "Subset", "Split"
READ_HUB = "Read from the Hub"
UPLOADED_DATA = "{name} is in the workspace; the Train page offers it, too."
ASK_HUB = "{name} is on the Hub: press “Read from the Hub” to fetch it."
NO_DATA_CHOSEN = "choose data: bundled, an uploaded file, or a Hub id"
UNREADABLE = "{name}: cannot be read ({error}); upload it again, or choose another file"
IN_THE_DATA = "What is in this data"
ROWS, ROWS_OF = "rows: {count:,}", "of {total:,} in the file"
BECOMES, FROM_COLUMN, MEDIAN_LENGTH, LONGEST = "Becomes", "From", "Median characters", "Longest"
TEXT_NAMES = {"prompt": "prompt", "completion": "completion", "chosen": "chosen", "rejected": "rejected", "response": "responses"}
COLUMN = "column {name}"
LAST_ASKED = "column {name}, up to the last user turn"
TURN_BEFORE, TURN_LAST = "column {name}, before its last assistant turn", "column {name}, its last assistant turn"
INSTRUCTED = "column instruction, with the column input below it where there is one"
COLUMN_OF = {
    "prompts": {"all": ("prompt",), "instruction": {"prompt": INSTRUCTED},
                **{name: {"prompt": LAST_ASKED.format(name=name)} for name in ("messages", "conversations", "chosen")}},
    "demonstrations": {"all": ("prompt", "completion"),
                       "text": {"prompt": "nothing: plain language modelling", "completion": "column text"},
                       "instruction + output": {"prompt": INSTRUCTED, "completion": "column output"},
                       **{name: {"prompt": TURN_BEFORE.format(name=name), "completion": TURN_LAST.format(name=name)}
                          for name in ("messages", "conversations")}},
    "preferences": {"all": ("prompt", "chosen", "rejected", "response"),
                    "conversations + chosen + rejected": {"prompt": "column conversations"},
                    "messages + chosen + rejected": {"prompt": "column messages"},
                    "chosen + rejected": {"prompt": "what chosen and rejected share", "chosen": "column chosen, from where they part",
                                          "rejected": "column rejected, from where they part"},
                    "prompt + responses + ranking": {"response": "column responses; the column ranking says which is best (1)"},
                    "prompt + responses + scores": {"response": "column responses; the highest in the column scores is best"}}}
"""Where the texts of a row come from, by the columns that were read; what is not named here comes from the column of its name."""
ALSO_USED = {"prompts": {"input": "The column input stands below the instruction."},
             "demonstrations": {"input": "The column input stands below the instruction.",
                                "label": "Rows whose label is false are left out."},
             "preferences": {"margin": "The column margin says by how much the chosen one should win."}}
UNUSED = "Columns that are not used: {names}."
ONLY_FIRST = "Only the first {count:,} rows were read, to be looked at; a run reads them all."
NO_ROW_MATCHES = "No row holds this text."
ROW_NUMBER, RANK = "row {number}", "rank {rank:g}"
NO_PROMPT = "(no prompt)"
CLIPPED = "{count:,} more characters"
FILTER_LABEL, FILTER_INFO, FILTER_PLACEHOLDER = "Filter by text", "Of the prompt or an answer, in either case.", "Words that a row holds"
PAGE_LABEL, PREVIOUS, NEXT = "Page", "Previous", "Next"
PAGE_OF = "{first:,} to {last:,} of {count:,}, page {page:,} of {pages:,}"
FEEDBACK_ABOUT = ("Every vote, newest first. Votes are never erased: one that is taken back is marked so, and nothing learns from it "
                  "any more.")
RUN_FILTER, KIND_FILTER, VOTER_FILTER = "Run", "Kind", "Voter"
ALL_RUNS, ALL_KINDS, ALL_VOTERS = "All runs", "All kinds", "All voters"
TEXT_FILTER, TEXT_PLACEHOLDER = "Text", "Any words"
KIND_NAMES = {"comparison": "comparison", "ranking": "ranking", "thumb": "thumb", "score": "score", "edit": "edit"}
KINDS_NAMED = {"comparison": "comparisons", "ranking": "rankings", "thumb": "thumbs", "score": "scores", "edit": "edits"}
NO_FEEDBACK = "No vote yet. They come from the Vote and Chat tabs, or from a preference file that you import here."
NO_VOTE_MATCHES = "No vote passes these filters."
NO_SUCH_EVENT = "there is no such vote in the store (any more)"
EVENT_NUMBER = "vote {number:,}"
AT_STEP, BY_VOTER, TOOK = "step {step:,}", "by {voter}", "{seconds:.1f} s"
RUN_GONE, OF_NO_RUN, NOBODY = "{run} (its folder is gone)", "no run", "nobody"
GUESSED_IT, GUESSED_NOT = "the reward had guessed it", "the reward had guessed otherwise"
TAKEN_BACK, TAKE_BACK, TAKE_BACK_SURE = "taken back", "Take back", "Really take back?"
RETRACTED = "Vote {number:,} is taken back."
ANSWER, CHOSEN, REWARD_SCORE, WRITTEN_INSTEAD = "answer {place}", "✓ chosen", "reward {score:.2f}", "✓ written instead"
THUMBED = {"up": "Thumb up", "down": "Thumb down"}
SCORED, EDITED, ORDERED = "{score} of 7", "Wrote a better answer", "From best to worst: {order}"
SAID_WINS = ("Answer {place} is better", "Answer {place} is best")
COUNT_OF = "{kind}: {count:,}"
VOTERS = "voters"
MEDIAN_SECONDS = "median time: {seconds:.1f} s"
VOTER_TITLE, VOTES_TITLE, SECONDS_TITLE, REWARD_TITLE = "Voter", "Votes", "Median seconds", "Reward had guessed"
MORE_VOTERS = "and {count:,} more"
SHARE_OF = "{share:.0%} of {count:,}"
AGREE = "Pairs of answers that several voters judged: {pairs:,}. Two voters agree on {share:.0%} of them."
AGREE_KAPPA = "Beyond chance that is a kappa of {kappa:.2f} (1 is always, 0 is no more than by chance)."
AGREE_TIES = "All of these are ties."
AGREE_NONE = "No two voters have judged the same pair of answers yet, so there is no agreement to measure."
REWARD_AGREED = "The reward model had guessed {guessed:,} of {guesses:,} votes ({share:.0%}) by the scores it gave when it asked."
REWARD_SILENT = "The reward model had no opinion on any of these before they were asked."
IN_AND_OUT = "Import and export"
EXPORT_WHAT, EXPORT_AS, EXPORT_MAKE = "Export", "File format", "Make the file"
EXPORTS = {"pairs": "Pairs (prompt, chosen, rejected)", "groups": "Groups of answers with their ranks",
           "thumbs": "Thumbs (prompt, completion, label)", "demonstrations": "Demonstrations (from edits)",
           "ratings": "Scores (prompt, completion, score)", "events": "All events, as stored"}
EXPORT_FILES = {"jsonl": "JSONL", "parquet": "Parquet"}
EXPORT_INFO = "Of the votes that pass the filters. “All events” is the one that loses nothing and can be imported again."
EXPORTED = "Rows: {rows:,}, from votes: {votes:,}."
EXPORT_LEFT = "Votes that make no such row: {left:,}."
NO_SUCH_EXPORT = "there is no export of {what!r} as {ending!r}"
NO_EXPORT = "no file can be made for the download ({error}); make room, then try again"
EXPORT_NOTHING = "none of these {votes:,} votes makes a row of this kind; choose another, or other filters"
DOWNLOAD = "Download {name}"
IMPORT = "Import preferences or exported events (.jsonl, .json, .csv, .parquet)"
IMPORTED = "{name}: {new:,} of {count:,} {what} are new in the store"
IMPORT_KNOWN = "{known:,} were there already"
IMPORT_KINDS = {"events": "events", "preferences": "preferences"}

# runs
RUNS = "Runs"
RUNS_CHOSEN, RUNS_CHOSEN_INFO = "Runs", "Up to six. While none is chosen: the newest, and the one of its stage before it."
MEASURES, MEASURES_INFO = "Measures", "While none is chosen: the ones that tell most about a stage."
SMOOTHING, SMOOTHING_INFO = "Smoothing", "Exponential moving average; 0 draws what was measured."
SCALE, SCALE_INFO, SCALES = "Axis", "Log hides what is not above 0.", {"linear": "linear", "log": "log"}
WINDOW, WINDOW_INFO = "Steps", "Of each run."
WINDOWS = {0: "all", 20: "last 20", 50: "last 50", 100: "last 100", 500: "last 500", 2000: "last 2000"}
NO_CURVES = "No run has taken a step yet. Start one on the Train tab: its curves come here, beside those of earlier runs."
NO_MEASURE = "none of these runs measures it"
LINEAR = "{title} (linear: it is not above 0)"
MARKERS = {"reward": "votes learned", "changed": "setting changed", "rewound": "rewound", "warning": "warning"}
MARKERS_ABOUT = "On the curves:"
MORE_OF_IT = "(and {count} more)"
STEPS_TAKEN = "{state}, {step} of {total} steps"
MEASURE = {
    "loss/train": "Loss, training", "loss/held_out": "Loss, held-out", "accuracy/train": "Accuracy, training",
    "accuracy/held_out": "Accuracy, held-out", "margin": MARGIN, "grad_norm": GRADIENT, "lr": LEARNING_RATE, "objective/scores": SCORE,
    "objective/kl": KL, "objective/entropy": "Entropy", "objective/length": "Response length", "objective/ended": "Responses that end",
    "loss/policy": "Policy loss", "loss/value": "Value loss", "loss/ptx": PTX_LOSS, "value/explained_variance": "Explained variance",
    "policy/clipfrac": "Clip fraction", "val/ratio": "Probability ratio", "reward/guessed": GUESSED,
    "reward/votes": "Votes learned", "text/distinct_ratio": "Variety of word pairs, beside the start's",
    "text/perplexity_ratio": "Perplexity, beside the start's", "objective/kl_coef": "KL coefficient",
}

THROUGH_TIME = "Answers through time"
READER, READER_STEP = "Run", "Step"
THROUGH_ABOUT = "The same prompts, with the same random numbers, answered at step {step} ({place} of {count} times)."
DRAWN_ABOUT = "What the policy wrote in step {step} of its practice; the prompts differ from step to step."
ANSWERS_AT = "Step {step}"
NOTHING_SAID = "None of these runs has written samples: PPO and teach do, step by step."

DIFFERENCES = "What sets their settings apart"
DIFFERENCES_ALONE = "What {name} does not leave at its default"
ALL_ALIKE = "All settings are the same."
ALL_DEFAULTS = "All settings are the defaults."
SETTING, DEFAULT, NOT_THERE, YES, NO, EMPTY_VALUE = "Setting", "Default", "–", "yes", "no", "(empty)"
REPORTS = "Results, side by side"
NO_REPORTS = "Nothing has been measured yet; a run writes its report when it is over."
LAST = "{name} (last step)"
RESULT = "Result"
RESULTS = {
    "win_rate": "Wins against the start", "win_rate_low": "Wins, lower end of 95 %", "win_rate_high": "Wins, upper end of 95 %",
    "kl": "KL (nats per sequence)", "kl_per_token": "KL (nats per token)", "perplexity_ratio": "Perplexity, times the start's",
    "distinct_ratio": "Variety, times the start's", "distinct_2": "Distinct word pairs", "empty": "Empty responses",
    "length": "Length (tokens)", "votes": "Votes", "ties": "Votes that are ties", "sample_ties": "Samples that score the same",
    "score": "Score", "score_against": "Score of the start", "seconds": "Seconds", "steps": "Steps", "peak_memory_mb": "Peak memory (MB)",
    "held_out_loss": "Held-out loss", "loss_held_out": "Held-out loss", "accuracy_held_out": "Held-out accuracy",
    "calibration_held_out": "Held-out calibration error", "rows": "Rows", "held_out_rows": "Held-out rows", "pairs": "Pairs",
    "held_out_pairs": "Held-out pairs", "prompts": "Prompts", "samples": "Samples",
}
RUNS_EVENTS = "What happened in them"

# take it along
TAKE_ALONG = "Take it along"
TAKE_ABOUT = ("A checkpoint as a folder that others load without this page, with a card of its settings and measured numbers. An adapter "
              "is a few megabytes; a merged model is as large as its base, and the form that llama.cpp converts.")
TAKE_PICK, TAKE_KIND, TAKE_KINDS = "Checkpoint", "What to make", {"adapter": "An adapter (PEFT)", "merged": "A merged model"}
TAKE_REPO, TAKE_REPO_INFO = "Push to the Hub, too", "A new repository; empty pushes nothing."
TAKE_PRIVATE, TAKE_PRIVATE_INFO = "Private", "Otherwise everybody sees it."
TAKE_MAKE = "Make it"
TAKE_BEGUN = "{name} is being made. Training goes on meanwhile, and closing the page stops nothing."
TAKE_GOING, TAKE_STARTS = "Making {name}: {said}", "starting"
TAKE_DONE = "It lies in {folder}. To load it:"
TAKE_ENDED = "the export ended without a word (killed, or out of memory); make room, then try again"
EXPORT_BUSY = "an export is being made already; wait for it"
NO_HUB_NAME = "{name} is no name on the Hub; give OWNER/NAME"

WARNINGS = "Warnings"
NO_ADVICE = "Nothing in the numbers of {names} asks for a warning."
JOURNAL_WARNS = "The trainer of {name} has warned {count} times itself: see what happened, below."
SAID_KL, SAID_ENTROPY = "above the hard stop", "the entropy of the start"
"""Words by which the trainer's own warnings in a journal are known (rlhf_engine/ppo.py, guards.py)."""
ADVICE = {
    "no_number": ("Since step {step} at the latest, “{measure}” is no number any more: the run has blown up.",
                  "Rewind to a checkpoint before it, or start again with a lower learning rate."),
    "kl": ("KL was {kl:.1f} nats over the last {steps} steps, {times:.1f} times what it aims at ({target:.1f}).",
           "Lower the learning rate, or rewind to an earlier checkpoint; in a new run, raise the KL coefficient."),
    "length": ("The reward rises while responses grow: {now:.0f} tokens now, {start:.0f} at the start ({times:.1f} times).",
               "If longer is not what you want, set a length penalty, or vote for good short answers; and read the samples."),
    "entropy": ("The policy hardly hesitates any more: its entropy is {now:.2f} nats a token, {start:.2f} at the start.",
                "Lower the KL target or the learning rate, or rewind; responses are about to become one and the same."),
    "value": ("The value function predicts the returns no better than their mean would (explained variance {explained:.2f}); its loss is "
              "{loss}, and was {loss_start} at the start.",
              "PPO is left with noisy advantages: raise the value learning rate, give the value an adapter of its own, or take more "
              "responses a step."),
    "clip": ("{share:.0%} of the tokens are beyond the clip range of {clip:g}: the updates are too large for PPO to hold.",
             "Lower the learning rate, take fewer PPO epochs, or set an update stop."),
    "ratio": ("Within a step the probability ratio drifts to {ratio:.2f} (in the last {steps} steps); it should stay near 1.",
              "Lower the learning rate or take fewer PPO epochs: the policy leaves the responses that it learns from behind."),
    "endless": ("{cut:.0%} of the responses do not end within {tokens} tokens; of the start's it was {start:.0%}.",
                "Set missing_end to replace or subtract, so that an end is worth something, or rewind."),
    "cut": ("{cut:.0%} of the responses are cut off at {tokens} tokens, so the reward judges unfinished text.",
            "Allow longer responses (max_new_tokens), unless beginnings are all you care for."),
    "flat": ("The last {count} samples all score {score:.3g}: the reward tells none from the other, and PPO has nothing to follow.",
             "Look at the samples and at the reward: it may look for what the policy never writes."),
    "ties": ("Of {votes} votes {told} prefer one response to the others; the rest say little to the reward.",
             "Ask about more candidates (candidates, choices), or about something that these responses differ in."),
    "guesses": ("The reward has guessed {right:g} of {guesses} votes before it learned them, no better than chance ({chance:.0%}).",
                "It has not understood the votes: give more of them, be consistent, or choose a taste that shows in the words."),
    "chance": ("On held-out pairs the reward model is right {accuracy:.0%} of the time: a coin would be, too.",
               "Check that chosen and rejected are not mixed up; then more pairs, more epochs, or a higher learning rate."),
    "overfit": ("The held-out loss is {now:.3g}; it was {lowest:.3g} at step {step}. The training loss is {train:.3g}: the rows are "
                "being learned by heart.",
                "Take the checkpoint near step {step}, or train for fewer epochs, with a lower learning rate, or on more rows."),
    "gap_accuracy": ("The reward model is right on {train:.0%} of the training pairs, and on {held_out:.0%} of those it has not seen.",
                     "Train for fewer epochs or on more pairs: PPO will meet responses that it has not seen."),
    "gap_loss": ("The loss is {train:.3g} on the training rows, and {held_out:.3g} on those it has not seen.",
                 "Train for fewer epochs or on more rows, unless you want them learned by heart."),
}

# chat, side by side
SIDE_LABELS = (LEFT, RIGHT, "Third checkpoint", "Fourth checkpoint")
SIDE_NAMES = "ABCD"
SIDE_COUNT, PAIR, PAIR_INFO = "Side by side", "Before and after", "Two checkpoints that show what training did."
PRESET_RUN, PRESET_SFT, PRESET_GALLERY = "{name}: its start, then the newest", "Base model, then SFT", "SFT, then {name}"
BLIND, BLIND_INFO = "Blind", "Names are hidden and places shuffled until you have voted. Each message begins a new round."
AGAIN = "Regenerate"
ENDED_ONE, ENDED_MORE, STOPPED = "The answer is done.", "All {count} answers are done.", "Stopped."
ENDED_BLIND = "All answers are done. Which is best? Your vote shows who is who."
VOTE_BEST = "{side} {best}"
NOTHING_TO_REPEAT = "There is no question to ask again: write a message first."
STILL_WRITING = "This answer is still being written: judge it when it is done."
OWN_WORDS = "This answer is in your words now: thumbs are for the model's own."
EMPTY_EDIT = "An answer cannot be edited to nothing: use the thumb, or ask again."
EDIT_KEPT = "Your answer is kept as a demonstration, and the conversation goes on from it."
NO_EDIT_BLIND = "Vote first: answers can be edited when the names are known."
SAME_TWICE = "A blind round needs different checkpoints: {name} was chosen twice. Turn Blind off to choose others."
REVEALED, REVEAL = "You said: {choice}.", "{side} was {name}"
SCORE_HEADS, SCORE_WINS = ("Checkpoint", "Chosen as best"), "{wins} of {rounds}"
SCORE_TITLE = "Blind rounds since you opened this page"

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

# a run that is done, made longer
GO_ON_LABELS = {"steps": "Steps in all", "votes": "Votes in all"}
GO_ON, GOES_ON, TO_GO_ON = "Go on with more", "{name} goes on to step {steps:.0f}.", "to go on with it:"

# train: the way back
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
UNKNOWN = "not known yet"
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

# votes on the Hub
SYNC_UNREAD = "{repo}: cannot be read ({error}); check name and network, and set HF_TOKEN"
SYNC_UNSAVED = "{repo}: the last commit failed ({error}); it is tried again in five minutes"
SYNC_KEPT = "Kept in the data set {repo} on the Hub: {events} events, last saved {when}."
SYNC_WAITING = "To be kept in the data set {repo} on the Hub: {events} events, with the next commit."

# who may do what
OWNERS_ONLY = "Only the owner of this page may do that. Visitors watch, vote and chat."
OWNERS_ONLY_LOGIN = "Only the owner of this page may do that; log in at the top of the page if it is yours."
WRONG_PASSWORD = "That is not the password of this page (PLAYGROUND_PASSWORD)."
TOO_OFTEN = {
    "vote": "That were many votes in a minute; the next one is welcome in {seconds} s.",
    "chat": "That were many questions in a minute; ask again in {seconds} s.",
    "start": "That were many runs in a minute; start again in {seconds} s.",
    "login": "That were many passwords in a minute; try again in {seconds} s.",
}
TOO_LONG = "That has {count:,} characters; a visitor may write {longest:,} at once."
VISITORS_NAME = "A name that begins with {prefix} is for runs of visitors; choose another."
CHAT_TOO_LARGE = "A visitor may ask at most {sides} checkpoints for at most {tokens} tokens each."
NOT_FOR_VISITORS = "{name} is {value}; a visitor's run has {usual} (at most, where it is a size)."
NO_JUDGE_FOR_VISITORS = "A judge model is the owner's to ask; choose a person or a built-in labeler."
VISITORS_FILES = "A visitor may use the bundled model and data, and what a run here uses; {value!r} is the owner's to open."
VISITOR = "You are a visitor: watch, vote and chat."
VISITOR_OPEN = ("You are a visitor: watch, vote, chat, and start runs of the bundled model, one at a time, for {minutes} minutes at most.")
NO_OWNER = ("This page has no owner, so nobody can train from it: it is open to other computers, and was started without "
            "PLAYGROUND_PASSWORD.")
TO_OWNER, YOU_OWN = "I am the owner", "You are the owner. Log out"
PASSWORD, LOG_IN, LOG_OUT, IS_OWNER, BACK_TO_PAGE = "Password", "Log in", "Log out", "You are the owner of this page.", "Back to the page"
NOT_YOURS = "That vote is somebody else's; the owner of the page can take it back."
