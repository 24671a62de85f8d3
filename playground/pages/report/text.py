"""The English of the Report page."""

ABOUT = ("What a run changed, what it cost, and whether anything was learned: a policy beside its start on held-out "
         "prompts, under judges that it was not trained on. Each report is one file that loads nothing, to keep or to "
         "share.")
SUBJECT, SUBJECT_INFO = "About", "A run with a checkpoint, or an adapter of the gallery."
JUDGES = "Further judges"
JUDGES_INFO = "A built-in score or a reward run that the run was taught or rewarded by is a judge already."
MAKE = "Make the report"
WAITING = "{name}: waiting for the model"
MEASURING = "{name}: measuring, a minute or two on a CPU"
NOTHING_CHOSEN = "Choose what the report is about."
SHOWN = "Report"
NO_REPORT = "No report yet. Choose a run and press “Make the report”."
FROM_GALLERY = "{name} (gallery)"
FRAME = "The report about {name}"
DOWNLOAD, CARD = "Download the report", "Download the card"
CONTROLS = "Negative controls: can a report be fooled?"
CONTROLS_ABOUT = ("Each of these runs learns nothing that is worth learning. Its report must say so: that nothing was "
                  "learned, or that it is only length. Start one, wait for its end on the Train tab, then make its "
                  "report.")
CONTROL = "Control"
CONTROL_KINDS = {"random": "Votes at random (Teach, 40 votes)", "shuffled": "A reward from shuffled labels",
                 "length": "PPO for length alone"}
CONTROL_START = "Start this control"
CONTROL_STARTED = "{name} is training. When it is done, it can be chosen above."
BOARD = "Leaderboard from votes"
BOARD_ABOUT = ("Checkpoints ranked by the votes of this workspace: Bradley-Terry with ties, on Elo's scale (400 is "
               "odds of 10 to 1, 1000 is the mean), with 95 % intervals over prompts. Elo stands beside it with the "
               "range that the order of the votes alone gives it.")
BOARD_BLIND = "Blind votes only"
BOARD_RANK = "Rank the checkpoints"
BOARD_NO_VOTES = "There are no votes yet. Blind rounds on the Chat page give them."
BOARD_GROUP = "Compared with one another, over {count} prompts"
BOARD_HEADS = ("Checkpoint", "Strength", "95 %", "Rank", "Wins · losses · ties", "Elo (over orders)", "")
BOARD_FLAGS = {"won_all": "never lost", "lost_all": "never won", "weak_prior": "held by a weak prior",
               "anchor": "anchor"}
