"""YAML in and out: plain values only, and each key once."""

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rlhf_engine.errors import UserError

MERGE = "tag:yaml.org,2002:merge"
"""The tag of the key `<<`, whose entries others may replace."""


class Loader(yaml.SafeLoader):
    """Reads texts, numbers, lists and mappings, and nothing that Python would have to make or run.

    YAML forbids a key twice in one mapping. PyYAML takes the last one without a word, so a setting would vanish.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, None] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} is there twice: keep one of the two", problem_mark=key.start_mark)
            seen[key.value] = None
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value that a text in YAML means. Raises yaml.YAMLError, and ValueError for a date like 2024-13-45."""
    try:
        return yaml.load(text, Loader)  # a subclass of SafeLoader
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def read_yaml(path: str | Path) -> dict:
    """The mapping in a YAML file. Raises UserError with file and line for anything else."""
    try:
        values = parse_yaml(Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}{where}: not valid YAML ({what})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `setting: value` lines, found {type(values).__name__}")
    return values


def yaml_text(values: dict) -> str:
    """Settings as YAML, in their order."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
