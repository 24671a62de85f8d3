"""The English of the Data page."""

FILES_ABOUT = "The data that a run learns from: see how a file is read before anything starts, and look at its rows."
DATA_LABEL, DATA_INFO = "Data", "Bundled, an uploaded file, or a Hub id such as `trl-lib/tldr`."
KIND_LABEL, KIND_INFO, KIND_AUTO = "Read as", "Each stage reads one kind; many files hold several.", "What it is"
KIND_CHOICES = {"prompts": "Prompts (PPO, Teach)", "demonstrations": "Demonstrations (SFT)",
                "preferences": "Preferences (reward, DPO)", "thumbs": "Thumbs (DPO with the loss kto)"}
SUBSET_LABEL, SPLIT_LABEL = "Subset", "Split"
UPLOADED_DATA = "{name} is in the workspace; the Train page offers it, too."
FILTER_LABEL, FILTER_INFO = "Filter by text", "In the prompt or in an answer; upper and lower case are the same."
FILTER_PLACEHOLDER = "Words in a row"
FEEDBACK_ABOUT = ("Every vote, newest first. Votes are never erased: a vote that is taken back is marked as such, and "
                  "nothing learns from it any more.")
RUN_FILTER, KIND_FILTER, VOTER_FILTER = "Run", "Kind", "Voter"
ALL_RUNS, ALL_KINDS, ALL_VOTERS = "All runs", "All kinds", "All voters"
TEXT_FILTER, TEXT_PLACEHOLDER = "Text", "Any words"
KIND_NAMES = {"comparison": "comparison", "ranking": "ranking", "thumb": "thumb", "score": "score", "edit": "edit"}
KINDS_NAMED = {"comparison": "comparisons", "ranking": "rankings", "thumb": "thumbs", "score": "scores",
               "edit": "edits"}
NO_FEEDBACK = "No vote yet. Votes come from the Teach and Chat tabs, or from a preference file that you import here."
NO_VOTE_MATCHES = "No vote passes these filters."
NO_SUCH_EVENT = "there is no such vote in the store (any more); reload the page"
EVENT_NUMBER = "vote {number:,}"
AT_STEP, BY_VOTER, TOOK = "step {step:,}", "by {voter}", "{seconds:.1f} s"
RUN_GONE, OF_NO_RUN, NOBODY = "{run} (its folder is gone)", "no run", "nobody"
GUESSED_IT, GUESSED_NOT = "the reward had guessed it", "the reward had guessed otherwise"
TAKEN_BACK, TAKE_BACK, TAKE_BACK_SURE = "taken back", "Take back", "Really take back?"
RETRACTED = "Vote {number:,} is taken back."
ANSWER, CHOSEN, REWARD_SCORE, WRITTEN_INSTEAD = "answer {place}", "✓ chosen", "reward {score:.2f}", "✓ written instead"
VERDICTS = {"thumb": "Thumb {value}", "score": "{value} of 7", "edit": "Wrote a better answer"}
OTHER_VERDICT, ORDERED = "{kind}: {value}", "From best to worst: {order}"
SAID_WINS = ("Answer {place} is better", "Answer {place} is best")
COUNT_OF = "{kind}: {count:,}"
VOTERS = "voters"
MEDIAN_SECONDS = "median time: {seconds:.1f} s"
VOTER_TITLE, VOTES_TITLE, SECONDS_TITLE, REWARD_TITLE = "Voter", "Votes", "Median seconds", "Reward had guessed"
MORE_VOTERS = "and {count:,} more"
SHARE_OF = "{share:.0%} of {count:,}"
AGREE = "Pairs of answers that several voters judged: {pairs:,}. Two voters agree on {share:.0%} of them."
AGREE_KAPPA = "Corrected for chance, that is a kappa of {kappa:.2f} (1: they always agree; 0: no more than by chance)."
AGREE_TIES = "All of these are ties."
AGREE_NONE = "No two voters have judged the same pair of answers yet, so there is no agreement to measure."
REWARD_AGREED = ("The reward model had guessed {guessed:,} of {guesses:,} votes ({share:.0%}), by its scores at the "
                 "time "
                 "of the question.")
REWARD_SILENT = "The reward model had no scores for any of these answers at the time of the question."
IN_AND_OUT = "Import and export"
EXPORT_WHAT, EXPORT_AS, EXPORT_MAKE = "Export", "File format", "Make the file"
EXPORTS = {"pairs": "Pairs (prompt, chosen, rejected)", "groups": "Groups of answers with their ranks",
           "thumbs": "Thumbs (prompt, completion, label)", "demonstrations": "Demonstrations (from edits)",
           "ratings": "Scores (prompt, completion, score)", "events": "All events, as stored"}
EXPORT_FILES = {"jsonl": "JSONL", "parquet": "Parquet"}
EXPORT_INFO = ("Of the votes that pass the filters. “All events” loses nothing, and is the one that can be imported "
               "again.")
EXPORTED = "Rows: {rows:,}, from votes: {votes:,}."
EXPORT_LEFT = "Votes that make no such row: {left:,}."
NO_SUCH_EXPORT = "there is no export of {what!r} as {ending!r}"
EXPORT_NOTHING = "none of these {votes:,} votes makes a row of this kind; choose another kind, or other filters"
IMPORT = "Import preferences or exported events (.jsonl, .json, .csv, .parquet)"
IMPORTED = "{name}: {new:,} of {count:,} {what} are new in the store"
IMPORT_KNOWN = "{known:,} were there already"
IMPORT_KINDS = {"events": "events", "preferences": "preferences"}
SYNC_KEPT = "Kept in the data set {repo} on the Hub: {events} events, last saved {when}."
SYNC_WAITING = "{events} events will be kept in the data set {repo} on the Hub, with the next commit."
NOT_YOURS = "That vote is somebody else's; the owner of the page can take it back."
