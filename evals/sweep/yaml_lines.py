"""YAML read with its line numbers: every value is checked where it stands, and all that is wrong is said at once."""

import difflib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class SuiteError(ValueError):
    """A suite that can't be run; the message has a line for each thing that is wrong, with its place."""


@dataclass
class Problems:
    """What is wrong with a file, each at its line (counted from 1)."""

    file: Path
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, where: Node | int, message: str) -> None:
        self.found.append((where if isinstance(where, int) else line_of(where), message))

    def raise_any(self) -> None:
        """Raises SuiteError if there is one, with all of them in the order of their lines."""
        if self.found:
            raise SuiteError("\n".join(f"{self.file}:{line}: {text}" for line, text in sorted(set(self.found))))


def line_of(node: Node) -> int:
    return int(node.start_mark.line) + 1


def read_mapping(file: Path) -> MappingNode:
    """The mapping that a YAML file holds.

    Raises:
        SuiteError: a file that can't be read, isn't YAML, or holds anything else.
    """
    try:
        # Not from the file itself: PyYAML guesses its encoding, and skips what it can't decode at its end.
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{file}: can't be read ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise SuiteError(f"{file}:{line}: isn't YAML ({reason})") from error
    except RecursionError as error:
        raise SuiteError(f"{file}: is nested too deeply") from error
    if not isinstance(root, MappingNode):
        raise SuiteError(f"{file}:1: must be a mapping with `models` and `tasks`")
    return root


class Fields:
    """The keys of one mapping, taken one by one; unknown and repeated keys are problems.

    Each method notes a value that it can't take as a problem and returns None, as where the key is absent.
    """

    def __init__(self, node: MappingNode, known: Collection[str], problems: Problems) -> None:
        self.node, self.problems = node, problems
        self.values: dict[str, Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, ScalarNode) else "?"
            if name not in known:
                problems.add(key, f"unknown key {name!r}{nearest(name, known)}; there are {', '.join(known)}")
            elif name in self.values:
                problems.add(key, f"{name!r} stands here a second time")
            else:
                self.values[name] = value

    def text(self, key: str, among: Collection[str] | None = None) -> str | None:
        """A scalar as it is written, `1e-3` and `on` too."""
        node = self.values.get(key)
        if node is None:
            return None
        if not isinstance(node, ScalarNode) or not node.value.strip():
            return self._refuse(node, key, "text")
        if among is not None and node.value not in among:
            return self._refuse(node, key, f"one of {', '.join(among)}", nearest(node.value, among))
        return str(node.value)

    def count(self, key: str, least: int = 1) -> int | None:
        found = self.plain(key)
        if found is None or (type(found) is int and found >= least):
            return found
        return self._refuse(self.values[key], key, f"a whole number >= {least}")

    def limit(self, key: str) -> float | int | None:
        """Documents of each task, or their share, as lm-eval's `--limit`."""
        found = self.plain(key)
        if found is None or (type(found) is int and found >= 1) or (type(found) is float and 0 < found < 1):
            return found
        return self._refuse(self.values[key], key, "a number of documents, or a share between 0 and 1")

    def seconds(self, key: str) -> float | None:
        """`90`, `90s`, `30m`, `2h` or `1d`."""
        text = self.text(key)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text or "")
        if match and float(match[1]) > 0:
            return float(match[1]) * SECONDS[match[2]]
        return None if text is None else self._refuse(self.values[key], key, "a time such as 90s, 30m or 2h")

    def flag(self, key: str) -> bool | None:
        found = self.plain(key)
        return found if found is None or type(found) is bool else self._refuse(self.values[key], key, "true or false")

    def mapping(self, key: str) -> dict[str, Any] | None:
        """Any mapping with names for keys, as YAML has it."""
        found = self.plain(key)
        if found is None or (isinstance(found, dict) and all(isinstance(name, str) for name in found)):
            return found
        return self._refuse(self.values[key], key, "a mapping")

    def texts(self, key: str) -> list[tuple[str, int]] | None:
        """One text or a list of them, each with its line; an empty list is none."""
        node = self.values.get(key)
        if node is None:
            return None
        items = node.value if isinstance(node, SequenceNode) else [node]
        if not items or not all(isinstance(item, ScalarNode) and item.value.strip() for item in items):
            return self._refuse(node, key, "a name, or a list of them")
        return [(str(item.value), line_of(item)) for item in items]

    def items(self, key: str) -> list[Node]:
        """The nodes of a list that must be there and must not be empty."""
        node = self.values.get(key)
        if isinstance(node, SequenceNode) and node.value:
            return list(node.value)
        if node is None:
            self.problems.add(self.node, f"{key!r} is missing: list at least one")
        else:
            self._refuse(node, key, "a list with at least one item")
        return []

    def line(self, key: str) -> int:
        return line_of(self.values.get(key, self.node))

    def plain(self, key: str) -> Any:
        """The value as YAML has it, if JSON has it too; null is as good as no key."""
        node = self.values.get(key)
        if node is None:
            return None
        try:
            found = yaml.SafeLoader("").construct_document(node)
            json.dumps(found)  # as lm-eval gets it
            return found
        except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
            return self._refuse(node, key, f"plain YAML ({str(error).partition(chr(10))[0]}; quote what is no number)")

    def _refuse(self, node: Node, key: str, wanted: str, hint: str = "") -> Any:
        shown = f", got {node.value!r}" if isinstance(node, ScalarNode) else ""
        self.problems.add(node, f"{key!r} must be {wanted}{shown}{hint}")
        return None


def nearest(name: str, known: Collection[str]) -> str:
    """`, did you mean 'tasks'?` where one of the known names is near, else nothing."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {found[0]!r}?" if found else ""
