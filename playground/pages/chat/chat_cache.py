"""The chats of many browsers, for those that load the page again."""

import copy
import threading
from collections import OrderedDict

from playground.pages.chat.conversation import Chat


class ChatCache:
    """The newest chat of each browser.

    Beyond `size` browsers, the one that was active longest ago is dropped. Safe in all threads.
    """

    def __init__(self, size: int = 500):
        self.size = size
        self._chats: OrderedDict[str, Chat] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, browser: str, chat: Chat) -> None:
        """Store the chat of a browser.

        `browser` is a secret that only this browser knows; without one, nothing is stored.
        """
        if not browser:
            return
        with self._lock:
            self._chats[browser] = chat
            self._chats.move_to_end(browser)
            if len(self._chats) > self.size:
                self._chats.popitem(last=False)

    def find(self, browser: str) -> Chat | None:
        """A copy of the chat of a browser, or None. Two tabs of one browser get a copy each."""
        with self._lock:
            chat = copy.deepcopy(self._chats.get(browser))
        if chat:
            chat.stop()
        return chat
