"""Progress: the lines where there is no terminal, the bar where there is one, and what every long command says."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.cli import TINY, Command

from dfm.cli import console, progress


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """(second, line) of all lines."""
    lines: list[tuple[float, str]] = []
    monkeypatch.setattr(console, "say", lambda text: lines.append((Clock.now, text)))
    return lines


@pytest.fixture
def clock() -> Clock:
    Clock.now = 0.0
    return Clock()


def seconds_pass(clock: Clock, task: progress.Task, until: int, each: int = 1) -> None:
    for second in range(1, until + 1):
        Clock.now = float(second)
        task.advance(each)


def test_lines_come_at_growing_intervals_and_every_minute_in_the_end(
    clock: Clock, said: list[tuple[float, str]]
) -> None:
    with progress.work(clock=clock) as work, work.task("likelihood", 1000, "examples") as task:
        seconds_pass(clock, task, 400)
    assert [second for second, _ in said] == [5, 10, 20, 40, 80, 140, 200, 260, 320, 380]
    assert said[2][1] == "likelihood: 20 of 1000 examples, 1 examples/s, 16 min 20 s left"


def test_work_that_is_soon_done_says_nothing(clock: Clock, said: list[tuple[float, str]]) -> None:
    with progress.work(clock=clock) as work, work.task("likelihood", 4, "examples") as task:
        seconds_pass(clock, task, 4)
    assert not said


def test_a_resumed_task_counts_its_rate_from_where_it_began(clock: Clock, said: list[tuple[float, str]]) -> None:
    with progress.work(clock=clock) as work, work.task("train", 1000, "steps", done=900) as task:
        seconds_pass(clock, task, 5, each=2)
    assert said == [(5, "train: 910 of 1000 steps, 2 steps/s, 45 s left")]


def test_another_process_is_quiet(clock: Clock, said: list[tuple[float, str]]) -> None:
    with progress.work(quiet=True, clock=clock) as work, work.task("train", 1000, "steps") as task:
        seconds_pass(clock, task, 100)
    assert not said


def test_a_terminal_shows_a_bar_with_rate_and_time_left_and_no_lines(
    clock: Clock, said: list[tuple[float, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=160, soft_wrap=True)
    monkeypatch.setattr(console, "_err", terminal)
    with progress.work(clock=clock) as work, work.task("likelihood", 100, "examples") as task:
        seconds_pass(clock, task, 50)
        task.note("again")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"likelihood .* 50/100 again .* examples/s .* left", shown.replace("\n", " "))
    assert not said


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_a_time_is_told_in_words(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_training_says_from_the_start_what_it_does(command: Command) -> None:
    said = command("train", *TINY).err.splitlines()
    assert said[:2] == ["reading the data: digits", "building the network: unet_digits"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sample", "n=3", "sampler.steps=2"], "sample: .* of 3 samples"),
        (["encode", "n=3", "flow.steps=2", "flow.solver=euler"], "encode and back: .* of 6 examples"),
        (["nll", "n=3", "likelihood.steps=1", "audit=1"], "likelihood by ode: .* of .* examples"),
        (["check", "n=8", "steps=[2]", "samplers=[euler,heun]"], "check: .* of 2 samplers"),
        (["compare", "n=3", "flow.steps=2", "flow.solver=euler"], "decode with both: .* of 6 latents"),
        (["eval", "n=8", "sampler.steps=2", "features=coordinates"], "sample: .* of 8 samples"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_every_long_command_shows_its_progress(
    words: list[str], says: str, tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line comes at once here."""
    monkeypatch.setattr(progress, "FIRST", 0.0)
    other = [f"other={tiny_run}"] if words[0] == "compare" else []
    assert re.search(says, command(words[0], f"ckpt={tiny_run}", *other, *words[1:]).err)


def test_slow_steps_are_told_between_the_lines_of_the_log(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    said = command("train", *TINY, "trainer.log_every=1000", "nll.n=0").err
    assert re.search(r"train: 1 of 2 steps, .* steps/s, .* left", said)
