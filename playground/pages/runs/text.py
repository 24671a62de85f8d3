"""The English of the Runs page."""

RUNS_CHOSEN = "Runs"
RUNS_CHOSEN_INFO = "Up to six. While none is chosen: the newest, and the run of the same stage before it."
MEASURES, MEASURES_INFO = "Measures", "While none is chosen: those that tell most about a stage."
SMOOTHING, SMOOTHING_INFO = "Smoothing", "Exponential moving average; 0 draws what was measured."
SCALE, SCALE_INFO, SCALES = "Axis", "Log hides what is not above 0.", {"linear": "linear", "log": "log"}
WINDOW, WINDOW_INFO = "Steps", "Of each run."
WINDOWS = {0: "all", 20: "last 20", 50: "last 50", 100: "last 100", 500: "last 500", 2000: "last 2000"}
NO_CURVES = ("No run has taken a step yet. Start one on the Train tab: its curves appear here, beside those of earlier "
             "runs.")
NO_MEASURE = "none of these runs measures it"
LINEAR = "{title} (linear: it is not above 0)"
MARKERS = {"reward": "votes learned", "changed": "setting changed", "rewound": "rewound", "warning": "warning"}
MARKERS_ABOUT = "On the curves:"
MORE_OF_IT = "(and {count} more)"
STEPS_TAKEN = "{state}, {step} of {total} steps"

# all learners in one picture
LEARNERS_TITLE = "{measure}, by KL"
LEARNERS_AXIS = "KL to the start (nats)"
LEARNERS_ABOUT_WINS = ("Each line is a run, step by step: how far its policy has gone from the start ({start}; KL in "
                       "nats per sequence), and how often its answers win over the start's, by {judge}. Higher at the "
                       "same KL is better.")
LEARNERS_ABOUT_REWARD = ("Each line is a run, step by step: how far its policy has gone from the start ({start}; KL in "
                         "nats per sequence), and the mean reward of its answers, by {judge}. Higher at the same KL is "
                         "better.")
LEARNERS_EMPTY = "none of these runs measures both a KL and wins or a reward"
LEARNERS_ALT = "{title}. At the end: {ends}."
LEARNERS_END = "{name} {height} at a KL of {kl}"
LEARNER_STEP, LEARNER_FINAL, LEARNER_BEST_OF = "step {step}", "at the end, on held-out prompts", "best of {n}"
LEARNER_OWN_REWARD = "the reward that {name} learns"
STARTS = {"none": "the bare base", "bundled": "the bundled SFT adapter"}
LEFT_OUT = "Not in this picture: {reasons}."
LEFT_OUT_NO_KL = "it measures no KL"
LEFT_OUT_UNJUDGED = ("it measures its KL, and neither wins nor a reward: compare it with its start by the command "
                     "evaluate, with an output folder beside the runs")
LEFT_OUT_MODEL, LEFT_OUT_START = "another base model", "it began with another adapter"
LEFT_OUT_NO_WINS, LEFT_OUT_NO_REWARD = "its wins are not measured", "its reward is not measured"
LEFT_OUT_JUDGE, LEFT_OUT_REWARD = "somebody else decides on its wins", "another reward"

THROUGH_TIME = "Answers through time"
READER, READER_STEP = "Run", "Step"
THROUGH_ABOUT = "The same prompts, with the same random numbers, answered at step {step} ({place} of {count} times)."
DRAWN_ABOUT = "Responses that the policy wrote for training in step {step}; the prompts differ from step to step."
ANSWERS_AT = "Step {step}"
NOTHING_SAID = "None of these runs has written samples. PPO and Teach write some in each step."

DIFFERENCES = "Settings in which they differ"
DIFFERENCES_ALONE = "Settings of {name} that are not at their default"
CHANGED_TO = ", from step {step} on {value}"
ALL_ALIKE = "All settings are the same."
ALL_DEFAULTS = "All settings are the defaults."
REPORTS = "Results, side by side"
NO_REPORTS = "Nothing has been measured yet. A run writes its report when it is over."
LAST = "{name} (last step)"
RESULT = "Result"
RESULTS = {
    "win_rate": "Wins against the start", "win_rate_low": "Wins, lower end of 95 %",
    "win_rate_high": "Wins, upper end of 95 %", "kl": "KL (nats per sequence)", "kl_per_token": "KL (nats per token)",
    "perplexity_ratio": "Perplexity, times the start's",
    "distinct_ratio": "Variety, times the start's", "distinct_2": "Distinct word pairs", "empty": "Empty responses",
    "length": "Length (tokens)", "votes": "Votes", "ties": "Votes that are ties",
    "sample_ties": "Samples that score the same", "score": "Score", "score_against": "Score of the start",
    "seconds": "Seconds", "steps": "Steps", "peak_memory_mb": "Peak memory (MB)",
    "held_out_loss": "Held-out loss", "loss_held_out": "Held-out loss", "accuracy_held_out": "Held-out accuracy",
    "log_ratio_chosen_held_out": "Held-out log-ratio of chosen responses",
    "log_ratio_rejected_held_out": "Held-out log-ratio of rejected responses",
    "calibration_held_out": "Held-out calibration error", "rows": "Rows", "held_out_rows": "Held-out rows",
    "pairs": "Pairs", "held_out_pairs": "Held-out pairs", "prompts": "Prompts", "samples": "Samples",
}
RUNS_EVENTS = "What happened in them"

# take it along
TAKE_ALONG = "Take it along"
TAKE_ABOUT = ("A checkpoint as a folder that others can load without this page, with a card of its settings and "
              "measured "
              "numbers. An adapter is a few megabytes. A merged model is as large as its base, and can be converted "
              "for "
              "llama.cpp.")
TAKE_PICK, TAKE_KIND = "Checkpoint", "What to make"
TAKE_KINDS = {"adapter": "An adapter (PEFT)", "merged": "A merged model"}
TAKE_REPO, TAKE_REPO_INFO = "Push to the Hub, too", "A new repository. If it is empty, nothing is pushed."
TAKE_PRIVATE, TAKE_PRIVATE_INFO = "Private", "Otherwise everybody sees it."
TAKE_MAKE = "Make it"
TAKE_BEGUN = "{name} is being made. Training goes on meanwhile, and closing the page stops nothing."
TAKE_GOING, TAKE_STARTS = "Making {name}: {said}", "starting"
TAKE_DONE = "It is in {folder}. To load it:"

WARNINGS = "Warnings"
NO_ADVICE = "Nothing in the numbers of {names} asks for a warning."
JOURNAL_WARNS = "The trainer of {name} has warned {count} times itself: see what happened, below."
ADVICE = {
    "no_number": (
        "Since step {step} at the latest, “{measure}” is no number any more: the run has blown up.",
        "Rewind to a checkpoint before it, or start again with a lower learning rate."),
    "kl": (
        "KL was {kl:.1f} nats over the last {steps} steps, {times:.1f} times what it aims at ({target:.1f}).",
        "Lower the learning rate, or rewind to an earlier checkpoint; in a new run, raise the KL coefficient."),
    "past_peak": (
        "{sentence}",
        "Read the samples: go back to a checkpoint before that KL, give the run a KL target below it, or more labels."),
    "length": (
        "The reward rises while responses grow: {now:.0f} tokens now, {start:.0f} at the start ({times:.1f} times).",
        "If you do not want longer responses, set a length penalty, or vote for good short answers; and read the "
        "samples."),
    "entropy": (
        "The policy is sure of nearly every word: its entropy is {now:.2f} nats a token; it was {start:.2f} at the "
        "start.",
        "Lower the KL target or the learning rate, or rewind; soon all responses will be the same."),
    "value": (
        "The value function predicts the returns no better than their mean (explained variance {explained:.2f}); its "
        "loss is {loss}, and was {loss_start} at the start.",
        "PPO is left with noisy advantages: raise the value learning rate, give the value an adapter of its own, or "
        "take more responses a step."),
    "clip": (
        "{share:.0%} of the tokens are beyond the clip range of {clip:g}: the updates are too large for PPO to hold.",
        "Lower the learning rate, take fewer PPO epochs, or set an update stop."),
    "ratio": (
        "Within a step the probability ratio drifts to {ratio:.2f} (in the last {steps} steps); it should stay near 1.",
        "Lower the learning rate or take fewer PPO epochs: the policy moves too far away from the one that wrote the "
        "responses."),
    "endless": (
        "{cut:.0%} of the responses do not end within {tokens} tokens; at the start it was {start:.0%}.",
        "Set missing_end to replace or subtract, so that a response without an end scores less, or rewind."),
    "cut": (
        "{cut:.0%} of the responses are cut off at {tokens} tokens, so what is measured on them is of unfinished text.",
        "Allow longer responses (max_new_tokens), unless only their beginnings matter to you."),
    "flat": (
        "The last {count} samples all score {score:.3g}: the reward sees no difference between them, and PPO has "
        "nothing to follow.",
        "Look at the samples and at the reward: it may look for something that the policy never writes."),
    "ties": (
        "Of {votes} votes {decided} prefer one response to the others; the rest teach the reward little.",
        "Ask about more candidates (candidates, choices), or about something in which these responses differ."),
    "guesses": (
        "The reward has guessed {right:g} of {guesses} votes before it learned them, no better than chance "
        "({chance:.0%}).",
        "It has not understood the votes: give more of them, be consistent, or choose a taste that shows in the "
        "words."),
    "chance": (
        "On held-out pairs it prefers the chosen response {accuracy:.0%} of the time: no better than a coin.",
        "Check that chosen and rejected are not mixed up; then try more pairs, more epochs, or a higher learning "
        "rate."),
    "overfit": (
        "The held-out loss is {now:.3g}; it was {lowest:.3g} at step {step}. The training loss is {train:.3g}: the "
        "model learns the rows by heart.",
        "Take the checkpoint near step {step}, or train for fewer epochs, with a lower learning rate, or on more "
        "rows."),
    "gap_accuracy": (
        "It is right on {train:.0%} of the training pairs, and on {held_out:.0%} of those it has not seen.",
        "Train for fewer epochs or on more pairs: it will meet responses that it has not seen."),
    "chosen_fall": (
        "The chosen responses become less likely, too, by {chosen:.1f} nats each; the rejected ones fall by "
        "{rejected:.1f}. The loss only asks for a gap between the two.",
        "Read the fresh responses: they may be neither of the two. A higher beta, fewer epochs or a lower learning "
        "rate keeps the policy near its start."),
    "gap_loss": (
        "The loss is {train:.3g} on the training rows, and {held_out:.3g} on those it has not seen.",
        "Train for fewer epochs or on more rows, unless the model is meant to learn them by heart."),
}
"""For each kind of warning: what was measured, and what can be done."""
