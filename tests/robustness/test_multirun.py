"""A multirun: every job runs, whatever another one does, and the table tells of the jobs of this multirun alone."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.cli import POINTS, SMALL, Command
from support.runs import contents

from dfm.basics.errors import UserError
from dfm.cli.commands.train.training_run import TrainingRun
from dfm.cli.jobs.directories import earlier_job
from dfm.cli.jobs.multirun_table import JobRecord, print_table
from dfm.runs import directory as run_dir
from dfm.training.step_report import StepReport

DRAW = ("sample", "-m", "sampler.steps=1")
FAST = ("train", "-m", *POINTS, *SMALL, "sampler.steps=1", "nll.n=0", "logger=none")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def table(out: str) -> str:
    """The cells of the table, joined over the lines that they fold into."""
    lines = [line for line in out[out.index("jobs of this multirun") :].splitlines() if line.startswith("│")]
    columns = zip(*(line.strip("│").split("│") for line in lines), strict=True)
    return " ".join(cell.strip() for column in columns for cell in column)


def during_sample(monkeypatch: pytest.MonkeyPatch, n: int, error: BaseException) -> None:
    """The job that draws n samples raises an error before it stores any."""
    from dfm.cli.commands.sample import command as module

    real = module.store_samples

    def store_samples(pieces: object, labels: object, indices: range, *rest: object, **more: object) -> None:
        if len(indices) == n:
            raise error
        real(pieces, labels, indices, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "store_samples", store_samples)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("this cannot be; try that"), "this cannot be; try that"),
        pytest.param(ZeroDivisionError("a bug"), "ZeroDivisionError: a bug", marks=pytest.mark.wide),
        (SystemExit("no"), "it ended with exit('no')"),
        (MemoryError(), "out of memory (MemoryError); try a smaller batch_size"),
        pytest.param(
            torch.OutOfMemoryError("CUDA out of memory.\nTried to"),
            "out of memory (CUDA out of memory.); try a smaller batch_size",
            marks=pytest.mark.wide,
        ),
    ],
)
def test_one_job_that_fails_leaves_the_others_alone(
    error: BaseException, said: str, tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_sample(monkeypatch, 3, error)
    outcome = command(*DRAW, f"ckpt={tiny_run}", "n=2,3,4", "hydra.sweep.dir=sweep", code=1)
    assert outcome.problem == f"error: 1 of 3 jobs failed: {said}"
    assert f"failed: {said}" in table(outcome.out)
    assert all(f"n={n}" in table(outcome.out) for n in (2, 3, 4))
    assert all((Path("sweep") / name / "sample.json").exists() for name in "02")
    log, bug = Path("sweep") / "1" / "sample.log", isinstance(error, ZeroDivisionError)
    assert bug or not log.parent.exists(), "a refused job leaves nothing"
    assert not bug or "Traceback" in log.read_text(), "a bug's traceback is in the log of its job"
    assert outcome.run == Path.cwd() / "sweep"
    assert not list(Path("sweep").glob(".jobs*"))


@pytest.mark.wide
def test_a_job_that_diverges_keeps_what_it_has(command: Command) -> None:
    words = ["trainer.lr=1e-3,1e30", "trainer.max_steps=6", "trainer.max_skipped=2", "hydra.sweep.dir=sweep"]
    outcome = command(*FAST, *words, code=1)
    assert "1 of 2 jobs failed: " in outcome.problem
    assert "steps in a row" in outcome.problem
    assert run_dir.checkpoints(Path("sweep") / "1")
    assert f"{Path.cwd() / 'sweep' / '1'} failed: " in table(outcome.out).replace("  ", " ")


def test_a_multirun_of_which_nothing_ran_leaves_nothing(command: Command) -> None:
    assert (
        "2 of 2 jobs failed" in command("sample", "-m", "ckpt=nowhere,neither", "hydra.sweep.dir=a/b", code=1).problem
    )
    assert "unknown objective" in command(*FAST, "objective=flow_matching,typo", code=1).problem
    assert list(Path.cwd().iterdir()) == []
    Path("a").mkdir()
    Path("a", "multirun.yaml").write_text("of an earlier one")
    Path("a", "0").mkdir()
    before = contents(Path("a"))
    command("sample", "-m", "ckpt=nowhere,neither", "hydra.sweep.dir=a", code=1)
    assert contents(Path("a")) == before


def test_jobs_are_found_wherever_they_lie_and_those_of_another_multirun_do_not_count(
    tiny_run: Path, command: Command
) -> None:
    words, sweep = [*DRAW, f"ckpt={tiny_run}", "hydra.sweep.dir=sweep"], Path("sweep")
    subdir = "hydra.sweep.subdir=${hydra.job.override_dirname}"
    first = command(*words, "n=2,3", subdir, "hydra.job.config.override_dirname.exclude_keys=[ckpt,sampler.steps]")
    assert "n=2 n=3" in table(first.out), first.out
    assert str(Path.cwd() / "sweep" / "n=3") in table(first.out)
    earlier = contents(sweep)
    second = command(*words, "n=4,5")
    assert "n=4 n=5" in table(second.out)
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1", "n=2", "n=3"]
    third = command(*words, "n=4")
    assert str(Path.cwd() / "sweep" / "2") in table(third.out), "a new one, since it does not resume"
    now = contents(sweep)
    assert {path: text for path, text in earlier.items() if path.name != "multirun.yaml"}.items() <= now.items()
    assert now[sweep / "multirun-1.yaml"] == earlier[sweep / "multirun.yaml"]


@pytest.mark.wide
def test_a_multirun_given_again_with_one_value_more_in_front_finds_its_jobs(command: Command) -> None:
    words, sweep = [*FAST, "resume=auto", "hydra.sweep.dir=sweep"], Path("sweep")
    command(*words, "trainer.lr=1e-3,2e-3")
    written = (sweep / "0" / "checkpoints").stat().st_mtime_ns
    again = command(*words, "trainer.lr=5e-4,1e-3")
    assert again.err.count("this run is done already") == 1
    assert (sweep / "0" / "checkpoints").stat().st_mtime_ns == written
    lines = [(sweep / name / "metrics.jsonl").read_text().splitlines()[0] for name in ("0", "2")]
    first, second = (json.loads(line)["learning_rate"] for line in lines)
    assert first / second == pytest.approx(2)


def test_two_jobs_of_one_multirun_never_share_a_directory(tmp_path: Path) -> None:
    """What a resumed run may change tells jobs apart if the multirun varies it, and else does not."""
    for name, texts in (("a", ["model=mlp", "trainer.max_steps=1"]), ("b/c", ["trainer.max_steps=2", "model=mlp"])):
        (tmp_path / name).mkdir(parents=True)
        run_dir.write_overrides(tmp_path / name, [*texts, "resume=auto"])
    wanted = ["model=mlp", "trainer.max_steps=2", "trust=me"]
    assert earlier_job(tmp_path, wanted, ["trainer.max_steps"]) == tmp_path / "b" / "c"
    assert earlier_job(tmp_path, wanted, []) == tmp_path / "b" / "c", "the same steps come first"
    longer = ["model=mlp", "trainer.max_steps=3"]
    assert earlier_job(tmp_path, longer, []) == tmp_path / "a"
    assert earlier_job(tmp_path, longer, ["trainer.max_steps"]) is None
    assert earlier_job(tmp_path, ["model=unet", "trainer.max_steps=2"], []) is None


def test_a_place_that_two_jobs_share_is_named_as_the_mistake(tiny_run: Path, command: Command) -> None:
    """Another hydra.sweep.dir would not help."""
    words = [*DRAW, f"ckpt={tiny_run}", "n=2,3", "hydra.sweep.dir=sweep"]
    problem = command(*words, "hydra.sweep.subdir=one", code=1).problem
    assert "1 of 2 jobs failed: hydra.sweep.subdir=one" in problem
    assert problem.endswith("try without hydra.sweep.subdir")
    command(*words)


@pytest.mark.wide
def test_several_runs_are_resumed_each_in_its_own_directory(command: Command) -> None:
    command(*FAST, "trainer.seed=0,1", "hydra.sweep.dir=sweep")
    outcome = command("train", "-m", "resume=sweep/0,sweep/1", "trainer.max_steps=3", "hydra.sweep.dir=other")
    assert outcome.err.count("resumed at step 2") == 2
    assert all(run_dir.checkpoints(Path("sweep") / name)[0].name == "step_00000003.pt" for name in "01")
    assert str(Path.cwd() / "sweep" / "1") in table(outcome.out)


@pytest.mark.parametrize("chdir", ["true", pytest.param("false", marks=pytest.mark.wide)])
def test_an_interrupted_multirun_ends_with_the_table_of_what_is_done(
    chdir: str, tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_sample(monkeypatch, 3, KeyboardInterrupt())
    words = ["n=2,3,4", "hydra.sweep.dir=sweep", f"hydra.job.chdir={chdir}"]
    outcome = command(*DRAW, f"ckpt={tiny_run}", *words, code=130)
    assert outcome.problem == "error: interrupted"
    assert str(Path.cwd() / "sweep" / "0") in table(outcome.out)
    assert sorted(path.name for path in Path("sweep").iterdir()) == ["0", "multirun.yaml"]


@pytest.mark.wide
def test_a_signal_ends_a_multirun_after_the_step(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = signal.signal(signal.SIGTERM, signal.SIG_DFL), TrainingRun.log_step

    def log_step(self: TrainingRun, report: StepReport) -> dict[str, float]:
        if self.parts.trainer.seed == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, report)

    monkeypatch.setattr(TrainingRun, "log_step", log_step)
    outcome = command(*FAST, "trainer.seed=0,1,2", "hydra.sweep.dir=sweep", code=143)
    signal.signal(signal.SIGTERM, before)
    assert "failed: stopped by signal 15" in table(outcome.out)
    assert [bool(run_dir.checkpoints(Path("sweep") / name)) for name in "012"] == [True, True, False]


def test_a_disk_that_takes_no_record_costs_no_row_and_no_exit_code(
    tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("dfm.cli.jobs.multirun.write_json", full)
    outcome = command(*DRAW, f"ckpt={tiny_run},nowhere", "n=2", "hydra.sweep.dir=sweep", code=1)
    assert "1 of 2 jobs failed: ckpt=nowhere" in outcome.problem
    assert "failed: ckpt=nowhere" in table(outcome.out)


def test_a_figure_of_one_example_has_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nll.json").write_text(json.dumps({"unit": "nats", "nats": 1.5, "stderr": None}))
    print_table([JobRecord(number=0, overrides=[], directory=str(tmp_path), error=None)], [])
    assert "1.5000 +- ?" in capsys.readouterr().out


def test_long_overrides_leave_room_for_the_path(capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        JobRecord(number=k, overrides=[f"ckpt={'long/' * 40}{k}", "n=2"], directory="/a/place", error="it is broken")
        for k in range(2)
    ]
    print_table(records[:1], ["ckpt"])
    alone = capsys.readouterr().out
    assert "n=2" not in alone
    print_table(records, ["ckpt"])
    for out in (alone, capsys.readouterr().out):
        assert "failed: it is broken" in out
        assert table(out).replace(" ", "").count("long/" * 40) == out.count("failed:")


@pytest.mark.parametrize("read_only", [True, pytest.param(False, marks=pytest.mark.wide)])
def test_a_multirun_that_cannot_be_written_names_its_directory(
    read_only: bool, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is in the way, or the directory is there and refuses (as superuser no permission would stop us)."""
    real = Path.mkdir

    def mkdir(self: Path, *rest: object, **more: object) -> None:
        if ".jobs" in self.name:
            raise PermissionError(13, "Permission denied", str(self))
        real(self, *rest, **more)  # type: ignore[arg-type]

    Path("file").mkdir() if read_only else Path("file").touch()
    if read_only:
        monkeypatch.setattr(Path, "mkdir", mkdir)
    refused = command(*FAST, "trainer.seed=0,1", "hydra.sweep.dir=file/sweep", code=1)
    assert refused.problem.startswith(f"error: {Path.cwd() / 'file' / 'sweep'}: no multirun can write there")
    assert "try another hydra.sweep.dir=DIR" in refused.problem
    assert [path.name for path in Path.cwd().rglob("*")] == ["file"]


@pytest.mark.wide
def test_jobs_in_other_processes_all_run_and_all_stand_in_the_table(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "dfm",
        *FAST,
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "hydra.sweep.dir=s",
    ]
    done = subprocess.run(
        [*words, "trainer.batch_size=8,0,16"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode == 1
    assert "failed: trainer.batch_size=0; allowed: at least 1" in table(done.stdout)
    assert done.stderr.splitlines()[-1] == "error: 1 of 3 jobs failed: trainer.batch_size=0; allowed: at least 1"
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["0", "2", "multirun.yaml"]
