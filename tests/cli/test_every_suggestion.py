"""Every suggestion in the source is taken by a row, or left with a reason: a new message brings its own row.

The rows are in tests/support/refusals.py (command lines), tests/denoising/test_suggested_calls.py (Python) and
tests/cli/composition/test_suggested_files.py (YAML); those of tests/data/hubs/test_training_on_hubs.py need data.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from support.taken_suggestions import LEFT, TAKEN

import dfm

ROOT = Path(dfm.__file__).parent
SUGGESTS = re.compile(r"\btry\b|did you mean")


def texts(path: Path) -> Iterator[str]:
    """The texts of a file but its docstrings, each f-string as one, with {} for its values."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    passed = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    passed |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if id(node) in passed:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "{}".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))


def test_every_suggestion_is_taken_or_left_with_a_reason() -> None:
    told = [(path.relative_to(ROOT).as_posix(), text) for path in sorted(ROOT.rglob("*.py")) for text in texts(path)]
    told = [(name, text) for name, text in told if SUGGESTS.search(text)]
    for name, reasons in LEFT.items():
        for piece in reasons:
            assert any(name == file and piece in text for file, text in told), f"{name}: no message has '{piece}'"
    rest = Counter(name for name, text in told if not any(piece in text for piece in LEFT.get(name, ())))
    wrong = {name: rest[name] for name in rest | Counter(TAKEN) if rest[name] != TAKEN.get(name, 0)}
    assert not wrong, f"{wrong}: add a row that takes the suggestion, and then count it in TAKEN"


def test_the_tests_that_are_named_are_there() -> None:
    root = Path(__file__).parents[2]
    named = {text for reasons in LEFT.values() for text in reasons.values() if text.startswith("tests/")}
    assert all((root / text).is_file() for text in named)
