"""A linear regression on columns x and y of the store. Put your own model here."""

import pymc as pm

import dvi


def build(data, batch_size=8192):
    x, y = dvi.Minibatch(data["x"], data["y"], batch_size=min(batch_size, data.sizes["row"]))
    with pm.Model() as model:
        intercept = pm.Normal("intercept", 0, 10)
        slope = pm.Normal("slope", 0, 10)
        sigma = pm.HalfNormal("sigma", 1)
        pm.Normal("y", intercept + slope * x, sigma, observed=y)
    return model
