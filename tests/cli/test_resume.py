"""Asked to stop, killed, started again: what a cluster does to a run, and that it is the same run afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support.cli import TINY, Command, Trained, one_error
from support.runs import assert_same
from support.signals import signalled

from dfm.cli.commands.train.training_run import TrainingRun
from dfm.cli.surroundings.signals import watch_signals
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir
from dfm.runs.recorder import Recorder
from dfm.training.step_report import StepReport

STEADY = [
    *TINY, "trainer.max_steps=6", "trainer.log_every=1", "trainer.checkpoint_every=4", "trainer.sample_every=2",
    "trainer.validate_every=3", "nll.n=0",
]  # fmt: skip


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    ("number", "code", "step"),
    [
        (signal.SIGTERM, 143, 2),
        (signal.SIGHUP, 129, 1),
        pytest.param(signal.SIGINT, 130, 3, marks=pytest.mark.wide),
        pytest.param(signal.SIGUSR1, 138, 2, marks=pytest.mark.wide),
        pytest.param(signal.SIGUSR2, 140, 2, marks=pytest.mark.wide),
    ],
)
def test_a_signal_lets_the_step_end_and_a_requeue_goes_on(
    number: signal.Signals, code: int, step: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = command("train", *STEADY).run
    again = [*STEADY, "resume=auto", "hydra.run.dir=run"]
    signalled(monkeypatch, step, number)
    stopped = command("train", *again, code=code)
    line = f"{number.name}: stopped after step {step}; the newest checkpoint is that of step {step}; to go on, try "
    assert f"{line}dfm train resume=" in stopped.err
    assert [p.name for p in run_dir.checkpoints(Path("run"))] == [f"step_{step:08d}.pt"]
    outcome = command("train", *again)
    assert f"resumed at step {step}" in outcome.err
    assert_same(whole, Path("run"))
    stamp = {p: p.stat().st_mtime_ns for p in (Path("run") / "checkpoints").iterdir()}
    command("train", *again)
    assert {p: p.stat().st_mtime_ns for p in (Path("run") / "checkpoints").iterdir()} == stamp, "it was done"


@pytest.mark.wide
def test_the_second_signal_leaves_at_once() -> None:
    code = (
        "import time\nfrom dfm.cli.surroundings.signals import watch_signals\n"
        "with watch_signals() as asked:\n    print('on', flush=True)\n"
        "    asked.advice = lambda: 'this is how to go on'\n"
        "    time.sleep(60) if not asked.signal else None\n"
        "    print('noted', flush=True)\n    time.sleep(60)\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(2.5)
        assert process.poll() is None, "the first is noted, and what follows at once is the same wish"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        assert process.stderr.read().endswith("SIGTERM: stopped at once; this is how to go on\n")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with watch_signals() as asked:
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert asked.signal is None


def test_auto_on_a_done_run_does_nothing_again(command: Command) -> None:
    words = [*TINY, "resume=auto", "hydra.run.dir=run"]
    command("train", *words)
    first = (Path("run") / "nll.json").stat().st_mtime_ns
    assert "done already" in command("train", *words).err
    assert (Path("run") / "nll.json").stat().st_mtime_ns == first
    longer = [*[w for w in words if "max_steps" not in w], "trainer.max_steps=3"]
    assert "resumed at step 2" in command("train", *longer).err
    found = json.loads((Path("run") / "nll.json").read_text())
    assert (found["checkpoint_step"], found["num_examples"]) == (3, 4)
    command("train", *longer, "nll.n=6")
    assert json.loads((Path("run") / "nll.json").read_text())["num_examples"] == 6, "more was asked for"
    stale = {**found, "checkpoint_step": 2}  # as a kill after the last checkpoint leaves it
    (Path("run") / "nll.json").write_text(json.dumps(stale))
    assert "done already" not in command("train", *longer).err


@pytest.mark.wide
@pytest.mark.usefixtures("heeded")
def test_a_multirun_that_was_killed_goes_on_with_the_jobs_not_done(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "-m", *STEADY, "trainer.seed=0,1,2", "resume=auto", "hydra.sweep.dir=sweep"]
    real, steps = TrainingRun.log_step, Counter[int]()

    def log_step(self: TrainingRun, report: StepReport) -> dict[str, float]:
        steps[self.parts.trainer.seed] += 1
        if self.parts.trainer.seed == 1 and steps[1] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, report)

    monkeypatch.setattr(TrainingRun, "log_step", log_step)
    command(*words, code=143)
    assert not (Path("sweep") / "2").exists()
    assert steps == {0: 6, 1: 2}
    outcome = command(*words)
    assert steps == {0: 6, 1: 6, 2: 6}, "no step was taken twice"
    for job in "012":
        assert run_dir.checkpoints(Path("sweep") / job)[0].name == "step_00000006.pt"
    assert outcome.code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resume=auto"], "hydra.run.dir=DIR"),
        (["resume=auto", "hydra.run.dir=run", "trainer.lr=0.5"], "trainer.lr is 0.001, given 0.5"),
        (["resume=auto", "hydra.run.dir=run", "objective=noise"], "holds another run"),
        (["resume=run", "trainer.lr=0.5"], "trainer.lr is 0.001, given 0.5"),
        (["resume=run", "objective=noise"], "objective"),
        (["resume=nowhere"], "no config.yaml"),
        (["hydra.run.dir=run"], "already holds a run"),
    ],
)
def test_a_resume_of_another_run_is_one_line(
    arguments: list[str], says: str, trained: Trained, command: Command
) -> None:
    plain = ["trainer.lr=0.001", *TINY]
    trained(*plain).run.rename("run")
    again = plain if any("auto" in a for a in arguments) else []
    given = [*[w for w in again if not any(a.startswith(w.split("=")[0] + "=") for a in arguments)], *arguments]
    outcome = command("train", *given, code=1)
    assert says in outcome.err, outcome.err
    assert outcome.problem


def test_what_may_change_and_what_is_the_same_passes(tiny_run: Path, command: Command) -> None:
    """An unchanged key, null, and a run that was begun before a key existed."""
    tiny_run.rename("run")
    same = ["resume=run", "model.channels=8", "trainer.max_minutes=null", "trainer.max_steps=3", "nll.n=0"]
    assert "resumed at step 2" in command("train", *same).err
    stored = (Path("run") / "config.yaml").read_text()
    assert "label_dropout" in stored
    kept = [line for line in stored.splitlines() if not line.startswith("label_dropout")]
    (Path("run") / "config.yaml").write_text("\n".join(kept) + "\n")
    words = [*[w for w in TINY if "max_steps" not in w], "trainer.max_steps=4", "nll.n=0"]
    assert "resumed at step 3" in command("train", *words, "resume=auto", "hydra.run.dir=run").err


def test_the_latest_run_is_resumed_by_that_word(command: Command) -> None:
    first = command("train", *TINY, "nll.n=0").run
    again = command("train", "resume=latest", "trainer.max_steps=3")
    assert again.run == first
    assert "learning rate goes from" in again.err
    assert "learning rate" not in command("train", "resume=latest", "trainer.max_steps=2").err, "no step follows"


def test_a_signal_between_the_last_look_and_the_end_is_not_lost(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dfm.basics.processes import World

    real, calls = World.all_max, []

    def all_max(self: World, mine: float) -> float:
        calls.append(mine)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # after it was asked, while the others answer
        return real(self, mine)

    monkeypatch.setattr(World, "all_max", all_max)
    stopped = command("train", *STEADY, "hydra.run.dir=run", code=143)
    assert "stopped after step 3" in stopped.err


def test_a_damaged_newest_checkpoint_costs_no_whole_one(command: Command) -> None:
    """Resumed from the one before it, with one to keep: the damaged one does not count, and is set aside."""
    words = [*TINY, "hydra.run.dir=run", "nll.n=0", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=2"]
    command("train", *words, "trainer.max_steps=4")
    newest = run_dir.checkpoints(Path("run"))[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    command("train", "resume=run", "trainer.keep_checkpoints=1", "trainer.max_steps=4")
    assert checkpoint.read(run_dir.checkpoints(Path("run"))[0]).step == 4
    assert newest.with_name(f"{newest.name}.damaged").exists()


def test_weights_follow_the_checkpoint_after_a_kill_between_them(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, "hydra.run.dir=run", "nll.n=0", "trainer.checkpoint_every=1"]
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "weights", lambda self, content: None)
        command("train", *words)
    assert not (Path("run") / "weights.safetensors").exists()
    command("train", *words, "resume=auto")
    assert checkpoint.read(Path("run") / "weights.safetensors").step == 2


def test_a_run_begun_again_leaves_no_event_twice(command: Command) -> None:
    """Killed before its first checkpoint: TensorBoard shows each step once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = [*TINY, "hydra.run.dir=run", "nll.n=0", "trainer.log_every=1", "resume=auto"]
    command("train", *words)
    for path in (Path("run") / "checkpoints").iterdir():
        path.unlink()
    command("train", *words)
    events = EventAccumulator(str(Path("run") / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]


def test_a_stopped_run_says_so_in_its_log(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled(monkeypatch, 2, signal.SIGTERM)
    command("train", *STEADY, "hydra.run.dir=run", code=143)
    assert "SIGTERM: stopped after step 2" in (Path("run") / "train.log").read_text()
    assert json.loads((Path("run") / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2


def test_two_processes_never_work_in_one_directory(command: Command) -> None:
    """The lock goes with the process that holds it, so a killed run leaves none."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom dfm.runs.directory import lock_run\n"
        "lock = lock_run(Path('run'))\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        refused = command("train", *TINY, "hydra.run.dir=run", code=1).err
        assert "another process is working" in refused
        assert one_error(refused)
        process.kill()
        process.wait()
    command("train", *TINY, "hydra.run.dir=run", "nll.n=0")


@pytest.mark.wide
def test_runs_of_one_moment_have_directories_of_their_own(tmp_path: Path) -> None:
    """Three at once: three directories, and latest is one of them while they write."""
    words = [sys.executable, "-m", "dfm", "train", *TINY, "nll.n=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    jobs = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    named = {output.strip().splitlines()[-1] for output in outputs}
    assert all(job.returncode == 0 for job in jobs)
    assert len(named) == 3
    assert f"run directory: {run_dir.latest_run(tmp_path / 'outputs')}" in named


def test_latest_does_not_stumble_over_a_checkpoint_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        path = tmp_path / name / "checkpoints" / "step_00000001.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    real = Path.stat

    def stat(self: Path, **more: bool) -> os.stat_result:
        if self.name == "step_00000001.pt" and "b" in self.parts:
            raise FileNotFoundError(self)
        return real(self, **more)

    monkeypatch.setattr(Path, "stat", stat)
    assert run_dir.latest_run(tmp_path) == tmp_path / "a"
