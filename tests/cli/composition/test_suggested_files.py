"""What an error suggests for a YAML file of the user's works as written: the file is changed so, and it is read."""

from pathlib import Path

import pytest
from support.cli import Command

HEAD = "# @package _global_\n"
SHORT = "defaults: [default, _self_]\nmax_steps: 3\n"
PART = "max_steps: 3\n"
Files = dict[str, str]
ROWS: dict[str, tuple[Files, str, str, Files, str]] = {  # files and word; what is suggested; files and word that work
    "no head": (
        {"experiment/mine.yaml": "trainer:\n  max_steps: 3\n"}, "experiment=mine",
        "its head lacks '# @package _global_', so trainer would be lost; try that as its first line",
        {"experiment/mine.yaml": HEAD + "trainer:\n  max_steps: 3\n"}, "experiment=mine",
    ),
    "a dot": (
        {"experiment/mine.yaml": HEAD + "trainer.max_steps: 3\n"}, "experiment=mine",
        "try 'trainer:' and 'max_steps:' indented below it",
        {"experiment/mine.yaml": HEAD + "trainer:\n  max_steps: 3\n"}, "experiment=mine",
    ),
    "no class": (
        {"trainer/short.yaml": PART}, "trainer=short", "try 'defaults: [OPTION, _self_]' at its head",
        {"trainer/short.yaml": SHORT}, "trainer=short",
    ),
    "another ending": (
        {"trainer/short.yml": SHORT}, "trainer=short", "try short.yaml",
        {"trainer/short.yaml": SHORT}, "trainer=short",
    ),
    "a name of dfm": (
        {"trainer/digits.yaml": SHORT}, "trainer=digits", "try another name",
        {"trainer/other.yaml": SHORT}, "trainer=other",
    ),
    "another group": (
        {"trainers/short.yaml": SHORT}, "trainer=short", "cfg/trainer/short.yaml",
        {"trainer/short.yaml": SHORT}, "trainer=short",
    ),
    "trust": (
        {"experiment/mine.yaml": HEAD + "trust: mypackage\ntrainer:\n  max_steps: 3\n"}, "experiment=mine",
        "try trust=mypackage",
        {"experiment/mine.yaml": HEAD + "trainer:\n  max_steps: 3\n"}, "experiment=mine trust=mypackage",
    ),
    "a reference to nothing": (
        {"trainer/short.yaml": SHORT + "lr: ${gadget.size}\n"}, "trainer=short",
        "trainer.lr refers to gadget.size, which this configuration lacks; try another option of trainer or of gadget",
        {"trainer/other.yaml": SHORT}, "trainer=other",
    ),
}  # fmt: skip


def written(files: Files) -> None:
    """Write these files below cfg/, in place of the others."""
    for path in Path("cfg").glob("*/*"):
        path.unlink()
    for name, text in files.items():
        path = Path("cfg") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.wide
@pytest.mark.parametrize(("files", "word", "says", "better", "other"), ROWS.values(), ids=ROWS)
def test_a_suggestion_for_a_file_works(
    files: Files, word: str, says: str, better: Files, other: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfm.cli.commands.train.command.train", lambda run, interruption: None)
    monkeypatch.setattr("dfm.cli.commands.train.command.TrainingRun.refuse_if_not_saved", lambda run: None)
    monkeypatch.setattr("dfm.cli.commands.train.command.write_final_report", lambda run: None)
    written(files)
    assert says in command("train", "-cd", "cfg", word, code=1).problem
    written(better)
    run = command("train", "-cd", "cfg", *other.split()).run
    assert "max_steps: 3\n" in (run / "config.yaml").read_text()
