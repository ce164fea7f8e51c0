"""Text is UTF-8 in every locale: no file is opened, and no program is read, in the encoding of the machine."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(p for folder in ("dfm", "scripts") for p in (ROOT / folder).rglob("*.py"))
PLACE_OF_ENCODING = {"read_text": 0, "write_text": 1}


def in_the_machines_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text and does not say in which encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = {word.arg: word.value for word in call.keywords}
    if "encoding" in named:
        return False
    if name in PLACE_OF_ENCODING and isinstance(call.func, ast.Attribute):
        return len(call.args) <= PLACE_OF_ENCODING[name]
    if name in ("run", "Popen", "check_output"):
        return bool({"text", "universal_newlines"} & named.keys())
    if name.endswith("FileHandler"):
        return True
    if name in ("open", "fdopen"):
        method = isinstance(call.func, ast.Attribute) and name == "open"
        modes = [named["mode"]] if "mode" in named else call.args[0 if method else 1 :][:1]
        if not modes:  # text is the default; a method with other arguments is of another class, e.g. Image.open
            return not call.args or not method
        return isinstance(modes[0], ast.Constant) and isinstance(modes[0].value, str) and "b" not in modes[0].value
    return False


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("path.read_text()", True), ("path.read_text('utf-8')", False), ("path.write_text(x)", True),
        ("path.write_text(x, 'utf-8')", False), ("path.write_text(x, encoding='utf-8')", False),
        ("open(path)", True), ("open(path, 'w')", True), ("open(path, 'rb')", False), ("path.open()", True),
        ("path.open('a')", True), ("path.open('ab', buffering=0)", False), ("Image.open(path)", False),
        ("path.open(mode='w')", True), ("os.fdopen(1, 'wb')", False), ("os.fdopen(1, 'w')", True),
        ("subprocess.run(words, text=True)", True), ("subprocess.run(words, text=True, encoding='utf-8')", False),
        ("logging.FileHandler(name)", True), ("archive.open(name, 'w')", False),
    ],
)  # fmt: skip
def test_what_counts_as_a_text_without_an_encoding(text: str, wrong: bool) -> None:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert in_the_machines_encoding(call) == wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_text_says_in_which_encoding(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert not [f"line {call.lineno}: {ast.unparse(call)}" for call in calls if in_the_machines_encoding(call)]
