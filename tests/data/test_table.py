"""The table: columns of unlike units, their moments, tails and exact density."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from support.image_files import one_line

from dfm.basics.errors import UserError
from dfm.cli.composition.command_line import compose
from dfm.data.fields.table import Table
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.runs.parts import Parts

ROWS = {"n_train": 4000, "n_validation": 20, "n_test": 20_000}


@pytest.fixture(scope="module")
def table() -> Table:
    sizes = [f"dataset.{name}={n}" for name, n in ROWS.items()]
    found = Parts(compose("train", "dataset=table", *sizes)).dataset
    assert isinstance(found, Table)
    return found


def test_rows_have_the_moments_of_the_law_and_one_column_has_heavy_tails(table: Table) -> None:
    x = table.split("test").all().double().numpy()
    law = table.mixture
    weights, means = law.weights.numpy(), law.means.numpy()
    variances = law.covariances.numpy().diagonal(axis1=1, axis2=2)
    mean = weights @ means
    variance = weights @ (variances + (means - mean) ** 2)
    z = (x - mean) / np.sqrt(variance)
    assert np.abs(z.mean(0)).max() < 4.5 / math.sqrt(len(x))
    assert z.var(0) == pytest.approx(np.ones(4), abs=0.15), "of the heavy column, whose fourth moment is large"
    fourth = weights @ (3 * variances**2 + 6 * variances * (means - mean) ** 2 + (means - mean) ** 4) / variance**2
    assert fourth[:3].max() < 5 < 20 < fourth[3], "wait has heavy tails"
    assert (z[:, 3] ** 4).mean() == pytest.approx(fourth[3], rel=0.2)
    deviations = np.sqrt(variance)
    assert deviations.max() / deviations.min() > 1e6
    between = np.corrcoef(x[table.split("test").labels.numpy() == 0].T)
    assert [between[0, 1], between[0, 2], between[1, 2]] == pytest.approx([0.8, -0.6, -0.3], abs=0.03)


def test_the_density_is_scipys_in_units_in_which_it_can_compute(table: Table) -> None:
    """Columns in units of their deviations: log p(x) = log p(x/c) - sum of log c."""
    x = table.split("test").all().double()[:200].numpy()
    law = table.mixture
    c = np.array([0.5, 3000.0, 1e-3, 100.0])
    parts = [
        np.log(w) + multivariate_normal(m / c, s / np.outer(c, c)).logpdf(x / c)
        for w, m, s in zip(law.weights.numpy(), law.means.numpy(), law.covariances.numpy(), strict=True)
    ]
    exact = logsumexp(parts, axis=0) - np.log(c).sum()
    np.testing.assert_allclose(law.log_prob(torch.from_numpy(x)).numpy(), exact, rtol=0, atol=1e-9)


def test_score_and_entropy_of_unlike_columns() -> None:
    """In raw units the smallest eigenvalue is lost in the rounding of the largest, which is 1e18 times as large."""
    c = torch.tensor([1e-6, 1.0, 1e3], dtype=torch.float64)
    alike = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]], dtype=torch.float64)
    plain = mixture_of([[0.0, 0.0, 0.0]], [alike.tolist()])
    wide = mixture_of([[0.0, 0.0, 0.0]], [(alike * torch.outer(c, c)).tolist()])
    z = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(wide.log_prob(z * c), plain.log_prob(z) - c.log().sum(), rtol=1e-10, atol=0)
    torch.testing.assert_close(wide.score(z * c), plain.score(z) / c, rtol=1e-9, atol=0)
    assert wide.entropy == pytest.approx(plain.entropy + float(c.log().sum()), rel=1e-12)


def test_a_covariance_without_density_is_refused_in_any_units() -> None:
    one = torch.ones(1, dtype=torch.float64)
    for flat in ([[1e-6, 1.0], [1.0, 1e6]], [[1.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]]):
        with pytest.raises(UserError, match="allowed: a positive definite matrix"):
            GaussianMixture(weights=one, means=torch.zeros(1, 2).double(), covariances=torch.tensor([flat]).double())


def test_columns_are_scaled_each_for_itself_and_named(table: Table) -> None:
    spec = table.spec
    assert spec.scale == pytest.approx(table.split("train").all().double().std(0, correction=0).tolist())
    assert (spec.mean, spec.std) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    assert spec.class_names == ("calm", "storm", "outage")
    assert Table.shape_of({"columns": ["a", "b"]}) == (2,)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"columns": ["a"]}, "columns=['a']; allowed: 2"), ({"columns": ["a", "a"]}, "different"),
     ({"kinds": ["one"]}, "kinds=['one']; allowed: 3")],
)  # fmt: skip
def test_names_that_do_not_fit_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match="allowed") as error:
        Table(**{"means": [[0, 0], [1, 1], [2, 2]], "columns": ["a", "b"], **change})
    assert word in one_line(error)
