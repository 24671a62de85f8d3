"""Starts the playground: `python app.py`, then open http://127.0.0.1:7860. A Hugging Face Space starts here, too."""

from playground.app import launch

if __name__ == "__main__":
    launch()
