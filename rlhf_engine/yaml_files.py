"""YAML in and out: plain values only, and each key once."""

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rlhf_engine.errors import UserError, kind_of

MERGE = "tag:yaml.org,2002:merge"
"""The tag of the key `<<`, whose entries others may replace."""
NUMBERS = {"tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)",
           "tag:yaml.org,2002:float": r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|"
                                      r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"}
"""How numbers are written."""


class Loader(yaml.SafeLoader):
    """Reads texts, numbers, lists and mappings, and nothing that Python would have to make or run.

    YAML forbids a key twice in one mapping. PyYAML takes the last one without a word, so a setting would vanish.
    """

    # YAML 1.1, which PyYAML reads, takes 1:30 for 90 and 010 for 8. YAML 1.2 and whoever writes it by hand do not.
    yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if tag not in NUMBERS]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()}

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


for _tag, _pattern in NUMBERS.items():
    Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), list("-+0123456789."))


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
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read (it is not UTF-8 text); save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); name a YAML file that you may "
                        "read") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        mend = "; write \\ only in 'single quotes', or write / in paths" if "escape character" in what else ""
        raise UserError(f"{path}{where}: not valid YAML ({what}){mend}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else kind_of(values)
        raise UserError(f"{path}: expected `setting: value` lines, with a space after the colon, found {found}")
    return values


def yaml_text(values: dict) -> str:
    """Settings as YAML, in their order."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
