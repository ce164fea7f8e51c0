"""Every command looks at all of its inputs before its long work: the long work is made to fail here."""

from pathlib import Path

import pytest
from support.cli import POINTS, TINY, Command


def long_work(*_: object, **__: object) -> None:
    raise AssertionError("the long work began")


@pytest.mark.parametrize(
    ("work", "words", "says"),
    [
        ("nll.command.score", ["nll", "against=nowhere"], "against=nowhere: no such"),
        ("nll.command.score", ["nll", "against=oracle"], "its law is not known"),
        ("nll.command.score", ["nll", "per_class=true"], "trained without classes"),
        ("nll.command.score", ["nll", "split=tset"], "did you mean 'test'"),
        ("nll.command.score", ["nll", "per_class=true", "max_minutes=1"], "max_minutes"),
        ("eval.inputs.prepare", ["eval", "samples=nowhere"], "samples=nowhere: no samples there"),
        ("eval.inputs.prepare", ["eval", "label=3"], "trained without classes"),
        ("eval.inputs.prepare", ["eval", "split=tset"], "did you mean 'test'"),
        ("compare.follow", ["compare", "other=nowhere"], "other=nowhere: no such"),
        ("decode.in_batches", ["decode", "latents=nowhere"], "latents=nowhere: no latents there"),
        ("encode.in_batches", ["encode", "split=tset"], "did you mean 'test'"),
        ("sample.command.draw_samples", ["sample", "label=3"], "trained without classes"),
        ("sample.command.draw_samples", ["sample", "task=inpaint", "mask=nowhere.png"], "nowhere.png"),
        ("check.on_checkpoint.measure", ["check", "samplers=[huen]"], "did you mean 'heun'"),
        ("check.on_known_law.follow", ["check", "ckpt=null", "likelihood=all"], "one is needed"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_is_told_before_the_long_work(
    work: str, words: list[str], says: str, tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"dfm.cli.commands.{work}", long_work)
    assert says in command(words[0], f"ckpt={tiny_run}", *words[1:], code=1).problem


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prior=dataset", *POINTS], "no density in closed form"),
        (["likelihood=bound_sde", "likelihood.decoder=vdm", *POINTS], "no integer levels"),
        (["nll.split=tset"], "did you mean 'test'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_the_last_report_would_refuse_is_told_before_the_first_step(
    words: list[str], says: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfm.cli.commands.train.command.train", long_work)
    tiny = [word for word in TINY if not (word.startswith(("model.", "likelihood.")) and POINTS[0] in words)]
    assert says in command("train", *tiny, *words, code=1).problem


def test_more_examples_than_there_are_is_told(tiny_run: Path, command: Command) -> None:
    words = ("likelihood.solver=euler", "likelihood.steps=1", "audit=1")
    done = command("nll", f"ckpt={tiny_run}", "n=5000", "split=validation", *words)
    assert "n=5000: split=validation has 200 examples; all of them are taken" in done.err
