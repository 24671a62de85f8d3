"""Every template of the page: whatever is put into it stays text."""

from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError, meta, nodes
from markupsafe import Markup

from playground.components.html import TEMPLATES, JoinLines, escape, render, template_folders
from tests.playground.conftest import EVIL


def source_of(name: str) -> str:
    """The text of a template."""
    return TEMPLATES.loader.get_source(TEMPLATES, name)[0]


def variables_of(name: str) -> set[str]:
    """The values that a template reads, and those that it includes."""
    tree = TEMPLATES.parse(source_of(name))
    variables = meta.find_undeclared_variables(tree)
    for other in meta.find_referenced_templates(tree):
        variables |= variables_of(other)
    return variables


NAMES = sorted(TEMPLATES.list_templates())
VARIABLES = {name: sorted(variables_of(name)) for name in NAMES}
ADDRESSES = {"href", "src", "action", "formaction", "srcdoc"}
"""Attributes in which a value could do harm although it is escaped."""


class Evil:
    """A value of any shape that is evil text: its attributes, its items and what it returns are evil, too. An empty one is false."""

    def __init__(self, empty: bool = False):
        self.empty = empty

    def __str__(self):
        return "" if self.empty else EVIL

    def __bool__(self):
        return not self.empty

    def __len__(self):
        return 0 if self.empty else 2

    def __iter__(self):
        return iter(() if self.empty else (Evil(), Evil()))

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Evil(self.empty)

    def __getitem__(self, key):
        return Evil(self.empty)

    def __call__(self, *arguments, **named):
        return Evil(self.empty)


class Reader(HTMLParser):
    """Collects tags and attributes as a browser would."""

    def __init__(self):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        # What stands in a frame with an empty `sandbox` runs no script, and is of another origin.
        harmless = ("srcdoc",) if tag == "iframe" and dict(attrs).get("sandbox") == "" else ()
        self.attributes += [(name, value or "") for name, value in attrs if name not in harmless]


def test_there_are_templates_and_each_has_a_name():
    assert "components/header.html" in NAMES
    assert len(NAMES) == sum(len(list(folder.glob("*.html"))) for folder in template_folders().values())


@pytest.mark.parametrize("name, empty", [(name, empty) for name in NAMES for empty in ["", "all", *VARIABLES[name]]])
def test_no_value_becomes_markup(name, empty):
    """With all values evil, with all of them empty, and with each of them empty in turn, so that all branches are rendered."""
    html = render(name, **{key: Evil(empty in ("all", key)) for key in VARIABLES[name]})
    reader = Reader()
    reader.feed(html)
    assert not {"img", "script", "b"} & (reader.tags - tags_of(name))
    assert not [key for key, _ in reader.attributes if key.startswith("on")]
    assert not [value for key, value in reader.attributes if key in ADDRESSES and "hacked" in value]
    assert "${" not in html and "{{" not in html


def tags_of(name: str) -> set[str]:
    """The tags that a template writes itself."""
    reader = Reader()
    reader.feed(source_of(name))
    return reader.tags


@pytest.mark.parametrize("name", NAMES)
def test_no_template_joins_text_to_markup(name):
    """`~` and `+` would escape braces and dollars no more; two `{{ }}` beside each other do the same."""
    tree = TEMPLATES.parse(source_of(name))
    assert not list(tree.find_all((nodes.Concat, nodes.Add, nodes.Mod, nodes.MarkSafe)))


def test_a_value_has_the_entities_of_escape():
    template = TEMPLATES.from_string('<p title="{{ value }}">{{ value }}</p>{ } $ &amp;')
    assert template.render(value=EVIL) == f'<p title="{escape(EVIL)}">{escape(EVIL)}</p>{{ }} $ &amp;'
    assert template.render(value=Markup("<i>{1}</i>")).count("<i>{1}</i>") == 2


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError):
        render("components/notice.html")


@pytest.mark.parametrize("source, joined", [
    ("<p>\n  {{ a }}\n  {{ b }}\n</p>\n", "<p>{{ a }}{{ b }}</p>"),
    ('<p class="a"\n   id="b">one\n  two</p>', '<p class="a" id="b">one two</p>'),
    ('{% if a %}\n  <b>x</b> <i>y</i>\n{% endif %}', "{% if a %}<b>x</b> <i>y</i>{% endif %}")])
def test_line_breaks_beside_tags_are_not_on_the_page(source, joined):
    assert JoinLines(TEMPLATES).preprocess(source, None) == joined
