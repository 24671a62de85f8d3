"""The English of the Teach page."""


FOLLOW_TAUGHT = "Live run, or else one that asks"

# vote
WHICH = ("Which answer is better?", "Which answer is best?")
"""Sentences in pairs are about two responses, and about more."""
SKIP, UNDO = "Skip", "Undo"
THUMBS = {"up": "Thumb up for answer {place}", "down": "Thumb down for answer {place}"}
SCORE_ANSWER, SCORE_NONE = "Score of answer {place}, from 1 to 7", "1–7"
SCORES = {1: "1 · terrible", 4: "4 · so-so", 7: "7 · perfect"}
EDIT, EDIT_SAVE, EDIT_CANCEL = "Edit", "Save my answer", "Cancel"
EDIT_ABOUT, EDIT_LABEL = "Write a better answer: yours is preferred to this one", "Your better version of answer {place}"
UNDONE = "Your vote “{choice}” on “{prompt}” is taken back. Here is the question again."
UNDONE_GONE = "Your vote “{choice}” on “{prompt}” is taken back."
VOTES_SO_FAR, VOTES_BEYOND = "{votes} of {wanted} votes", "{votes} votes, {wanted} were asked for"
VOTES_KEPT = "your votes are kept; resume it on the Train tab"
EFFECT_NO_GUESS = "The reward has learned {votes} votes; among the last {new} there was no order to guess."
EFFECT_MOVED = ("They moved its scores by {drift:.2f} (1 is the spread over the answers at the start); "
                "its members differ by {spread:.2f}.")
EFFECT_WORDS = "By now it likes {likes}, and dislikes {dislikes}."
NO_EFFECT = "What the votes do is measured here: how many of them the reward guessed before it learned them."
FIXED = "The same prompts, answered at the start and now"
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
