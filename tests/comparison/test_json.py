import json

import jsonschema
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.comparison.json import SCHEMA_VERSION, dumps, schema, to_json


def regression(X, y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    numpyro.deterministic("variance", sigma**2)
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def funnel(y):
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("unit", len(y)):
        theta = numpyro.sample("theta", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Normal(theta, 10.0), obs=y)


def wide(y):
    with numpyro.plate("unit", len(y)):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)
    numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))


def check(result):
    jsonschema.validate(result, schema(), cls=jsonschema.Draft202012Validator)


@pytest.fixture(scope="module")
def comparison():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    model = vr.Model(
        function=regression,
        name="regression",
        dims={"beta": ("covariate",)},
        coords={"covariate": ["age", "dose"]},
    )
    target = vr.Target(model, X=X, y=X @ [1.0, -1.0] + rng.normal(size=40))
    nuts = vr.NUTS(num_warmup=100, num_samples=100, num_chains=2)
    return vr.compare(target, [vr.MAP(), vr.Laplace(), nuts], key=7)


@pytest.fixture(scope="module")
def result(comparison):
    return json.loads(dumps(comparison), parse_constant=lambda name: pytest.fail(name))


def test_schema_is_itself_valid_and_names_every_status():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert schema()["$defs"]["status"]["enum"] == [s.name.lower() for s in vr.Status]


@pytest.mark.slow
def test_result_matches_the_schema_and_the_comparison(result, comparison):
    check(result)
    assert result == to_json(comparison)
    assert result["model"] == "regression"
    assert result["seed"] == 7
    assert result["reference"] == "nuts"
    assert {"numpyro", "jax", "vi_recipes"} <= set(result["versions"])
    assert result["data_fingerprint"]
    assert list(result["methods"]) == ["map", "laplace", "nuts"]


@pytest.mark.slow
def test_labels_are_zero_based_beside_the_coordinates(result):
    method = result["methods"]["laplace"]
    assert method["parameters"] == ["beta[0]", "beta[1]", "sigma", "variance"]
    assert method["labels"] == ["beta[age]", "beta[dose]", "sigma", "variance"]


def test_numbers_are_the_fits(result, comparison):
    fit, method = comparison["laplace"], result["methods"]["laplace"]
    assert method["status"] == "ok"
    np.testing.assert_array_equal(method["mean"], fit.flat(fit.mean()))
    np.testing.assert_array_equal(method["sd"], fit.flat(fit.sd()))
    np.testing.assert_array_equal(method["cov"], fit.cov())
    assert method["log_evidence"]["value"] == fit.log_evidence.value
    timing = method["timing"]
    assert timing["total_seconds"] == pytest.approx(
        timing["compile_seconds"] + timing["run_seconds"]
    )
    assert result["methods"]["nuts"]["timing"]["gradient_evaluations"] > 400
    assert result["methods"]["nuts"]["options"]["num_chains"] == 2


def test_a_point_has_no_spread(result):
    method = result["methods"]["map"]
    assert len(method["mean"]) == 4
    assert (method["sd"], method["cov"], method["mcse_sd"]) == (None, None, None)


def test_accuracy_is_in_the_order_of_the_parameters(result, comparison):
    accuracy = result["accuracy"]
    assert list(accuracy) == ["map", "laplace"]
    assert accuracy["laplace"]["parameters"] == result["methods"]["laplace"]["parameters"]
    table = comparison.accuracy().xs("laplace", level=1)
    np.testing.assert_array_equal(accuracy["laplace"]["difference"], table["difference"])
    assert accuracy["map"]["sd_ratio"] == [None] * 4


def test_a_failed_method_has_no_numbers():
    target = vr.Target(funnel, y=np.array([28.0, 8.0, -3.0]))
    result = to_json(vr.compare(target, [vr.MAP()]))
    check(result)
    method = result["methods"]["map"]
    assert method["status"] == "degenerate"
    assert "tau" in method["message"]
    assert method["advice"]
    numbers = ("mean", "sd", "cov", "mcse_mean", "log_evidence", "log_likelihood")
    assert all(method[key] is None for key in numbers)
    assert method["parameters"][0] in ("tau", "theta[0]")
    assert result["reference"] is None
    assert result["accuracy"] is None


@pytest.mark.slow
def test_beyond_200_scalars_covariances_come_by_site():
    target = vr.Target(wide, y=np.zeros(201))
    result = to_json(vr.compare(target, [vr.Laplace()]))
    check(result)
    method = result["methods"]["laplace"]
    assert method["cov"] is None
    assert list(method["cov_blocks"]) == ["mu"]
    np.testing.assert_allclose(method["cov_blocks"]["mu"], np.eye(2), atol=1e-8)


def test_an_outside_reference_is_among_the_methods():
    target = vr.Target(wide, y=np.zeros(3))
    answers = {"source": "by hand", "parameters": {"mu[0]": {"mean": 0.0, "sd": 1.0}}}
    reference = vr.load_reference(answers, target)
    result = to_json(vr.compare(target, [vr.Laplace()], reference=reference))
    check(result)
    assert result["reference"] == "reference"
    assert result["methods"]["reference"]["mean"].count(None) == 4
    assert result["accuracy"]["laplace"]["difference"].count(None) == 4
