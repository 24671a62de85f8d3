"""A client of the page's API for tests that ask one thing after another."""

import time

from gradio_client import Client


class PatientClient(Client):
    """Asks the next thing when the stream of the last answer is closed.

    gradio_client hands a question to the stream that is open. Where the server closes that stream at this moment, the
    answer is lost, and `predict` raises CancelledError. On a busy machine this happens.
    """

    def __init__(self, address: str, **options):
        super().__init__(address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 60}, **options)

    def predict(self, *args, **kwargs):
        while self.stream_open:
            time.sleep(0.01)
        return super().predict(*args, **kwargs)
