"""A claim on a directory: who may write there, and what is left after a refusal."""

import contextlib
import errno
import logging
import os
import shlex
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from support.runs import contents

from dfm.basics.errors import UserError
from dfm.cli.words.printed_command import resumed, typed
from dfm.runs import claim as claims
from dfm.runs import directory as run_dir
from dfm.runs.claim import Claim

RESULTS = ("sample.json", "samples/*.png", "metrics.jsonl")


def claim(directory: Path, goes_on: bool = False, command: str = "sample") -> Claim:
    return Claim(directory, RESULTS, [".hydra/*"], command=command, goes_on=goes_on, override=typed, resumed=resumed)


def refused(directory: Path, command: str = "sample") -> str:
    with pytest.raises(UserError) as caught:
        claim(directory, command=command)
    return str(caught.value)


def begin(directory: Path) -> None:
    """What a command writes before it has computed anything."""
    preamble = ("overrides.txt", "config.yaml", ".hydra/hydra.yaml", "tensorboard/events", "samples/step_00000000.png")
    for name in (*preamble, "a.log", "metrics.jsonl"):
        (directory / name).parent.mkdir(exist_ok=True)
        with (directory / name).open("ab") as file:
            file.write(b"" if name == "metrics.jsonl" else b"new\n")


def ends_with(error: BaseException, claimed: Claim, work: Callable[[], object]) -> None:
    """The command does some work and then raises the error."""
    with contextlib.suppress(type(error)), claimed:
        work()
        raise error


def fail(claimed: Claim, error: BaseException) -> None:
    ends_with(error, claimed, lambda: begin(claimed.directory))


@pytest.mark.parametrize("error", [UserError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_a_refused_command_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    fail(claim(tmp_path / "a" / "b" / "c"), error)
    fail(claim(tmp_path / "kept" / "c"), error)
    assert contents(tmp_path) == {tmp_path / "kept": None}, "a directory of somebody else stays, even an empty one"


def test_what_was_there_is_put_back(tmp_path: Path) -> None:
    for name in ("overrides.txt", "train.log", "a.log", "notes.txt", "config.yaml", "samples/step.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"old {name}\n")
    before = contents(tmp_path)
    fail(claim(tmp_path, goes_on=True), UserError("no"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("instead", ["a file", "nothing"])
def test_a_directory_that_is_gone_does_not_hide_why_the_command_ended(instead: str, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def work() -> None:
        begin(run)
        run.rename(tmp_path / "gone")
        if instead == "a file":
            run.write_text("stale file handle")

    ends_with(UserError("no"), claim(run), work)
    assert run.is_file() == (instead == "a file")
    assert (tmp_path / "gone" / "config.yaml").exists()


def test_a_full_disk_takes_no_old_content_but_the_new_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.yaml", "overrides.txt"):
        (tmp_path / name).write_text("old")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(claims, "write_atomically", full)
    fail(claim(tmp_path, goes_on=True), UserError("no"))
    assert contents(tmp_path).keys() == {tmp_path / "config.yaml", tmp_path / "overrides.txt"}


def test_a_log_that_is_open_is_closed(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "run" / "train.log", delay=True)
    logger = logging.getLogger()
    logger.addHandler(handler)
    ends_with(UserError("no"), claim(tmp_path / "run"), lambda: logger.error("written"))
    logger.error("not written, and no error")
    assert handler not in logger.handlers
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [UserError("diverged"), RuntimeError("a bug")])
def test_results_and_the_log_of_a_crash_stay(error: Exception, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def work() -> None:
        (run / "a.log").write_text("a line\n")
        if isinstance(error, UserError):
            (run / "sample.json").write_text("{}")

    ends_with(error, claim(run), work)
    assert (run / "a.log").read_text() == "a line\n"
    assert (run / "sample.json").exists() == isinstance(error, UserError)


@pytest.mark.parametrize("name", ["sample.json", "samples/step.png"])
def test_results_are_never_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_text("a result")
    before = contents(tmp_path)
    message = refused(tmp_path / "run")
    assert f"already holds results ({name})" in message
    assert f"try hydra.run.dir={tmp_path / 'run-2'}" in message
    (tmp_path / "run" / run_dir.LOCK).touch()  # of a command that has ended
    refused(tmp_path / "run")
    (tmp_path / "run" / run_dir.LOCK).unlink()
    assert contents(tmp_path) == before
    (tmp_path / "run-2").mkdir()
    assert f"try hydra.run.dir={tmp_path / 'run-3'}" in refused(tmp_path / "run")


def test_a_run_is_gone_on_with_and_never_replaced(tmp_path: Path) -> None:
    begin(tmp_path)
    assert f"try hydra.run.dir={tmp_path / 'nll'}" in refused(tmp_path, command="nll")
    assert "without a checkpoint; try resume=auto" in refused(tmp_path, command="train")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000001.pt").touch()
    assert f"try dfm train resume={tmp_path}, or hydra.run.dir=" in refused(tmp_path, command="train")
    with pytest.raises(UserError, match=r"try resume=auto as well, or another hydra\.sweep\.dir=DIR"):
        Claim(tmp_path, RESULTS, command="train", key="hydra.sweep.dir", override=typed, resumed=resumed)
    with claim(tmp_path, goes_on=True, command="train"):
        pass


def test_what_an_earlier_refusal_left_is_no_result(tmp_path: Path) -> None:
    """An older dfm left a log, a lock and the overrides; and an empty file is no result."""
    for name in ("overrides.txt", "sample.log", ".lock", "metrics.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    with claim(tmp_path):
        pass
    assert (tmp_path / "notes.txt").exists()


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with claim(tmp_path / "run"):
        (tmp_path / "run" / "sample.json").write_text("half")
        before = contents(tmp_path)
        assert "another process is working in it" in refused(tmp_path / "run")
        assert contents(tmp_path) == before


def test_a_lock_whose_file_was_removed_meanwhile_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused command removes the file that it locked, which another one may have opened already."""
    real, calls = run_dir.lock, []

    def lock(path: Path, *, wait: bool) -> object:
        file = real(path, wait=wait)
        calls.append(path)
        if len(calls) == 1:
            path.unlink()
        return file

    monkeypatch.setattr(run_dir, "lock", lock)
    with run_dir.lock_run(tmp_path) as file:
        assert os.path.samestat(os.fstat(file.fileno()), (tmp_path / run_dir.LOCK).stat())
    assert len(calls) == 2


def test_parents_that_another_command_removes_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.mkdir, []

    def mkdir(self: Path, **more: bool) -> None:
        calls.append(self)
        if len(calls) < 4:
            raise FileNotFoundError(self)
        real(self, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with claim(tmp_path / "a"):
        assert (tmp_path / "a").is_dir()


def test_the_last_of_many_that_are_refused_at_once_leaves_nothing(tmp_path: Path) -> None:
    """Threads begin together, so each finds parents that another has made and is about to leave."""
    number, rounds = 8, 25
    together = threading.Barrier(number, timeout=20)

    def refuse(me: int) -> None:
        for k in range(rounds):
            together.wait()
            directory = tmp_path / "outputs" / "2026-01-02" / f"{k}-{me}-train"
            with contextlib.suppress(UserError), claim(directory):
                begin(directory)
                raise UserError("a mistake")
            together.wait()
            assert not list(tmp_path.iterdir())
            together.wait()

    with ThreadPoolExecutor(number) as pool:
        for done in [pool.submit(refuse, me) for me in range(number)]:
            done.result(timeout=60)


def test_the_parents_of_a_run_that_goes_on_stay(tmp_path: Path) -> None:
    """And those that a user has named, even empty ones."""
    dated = tmp_path / "outputs" / "2026-01-02"
    with claim(dated / "a-train"):
        with pytest.raises(UserError), claim(dated / "b-train"):
            raise UserError("a mistake")
        assert [path.name for path in dated.iterdir()] == ["a-train"]
    (tmp_path / "mine" / "2026-01-02").mkdir(parents=True)
    with pytest.raises(UserError), claim(tmp_path / "mine" / "2026-01-02" / "c"):
        raise UserError("a mistake")
    assert (tmp_path / "mine" / "2026-01-02").is_dir()


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "new/" + "x" * 300])
def test_a_place_where_nothing_can_be_written_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(tmp_path / name)
    assert message.startswith(f"{tmp_path / name}: no command can write there")
    assert "try another hydra.run.dir=DIR" in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "text", ["a/b-c_1.2", "a=b", "a b", "図", "a'b", 'a"b', "a,b", "$HOME", "#x", "a\\b", "~/x", "(1)", "{a}"]
)
def test_a_suggested_path_is_read_as_it_was(text: str) -> None:
    """By the shell's rules and then by Hydra's own parser."""
    (word,) = shlex.split(typed("hydra.run.dir", Path(text)))
    assert OverridesParser.create().parse_override(word).value() == text
