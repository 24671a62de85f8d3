"""Messages on their way to Gradio's Chatbot and back.

The Chatbot renders HTML even where markdown is off, so text goes as entities.
"""

import html
import re

from playground.pages.chat.conversation import Turn

AMBIGUOUS = re.compile(r"&(?=[#\w])")
"""An ampersand that could begin an entity."""


def chatbot_messages(side: list[Turn], empty: str) -> list[dict]:
    """A conversation as the Chatbot shows it; `empty` stands for an answer without words.

    An answer that has not begun is left out.
    """
    turns = [turn for turn in side if turn.text or turn.ended]
    return escaped([{"role": turn.role, "content": turn.text or empty} for turn in turns])


def escaped(messages: list[dict]) -> list[dict]:
    """Messages with inert text.

    Only what must be is an entity, because the Chatbot's editor shows entities as they are written.
    """
    return [message | {"content": AMBIGUOUS.sub("&amp;", message["content"]).replace("<", "&lt;")}
            for message in messages]


def text_of(content: str | list[dict]) -> str:
    """The text of a message that comes back from the Chatbot, as it was before `escaped`."""
    if not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content)
    return html.unescape(content)
