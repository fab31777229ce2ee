"""Write ``references.json``: long runs of NUTS, and the best independent normals by deterministic ADVI.

Run ``python -m tests.statistical.make_references`` when a model of ``posteriors.py`` changes: a quarter of an hour.
"""

from __future__ import annotations

import json
from typing import Any

import arviz as az
import numpy as np
import pymc as pm

import dvi
from tests.statistical.posteriors import POSTERIORS, REFERENCES

CHAINS, TUNE = 4, 500
DRAWS = {"logistic": 1200, "poisson": 1500, "hierarchical": 2000}  # of each chain, which gives 2,500 effective ones


def reference(name: str) -> dict[str, Any]:
    """Means and standard deviations of the unconstrained dimensions, rounded to what is known of them."""
    with POSTERIORS[name](None) as model:
        pairs = 20 + dvi.MeanField(model=model).ndim
        best = dvi.fit(100, method="dadvi", random_seed=1, obj_n_mc=2 * pairs, progressbar=False)
        drawn = pm.sample(
            DRAWS[name], tune=TUNE, chains=CHAINS, cores=1, random_seed=1, progressbar=False,
            idata_kwargs={"include_transformed": True},
        )  # fmt: skip
    free = [model.rvs_to_values[variable].name for variable in model.free_RVs]
    posterior = dict(drawn.posterior.data_vars) | dict(drawn.get("unconstrained_posterior", {}))
    values = np.concatenate([np.asarray(posterior[v]).reshape(CHAINS * DRAWS[name], -1) for v in free], axis=1)
    sizes = az.ess(drawn.posterior, var_names=[v.name for v in model.free_RVs])
    found = {
        "least_ess": int(min(float(sizes[v].min()) for v in sizes.data_vars)),
        "divergences": int(drawn.sample_stats["diverging"].sum()),
        "names": list(best.layout.names()),
        "mean": values.mean(axis=0),
        "sd": values.std(axis=0),
        "independent_mean": best.mean.eval(),
        "independent_sd": best.std.eval(),
    }
    return {key: [float(f"{x:.6g}") for x in v] if isinstance(v, np.ndarray) else v for key, v in found.items()}


if __name__ == "__main__":
    REFERENCES.write_text(json.dumps({name: reference(name) for name in POSTERIORS}, indent=1) + "\n")
