"""stdout and stderr: a reader that goes away ends no work, and what a stream cannot show is escaped."""

import contextlib
import io
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from support.cli import TINY, Command, Dfm

from dfm.basics.files import read_text, write_text
from dfm.cli.main import main
from dfm.cli.surroundings import streams
from dfm.cli.surroundings.streams import LastingStream
from dfm.evaluation.classifier_features import ClassifierFeatures
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir

SHORT = [*TINY, "nll.n=0", "logger=none"]


@contextlib.contextmanager
def without_reader() -> Iterator[io.TextIOWrapper]:
    """The writing end of a pipe whose reader has gone, as ``| true`` leaves it."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8", buffering=1) as stream:
        yield stream


def run_into(out: object, err: object, *words: str) -> int:
    """Run dfm in this process with these streams; return its exit code."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("stdout", out), ("stderr", err), ("argv", ["dfm", *words])):
            patch.setattr(sys, name, value)
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("both", [False, True])
def test_a_training_outlives_its_reader(both: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``dfm train | head -1``, and with ``2>&1``: warnings, log lines and results go nowhere, and the run is whole."""
    monkeypatch.chdir(tmp_path)
    err = io.StringIO()
    with without_reader() as out, without_reader() as gone:
        assert run_into(out, gone if both else err, "train", *SHORT, "hydra.run.dir=run") == 0
    assert checkpoint.read(run_dir.checkpoints(Path("run"))[0]).step == 2
    log = (Path("run") / "train.log").read_text("utf-8")
    assert "training examples" in log
    assert "run directory" in log
    assert both or "Traceback" not in err.getvalue()


COMMANDS = {
    "sample": ["n=2", "sampler.steps=1"],
    "nll": ["n=2", "likelihood.solver=euler", "likelihood.steps=1"],
    "encode": ["n=2"],
    "decode": ["latents=latents"],
    "compare": ["other=latest", "n=2"],
    "check": ["n=8", "steps=[1]", "samplers=[euler]"],
    "eval": ["n=8", "sampler.steps=1"],
}


@pytest.mark.wide
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_outlives_its_reader(
    name: str, tiny_run: Path, command: Command, kept_features: ClassifierFeatures
) -> None:
    if name == "decode":
        command("encode", "ckpt=latest", *COMMANDS["encode"], "hydra.run.dir=latents")
    with without_reader() as out, without_reader() as err:
        assert run_into(out, err, name, "ckpt=latest", *COMMANDS[name], "hydra.run.dir=out") == 0
    assert (Path("out") / f"{name}.json").exists()


def test_a_closed_pipe_is_quiet_to_the_very_end(tmp_path: Path) -> None:
    """In a process of its own, since Python itself flushes the streams when it ends, and says so if that fails."""
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "dfm", "--help"]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_under_the_output_is_an_error(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dfm", "--help"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "error: stdout: No space left on device; a part of the output is lost; try another file"
    ]


def test_a_stream_that_was_closed_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    """``dfm --help >&-``: Python has no stdout then."""
    assert run_into(None, sys.stderr, "--help") == 0
    assert capfd.readouterr().err == ""


def test_a_slow_terminal_loses_a_text_and_not_the_stream() -> None:
    class Slow(io.StringIO):
        waits = True

        def write(self, text: str) -> int:
            if self.waits:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return super().write(text)

    slow = Slow()
    stream = LastingStream(slow)
    assert stream.write("lost") == 4
    slow.waits = False
    stream.writelines(["kept", "!"])
    assert (slow.getvalue(), stream.error) == ("kept!", None)


def test_what_a_stream_cannot_show_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory in Japanese on an ASCII terminal: the run ends well, and its log has the name itself."""
    monkeypatch.chdir(tmp_path)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2))
    assert run_into(out, err, "train", *SHORT, 'hydra.run.dir="runs/図"') == 0
    out.flush()
    assert out.buffer.getvalue().decode("ascii").splitlines()[-1].endswith(r"runs/\u56f3")  # type: ignore[attr-defined]
    assert "runs/図" in (Path("runs") / "図" / "train.log").read_text("utf-8")


def test_bytes_that_are_no_text_may_be_in_a_path(command: Command) -> None:
    """A file system takes any bytes. Python gives them as surrogates, which no encoding writes."""
    name = "b\udcff図"
    words = [*SHORT, f'hydra.run.dir="{name}"']
    out = command("train", *words).out
    assert out.splitlines()[-1].endswith(name)
    log = (Path(name) / "train.log").read_text("utf-8")
    assert r"b\udcff図" in log
    command("sample", f'ckpt="{name}"', "n=2", "sampler.steps=1", f'hydra.run.dir="s{name}"')
    assert run_dir.is_run(Path(os.fsdecode(b"b\xff\xe5\x9b\xb3")))


def test_text_files_keep_any_path(tmp_path: Path) -> None:
    write_text(tmp_path / "overrides.txt", "init=b\udcff図\n")
    assert (tmp_path / "overrides.txt").read_bytes() == b"init=b\xff\xe5\x9b\xb3\n"
    assert read_text(tmp_path / "overrides.txt") == "init=b\udcff図\n"
    OmegaConf.to_yaml({"init": "b\udcff図"}).encode()  # what config.yaml is written with escapes them by itself


@pytest.mark.parametrize(
    ("program", "encoding", "mode", "again"),
    [
        ("/usr/bin/dfm", "ascii", None, True),
        ("/usr/bin/dfm", "iso8859-1", "0", True),
        ("/usr/bin/dfm", "utf-8", None, False),
        ("/usr/bin/dfm", "ascii", "1", False),
        ("/usr/bin/pytest", "ascii", None, False),
    ],
)
def test_another_locale_starts_python_again_in_utf8(
    program: str, encoding: str, mode: str | None, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    running = types.ModuleType("__main__")
    running.__file__ = program
    monkeypatch.setitem(sys.modules, "__main__", running)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    monkeypatch.setattr(sys, "orig_argv", ["python", program, "train"])
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    monkeypatch.setattr(os, "environ", {} if mode is None else {"PYTHONUTF8": mode})
    streams.restart_in_utf8()
    assert started == ([[sys.executable, "-X", "utf8", program, "train"]] if again else [])
    assert not again or os.environ["PYTHONUTF8"] == "1"


@pytest.mark.wide
def test_a_locale_without_utf8(tiny_run: Path, tmp_path: Path, dfm: Dfm) -> None:
    tiny_run.rename(tmp_path / "図")
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    words = ['ckpt="図"', "n=2", "sampler.steps=1", 'hydra.run.dir="出"', "hydra.output_subdir=.hydra"]
    done = dfm("sample", *words, cwd=tmp_path, **environment)
    assert done.stdout.splitlines()[-1].endswith(r"\u51fa")
    assert "出" in (tmp_path / "出" / "sample.log").read_text("utf-8")
    assert "図" in (tmp_path / "出" / ".hydra" / "overrides.yaml").read_text("utf-8"), "and so does Hydra"
