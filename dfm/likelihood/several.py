"""All estimators side by side."""

from collections.abc import Iterator
from dataclasses import dataclass

from dfm.datasets.base import DatasetSpec
from dfm.dequantization import Dequantization, Importance, TruncatedNormal, Uniform
from dfm.likelihood.base import Likelihood
from dfm.likelihood.evidence import EvidenceBound
from dfm.likelihood.ode import OdeLikelihood


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the comparison.

    Args:
        name: of the estimator.
        audited_only: too dear for all examples; the audit's subset is scored.
    """

    name: str
    likelihood: Likelihood
    dequantization: Dequantization
    audited_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Several:
    """Every estimator for one checkpoint; the first entry is the figure that stands in ``nll.json`` by itself."""

    ode: OdeLikelihood
    ode_exact: OdeLikelihood
    bound_sde: EvidenceBound
    bound_discrete: EvidenceBound
    samples: int = 16

    def entries(self, spec: DatasetSpec, own: Dequantization) -> Iterator[Entry]:
        """Those that suit the data; ``own`` is the dequantisation of the model's training."""
        yield Entry(name="ode", likelihood=self.ode, dequantization=own)
        if spec.levels is not None:
            other = Uniform() if isinstance(own, TruncatedNormal) else TruncatedNormal()
            yield Entry(name="ode", likelihood=self.ode, dequantization=other)
            weighted = Importance(samples=self.samples, noise=own)
            yield Entry(name="ode", likelihood=self.ode, dequantization=weighted, audited_only=True)
        yield Entry(name="ode_exact", likelihood=self.ode_exact, dequantization=own, audited_only=True)
        yield Entry(name="bound_sde", likelihood=self.bound_sde, dequantization=own)
        if spec.levels is not None:
            yield Entry(name="bound_discrete", likelihood=self.bound_discrete, dequantization=own)
