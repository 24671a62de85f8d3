"""Starts the playground: `python app.py`, then open http://127.0.0.1:7860.

It is also the entry point of a Hugging Face Space.
"""

from playground.app import launch

if __name__ == "__main__":
    launch()
