"""The table of measures: everything that a run's metrics.jsonl can hold, with its words and its role.

Trainers write a measure under its key. Pages, notebooks and reports read its title, unit, role and range here.
A key that has no row still works: its title is the key itself.
"""

from dataclasses import dataclass

# -- roles; a page gives each of them one colour ---------------------------------------------------------------------
POLICY, REFERENCE, REWARD, KL_ROLE, VALUE, GOLD = "policy", "reference", "reward", "kl", "value", "gold"
TRAINED = "trained"
"""The role that the stage trains: the policy in SFT, the reward in reward training."""

# -- units -----------------------------------------------------------------------------------------------------------
NATS_TOKEN, NATS_PAIR, NATS_SEQUENCE = "nats per token", "nats per pair", "nats per sequence"
SCORE, SHARE, TOKENS, SECONDS, VOTES = "score", "share", "tokens", "s", "votes"

# -- keys ------------------------------------------------------------------------------------------------------------
STEP = "step"
LOSS_TRAIN, LOSS_HELD_OUT = "loss/train", "loss/held_out"
ACCURACY_TRAIN, ACCURACY_HELD_OUT = "accuracy/train", "accuracy/held_out"
CALIBRATION_HELD_OUT, SPREAD_HELD_OUT, MARGIN = "calibration/held_out", "spread/held_out", "margin"
CHOSEN, REJECTED = "log_ratio/chosen", "log_ratio/rejected"
SCORES, SCORES_NORMALISED, RETURN = "objective/scores", "objective/scores_normalised", "objective/reward"
KL, KL_PER_TOKEN, KL_K2, KL_K3 = "objective/kl", "objective/kl_per_token", "objective/kl_k2", "objective/kl_k3"
KL_COEF, ENTROPY, LENGTH, ENDED = "objective/kl_coef", "objective/entropy", "objective/length", "objective/ended"
LOSS_POLICY, LOSS_VALUE, LOSS_PTX, LOSS_KL = "loss/policy", "loss/value", "loss/ptx", "loss/kl"
APPROX_KL, CLIP_FRACTION, RATIO = "policy/approxkl", "policy/clipfrac", "val/ratio"
POLICY_ENTROPY, UPDATES, DEAD_GROUPS = "policy/entropy", "policy/updates", "policy/dead_groups"
MASK_KEPT, MASK_ADDED = "mask/kept", "mask/added"
VALUE_CLIP_FRACTION, EXPLAINED_VARIANCE = "value/clipfrac", "value/explained_variance"
DISTINCT_RATIO, EMPTY = "text/distinct_ratio", "text/empty"
ENTROPY_RATIO, PERPLEXITY_RATIO = "text/entropy_ratio", "text/perplexity_ratio"
VOTES_LEARNED, GUESSED = "reward/votes", "reward/guessed"
VOTE_LOSS, DRIFT, REWARD_SPREAD = "reward/loss", "reward/drift", "reward/spread"
ROUND, SAMPLES_SCORE, SAMPLES_BEST = "round", "samples/score", "samples/best"
GOLD_SCORE, GOLD_WINS = "gold/score", "gold/wins"
LEARNING_RATE, GRADIENT_NORM = "lr", "grad_norm"
TIME = "time/"
"""How the keys of durations begin; their sum is the time of a step."""
TIME_ROLLOUT, TIME_SCORE, TIME_UPDATE, TIME_TEACH = "time/rollout", "time/score", "time/update", "time/teach"


@dataclass(frozen=True)
class Measure:
    """One row: the key in metrics.jsonl, and how it is shown."""

    key: str
    title: str
    unit: str = ""
    role: str = REFERENCE
    """Whose measure it is, which decides its colour."""
    range: tuple[float, float] | None = None
    """What a plot always shows, such as 0 to 1; None fits it to the data."""
    percent: bool = False
    """Shown as a percentage."""
    headline: str = ""
    """Its short name in the progress bar of the command line; empty leaves it out."""


WHOLE = (0.0, 1.0)
ROWS = (
    Measure(LOSS_TRAIN, "Loss, training", role=TRAINED, headline="loss"),
    Measure(LOSS_HELD_OUT, "Loss, held-out", role=TRAINED),
    Measure(ACCURACY_TRAIN, "Accuracy, training", "share of pairs", TRAINED, WHOLE, percent=True),
    Measure(ACCURACY_HELD_OUT, "Accuracy, held-out", "share of pairs", TRAINED, WHOLE, percent=True,
            headline="held-out accuracy"),
    Measure(CALIBRATION_HELD_OUT, "Calibration error, held-out", role=TRAINED),
    Measure(SPREAD_HELD_OUT, "Spread between members, held-out", SCORE, TRAINED),
    Measure(MARGIN, "Margin", SCORE, REWARD),
    Measure(CHOSEN, "Log-ratio of chosen responses", NATS_SEQUENCE, POLICY),
    Measure(REJECTED, "Log-ratio of rejected responses", NATS_SEQUENCE, REFERENCE),
    Measure(VOTES_LEARNED, "Votes learned", VOTES, headline="votes"),
    Measure(SCORES, "Reward", SCORE, REWARD, headline="score"),
    Measure(SCORES_NORMALISED, "Reward, normalised", SCORE, REWARD),
    Measure(RETURN, "Reward less the KL penalty", SCORE, REWARD),
    Measure(KL, "KL to the reference", NATS_SEQUENCE, KL_ROLE, headline="kl"),
    Measure(KL_PER_TOKEN, "KL to the reference, per token", NATS_TOKEN, KL_ROLE),
    Measure(KL_K2, "KL to the reference, estimator k2", NATS_SEQUENCE, KL_ROLE),
    Measure(KL_K3, "KL to the reference, estimator k3", NATS_SEQUENCE, KL_ROLE),
    Measure(KL_COEF, "KL coefficient"),
    Measure(ENTROPY, "Entropy", NATS_TOKEN, POLICY),
    Measure(LENGTH, "Response length", TOKENS),
    Measure(ENDED, "Responses that end", percent=True),
    Measure(LOSS_POLICY, "Policy loss", role=POLICY),
    Measure(LOSS_VALUE, "Value loss", role=VALUE),
    Measure(LOSS_KL, "KL to the reference, as a loss", "nats", KL_ROLE),
    Measure(LOSS_PTX, "Loss on the text mixed in", NATS_TOKEN, POLICY),
    Measure(APPROX_KL, "Policy change in a minibatch", NATS_TOKEN, POLICY),
    Measure(CLIP_FRACTION, "Clip fraction", role=POLICY, percent=True),
    Measure(RATIO, "Probability ratio", role=POLICY),
    Measure(POLICY_ENTROPY, "Entropy in the update", NATS_TOKEN, POLICY),
    Measure(UPDATES, "Optimiser steps", role=POLICY),
    Measure(DEAD_GROUPS, "Groups whose responses score alike", "share of groups", POLICY, WHOLE, percent=True),
    Measure(MASK_KEPT, "Probability that the mask keeps", SHARE, POLICY, WHOLE, percent=True),
    Measure(MASK_ADDED, "Sampled tokens added to the mask", "share of tokens", POLICY, percent=True),
    Measure(VALUE_CLIP_FRACTION, "Clip fraction of the value", role=VALUE, percent=True),
    Measure(EXPLAINED_VARIANCE, "Explained variance", role=VALUE),
    Measure(DISTINCT_RATIO, "Variety of word pairs, beside the start's"),
    Measure(EMPTY, "Empty responses", percent=True),
    Measure(ENTROPY_RATIO, "Entropy, beside the start's"),
    Measure(PERPLEXITY_RATIO, "Perplexity, beside the start's"),
    Measure(GUESSED, "Votes it had guessed", "share of votes", REWARD, WHOLE, percent=True),
    Measure(VOTE_LOSS, "Loss on the votes", "nats per vote", REWARD),
    Measure(DRIFT, "Drift of the reward", SCORE, REWARD),
    Measure(REWARD_SPREAD, "Spread between members", SCORE, REWARD),
    Measure(GOLD_SCORE, "The voter's own score", SCORE, GOLD),
    Measure(GOLD_WINS, "Wins over the start", "share of pairs", GOLD, WHOLE, percent=True),
    Measure(SAMPLES_SCORE, "Reward of all samples", SCORE, REWARD),
    Measure(SAMPLES_BEST, "Reward of the best samples", SCORE, REWARD),
    Measure(ROUND, "Round"),
    Measure(LEARNING_RATE, "Learning rate", role=TRAINED),
    Measure(GRADIENT_NORM, "Gradient norm", role=TRAINED),
    Measure(TIME_ROLLOUT, "Seconds for the rollout", SECONDS),
    Measure(TIME_SCORE, "Seconds for the scores", SECONDS),
    Measure(TIME_UPDATE, "Seconds for the update", SECONDS),
    Measure(TIME_TEACH, "Seconds for votes and queries", SECONDS),
)
MEASURES = {measure.key: measure for measure in ROWS}


def measure(key: str) -> Measure:
    """The row of a key. A key without a row gets one whose title is the key."""
    return MEASURES.get(key) or Measure(key, key)
