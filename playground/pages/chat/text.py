"""The English of the Chat page."""

CHAT_ABOUT = ("One prompt, two to four checkpoints, answered at the same time. It works while a run is training; "
              "the live run answers as it is right now. Thumbs and edits are kept as feedback, and a live run that "
              "asks for votes "
              "learns from those on its own answers.")

# who answers
CHAT_MODEL = "Base model"
SIDE_LABELS = ("Left checkpoint", "Right checkpoint", "Third checkpoint", "Fourth checkpoint")
SIDE_NAMES = "ABCD"
"""The names of the sides while a round is blind, from left to right."""
SIDE_COUNT, PAIR, PAIR_INFO = "Side by side", "Before and after", "Two checkpoints that show what training did."
PRESET_RUN = "{name}: its start, then the newest"
PRESET_SFT, PRESET_GALLERY = "Base model, then SFT", "SFT, then {name}"
BLIND, BLIND_INFO = "Blind", ("Names are hidden and places shuffled until you have voted. Each message begins a new "
                              "round.")
SAME_TWICE = "A blind round needs different checkpoints: {name} was chosen twice. Turn Blind off to choose others."

# the message
CHAT_INPUT, CHAT_PLACEHOLDER = "Your message", "Tell me a story about ..."
SEND, AGAIN, CHAT_STOP, CLEAR = "Send", "Regenerate", "Stop", "Clear"
EXAMPLES = ["Tell me a story about a dog.", "Tell me a story about a girl and the rain.",
            "Tell me a story about a brave little boat."]
NOTHING_TO_SAY = "Write a message first."
NOTHING_TO_REPEAT = "There is no question to ask again: write a message first."

# sampling
SAMPLING = "Sampling"
TEMPERATURE, TEMPERATURE_INFO = "Temperature", "1 samples as trained; 0 takes the most likely token."
TOP_P, TOP_P_INFO = "Top-p", "Sample from the most likely tokens that hold this share; 1 takes all."
MAX_TOKENS, MAX_TOKENS_INFO = "Longest answer (tokens)", "Where an answer is cut off."
BEST_OF = "Best of"
BEST_OF_INFO = ("Each checkpoint writes so many answers at once. The first is shown as it grows, at the end the one "
                "that the reward model likes best.")
BEST_REWARD, BEST_REWARD_INFO = "Reward model", "What chooses the best; trained on the same base model."
NO_REWARD = "Nothing can choose the best answer: train a reward model on this base model first, or set Best of to 1."

# the answers
EMPTY_CHAT = "Nothing said yet."
WAITING = "Waiting for the model. The first answer takes longest."
ENDED_ONE, ENDED, ENDED_MORE = "The answer is done.", "Both answers are done.", "All {count} answers are done."
STOPPED = "Stopped."
ENDED_BLIND = "All answers are done. Which is best? Your vote shows who is who."

# feedback on an answer
STILL_WRITING = "This answer is still being written: judge it when it is done."
OWN_WORDS = "This answer is in your words now: thumbs are for the model's own."
EMPTY_EDIT = "An answer cannot be edited to nothing: use the thumb, or ask again."
EDIT_KEPT = "Your answer is kept as a demonstration, and the conversation goes on from it."
NO_EDIT_BLIND = "Vote first: answers can be edited when the names are known."

# the vote on a blind round
VOTE_BEST = "{side} {best}"
REVEALED, REVEAL = "You said: {choice}.", "{side} was {name}"
SCORE_TITLE = "Blind rounds since you opened this page"
SCORE_HEADS, SCORE_WINS = ("Checkpoint", "Chosen as best"), "{wins} of {rounds}"
