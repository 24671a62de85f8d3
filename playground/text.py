"""The English of the app, its workspace and its voting."""


TRAIN, TEACH, CHAT = "Train", "Teach", "Chat"
AUTO, NO_ADAPTER, SFT_BUNDLED = "Automatic", "Base model, no adapter", "SFT (bundled)"
FROM_GALLERY = "{name} (gallery)"
RUN_ADAPTER = "{name}, newest checkpoint"
ON_MODEL = "{name} (on {model})"
NO_REWARD = "PPO needs a reward model: train one first (stage 2), then choose it here."
STATES = {"waiting": "waiting", "running": "running", "paused": "paused", "done": "done", "stopped": "stopped",
          "failed": "failed"}

# errors
NO_SUCH_RUN = "there is no run {name!r} in the workspace"
NO_SUCH_CHECKPOINT = "run {name} has no checkpoint {step!r}"
OUTSIDE = ("{what} is {value!r}, which is neither known nor a path inside the workspace ({home}); "
           "use the command line for anything outside it")
BAD_NAME = "{name!r} is no name for a run: use letters, digits, dot, dash and underscore"
NO_HOME = "{home} cannot be the workspace ({reason}): name another folder in PLAYGROUND_HOME"
UPLOAD_FAILED = "{name} could not be copied into the workspace ({reason}): make room on the disk, then try again"
NOT_DATA = "{name} is no data file; it ends with one of {endings}"
SAID_BEST = "answer {place}"
SAID_REMARK = {"thumb": "thumb {value}", "score": "a {value} of 7", "edit": "your own answer"}
SAID_TIE, SAID_BOTH_BAD = ("equally good", "all equally good"), ("both bad", "all bad")
HOW_TO_ASK = ("Press “Teach it yourself” above, or choose your own settings on the Train tab "
              "(stage 4, with the labeler “person”).")
NOBODY_ASKS = f"No run asks for votes. {HOW_TO_ASK}"
ASKS_NOBODY = f"{{name}} asks nobody for votes. {HOW_TO_ASK}"
ASKS_NO_MORE = ("{name} is {state} and has no more questions for you. To start another run: "
                + HOW_TO_ASK[0].lower() + HOW_TO_ASK[1:])
RUN_DONE = ("{name} is done, and asks no more. Talk to it on the Chat tab, compare or "
            "export it on the Runs tab, let it go on with more votes, or start another run.")
TOO_LATE = "{name} is done. Your vote is kept, but this run learns from it only if it goes on with more steps."
ALL_VOTES_IN = "All {wanted} votes are in. The policy goes on learning from them."
QUESTION_COMES = "The next question is being drawn."
RESERVED_ID = "event_id ends with {endings}, which the page itself uses: choose another one"
NOTHING_TO_UNDO = "there is no vote of yours in run {name} to take back"
RUN_LIVE, RUN_NEWEST, RUN_STEP = "{name}, live", "{name}, newest checkpoint", "{name}, step {step}"

# launch
PAGE_OPEN = ("a page over the workspace {home} is open already, on {url}: use that one, or stop it, or name another "
             "folder with PLAYGROUND_HOME")
PAGE_STARTING = "an address that it has not told yet"
PORT_BUSY = ("port {port} is in use: stop what uses it, or name another with GRADIO_SERVER_PORT")
NO_PORT = "GRADIO_SERVER_PORT is {value!r}, but must be a number from 1 to 65535"
PORT_TAKEN = "Port {usual} is in use, so the page is on port {port}."
READY = "RLHF Playground is ready on {url} (Ctrl-C ends it)"
LEFT_RUNNING = "{name} goes on without the page; start the playground again to see it, or stop it there"
NO_EXPORT = "no file can be made for the download ({error}); make room, then try again"

# runs
RUNS = "Runs"
VISITORS_FILES = ("A visitor may use the bundled model and data, and what a run here uses. "
                  "Only the owner may open {value!r}.")

# memory and models
THIS_MACHINE = "this computer"
NOT_DOWNLOADED = ("{model} is not on this machine, so its memory is not known before it is downloaded "
                  "(the Models page shows what fits).")
