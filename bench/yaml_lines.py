"""YAML with line numbers: a file read into plain nodes, its traps refused or left for the types.

Scalars keep the text that was written: whether `no` is a word or a truth value, and `1e-5` text
or a number, is decided by the type that is asked for (`bench.coerce`), not by YAML 1.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bench.errors import InputError

MOST_BYTES = 4_000_000
MOST_NODES = 50_000
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Scalar:
    """One value: the text written, what YAML 1.1 takes it for, whether it stands in quotes."""

    text: str
    tag: str
    quoted: bool
    line: int

    @property
    def is_null(self) -> bool:
        return self.tag == "null" and not self.quoted


@dataclass(frozen=True)
class List:
    """A sequence."""

    items: list[Node]
    line: int


@dataclass(frozen=True)
class Map:
    """A mapping, in the order written; keys are text, with the line of each."""

    items: dict[str, Node]
    lines: dict[str, int]
    line: int


Node = Scalar | List | Map


@dataclass
class Problems:
    """Collects what is wrong, so that one run tells everything.

    Attributes:
        file: the file all of it is about.
    """

    file: Path
    errors: list[InputError] = field(default_factory=list)

    def add(self, what: str, line: int | None = None, key: str | None = None,
            hint: str | None = None) -> None:
        self.errors.append(InputError(what, file=self.file, line=line, key=key, hint=hint))

    def check(self) -> None:
        """Raise what was collected, in the order of lines: one InputError, or InputErrors."""
        errors = list({str(e): e for e in sorted(self.errors, key=lambda e: e.line or 0)}.values())
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise InputErrors(errors)


class InputErrors(InputError):
    """Several problems with one input; `errors` has each, the text a line for each.

    More than MOST are cut: the last then says how many are not shown.
    """

    MOST = 20

    def __init__(self, errors: list[InputError]) -> None:
        super().__init__(f"{len(errors)} problems", file=errors[0].file)
        self.errors = errors[:self.MOST]
        if len(errors) > self.MOST:
            self.errors.append(InputError(f"… and {len(errors) - self.MOST} more problems",
                                          file=errors[0].file))
        self.args = ("\n".join(map(str, self.errors)),)


def read(path: Path) -> tuple[str, Node, Problems]:
    """The text of a YAML file, its one document, and the problems met (duplicate keys).

    Raises:
        InputError: no such file, not readable, not UTF-8, not YAML, empty, several documents,
            too large or nested too deeply.
    """
    text = _text(path)
    problems = Problems(path)
    try:
        roots = [r for r in yaml.compose_all(text, Loader=yaml.SafeLoader) if r is not None]
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, path, text) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        position = getattr(error, "position", 0)
        code = getattr(error, "character", "?")
        shown = f"U+{ord(code) if isinstance(code, str) else code:04X}"
        raise InputError(f"holds the character {shown}, which YAML does not allow", file=path,
                         line=text.count("\n", 0, position) + 1,
                         hint="delete it") from None
    except RecursionError:
        raise InputError("is nested too deeply", file=path) from None
    if len(roots) > 1:
        raise InputError("holds several YAML documents", file=path, line=_line(roots[1]),
                         hint="a grid is one document: remove the --- lines, or make two files")
    if not roots or (isinstance(roots[0], yaml.ScalarNode) and not roots[0].value):
        raise InputError("is empty", file=path,
                         hint="a grid needs at least datasets: and models:")
    return text, _Walker(problems).node(roots[0], "", ()), problems


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such file", file=path) from None
    except IsADirectoryError:
        raise InputError("is a folder, not a file", file=path,
                         hint="name the grid file inside it") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from None
    except ValueError as error:  # a null byte in the path
        raise InputError(f"is no file name: {error}", file=repr(str(path))) from None
    if len(raw) > MOST_BYTES:
        raise InputError(f"has {len(raw):,} bytes; a grid has at most {MOST_BYTES:,}", file=path,
                         hint="is it a data file?")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError("is UTF-16; a grid is UTF-8", file=path, line=1,
                         hint="save it as UTF-8")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8: byte 0x{raw[error.start]:02x}", file=path,
                         line=raw.count(b"\n", 0, error.start) + 1,
                         hint="save it as UTF-8") from None


def _syntax(error: yaml.MarkedYAMLError, path: Path, text: str) -> InputError:
    """PyYAML's error in one line, with what usually caused it."""
    mark = error.problem_mark or error.context_mark
    line = None if mark is None else mark.line + 1
    problem = (error.problem or "cannot be parsed").rstrip()
    lines = text.split("\n")
    written = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    hint = None
    if "\t" in written[:len(written) - len(written.lstrip())] or "'\\t'" in problem:
        problem, hint = "a tab is used for indentation", "YAML allows only spaces there"
    elif "mapping values are not allowed" in problem:
        hint = "a value that holds ': ' needs quotes, or the indentation is off"
    elif "undefined alias" in problem:
        hint = "an alias *x needs an anchor &x before it; a value that starts with * needs quotes"
    elif "did not find expected" in problem or "expected <block end>" in problem \
            or "could not find expected" in problem or "expected ',' or" in problem:
        hint = "check brackets, colons and indentation here and on the line before"
    elif "cannot start any token" in problem:
        hint = "a value that starts with this character needs quotes"
    context = ""
    if error.context and error.context_mark is not None:
        start = error.context_mark.line + 1
        context = f", {error.context}" + (f" that starts on line {start}" if start != line else "")
    return InputError(f"is not valid YAML: {problem}{context}", file=path, line=line, hint=hint)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Walker:
    """Turns PyYAML's nodes into ours; refuses cycles, floods of aliases and unknown tags."""

    def __init__(self, problems: Problems) -> None:
        self.problems, self.count = problems, 0

    def node(self, node: yaml.Node, key: str, above: tuple[int, ...]) -> Node:
        line = _line(node)
        self.count += 1
        if self.count > MOST_NODES:
            raise InputError(f"expands to more than {MOST_NODES:,} values through its aliases",
                             file=self.problems.file, line=line)
        if id(node) in above:
            raise InputError("an alias stands inside its own anchor", file=self.problems.file,
                             line=line, key=key or None)
        if len(above) > 60:
            raise InputError("is nested too deeply", file=self.problems.file, line=line)
        tag = node.tag.removeprefix(_TAG)
        if tag not in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map", "merge",
                       "value"):
            self.problems.add(f"the tag {node.tag.replace(_TAG, '!!')} is not supported", line,
                              key or None, "write the plain value")
        above = (*above, id(node))
        if isinstance(node, yaml.ScalarNode):
            return Scalar(node.value, tag, node.style is not None, line)
        if isinstance(node, yaml.SequenceNode):
            return List([self.node(n, f"{key}[{i}]", above) for i, n in enumerate(node.value)],
                        line)
        return self._map(node, key, above)

    def _map(self, node: yaml.MappingNode, key: str, above: tuple[int, ...]) -> Map:
        made = Map({}, {}, _line(node))
        merged: list[Map] = []
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.add("a key is a name, not a list or a mapping", line, key or None,
                                  "a value in braces { } needs its own key before it")
                continue
            name = key_node.value
            path = f"{key}.{name}" if key else name
            value = self.node(value_node, path, above)
            if key_node.tag == f"{_TAG}merge" and key_node.style is None:
                parts = value.items if isinstance(value, List) else [value]
                merged += [p for p in parts if isinstance(p, Map)]
                if any(not isinstance(p, Map) for p in parts):
                    self.problems.add("<< merges a mapping or a list of mappings", line, path)
            elif name in made.items:
                first = made.lines[name]
                where = f"lines {first} and {line}" if first != line else f"line {line}"
                self.problems.add(f"the key {name!r} stands twice, on {where}", line, path,
                                  "YAML would keep the last in silence; keep one")
            else:
                made.items[name], made.lines[name] = value, line
        for other in merged:  # what is written here wins, then the first mapping merged
            for name, value in other.items.items():
                made.items.setdefault(name, value)
                made.lines.setdefault(name, other.lines[name])
        return made
