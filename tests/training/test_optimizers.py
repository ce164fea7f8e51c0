"""Muon against the singular value decomposition, against torch's own, and AdamW for what is no matrix."""

import copy
from pathlib import Path

import pytest
import torch
from support.cli import TINY, Command
from torch import Tensor, nn

from dfm.runs import checkpoint
from dfm.runs import directory as run_dir
from dfm.training.optimizers import Muon, matrices_of, optimizer, orthogonalize
from dfm.training.trainer_config import TrainerConfig

RATE, DECAY = 0.01, 0.1


def matrices(m: int, n: int, least: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(G, U, S, V^T) of three random matrices G = U S V^T with S from 1 down to ``least``."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vt = torch.linalg.svd(torch.randn(3, m, n, generator=generator), full_matrices=False)
    s = torch.logspace(0, float(torch.tensor(least).log10()), min(m, n)).expand(3, -1)
    return u * s[:, None] @ vt, u, s, vt


@pytest.mark.parametrize(("m", "n"), [(16, 16), (8, 72), (64, 12)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_vectors_stay_and_singular_values_become_one(m: int, n: int, scale: float) -> None:
    given, u, _, vt = matrices(m, n, 0.05)
    core = u.mT @ orthogonalize(scale * given) @ vt.mT  # diagonal if the vectors are kept
    values = torch.diagonal(core, dim1=1, dim2=2)
    assert 0.65 < float(values.min()) <= float(values.max()) < 1.25
    assert torch.allclose(core, torch.diag_embed(values), atol=1e-4)


def test_a_matrix_without_numbers_stays_so() -> None:
    assert not orthogonalize(torch.zeros(2, 4, 6)).any()


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 5))


def taken(moved: nn.Module, chosen: torch.optim.Optimizer, steps: int = 4) -> list[Tensor]:
    """The parameters after a few steps on one batch."""
    x = torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        chosen.zero_grad()
        moved(x).square().mean().backward()
        chosen.step()
    return [p.detach().contiguous() for p in moved.parameters()]


def muon(moved: nn.Module) -> Muon:
    config = TrainerConfig(max_steps=1, optimizer="muon", lr=RATE, weight_decay=DECAY, betas=(0.9, 0.999))
    found = optimizer(config, moved, nn.Module())
    assert isinstance(found, Muon)
    return found


def test_it_is_torchs_muon_on_matrices() -> None:
    given, gradients = torch.randn(12, 20), torch.randn(5, 12, 20)
    mine, theirs = nn.Parameter(given.clone()), nn.Parameter(given.clone())
    ours = Muon([mine], lr=RATE, weight_decay=DECAY)
    other = torch.optim.Muon([theirs], lr=RATE, weight_decay=DECAY, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        ours.step()
        other.step()
    moved = (theirs - given).detach()
    # theirs iterates in bfloat16, of three digits
    assert float(((mine - theirs).norm() / moved.norm()).detach()) < 0.03


def test_what_is_no_matrix_moves_as_by_adamw() -> None:
    """With the matrices held, biases and norms see the same gradients under both."""
    one, other = network(), network()
    for held in (one, other):
        for p in held.parameters():
            p.requires_grad_(p.ndim < 2)
    plain = torch.optim.AdamW(other.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    for mine, theirs in zip(taken(one, muon(one)), taken(other, plain), strict=True):
        assert torch.equal(mine, theirs)


def test_a_convolution_moves_as_its_filters_laid_flat() -> None:
    """One row an output; in either memory layout."""
    flat = nn.Parameter(torch.randn(8, 27))
    gradients = torch.randn(3, 8, 27)
    for layout in (torch.contiguous_format, torch.channels_last):
        filters = nn.Parameter(flat.detach().view(8, 3, 3, 3).clone(memory_format=layout))
        row = nn.Parameter(flat.detach().clone())
        both = [Muon([p], lr=RATE, weight_decay=DECAY) for p in (filters, row)]
        for gradient in gradients:
            filters.grad, row.grad = gradient.view(8, 3, 3, 3).clone(memory_format=layout), gradient.clone()
            for chosen in both:
                chosen.step()
        assert torch.allclose(filters.detach().reshape(8, 27), row.detach(), atol=1e-6)
        assert filters.is_contiguous(memory_format=layout)


def test_matrices_of_one_shape_do_not_mix() -> None:
    """Batched or alone, a matrix takes the same steps."""
    together = [nn.Parameter(torch.randn(6, 9, generator=torch.Generator().manual_seed(k))) for k in range(3)]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    gradients = torch.randn(3, 6, 9)
    for k in range(3):
        together[k].grad, alone[k].grad = gradients[k].clone(), gradients[k].clone()
        Muon([alone[k]], lr=RATE).step()
    Muon(together, lr=RATE).step()
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_its_state_goes_on() -> None:
    """Four steps are two, a copy of the state, and two."""
    whole, stopped = network(), network()
    expected = taken(whole, muon(whole), 4)
    first = muon(stopped)
    taken(stopped, first, 2)
    second = muon(stopped)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for mine, theirs in zip(taken(stopped, second, 2), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_what_has_no_gradient_stays() -> None:
    """Even under weight decay, as AdamW does; its neighbour of one shape moves."""
    still, moving = (nn.Parameter(torch.ones(4, 6)) for _ in range(2))
    chosen = Muon([still, moving], lr=RATE, weight_decay=DECAY)
    moving.grad = torch.randn(4, 6)
    chosen.step()
    assert torch.equal(still, torch.ones(4, 6))
    assert not torch.equal(moving, still)


def test_a_closure_forms_the_gradients() -> None:
    moved = nn.Parameter(torch.randn(4, 6))
    chosen = Muon([moved], lr=RATE)

    def closure() -> Tensor:
        loss = moved.square().sum()
        loss.backward()
        return loss

    before = float(moved.detach().square().sum())
    assert float(chosen.step(closure).detach()) == pytest.approx(before)
    assert float(moved.detach().square().sum()) < before


def test_single_rows_and_tables_of_classes_are_no_matrices() -> None:
    inner = nn.Linear(6, 4)
    parts = nn.ModuleList([nn.Embedding(10, 4), inner, nn.Linear(4, 1), nn.Conv2d(1, 8, 1), nn.GroupNorm(2, 4)])
    assert [id(p) for p in matrices_of(parts)] == [id(inner.weight)]


def test_the_trainer_has_the_one_that_was_asked_for() -> None:
    """Of the network alone; what the objective learns is AdamW's in both."""
    learned, given = nn.Linear(5, 4), {"lr": 0.02, "weight_decay": 0.3, "betas": (0.8, 0.9)}
    for name, kind in (("adamw", torch.optim.AdamW), ("muon", Muon)):
        config = TrainerConfig(max_steps=1, optimizer=name, **given)  # type: ignore[arg-type]
        found = optimizer(config, moved := network(), learned)
        assert type(found) is kind
        groups = found.param_groups
        assert all(group[key] == value for group in groups for key, value in given.items())
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in [*moved.parameters(), *learned.parameters()])
        assert [id(p) for p in groups[-1]["params"]] == [id(p) for p in learned.parameters()]
        assert groups[-1].get("momentum") is None
    assert optimizer(TrainerConfig(max_steps=1), nn.Module(), nn.Module()) is None


def test_a_run_goes_on_with_its_momentum(command: Command) -> None:
    """Two steps and two more are four, to the last bit."""
    words = [*TINY, "trainer.optimizer=muon", "trainer.lr_schedule=constant", "trainer.warmup_steps=0", "nll.n=0"]
    whole = command("train", *words, "trainer.max_steps=4").run
    stopped = command("train", *words, "trainer.max_steps=2").run
    command("train", f"resume={stopped}", "trainer.max_steps=4")
    states = [checkpoint.read(run_dir.checkpoints(run)[0]).state for run in (whole, stopped)]
    slots = [state["optimizer"]["state"] for state in states]
    assert {"momentum", "exp_avg"} <= {key for slot in slots[0].values() for key in slot}
    for mine, theirs in zip(*(slot.values() for slot in slots), strict=True):
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    for name, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][name]), name


@pytest.mark.parametrize("how", ["resume=auto", "resume=run"])
def test_another_optimiser_is_another_run(command: Command, how: str) -> None:
    """Said also of a run from before there was a choice, whose configuration does not name it."""
    words = [*TINY, "nll.n=0", "hydra.run.dir=run"]
    command("train", *words)
    again = words if how == "resume=auto" else []
    told = command("train", *again, how, "trainer.optimizer=muon", code=1).err
    assert "trainer.optimizer is adamw, given muon" in told
    stored = Path("run/config.yaml")
    stored.write_text("".join(line for line in stored.open() if "optimizer:" not in line))
    told = command("train", *again, how, "trainer.optimizer=muon", code=1).err
    assert "trainer.optimizer is not there, given muon" in told
