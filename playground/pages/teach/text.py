"""The English of the Teach page."""

# how it works
PATH = "How this works, in one minute"
PATH_STEPS = (
    ("SFT", "A language model is shown good answers until it answers like them. The bundled model has been through "
            "this: it tells short "
            "stories."),
    ("Reward", "People compare answers. A reward model learns to give each answer a number: the answer that people "
               "prefer gets the higher "
               "number."),
    ("Teach", "PPO lets the model practise: it writes, the reward model scores, and what scored well becomes "
              "likelier. Here the votes are "
              "yours. They come while the model practises, and the reward model learns from each of them. A KL "
              "penalty keeps the text "
              "from falling apart."),
)
PATH_NOTEBOOK = "The same in ten lines of a notebook: notebooks/04_teach_it_live.ipynb"

# starting a run
BEGIN, WATCH, WATCHED = "Teach it yourself", "Watch it being taught", "by someone who likes"
TASTES = {"sentiment": "happy words", "dialogue": "dialogue", "short": "short answers", "long": "long answers",
          "keyword=dog": "the word dog"}
"""Name of a built-in labeler -> what it likes."""
BEGIN_ABOUT = ("Teach it yourself: you vote 24 times before the policy moves, then it practises while you go on "
               "voting. Or watch: a "
               "built-in labeler votes 40 times, and in a few minutes the bundled model writes what the labeler likes.")
BEGIN_ABOUT_MODEL = ("Teach it yourself, or watch a built-in labeler teach it: the same votes, on an assistant that "
                     "answers everyday requests. A step takes about half a minute of processor time.")
BEGIN_MODEL, BUNDLED_MODEL = "Model", "The bundled storyteller"
BEGIN_MODEL_INFO = "Any other model can be taught from the Train tab."
BEGIN_LEARNER = "Learner"
BEGIN_LEARNER_INFO = "All learn from the same kind of votes; Runs compares how far each comes."
LEARNERS = {"ppo": "PPO, with a live reward", "grpo": "GRPO: better than its group",
            "rloo": "RLOO: better than the others", "dpo": "DPO: the votes alone"}
"""Learner -> its name in the list."""
NO_LEARNER = "there is no learner {learner!r}; choose one of the list"
NO_RECIPE = "there is no recipe {model!r}; choose one of the list"
NO_TASTE = "there is no built-in labeler {labeler!r}; choose one of the list"

# which run is shown
FOLLOW_TAUGHT = "Latest run"

# the question
WHICH = ("Which answer is better?", "Which answer is best?")
"""Of a pair of sentences, the first is for two responses and the second for more."""
SKIP, UNDO = "Skip", "Undo"
THUMBS = {"up": "Thumb up for answer {place}", "down": "Thumb down for answer {place}"}
SCORE_ANSWER, SCORE_NONE = "Score of answer {place}, from 1 to 7", "1–7"
SCORES = {1: "1 · terrible", 4: "4 · so-so", 7: "7 · perfect"}
EDIT, EDIT_SAVE, EDIT_CANCEL = "Edit", "Save my answer", "Cancel"
EDIT_ABOUT, EDIT_LABEL = "Write a better answer: yours is preferred to this one", ("Your better version of answer "
                                                                                   "{place}")
UNDONE = "Your vote “{choice}” on “{prompt}” is taken back. Here is the question again."
UNDONE_CHANGE = "Your last change is taken back: answer {number} to “{prompt}” has “{choice}” again."
UNDONE_GONE = "Your vote “{choice}” on “{prompt}” is taken back."

# the votes so far
VOTES_SO_FAR, VOTES_BEYOND = "{votes} of {wanted} votes", "{votes} votes, {wanted} were asked for"
VOTES_TO_START, STARTS_NOW = "votes before {learner} starts: {count} more", "{learner} is starting"
WAITS_FOR_VOTE = "it has learned all votes that are in, and waits for the next"
VOTES_KEPT = "your votes are kept; resume it on the Train tab"

# a run that a built-in labeler teaches
TAUGHT_BY = "{name} is taught by a simulated labeler ({labeler}). This was its last vote, in step {step}."
TAUGHT_SOON = ("{name} is taught by a simulated labeler ({labeler}). Its first {first} votes come before the first "
               "step: a minute on the bundled model, a few on a larger one.")
TAUGHT_NEVER = "{name} was to be taught by a simulated labeler ({labeler}). It is {state}, before its first step."
REPLAYED = "the votes of {run} once more"
PICKED = "chosen"

# what the votes do to the reward
TAKEN = "What the reward has learned"
RECENT_GUESSES = "It would have guessed {guessed:g} of the last {guesses} votes (by chance: 1 in {choices})."
EFFECT_NO_GUESS = "The reward has learned {votes} votes; among the last {new} there was no order to guess."
EFFECT_WORDS = "By now it likes {likes}, and dislikes {dislikes}."
EFFECT_LIKES = ("By now it likes: {features}.", "The smaller reward likes: {features}.")
EFFECT_DISLIKES = ("It dislikes: {features}.", "The smaller reward dislikes: {features}.")
"""The second of each is for a run in which the larger reward leads."""
TURNED = ("It changed its mind in step {step}: the newest votes contradict those before, and {outdated} older votes "
          "count no more.")
TURNED_OPPOSITE = ("It changed its mind in step {step}: the newest votes say the opposite, and {outdated} older votes "
                   "count the other way round now.")
TAKEOVER = {
    "adapter": "The larger reward took over in step {step}: of {votes} votes that both predicted, it had guessed "
               "{adapter_accuracy:.0%} right, and the smaller one {features_accuracy:.0%}.",
    "features": "The smaller reward took over again in step {step}: of {votes} votes that both predicted, it had "
                "guessed {features_accuracy:.0%} right, and the larger one {adapter_accuracy:.0%}.",
    "anew": "The larger reward starts anew since step {step}: votes that it had learned count no more.",
}
"""The smaller reward is the one of words and features, the larger one is an adapter on the model."""
GUESSES_ABOUT = "A mark for each vote, from before it was learned: ✓ guessed right, ✕ wrong, · no guess."
GUESSES_LEFT_OUT = "The first {count} are left out."
GUESSES_SO_FAR = "So far, {right} of {guesses} guesses were right: {share:.0%} (by chance: 1 in {choices})."
NO_GUESS_YET = "So far it had no guess: it found the best answers equally good."
GUESSES_ALT = "Guesses of the reward. {spoken}"
BLOCK_SHARE, BLOCK_BLIND = "{right} of {guesses}", "no guess"
BLOCK_SPOKEN = "marks {first} to {last}: {count}"
EFFECT_MOVED = ("The newest votes moved its scores by {drift:.2f} (1 is the spread over the answers at the start); "
                "its members differ by {spread:.2f}.")
NO_EFFECT = "What the votes do is measured here: how many of them the reward guessed before it learned them."
WON_BY_VOTES = ("Against answers of the start, answers of the policy won {won:g} of {count} votes (by chance: "
                "{chance:.1f}).")
WON_BY_SCORE = "By the labeler's own score, an answer of the policy beats one of the start {wins:.0%} of the time."

# what the votes do to the policy
FIXED = "The same prompts, answered at the start and now"
NOT_MOVED = "still the policy of the start"
NO_FIXED = "A run that learns from votes answers the same few prompts again and again; here you see what has changed."
EXTREMES = "Recent answers with the highest and the lowest scores"
MOST, LEAST = "highest score", "lowest score"
NO_EXTREMES = "After the first steps of PPO, the answers that the reward scores highest and lowest stand here."

# the numbers of a step
FORMULAS = "The numbers of this step"
FORMULA_REWARD = "what PPO maximises = reward − β × KL = {scores:.2f} − {coef:.2f} × {kl:.2f} nats = {total:.2f}"
FORMULA_REWARD_ABOUT = ("KL says how far the policy has moved from its start: how much likelier its answers are under "
                        "the policy than "
                        "under the start, as a logarithm (in nats).")
FORMULA_ADVANTAGE = ("advantage = what came after a token − what the value head expected; it foresaw {foresaw} "
                     "of the differences")
FORESAW, FORESAW_NOTHING = "{variance:.0%}", "none"
FORMULA_ADVANTAGE_ABOUT = "Tokens that did better than expected become likelier, the others less likely."
FORMULA_CLIP = ("ratio = new ÷ old probability of a token, counted only from {low:.2f} to {high:.2f}; {clipped:.1%} "
                "of the tokens were "
                "at that limit")
FORMULA_CLIP_ABOUT = "The clip keeps one step small, however much a few answers were liked."
