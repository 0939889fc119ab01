"""A plugin stays something that one reads in a sitting.

Counted are lines of code: those with at least one token that is neither a comment nor part of a
docstring, in all modules below ``src``. So a plugin does not grow by being explained, and does not
shrink by being split or left unexplained. The bound is there because plugins are what others start
from when they write their own: what more than one needs belongs into the core, where it is
documented and tested once.
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest


PLUGINS = sorted((Path(__file__).parents[2] / "plugins").iterdir())
MOST_LINES = 265

SILENT = frozenset(
    {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
        *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
    }
)
DESCRIBED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_a_plugin_is_read_in_a_sitting(plugin: Path) -> None:
    """Whoever writes a plugin reads one of ours first, whole."""
    paths = sorted(plugin.glob("src/**/*.py"))
    count = sum(len(lines_of_code(path.read_text())) for path in paths)
    assert 0 < count <= MOST_LINES, f"{count} lines of code, of at most {MOST_LINES}"


def test_what_explains_is_not_counted() -> None:
    """Docstrings, comments and empty lines are free; a text that is used is not."""
    source = '"""Why.\n\nMore."""\n\n# a\nX = """a\nb"""  # b\n\n\ndef f():\n    """What."""\n'
    assert lines_of_code(source) == {6, 7, 10}


def lines_of_code(source: str) -> set[int]:
    """The numbers of the lines that are counted."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - _docstrings(ast.parse(source))


def _docstrings(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DESCRIBED) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines
