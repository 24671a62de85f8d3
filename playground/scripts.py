"""The JavaScript of the page: reads the files of `assets/js`, and gives them their settings as JSON."""

import json

from rlhf_engine.files import ASSETS

FOLDER = ASSETS / "js"


def read_script(name: str) -> str:
    """The text of `assets/js/NAME.js`: for a gr.HTML component, as its `js_on_load`."""
    return (FOLDER / f"{name}.js").read_text(encoding="utf-8")


def function_from(name: str, **settings) -> str:
    """A function in JavaScript: for an event of Gradio, as its `js`.

    `assets/js/NAME.js` holds a function that takes an object, here `settings` as JSON, and returns the function of the
    event.
    """
    # a "</script>" in a value must not end the script it stands in
    values = json.dumps(settings).replace("<", "\\u003c")
    return f"({read_script(name)})({values})"


def run_all(*names: str) -> str:
    """A function in JavaScript that runs those of several files in order: for the `js` of the whole page."""
    calls = " ".join(f"({function_from(name)})();" for name in names)
    return f"() => {{ {calls} }}"
