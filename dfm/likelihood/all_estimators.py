"""``likelihood=all``: all estimators side by side."""

from dataclasses import dataclass

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.dequantization import (
    Dequantization,
    ImportanceDequantization,
    TruncatedNormalDequantization,
    UniformDequantization,
)
from dfm.likelihood.estimator import Entry, Estimators
from dfm.likelihood.evidence_bound import EvidenceBound
from dfm.likelihood.ode import OdeLikelihood


@dataclass(frozen=True, kw_only=True)
class AllEstimators(Estimators):
    """Every estimator for one checkpoint. The first entry is the main result in ``nll.json``.

    Args:
        ode, ode_exact, bound_sde, bound_discrete: the estimators.
        samples: the number of draws of importance dequantisation.
    """

    ode: OdeLikelihood
    ode_exact: OdeLikelihood
    bound_sde: EvidenceBound
    bound_discrete: EvidenceBound
    samples: int = 16

    def entries(self, spec: DatasetSpec, own: Dequantization, choice: Dequantization | None) -> list[Entry]:
        if choice is not None:
            raise UserError(
                "dequantization= beside likelihood=all, which tries every dequantization; allowed: one of the two"
            )
        ode, ode_exact = self.ode, self.ode_exact
        first = Entry(name="ode", likelihood=ode, dequantization=own)
        exact = Entry(name="ode_exact", likelihood=ode_exact, dequantization=own, audit_only=True)
        bound = Entry(name="bound_sde", likelihood=self.bound_sde, dequantization=own)
        if spec.levels is None:
            return [first, exact, bound]
        other = UniformDequantization() if own.centred else TruncatedNormalDequantization()
        weighted = ImportanceDequantization(samples=self.samples, noise=own)
        return [
            first,
            Entry(name="ode", likelihood=ode, dequantization=other),
            Entry(name="ode", likelihood=ode, dequantization=weighted, audit_only=True),
            exact,
            bound,
            Entry(name="bound_discrete", likelihood=self.bound_discrete, dequantization=own),
        ]
