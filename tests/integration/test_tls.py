"""A cluster whose processes speak TLS, with a certificate made for the test."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytest
from distributed import Client, LocalCluster, Security

import dvi


def test_a_fit_over_tls_has_the_same_bits() -> None:
    pytest.importorskip("cryptography", reason="cryptography makes the certificate")
    y = np.random.default_rng(0).normal(1.0, 2.0, 60_000)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sd"), observed=dvi.Minibatch(y, batch_size=8192))
    security = Security.temporary()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, security=security, dashboard_address=":0") as cluster,
        Client(cluster, security=security) as client,
    ):
        assert all(address.startswith("tls://") for address in [cluster.scheduler_address, *client.nthreads()])
        with pytest.raises(OSError, match="closed"), Client(cluster.scheduler_address.replace("tls", "tcp")):
            pass
        found = dvi.fit(300, model=model, random_seed=7, client=client, progressbar=False)
    expected = dvi.fit(300, model=model, random_seed=7, threads=1, progressbar=False)
    assert found.theta.tobytes() == expected.theta.tobytes()
    assert found.hist.tobytes() == expected.hist.tobytes()
