"""Calibration of samplers that are exact, wrong on purpose, or only sometimes there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, override

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.calibration.figures import MAX_PANELS, select
from vi_recipes.calibration.ranks import LOG_LIKELIHOOD, Outcome, choose, simulate_and_rank
from vi_recipes.calibration.simulate import PriorPredictive
from vi_recipes.cli.commands import app
from vi_recipes.core.progress import Progress, silent
from vi_recipes.core.status import CheckpointError, MethodFailure, Status
from vi_recipes.core.timing import Timing
from vi_recipes.methods.base import Method, Result
from vi_recipes.posterior.draws import DrawsPosterior

PRIOR_MEAN, PRIOR_SD, NOISE, ROWS = 1.0, 2.0, 1.5, 4


def normal(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(PRIOR_MEAN, PRIOR_SD))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, NOISE), obs=y)


MODEL = vr.Model(function=normal, name="normal", data=lambda: {"y": np.arange(1.0, 1.0 + ROWS)})


def posterior(y: np.ndarray) -> tuple[float, float]:
    """Return the exact posterior mean and sd."""
    precision = PRIOR_SD**-2 + len(y) * NOISE**-2
    return (PRIOR_MEAN * PRIOR_SD**-2 + y.sum() * NOISE**-2) / precision, precision**-0.5


@dataclass(frozen=True, kw_only=True)
class Sampler(Method):
    """Draws from the exact posterior, or from one that is wrong in a known way."""

    summary: ClassVar[str] = "the conjugate posterior"

    scale: float = 1.0
    offset: float = 0.0
    prior: bool = False
    fails_below: float = -np.inf

    @property
    @override
    def name(self) -> str:
        return "exact"

    @override
    def _fit(self, target: vr.Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        mean, sd = (PRIOR_MEAN, PRIOR_SD) if self.prior else posterior(target.data["y"])
        if mean < self.fails_below:
            raise MethodFailure(Status.DIVERGED, "it lost its way", "take another")
        noise = np.asarray(jax.random.normal(key, (1, 4_000)))
        draws = mean + sd * (self.offset + self.scale * noise)
        return Result(DrawsPosterior({"mu": draws}, independent=True))


@dataclass(frozen=True, kw_only=True)
class Corrected(Sampler):
    """Stands for a method that corrects another."""

    base: Sampler = Sampler()


def verdicts(calibration: vr.Calibration) -> dict[str, str]:
    return {j.label: j.verdict for j in calibration.judgements}


# -- samplers that are right, and wrong ------------------------------------------------------------


@pytest.fixture(scope="module")
def exact() -> vr.Calibration:
    return vr.calibrate(MODEL, Sampler(), num_simulations=150, num_draws=99, key=2)


def test_an_exact_sampler_is_calibrated(exact: vr.Calibration) -> None:
    assert exact.labels == ("mu", LOG_LIKELIHOOD)
    assert exact.ranks.shape == (150, 2)
    assert exact.calibrated
    assert verdicts(exact) == {"mu": "uniform", LOG_LIKELIHOOD: "uniform"}
    assert exact.verdict.startswith("No miscalibration seen in 150 simulations: 0 of 2 quantities")
    assert not exact.failures
    assert not exact.warnings
    assert not exact.interrupted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        ({"scale": 0.8}, "too narrow"),
        ({"scale": 1.3}, "too wide"),
        ({"offset": 0.5}, "too high"),
        ({"offset": -0.5}, "too low"),
    ],
    ids=str,
)
def test_a_wrong_sampler_is_found_and_what_is_wrong_with_it(
    wrong: dict[str, Any], verdict: str
) -> None:
    # 400 for a spread that is 20 % off
    num_simulations = 400 if "scale" in wrong else 150
    found = vr.calibrate(MODEL, Sampler(**wrong), num_simulations=num_simulations, key=2)
    assert verdicts(found)["mu"] == verdict
    assert found.calibrated is False
    assert found.verdict.startswith("Not calibrated")
    assert verdict in found.verdict.lower()


def test_the_likelihood_finds_out_a_posterior_that_ignores_the_data() -> None:
    found = vr.calibrate(MODEL, Sampler(prior=True), num_simulations=150, key=3)
    assert verdicts(found)["mu"] == "uniform"
    assert verdicts(found)[LOG_LIKELIHOOD] != "uniform"
    assert found.calibrated is False


@dataclass(frozen=True, kw_only=True)
class Chain(Method):
    """A chain of draws of the prior, with another sd."""

    summary: ClassVar[str] = "a chain that has not seen the data"

    scale: float

    @override
    def _fit(self, target: vr.Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        draws = PRIOR_MEAN + self.scale * jax.random.normal(key, (400,))
        values = target.complete({"mu": draws})
        samples = {name: np.asarray(value)[None] for name, value in values.items()}
        return Result(DrawsPosterior(samples), sample_stats={"diverging": np.zeros((1, 400), bool)})


def root(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(PRIOR_MEAN, PRIOR_SD))
    numpyro.deterministic("root", (mu + 20.0) ** 0.5)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, NOISE), obs=y)


@pytest.mark.parametrize(
    ("scale", "reason"),
    [(0.0, "the draws of mu are all the same"), (40.0, "draws of root are NaN")],
)
def test_draws_without_ranks_are_counted(scale: float, reason: str) -> None:
    """As those of a sampler that has got stuck at some data."""
    model = vr.Model(function=root, name="root", data=MODEL.data)
    found = vr.calibrate(model, Chain(scale=scale), num_simulations=np.int64(2))
    assert set(found.failures.values()) == {reason}


@pytest.mark.slow
def test_ranks_of_nuts_are_those_of_the_exact_posterior() -> None:
    predictive = PriorPredictive(vr.Target(MODEL))
    method = vr.NUTS(num_warmup=200, num_samples=300, num_chains=1)
    num_draws = 99
    chosen = choose(predictive, None)
    with_truth = []
    for k in range(4):
        key = jax.random.fold_in(jax.random.key(4), k)
        outcome = simulate_and_rank(predictive, method, chosen, num_draws, key, silent)
        drawn = predictive.draw(jax.random.split(key, 4)[0])
        mean, sd = posterior(drawn.target.data["y"])
        assert outcome.ranks is not None
        assert outcome.ess >= num_draws
        with_truth.append((outcome.ranks[0], stats.norm.cdf(drawn.truth["mu"], mean, sd)))
    ranks, p = np.array(with_truth).T
    z = (ranks - num_draws * p) / np.sqrt(num_draws * p * (1 - p))
    assert np.abs(z).max() < 4
    assert np.abs(z).max() > 1e-3


def line(x: jax.Array, y: jax.Array) -> None:
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)


@pytest.mark.slow
def test_mean_field_is_too_narrow_where_covariates_are_collinear() -> None:
    x = np.array([9.0, 10.0, 11.0, 10.5])
    target = vr.Target(line, x=x, y=np.arange(4.0))
    X = np.column_stack([np.ones(4), x])
    precision = np.diag([1 / 25, 1.0]) + X.T @ X
    cov = np.linalg.inv(precision)
    rho = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])
    fit = vr.MeanField().fit(target, key=0)
    # mean field's sd is sqrt(1 - rho^2) times the truth's
    assert fit.sd()["b"] / np.sqrt(cov[1, 1]) == pytest.approx(np.sqrt(1 - rho**2), rel=1e-5)
    assert np.sqrt(1 - rho**2) < 0.25
    found = vr.calibrate(target, vr.MeanField(), num_simulations=10, key=0)
    assert "too narrow" in verdicts(found)["a"]
    assert "too narrow" in verdicts(found)["b"]
    assert found.calibrated is False
    assert "10 simulations show gross errors only" in found.warnings[-1]


# -- fits that fail, runs that stop ----------------------------------------------------------------


def test_fits_without_a_result_are_counted_and_the_verdict_is_conditional() -> None:
    found = vr.calibrate(MODEL, Sampler(fails_below=0.0), num_simulations=120, key=5)
    share = stats.norm.cdf(
        0.0, PRIOR_MEAN, np.sqrt(PRIOR_SD**2 - posterior(np.zeros(ROWS))[1] ** 2)
    )
    assert len(found.failures) == pytest.approx(120 * share, abs=4 * np.sqrt(120 * share))
    assert len(found.failures) + len(found.ranks) == 120
    assert all("it lost its way" in reason for reason in found.failures.values())
    assert f"{len(found.failures)} of 120 fits have no result" in found.warnings[0]
    nothing = vr.calibrate(MODEL, Sampler(fails_below=np.inf), num_simulations=3, key=5)
    assert nothing.calibrated is None
    assert nothing.verdict == "Unknown: none of 3 fits has a result."


def stopping_after(number: int):
    """Return a progress that raises an interrupt, as Ctrl-C does."""

    @contextmanager
    def progress(title: str) -> Iterator[Progress]:
        def report(done: int, total: int, text: str = "") -> None:
            if done == number:
                raise KeyboardInterrupt

        yield report

    return progress


def test_an_interrupted_calibration_goes_on_where_it_was(
    tmp_path: Path, exact: vr.Calibration
) -> None:
    def run(method: Method = Sampler(), **options: Any) -> vr.Calibration:
        given = {"num_simulations": 9, "key": 2, "path": tmp_path, **options}
        return vr.calibrate(MODEL, method, **given)

    part = run(progress=stopping_after(5))
    assert part.interrupted
    assert sorted(part.outcomes) == [0, 1, 2, 3, 4]
    assert "5 of 9 simulations were done" in part.warnings[0]
    whole = run()
    assert not whole.interrupted
    # the same whether it was stopped, and however many there are
    np.testing.assert_array_equal(whole.ranks, exact.ranks[:9])
    np.testing.assert_array_equal(run(num_simulations=4).ranks, exact.ranks[:4])

    for other, what in (
        ({"key": 1}, "seed"),
        ({"num_draws": 50}, "number of draws"),
    ):
        with pytest.raises(CheckpointError, match=f"something else: its {what} is .*folder"):
            run(**other)
    with pytest.raises(CheckpointError, match=r"its method is .*'scale': 1.0.*'scale': 0.5"):
        run(Sampler(scale=0.5))
    assert run(Corrected(), path=tmp_path / "other").outcomes
    with pytest.raises(CheckpointError, match=r"its method is .*'scale': 1.0.*'scale': 2.0"):
        run(Corrected(base=Sampler(scale=2.0)), path=tmp_path / "other")
    longer = vr.Target(MODEL, y=np.zeros(9) + np.arange(9.0))
    with pytest.raises(CheckpointError, match="its first data simulated is"):
        vr.calibrate(longer, Sampler(), num_simulations=9, key=2, path=tmp_path)
    (tmp_path / "calibration.npz").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="no file of simulations that can be read"):
        run()
    with pytest.raises(CheckpointError, match="no folder that can be written to"):
        run(path=tmp_path / "calibration.npz")


@pytest.mark.slow
def test_workers_find_what_one_finds(exact: vr.Calibration) -> None:
    found = vr.calibrate(MODEL, Sampler(), num_simulations=6, key=2, executor=2)
    np.testing.assert_array_equal(found.ranks, exact.ranks[:6])
    assert found.labels == exact.labels


def test_workers_begin_while_what_they_do_is_made_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Noted(ThreadPoolExecutor):
        @override
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            happened.append("handed out")
            return super().submit(*args, **kwargs)

    def noted(*args: Any) -> Any:
        happened.append("made ready")
        return draw(*args)

    draw = PriorPredictive.draw
    monkeypatch.setattr(PriorPredictive, "draw", noted)
    with Noted(1) as pool:
        for number, begins in ((2, True), (2, False), (3, False)):  # no cell, and one, to do
            happened.clear()
            options = {"num_simulations": number, "path": tmp_path, "executor": pool}
            assert len(vr.calibrate(MODEL, Sampler(), **options).outcomes) == number
            assert (happened[0] == "handed out") == begins


def test_a_model_that_no_other_process_finds_has_one_worker() -> None:
    def local(y: jax.Array) -> None:
        normal(y)

    with pytest.raises(ValueError, match=r"executor: model 'local'.*leave executor out"):
        vr.calibrate(vr.Target(local, y=np.arange(4.0)), Sampler(), num_simulations=2, executor=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": 0}, "num_simulations: got 0, expected a positive integer"),
        ({"num_draws": 0}, "num_draws: got 0"),
        ({"num_draws": 1}, "num_draws: got 1, expected an integer of 2 or more"),
        ({"executor": -1}, "executor: got -1, expected a concurrent.futures.Executor"),
        ({"quantities": ["nu"]}, "quantities: got nu, expected sites of model 'normal': mu"),
        ({"quantities": []}, "quantities: got none, expected some of mu"),
        ({"method": "nuts"}, "method: got 'str', expected a method"),
        ({"method": vr.MAP()}, "method 'map' gives a point for mu"),
        ({"method": vr.CAVI()}, "method 'cavi' does not apply"),
    ],
    ids=str,
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    method = options.pop("method", Sampler())
    with pytest.raises(ValueError, match=message):
        vr.calibrate(MODEL, method, **{"num_simulations": 2, **options})


# -- reports ---------------------------------------------------------------------------------------


def test_a_report_has_tables_figures_and_strict_json(exact: vr.Calibration, tmp_path: Path) -> None:
    exact.report(tmp_path)
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    figures = {f"figures/{n}.svg" for n in ("ecdf", "ranks", "symmetry")}
    tables = {"tables/quantities.csv", "tables/quantities.tex"}
    assert names == {"report.html", "report.md", "result.json", *figures, *tables}
    text = (tmp_path / "report.md").read_text()
    for words in (
        exact.verdict[:40],
        "| log likelihood | uniform |",
        "figures/ecdf.svg",
        "| scale",
    ):
        assert words in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    result = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert result["calibrated"] is True
    assert [result["ranks"][str(k)][0] for k in range(150)] == exact.ranks[:, 0].tolist()
    assert list(exact.table()["quantity"]) == ["mu", LOG_LIKELIHOOD]


def test_the_worst_of_many_quantities_are_drawn() -> None:
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 20, (50, 30))
    ranks[:, 7] = 0
    labels = tuple(f"u[{i}]" for i in range(29))
    many = vr.Calibration(
        model="toy", method="toy", config={}, num_simulations=50, num_draws=19,
        labels=(*labels, LOG_LIKELIHOOD), outcomes={k: Outcome(r) for k, r in enumerate(ranks)},
    )  # fmt: skip
    shown = select(many)
    assert len(shown) == MAX_PANELS
    assert 7 in shown
    assert 29 in shown
    assert [j.label for j in many.judgements if j.holm < 0.05] == ["u[7]"]
    assert "where 1.5 would by chance" in many.verdict


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("coin.py").write_text(
        "import numpyro, numpyro.distributions as dist\n\n"
        "def coin(y):\n"
        "    mu = numpyro.sample('mu', dist.Normal(0.0, 1.0))\n"
        "    with numpyro.plate('row', len(y)):\n"
        "        numpyro.sample('y', dist.Normal(mu, 1.0), obs=y)\n"
    )
    Path("coin.json").write_text('{"y": [0.5, 1.0, -2.0]}')

    def run(*words: str) -> Any:
        given = ["calibrate", "coin.py", "--data", "coin.json", "--method", *words]
        return CliRunner().invoke(app, given, prog_name="vi-recipes")

    done = run("laplace", "--simulations", "3", "--draws", "19", "--json", "out.json")
    assert done.exit_code == 0, done.output
    for words in ("3 of 3 simulations", "| mu", "Verdict", "coin-laplace-calibration/report.html"):
        assert words in done.stdout
    assert len(json.loads(Path("out.json").read_text())["ranks"]) == 3
    first = Path("coin-laplace-calibration/calibration.npz")
    assert first.exists()
    more = run("laplace", "--simulations", "4", "--draws", "19", "--json", "-")
    assert more.exit_code == 0, more.output
    assert list(json.loads(more.stdout)["ranks"]) == ["0", "1", "2", "3"]

    # what cannot be written is said once all is printed
    Path("coin-laplace-calibration/report.md").unlink()
    Path("coin-laplace-calibration/report.md").mkdir()
    words = ("laplace", "--simulations", "4", "--draws", "19")
    if Path("/dev/full").exists():
        words += ("--json", "/dev/full")
    lost = run(*words)
    assert lost.exit_code == 2
    assert "4 of 4 simulations" in lost.stdout
    assert "the report cannot be written (coin-laplace-calibration/report.md: Is a directory)" in (
        lost.stderr
    )
    assert ("--json: cannot write /dev/full (No space" in lost.stderr) == (len(words) > 5)
    Path("coin-laplace-calibration/report.md").rmdir()

    for words, message in (
        (("laplace", "--seed", "7", "--draws", "19"), "its seed is"),
        (("map", "--no-report", "--simulations", "1"), "gives a point for mu"),
        (("laplace,map",), "--method: got 'laplace,map', expected one"),
        (("laplaze",), "laplace"),
        (("laplace", "--simulations", "0"), "--simulations"),
        (("laplace", "--quantities", "nu", "--no-report"), "quantities: got nu"),
        (("laplace", "--set", "laplace.nothing=1"), "nothing"),
    ):
        refused = run(*words)
        assert refused.exit_code == 2, (words, refused.output)
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
