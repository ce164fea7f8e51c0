"""Mistakes of a user: one line each, exit code 1, no traceback."""

from pathlib import Path

import pytest
from support.cli import TINY, Command, Dfm
from support.runs import contents

MISTAKES = {
    "trian": ["trian"],
    "group": ["train", "objective=flow_matchng"],
    "key": ["train", "trainer.lrr=1"],
    "top key": ["train", "foo=1"],
    "value": ["train", "trainer.lr=abc"],
    "range": ["train", "trainer.lr=-1"],
    "choice": ["train", "trainer.precision=fp8"],
    "syntax": ["train", "trainer.lr=="],
    "model key": ["train", "model.dropot=0.1"],
    "unused uncertainty": ["train", "objective=meanflow", "uncertainty=learned"],
    "unused coupling": ["train", "dataset=moons", "model=mlp", "objective=langevin", "coupling=ot"],
    "no ckpt": ["sample"],
    "latest": ["sample", "ckpt=latest"],
    "missing": ["sample", "ckpt=nowhere"],
    "resume": ["train", "resume=nowhere"],
    "resume by a number": ["train", "resume=5"],
    "oracle": ["train", "model=oracle"],
    "data": ["train", "dataset=folder", "dataset.path=nowhere"],
    "device": ["train", "trainer.device=abacus"],
    "resolution": ["train", "model.channel_multipliers=[1,1,1,1,1]", "model.padding=refuse"],
    "classes": ["train", "dataset=checkerboard", "model=mlp", "conditional=true"],
    "density": ["train", "schedule=edm", "density=logit_normal", *TINY],
    "batch": ["train", "trainer.batch_size=0"],
    "betas": ["train", "trainer.betas=[1,0]"],
    "optimiser": ["train", "trainer.optimizer=sgd"],
    "braces": ["train", "schedule={0:0}"],
    "code": ["train", "model._target_=os.system"],
    "singular": ["train", "schedule=linear", "schedule.t_max=1.0"],
    "seed": ["train", "trainer.seed=-1"],
    "unlisted option": ["train", "model.scale_shift=true"],
    "addition": ["train", "+foo=1"],
    "type": ["train", "nll.n=few"],
    "flag": ["train", "conditional=maybe"],
    "nested addition": ["train", "+samples.m=1"],
    "unknown addition": ["train", "+model.foo=1"],
    "formula": ["train", "schedule=custom", "schedule.drift=1+x"],
    "brackets": ["train", "schedule=custom", "schedule.drift=exp(-t"],
    "a formula's code": ["train", "schedule=custom", "schedule.drift=t.__class__"],
    "no noise": ["train", "schedule=custom", "schedule.diffusion=0"],
    "potential alone": ["train", "dataset=moons", "model=mlp", "prior=double_well"],
    "interpolant without latent": ["train", "objective=interpolant", "latent=none", *TINY],
    "latent without interpolant": ["train", "latent=root", *TINY],
    "sde with transport": ["train", "coupling=ot", "sampler=euler_maruyama", *TINY],
    "sde with a prior": ["train", "prior=laplace", "sampler=ancestral", *TINY],
    "label-aware without labels": ["train", "coupling=label_aware", *TINY],
    "no teacher": ["train", "objective=reflow", *TINY],
    "prior of another shape": ["train", "prior=mixture", *TINY],
    "no other": ["compare"],
    "no latents": ["decode"],
}


QUICK = (
    "trian", "key", "value", "range", "syntax", "missing", "resume", "data", "braces", "code", "addition", "type",
    "formula", "interpolant without latent", "no teacher", "no latents",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.wide) for n in sorted(MISTAKES)]
)
def test_a_mistake_is_one_line(name: str, command: Command) -> None:
    deed, *overrides = MISTAKES[name]
    # what is no mistake any more fails in seconds, not after a whole training
    short = ["trainer.max_steps=2", "nll.n=0"] if deed == "train" else []
    outcome = command(deed, *short, *overrides, code=1)
    assert outcome.problem
    assert list(Path.cwd().iterdir()) == [], "a refused command leaves nothing"


WITH_A_CHECKPOINT = [
    (["sample", "n=0"], "at least 1"),
    (["sample", "n=many"], "type int"),
    (["sample", "label=3"], "without classes"),
    (["sample", "sampler=dopri5", "sampler.steps=5"], "no effect"),
    (["sample", "sampler.times=[0.5,0.1]"], "t_max = 0.999"),
    (["decode", "latents=nowhere"], "latents.npz"),
    (["compare", "other=nowhere"], "other=nowhere: no such"),
    (["nll", "split=tset"], "did you mean 'test'"),
]
MORE_WITH_A_CHECKPOINT = [
    (["sample", "png=perhaps"], "type bool"),
    (["sample", "seed=1.5"], "type int"),
    (["nll", "n=all"], "int | null"),
    (["sample", "index=-1"], "at least 0"),
    (["sample", "sampler.steps=0"], "from 1 to"),
    (["sample", "sampler.times=[0.999,0.5,0.7]"], "decreasing"),
    (["sample", "sampler=euler_maruyama", "sampler.stepper.strength=-1"], "strength"),
    (["sample", "sampler=ddim", "sampler.stepper.eta=2"], "ancestral"),
    (["nll", "n=0"], "at least 1"),
    (["nll", "likelihood.solver=rk6"], "did you mean 'rk"),
    (["nll", "batch_size=0"], "at least 1"),
]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [*WITH_A_CHECKPOINT, *(pytest.param(*row, marks=pytest.mark.wide) for row in MORE_WITH_A_CHECKPOINT)],
)
def test_a_mistake_with_a_checkpoint_is_one_line(
    arguments: list[str], says: str, tiny_run: Path, command: Command
) -> None:
    before = contents(Path.cwd())
    outcome = command(*arguments, "ckpt=latest", code=1)
    assert outcome.problem
    assert says in outcome.err
    assert contents(Path.cwd()) == before, "a refused command leaves nothing"


@pytest.mark.wide
def test_full_error_shows_the_traceback(dfm: Dfm, tmp_path: Path) -> None:
    done = dfm("sample", "ckpt=nowhere", cwd=tmp_path, code=1, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr


@pytest.mark.wide
def test_a_mistake_in_a_process_of_its_own(dfm: Dfm, tmp_path: Path) -> None:
    done = dfm("train", "trainer.lrr=1", cwd=tmp_path, code=1)
    assert done.stderr.strip().count("\n") == 0
    assert "did you mean 'trainer.lr'" in done.stderr
    assert done.stdout == ""


def test_a_count_of_training_has_its_whole_name(command: Command) -> None:
    assert "samples.n=0; allowed" in command("train", *TINY, "samples.n=0", code=1).problem
    assert "nll.batch_size=0; allowed" in command("train", *TINY, "nll.batch_size=0", code=1).problem
