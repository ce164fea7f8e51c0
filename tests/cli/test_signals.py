"""A signal to stop: noted in a training, at once elsewhere; ignored where it was ignored; handed on to a launcher."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from signal import Signals

import pytest
from submitit.core.job_environment import SignalHandler
from support.cli import TINY, Command
from support.signals import signalled, signalled_after

from dfm.basics import files
from dfm.cli.surroundings import signals
from dfm.cli.surroundings.signals import StoppedError, stop_at_signals, watch_signals
from dfm.evaluation.classifier_features import ClassifierFeatures
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir

SHORT = [*TINY, "nll.n=0", "logger=none", "trainer.max_steps=6", "trainer.log_every=1", "hydra.run.dir=run"]
pytestmark = pytest.mark.usefixtures("heeded")


def send(number: Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_each_signal_is_noted_and_nothing_else_happens(number: Signals) -> None:
    with watch_signals() as interruption:
        send(number)
        send(number)
        assert interruption.signal == number, "the second came at once: it is the same wish"
    assert signal.getsignal(number) == signal.SIG_DFL


def test_an_ignored_signal_stays_ignored() -> None:
    """nohup: the terminal may close."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with watch_signals() as interruption:
        send(signal.SIGHUP)
    with stop_at_signals():
        send(signal.SIGHUP)
    assert interruption.signal is None


def test_warnings_may_come_again_and_then_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch system warns, warns once more, and terminates: only a second SIGTERM or SIGINT means "at once"."""
    monkeypatch.setattr(signals, "SAME", -1.0)
    with watch_signals() as interruption:
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2):
            send(number)
        assert interruption.signal == signal.SIGUSR1
        send(signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM


def test_work_is_broken_off_where_that_is_allowed() -> None:
    done: list[str] = []

    def work(name: str, number: Signals | None = None) -> None:
        with interruption.at_once():
            done.append(name)
            if number is not None:
                send(number)
                done.append("not reached")

    with watch_signals() as interruption:
        work("before")
        with pytest.raises(StoppedError):
            work("begun", signal.SIGTERM)
        with pytest.raises(StoppedError):
            work("after")
        assert interruption.signal == signal.SIGTERM
        send(signal.SIGTERM)
    assert done == ["before", "begun"]


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_child_process_is_ended_by_its_parent_only(number: Signals, ends: bool) -> None:
    """Ctrl-C reaches every process of the terminal, so also the children; they end when their parent ends them."""
    with watch_signals():
        child = os.fork()
        if not child:
            send(number)
            os._exit(7)
        _, status = os.waitpid(child, 0)
    assert (os.WTERMSIG(status) == number) if ends else (os.waitstatus_to_exitcode(status) == 7)


def test_after_an_error_in_such_work_a_signal_is_noted_again() -> None:
    with watch_signals() as interruption:
        with pytest.raises(ZeroDivisionError), interruption.at_once():
            _ = 1 / 0
        send(signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM, "noted, and not raised"


def test_what_cleans_up_is_not_broken_off() -> None:
    done = []

    def work() -> None:
        try:
            send(signal.SIGHUP)
        finally:
            send(signal.SIGUSR1)
            done.append("clean")

    with pytest.raises(StoppedError), stop_at_signals():
        work()
    assert done == ["clean"]


def test_no_handler_of_errors_takes_a_signal() -> None:
    def stubborn() -> None:
        try:
            send(signal.SIGUSR1)
        except Exception:
            pytest.fail("it was taken")

    with pytest.raises(StoppedError), stop_at_signals():
        stubborn()


def test_a_second_signal_does_not_spoil_the_file_that_is_written(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "SAME", -1.0)
    signalled(monkeypatch, 3, signal.SIGINT)
    real, sent = files.sync, []

    def sync(descriptor: int) -> None:
        if "step_00000003" in os.readlink(f"/proc/self/fd/{descriptor}") and not sent:
            sent.append(descriptor)
            send(signal.SIGINT)
        real(descriptor)

    monkeypatch.setattr(files, "sync", sync)
    outcome = command("train", *SHORT, code=130)
    assert sent
    assert "SIGINT: a checkpoint is being written" in outcome.err
    stopped = "SIGINT: stopped after step 3; the newest checkpoint is that of step 3; to go on, try dfm train resume="
    assert stopped in outcome.err
    assert checkpoint.read(run_dir.checkpoints(Path("run"))[0]).step == 3
    assert not list(Path("run").rglob("*.tmp"))


def test_a_launcher_gets_its_signal_after_the_checkpoint(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit requeues a job in its own handler of SIGUSR2, and only logs SIGTERM."""
    requeued: list[int] = []

    class Environment:
        global_rank = 0

        def _requeue(self, countdown: int) -> None:
            requeued.extend(checkpoint.read(file).step for file in run_dir.checkpoints(Path("run")))

    class Submission:
        function = object()
        _timeout_min, _timeout_countdown = 1000, 3

    handler = SignalHandler(Environment(), None, Submission())  # type: ignore[arg-type]
    signal.signal(signal.SIGTERM, handler.bypass)
    signal.signal(signal.SIGUSR2, handler.checkpoint_and_try_requeue)
    signalled(monkeypatch, 2, signal.SIGTERM)
    signalled_after(monkeypatch, "dfm.cli.commands.train.training_run.TrainingRun.log_step", signal.SIGUSR2, 2)
    command("train", *SHORT, code=-1)  # as submitit leaves
    assert requeued == [2]


MOMENTS = {
    "sample": (["n=40", "batch_size=20", "sampler.steps=1"], "dfm.runs.sample_files.NpzWriter.write"),
    "nll": (["n=2", "likelihood.solver=euler", "likelihood.steps=1"], "dfm.cli.commands.nll.estimates.score_entry"),
    "eval": (["n=8", "sampler.steps=1"], "dfm.cli.commands.eval.command.quality"),
    "encode": (["n=2"], "dfm.cli.commands.encode.in_batches"),
}


@pytest.mark.parametrize("name", [m if m == "sample" else pytest.param(m, marks=pytest.mark.wide) for m in MOMENTS])
def test_another_command_ends_at_once_in_one_line(
    name: str, tiny_run: Path, command: Command, kept_features: ClassifierFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, place = MOMENTS[name]
    sent = signalled_after(monkeypatch, place, signal.SIGTERM)
    outcome = command(name, "ckpt=latest", *words, "hydra.run.dir=out", code=143)
    assert sent
    assert outcome.problem == "error: interrupted by SIGTERM"
    assert not Path("out").exists(), "no half-written file, and nothing else of a command without a result"


@pytest.mark.parametrize("place", ["TrainingRun._make_trainer", "Recorder.open"])
def test_a_training_that_is_not_there_yet_ends_at_once_and_leaves_nothing(
    place: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the small files of the run are written, which would bar the same command."""
    place = f"dfm.cli.commands.train.training_run.{place}"
    sent = signalled_after(monkeypatch, place, signal.SIGHUP)
    outcome = command("train", *SHORT, code=129)
    assert sent
    assert outcome.err.splitlines()[-1] == (
        "SIGHUP: stopped while reading the data and building the network; there is no checkpoint yet; to start again, "
        "try the same command"
    )
    assert outcome.out == ""
    assert not Path("run").exists()
    assert command("train", *SHORT, "trainer.max_steps=1").run == Path("run").resolve(), "as the line said"


@pytest.mark.wide
def test_a_warning_of_a_batch_system_under_nohup(tmp_path: Path) -> None:
    """A process of its own, as ``nohup`` starts it: SIGHUP passes by, SIGUSR1 ends it with a checkpoint."""
    run = tmp_path / "run"
    words = [sys.executable, "-m", "dfm", "train", *SHORT[:-2], "trainer.max_steps=100000", f"hydra.run.dir={run}"]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while not (run / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1, err
    assert f"to go on, try dfm train resume={run}" in err
    assert checkpoint.read(run_dir.checkpoints(run)[0]).step > 0
