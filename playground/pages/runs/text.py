"""The English of the Runs page."""

from playground.components.text import GRADIENT, GUESSED, KL, LEARNING_RATE, MARGIN, PTX_LOSS, SCORE

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
    "ties": ("Of {votes} votes {decided} prefer one response to the others; the rest say little to the reward.",
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
