"""The English of access, visitors, the login, the API and the server's jobs."""

COMMAND_UNKNOWN = "there is no command {command!r}; it is one of {known}"
NO_EVENT_ID = ("event_id is empty: make a new one (such as a UUID) for each vote, "
               "so that a vote that is sent twice counts once")
TAKE_ENDED = "the export ended without a message (killed, or out of memory); make room, then try again"
EXPORT_BUSY = "an export is being made already; wait for it"
NO_HUB_NAME = "{name} is no name on the Hub; give OWNER/NAME"

# votes on the Hub
SYNC_UNREAD = "{repo}: cannot be read ({error}); check name and network, and set HF_TOKEN"
SYNC_UNSAVED = "{repo}: the last commit failed ({error}); it is tried again in five minutes"

# who may do what
OWNERS_ONLY = "Only the owner of this page may do that. Visitors watch, vote and chat."
OWNERS_ONLY_LOGIN = "Only the owner of this page may do that; log in at the top of the page if it is yours."
WRONG_PASSWORD = "That is not the password of this page (PLAYGROUND_PASSWORD)."
TOO_OFTEN = {
    "vote": "Too many votes in a minute; vote again in {seconds} s.",
    "chat": "Too many questions in a minute; ask again in {seconds} s.",
    "start": "Too many runs in a minute; start again in {seconds} s.",
    "login": "Too many wrong passwords in a minute; try again in {seconds} s.",
}
TOO_LONG = "This text has {count:,} characters; a visitor may send {longest:,} at once."
VISITORS_NAME = "A name that begins with {prefix} is for runs of visitors; choose another."
CHAT_TOO_LARGE = ("A visitor may ask at most {sides} checkpoints for at most {tokens} tokens each, and for the best of "
                  "{best_of} answers.")
NO_CHAT_REWARD = "The best of several answers needs a reward: name a reward run of this base model as `reward`."
NOT_FOR_VISITORS = "{name} is {value}, but a visitor's run has {usual}; where that is a number, less is allowed."
NO_JUDGE_FOR_VISITORS = "Only the owner may ask a judge model; choose a person or a built-in labeler."
PASSWORD, LOG_IN, LOG_OUT = "Password", "Log in", "Log out"
IS_OWNER, BACK_TO_PAGE = "You are the owner of this page.", "Back to the page"

# the header: who is looking
VISITOR = "You are a visitor: watch, vote and chat."
VISITOR_OPEN = ("You are a visitor: watch, vote, chat, and start runs of the bundled model, one at a time, "
                "for {minutes} minutes at most.")
NO_OWNER = ("This page has no owner, so nobody can train from it: it is open to other computers, "
            "and was started without PLAYGROUND_PASSWORD.")
TO_OWNER, YOU_OWN = "I am the owner", "You are the owner. Log out"
