"""Several processes on one run: the same steps as one process takes, one writer, and an end when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import TINY, Command

from dfm.runs import checkpoint, metrics
from dfm.runs import directory as run_dir

TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dfm"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
RUN = [
    *[text for text in TINY if not text.startswith("trainer.max_steps")], "trainer.max_steps=4", "trainer.log_every=1",
    "trainer.checkpoint_every=2", "trainer.sample_every=2", "density=loss_aware", "trainer.accumulate=2",
]  # fmt: skip


def together(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*TOGETHER, *words], cwd=cwd, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    return done


def weights(run: Path, kind: str = "ema") -> dict[str, torch.Tensor]:
    return checkpoint.read(run_dir.checkpoints(run)[0]).state[kind]


LONG = pytest.mark.faults
LEARNED = ["density=loss_aware", "uncertainty=learned", "trainer.accumulate=4"]
FSDP = ["trainer.parallel=fsdp", "trainer.channels_last=false"]


@pytest.mark.wide
@pytest.mark.parametrize(
    "also",
    [
        [*LEARNED, "trainer.optimizer=muon", "trainer.warmup_steps=0", "augmentation=nonleaky"],
        pytest.param(LEARNED, marks=LONG),
        pytest.param([*LEARNED, *FSDP], marks=LONG),
        # forward mode through the wrapped network
        pytest.param(["objective=meanflow", "density=uniform"], marks=LONG),
        pytest.param(["density=loss_aware"], marks=LONG),
        pytest.param(["density=loss_aware", *FSDP], marks=LONG),
    ],
    ids=" ".join,
)
def test_two_processes_train_as_one(command: Command, tmp_path: Path, also: list[str]) -> None:
    """The same losses, weights and pictures, but for the order of additions; one directory, one voice."""
    words = [text for text in RUN if text.partition("=")[0] not in [more.partition("=")[0] for more in also]]
    alone = command("train", *words, *also).run
    done = together("train", *words, *also, "hydra.run.dir=shared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training examples;") == 1
    assert done.stdout.strip().splitlines()[-1].endswith("shared")
    assert "HYDRA" not in done.stdout + done.stderr, "the other process is silent"
    shared = tmp_path / "shared"
    assert sorted(p.name for p in shared.iterdir()) == sorted(p.name for p in alone.iterdir())
    for name, value in weights(alone).items():
        assert torch.allclose(value, weights(shared)[name], atol=1e-5), name
    noted = [weights(run, "objective") for run in (alone, shared)]
    assert noted[0] or "objective=meanflow" in also, "what the objective learns or notes"
    for name, value in noted[0].items():
        assert torch.allclose(value, noted[1][name], rtol=1e-4, atol=1e-6), name
    lines = [metrics.read_metrics(run / "metrics.jsonl") for run in (alone, shared)]
    assert len(lines[0]) == len(lines[1])
    for one, two in zip(*lines, strict=True):
        assert one.keys() == two.keys()
        for key in ("loss", "grad_norm", "validation_loss"):
            assert one.get(key, 0) == pytest.approx(two.get(key, 0), rel=1e-4)
    nats = [json.loads((run / "nll.json").read_text())["bits_per_dim"] for run in (alone, shared)]
    assert nats[0] == pytest.approx(nats[1], rel=1e-4)


@pytest.mark.wide
@pytest.mark.parametrize(
    ("first", "second"),
    [("fsdp", ""), *(pytest.param(*kinds, marks=LONG) for kinds in (("ddp", "fsdp"), ("ddp", ""), ("fsdp", "ddp")))],
)
def test_processes_of_another_number_or_kind_go_on(command: Command, tmp_path: Path, first: str, second: str) -> None:
    """Begun by two, ended by one or by two that share the weights otherwise: the draws stay, and whole weights too."""
    # fsdp does not use channels_last: without it the same sums are formed in the same order
    same = ["trainer.lr_schedule=constant", "nll.n=0", "trainer.channels_last=false"]
    reference = command("train", *RUN, *same).run
    words = [text for text in RUN if text.partition("=")[0] not in ("trainer.accumulate", "trainer.max_steps")]
    words += [*same, "hydra.run.dir=shared", "resume=auto"]
    begun = together("train", *words, "trainer.max_steps=2", f"trainer.parallel={first}", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    shared = tmp_path / "shared"
    assert checkpoint.read(run_dir.checkpoints(shared)[0]).config["trainer"]["accumulate"] == 2
    if second:
        ended = together("train", *words, "trainer.max_steps=4", f"trainer.parallel={second}", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    else:
        command("train", *words, "trainer.max_steps=4")
    for name, value in weights(reference).items():
        assert torch.allclose(value, weights(shared)[name], atol=1e-5), name


OUT_OF_MEMORY = """
import torch, sys
from dfm.cli.main import main
from dfm.basics.processes import world
from dfm.denoising.network_denoiser import NetworkDenoiser
real, calls = NetworkDenoiser.output, []
def output(self, x, t):
    calls.append(0)
    if world().rank == 1 and torch.is_grad_enabled() and len(calls) > 3:
        raise torch.OutOfMemoryError("here")
    return real(self, x, t)
NetworkDenoiser.output = output
main()
"""


@pytest.mark.wide
@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=LONG)])
def test_a_process_that_fails_alone_ends_the_job_in_lines(tmp_path: Path, parallel: str) -> None:
    """No process waits for the other, and none takes up a collective that the others do not."""
    (tmp_path / "worker.py").write_text(OUT_OF_MEMORY)
    words = [*RUN, "nll.n=0", "trainer.max_steps=50", f"trainer.parallel={parallel}", "hydra.run.dir=shared"]
    done = subprocess.run(
        [*TOGETHER[:-2], "worker.py", "train", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode != 0
    assert "error: process 1: out of memory" in done.stderr or "error: out of memory" in done.stderr
    ours = done.stderr.partition("ChildFailedError")[0].rpartition("Traceback")[0]  # torchrun's own comes after
    assert "Traceback" not in ours, ours


WORKER = """
import copy, torch
from torch import nn
from dfm.basics.processes import world
from dfm.models.unet import UNet
from dfm.training.parallel.replicated import Replicated
from dfm.training.parallel.strategy import hold_network as held

members = world()
torch.manual_seed(0)
network = UNet(shape=(1, 8, 8), channels=32, channel_multipliers=(1, 2), groups=8, zero_init=False)
alone, average = copy.deepcopy(network), copy.deepcopy(network)
parted = held("fsdp", network, average, members)
count = sum(p.numel() for p in alone.parameters())
for each in (network, average):
    own = sum(p.to_local().numel() for p in each.parameters())
    assert own < 0.6 * count, (own, count)
x, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.1, 0.3, 0.5, 0.7])
mine = slice(2 * members.rank, 2 * members.rank + 2)
with parted.no_sync():
    parted.forward(x[mine], t[mine]).square().mean().backward()
parted.forward(x[mine], t[mine]).abs().mean().backward()
(alone(x, t).square().mean() + alone(x, t).abs().mean()).backward()
for (name, p), q in zip(network.named_parameters(), alone.parameters()):
    assert torch.allclose(p.grad.full_tensor(), q.grad, rtol=1e-4, atol=1e-6), name
norm = parted.norm([p.grad for p in network.parameters()])
expected = nn.utils.clip_grad_norm_(alone.parameters(), 0.5)
assert torch.allclose(norm, expected, rtol=1e-5)
parted.clip(list(network.parameters()), 0.5, norm)
for p, q in zip(network.parameters(), alone.parameters()):
    assert torch.allclose(p.grad.full_tensor(), q.grad, rtol=1e-4, atol=1e-6)
usable = parted.gathered_copy(network, everywhere=True)
assert torch.equal(usable(x, t), alone.eval()(x, t))
print("fine")
"""


@pytest.mark.wide
def test_shares_of_a_network_are_halves_and_its_gradients_those_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    done = subprocess.run(
        [*TOGETHER[:-2], "worker.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fine") == 2


def test_what_needs_the_whole_network_is_not_sharded(command: Command) -> None:
    told = command("train", *TINY, "objective=meanflow", "density=uniform", "trainer.parallel=fsdp", code=1).err
    assert "this objective needs the whole network" in told


def children(parent: int) -> list[int]:
    """Process numbers of the children of a process, by Linux's /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == parent:
            found.append(int(entry.parent.name))
    return sorted(found)


@pytest.mark.wide
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers by Linux's /proc")
@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=LONG)])
def test_a_killed_worker_ends_the_job_and_the_run_goes_on(tmp_path: Path, parallel: str) -> None:
    words = [
        "train", f"trainer.parallel={parallel}",
        *[text for text in RUN if "max_steps" not in text], "trainer.max_steps=100000", "nll.n=0",
        "trainer.sample_every=0", "trainer.validate_every=0", "hydra.run.dir=shared", "resume=auto",
    ]  # fmt: skip
    with subprocess.Popen(
        [*TOGETHER, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as job:
        deadline = time.monotonic() + 120
        while not run_dir.checkpoints(tmp_path / "shared") and time.monotonic() < deadline:
            time.sleep(0.1)
        workers = children(job.pid)
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        assert job.wait(120) != 0
    newest = run_dir.step_of(run_dir.checkpoints(tmp_path / "shared")[0])
    kept = [word for word in words if "max_steps" not in word]
    again = together(*kept, f"trainer.max_steps={newest + 2}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stderr
    assert checkpoint.read(run_dir.checkpoints(tmp_path / "shared")[0]).step == newest + 2


@pytest.mark.wide
def test_parts_that_cannot_be_shared_are_refused_in_one_line(tmp_path: Path) -> None:
    words = [text for text in RUN if "accumulate" not in text]
    done = together("train", *words, "trainer.accumulate=1", "trainer.batch_size=7", cwd=tmp_path)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1
    assert "trainer.batch_size=7 for 2 processes" in told[0]


@pytest.mark.wide
def test_samples_are_shared(tiny_run: Path, command: Command, tmp_path: Path) -> None:
    words = ["sample", f"ckpt={tiny_run}", "n=7", "batch_size=2", "sampler=churn", "sampler.steps=3"]
    alone = command(*words).run
    done = together(*words, "hydra.run.dir=shared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    samples = [np.load(run / "samples.npz")["samples"] for run in (alone, tmp_path / "shared")]
    assert np.abs(samples[0].astype(int) - samples[1].astype(int)).max() <= 17, "a level at most"
    assert (samples[0] == samples[1]).mean() > 0.99
    facts = [json.loads((run / "sample.json").read_text()) for run in (alone, tmp_path / "shared")]
    assert facts[0]["nfe"] == facts[1]["nfe"]


@pytest.mark.wide
@pytest.mark.parametrize("launcher", ["joblib", pytest.param("submitit_local", marks=LONG)])
def test_hydras_launchers_run_the_jobs_of_a_sweep_and_only_those_left(launcher: str, tmp_path: Path) -> None:
    words = [
        sys.executable, "-m", "dfm", "train", "-m", *[text for text in TINY if "max_steps" not in text], "nll.n=0",
        f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", "resume=auto", "trainer.checkpoint_every=0",
    ]  # fmt: skip

    def swept(*steps: int) -> subprocess.CompletedProcess[str]:
        line = [*words, f"trainer.max_steps={','.join(map(str, steps))}"]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)

    first = swept(1, 2)
    assert first.returncode == 0, first.stderr
    runs = [tmp_path / "sweep" / name for name in ("0", "1")]
    assert [checkpoint.read(run_dir.checkpoints(run)[0]).step for run in runs] == [1, 2]
    written = [(run / "checkpoints").stat().st_mtime_ns for run in runs]
    (runs[1] / "checkpoints" / "step_00000002.pt").unlink()  # as if that job had been killed before its end
    again = swept(1, 2)
    assert again.returncode == 0, again.stderr
    assert [checkpoint.read(run_dir.checkpoints(run)[0]).step for run in runs] == [1, 2]
    assert (runs[0] / "checkpoints").stat().st_mtime_ns == written[0]
    assert (runs[1] / "checkpoints").stat().st_mtime_ns != written[1]


@pytest.mark.wide
def test_a_sweep_leaves_one_directory(tmp_path: Path) -> None:
    words = ["train", "-m", *[text for text in TINY if "max_steps" not in text], "trainer.max_steps=1,2", "nll.n=0"]
    done = together(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "outputs").glob("*/*-train-sweep"))) == 1


@pytest.mark.parametrize(
    ("other", "said"),
    [("trainer.compile=true", "do not go together"), ("trainer.optimizer=muon", "which needs whole matrices")],
)
def test_fsdp_does_not_go_with_all(command: Command, other: str, said: str) -> None:
    assert said in command("train", *TINY, "trainer.parallel=fsdp", other, code=1).err
