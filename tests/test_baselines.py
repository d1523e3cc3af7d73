"Baselines with a spread: what they promise, on processes whose answer is known"

import numpy as np
import pandas as pd
import pytest
import torch
from seqvae import cli
from seqvae.baselines import (
    LinearPrediction,
    VIEWS,
    PerUnit,
    PooledRidge,
    SeasonalNaive,
    ar,
    bounded,
    fill_between,
    fill_causal,
    persistence,
    trend,
    usual_baselines,
    _Windows,
    whole_paths,
)
from seqvae.cli import held_cuts, hold_out, judge
from seqvae.data import SeriesSet
from seqvae.dvae import DVAE
from seqvae.train import evaluate, score


def random_walks(units, steps, seed, channels=1):
    noise = np.random.default_rng(seed).standard_normal((units, steps, channels))
    return noise.cumsum(1).astype(np.float32)


def autoregressions(units, steps, seed, coefficient=0.8):
    noise = np.random.default_rng(seed).standard_normal((units, steps + 50, 1))
    x = np.zeros_like(noise)
    for t in range(1, steps + 50):
        x[:, t] = coefficient * x[:, t - 1] + noise[:, t]
    return x[:, 50:].astype(np.float32)


def coverage(samples, truth, level=0.9):
    low, high = (samples.quantile(q, 0) for q in ((1 - level) / 2, (1 + level) / 2))
    return ((truth >= low) & (truth <= high)).float().mean((0, 2))


def last(series, horizon):
    return torch.from_numpy(np.stack([x[-horizon:] for x in series]))


def makers(order=2):
    return {
        "persistence": lambda x, h, **kw: PerUnit(persistence, x, h, **kw),
        "trend": lambda x, h, **kw: PerUnit(trend, x, h, **kw),
        "ar": lambda x, h, **kw: PerUnit(ar, x, h, order=order, **kw),
        "seasonal": SeasonalNaive,
        "ridge": lambda x, h, **kw: PooledRidge(x, h, **kw),
    }


@pytest.mark.parametrize("name", makers())
@pytest.mark.parametrize("process", [random_walks, autoregressions])
def test_spread_covers_at_every_step(name, process):
    train, test = process(600, 60, 0), process(600, 60, 1)
    baseline = makers()[name](train, 20, since=1, n_paths=600)
    inside = coverage(baseline.hindcast(test, 200), last(test, 20))
    assert inside.sub(0.9).abs().max() < 0.06, inside
    assert abs(inside.mean() - 0.9) < 0.03


def test_spread_of_a_random_walk_grows_like_it():
    train, test = random_walks(300, 60, 0), random_walks(200, 60, 1)
    for make in (makers()["persistence"], makers()["ridge"]):
        std = make(train, 20, since=1).hindcast(test, 300).std(0).mean((0, 2))
        assert torch.allclose(std, torch.arange(1.0, 21).sqrt(), rtol=0.12)


@pytest.mark.parametrize("own", [False, True])
def test_paths_hang_together_over_steps_and_channels(own):
    "Two channels that move alike: a path that mixed steps or channels would lose it"
    walk = random_walks(40, 240, 0)
    train = np.concatenate([walk, walk], 2)
    paths = PerUnit(persistence, train, 10, own=own).hindcast(train[:5], 400)
    assert torch.equal(paths[..., 0] - paths[..., 1], torch.zeros_like(paths[..., 0]))
    step = paths[:, :, 9, 0] - paths[:, :, 8, 0]
    assert step.std(0).mean() < 1.3  # of independent draws it would be over 4


def test_own_errors_know_the_unit():
    "Two kinds of units; only a unit's own past says how wide its band should be"
    train = random_walks(60, 200, 0)
    train[::2] *= 20
    test = random_walks(60, 200, 1)
    test[::2] *= 20
    truth = last(test, 10)
    own = PerUnit(persistence, train, 10, own=True).hindcast(test)
    pooled = PerUnit(persistence, train, 10).hindcast(test)
    assert coverage(pooled[:, 1::2], truth[1::2]).mean() > 0.99
    assert abs(coverage(own[:, 1::2], truth[1::2]).mean() - 0.9) < 0.06
    short = own_of_short = PerUnit(persistence, train, 10, own=True).forecast(test[:2, :12])
    assert torch.equal(short, PerUnit(persistence, train, 10).forecast(test[:2, :12]))
    assert own_of_short.shape == (100, 2, 10, 1)


@pytest.mark.parametrize("view", [*VIEWS, None])
def test_ridge_recovers_a_linear_map(view):
    "Two channels that turn into each other: the next steps are linear in the last two"
    rng = np.random.default_rng(0)
    time, phase = np.arange(80), rng.uniform(0, 6, (60, 1))
    size = rng.uniform(0.5, 2, (60, 1))
    x = np.stack([size * np.cos(0.3 * time + phase), size * np.sin(0.3 * time + phase)], 2)
    x = (7 + 3 * x).astype(np.float32)
    ridge = PooledRidge(x[:50], 12, lags=8, penalty=1e-7, view=view)
    close = (ridge.hindcast(x[50:]).mean(0) - last(x[50:], 12)).abs().max()
    assert close < (0.3 if view == "window" else 0.01)


def test_ridge_is_the_textbook_solution():
    "One lag, one step: slope and intercept of the ridge on centred values"
    x = autoregressions(30, 40, 0)
    ridge = PooledRidge(x, 1, lags=1, penalty=0.5, view="level")
    z = (x - ridge.loc) / ridge.scale
    places = ridge_places(30, 40, 1, ridge.since)
    before = np.array([z[i, t - 1, 0] for i, t in places])
    after = np.array([z[i, t, 0] for i, t in places])
    centred = before - before.mean()
    slope = (centred @ (after - after.mean())) / (centred @ centred + 0.5 * len(before))
    assert ridge.weights[0, 0] == pytest.approx(slope, rel=1e-4)
    assert ridge.weights[1, 0] == pytest.approx(after.mean() - slope * before.mean(), abs=1e-4)


def ridge_places(units, steps, horizon, since):
    return [(i, t) for i in range(units) for t in range(1, steps - horizon + 1)]


def test_errors_of_the_ridge_are_of_units_it_has_not_seen():
    "Pure noise and more coefficients than windows: errors on the units it learned from would be tiny"
    noise = np.random.default_rng(0).standard_normal((40, 30, 2)).astype(np.float32)
    few = PooledRidge(noise[:16], 5, lags=24, penalty=1e-5, view="level", since=1, n_paths=16)
    assert few.errors.std() > 0.9
    ridge = PooledRidge(noise, 5, lags=20, penalty=1e-5, view="level", since=1)
    assert ridge.errors.std() > 0.9
    test = np.random.default_rng(1).standard_normal((200, 30, 2)).astype(np.float32)
    assert 0.8 < coverage(ridge.hindcast(test), last(test, 5)).mean() < 0.97


def test_a_single_series_is_held_out_in_stretches():
    x = autoregressions(1, 700, 0)
    ridge = PooledRidge(x[:, :400], 10)
    later = [x[0, : 420 + 7 * i] for i in range(40)]
    truth = torch.from_numpy(np.stack([o[-10:] for o in later]))
    assert abs(coverage(ridge.hindcast(later), truth).mean() - 0.9) < 0.1
    places = ridge_places(1, 400, 10, 0.5)
    places = np.array(places)
    for fold in range(5):
        held = places[ridge._folds(places) == fold, 1]
        learned = places[~ridge._touching(places, fold), 1]
        assert len(held) and len(learned)
        gap = np.abs(held[:, None] - learned).min()
        assert gap >= 10  # no step is forecast by a map that learned to hit it


def test_ridge_chooses_what_the_process_needs():
    assert PooledRidge(random_walks(100, 80, 0, 2) + 50, 10).view in ("level", "last")
    season = np.sin(2 * np.pi * np.arange(120) / 24)[None, :, None]
    start = np.random.default_rng(0).integers(0, 24, 80)
    x = np.stack([np.roll(season[0], -s, 0) for s in start])
    x = x + 0.3 * np.random.default_rng(1).standard_normal(x.shape)
    ridge = PooledRidge(x, 24)
    assert ridge.lags >= 24
    assert ridge.chosen_on[ridge.view, ridge.lags, float(f"{ridge.penalty:.3g}")] == min(
        v for (view, lags, _), v in ridge.chosen_on.items() if (view, lags) == (ridge.view, ridge.lags)
    )


def test_seasonal_naive_finds_the_period_and_repeats_it():
    rng = np.random.default_rng(0)
    shape = rng.standard_normal((12, 2))
    start = rng.integers(0, 12, 20)
    x = np.stack([np.resize(np.roll(shape, -s, 0), (100, 2)) for s in start])
    x = x + 0.1 * rng.standard_normal(x.shape)
    seasonal = SeasonalNaive(x[:15], 30)
    assert seasonal.period == 12
    point = seasonal.point([np.arange(40.0)[:, None] * [1, 1]])[0, :, 0]
    assert np.array_equal(point[:14], [*range(28, 40), 28, 29])
    assert score(seasonal.hindcast(x[15:]), last(x[15:], 30))["rmse"] < 0.2
    assert SeasonalNaive(x, 30, period=5).period == 5
    assert SeasonalNaive(random_walks(50, 60, 0), 10).period == 1
    short = SeasonalNaive(x, 5, period=12).point([np.array([[1.0, 2], [3, 4]])])[0]
    assert np.array_equal(short, np.repeat([[3, 4]], 5, 0))  # nothing is 12 steps ago


def with_holes(x, share, seed=0):
    x = x.copy()
    x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    return x


@pytest.mark.parametrize("name", makers())
def test_what_comes_later_changes_nothing(name):
    "Neither of a unit that is forecast, nor through holes in what is known, nor through u"
    train = with_holes(random_walks(30, 60, 0, 2), 0.1)
    test = with_holes(random_walks(6, 60, 1, 2), 0.3)
    u = np.random.default_rng(2).standard_normal((30, 60, 1))
    for known in (None, u):
        baseline = makers()[name](SeriesSet(train, u=known), 10)
        other = test.copy()
        other[:, -10:] = 1e6 * np.random.default_rng(3).standard_normal((6, 10, 2))
        units = [SeriesSet(o, u=None if known is None else u[:6]) for o in (test, other)]
        a, b = (baseline.hindcast(o, seed=1) for o in units)
        assert torch.equal(a, b) and a.isfinite().all()
        assert not torch.equal(a, baseline.hindcast(units[0], seed=2))
    pasts = [x[:-10] for x in test]
    if known is not None:
        longer = [np.concatenate([o, np.full((5, 1), 1e6)]) for o in u[:6]]
        assert torch.equal(a, baseline.forecast(pasts, u=longer, seed=1))


def test_filling_sees_only_what_is_before():
    x = with_holes(random_walks(1, 50, 0, 3)[0], 0.4)
    whole = fill_causal(x, np.zeros(3))
    assert all(np.array_equal(whole[:t], fill_causal(x[:t], np.zeros(3))) for t in range(1, 51))
    seen = np.isfinite(x)
    assert np.array_equal(whole[seen], x[seen].astype(float))
    x[:, 1] = np.nan
    assert (fill_causal(x, np.array([5.0, 6, 7]))[:, 1] == 6).all()
    assert (fill_between(x, np.array([5.0, 6, 7]))[:, 1] == 6).all()
    line = np.array([[np.nan], [1.0], [np.nan], [3.0], [np.nan]])
    assert np.array_equal(fill_between(line, [0.0])[:, 0], [1, 1, 2, 3, 3])


def test_holes_in_training_units_do_not_narrow_the_spread():
    train, test = random_walks(300, 60, 0), random_walks(300, 60, 1)
    for name in ("persistence", "ridge"):
        whole = makers()[name](train, 10, since=1).hindcast(test).std(0).mean()
        holes = makers()[name](with_holes(train, 0.3), 10, since=1).hindcast(test).std(0).mean()
        assert 0.93 < holes / whole < 1.25, name
    errors = np.full((50, 3, 2), np.nan, np.float32)
    errors[:20, 0] = np.arange(40).reshape(20, 2)
    full = whole_paths(errors)
    assert np.isfinite(full).all() and np.array_equal(full[:20, 0], errors[:20, 0])
    assert set(full[:, 1, 0]) <= set(errors[:20, 0, 0])  # of its own channel
    assert not whole_paths(np.full((4, 2, 1), np.nan)).any()


def test_known_inputs_enter_at_their_own_time():
    "x_t = 3 u_t: a map that reads u a step early or late has large errors"
    rng = np.random.default_rng(0)
    u = rng.standard_normal((40, 50, 1))
    x = (3 * u + 0.01 * rng.standard_normal(u.shape)).astype(np.float32)
    ridge = PooledRidge(SeriesSet(x[:30], u=u[:30]), 8, penalty=1e-6)
    assert score(ridge.hindcast(SeriesSet(x[30:], u=u[30:])), last(x[30:], 8))["rmse"] < 0.05
    late = np.roll(u, 1, 1)
    assert score(ridge.hindcast(SeriesSet(x[30:], u=late[30:])), last(x[30:], 8))["rmse"] > 3
    with pytest.raises(ValueError, match="series 0 needs known inputs over past and horizon"):
        ridge.forecast(x[30:, :-8])
    with pytest.raises(ValueError, match=r"series 1 needs .*\(50, 1\)"):
        ridge.forecast(x[30:32, :-8], u=[u[0], u[1, :49]])


def test_windows_never_reach_into_another_unit():
    x = SeriesSet([np.arange(4.0)[:, None], 10 + np.arange(6.0)[:, None]])
    windows = _Windows(x, np.zeros(1), np.ones(1), horizon=2)
    features, centre, width = windows.features(np.array([[1, 2], [0, 1]]), 4, "level")
    assert features.tolist() == [[10, 10, 10, 11, 1], [0, 0, 0, 0, 1]]
    for view, row, size in (("last", [-1, -1, -1, 0, 1], 1), ("level", [10, 10, 10, 11, 1], 1)):
        features, centre, width = windows.features(np.array([[1, 2]]), 4, view)
        assert features.tolist() == [row] and width.item() == size
        assert centre.item() == (11 if view == "last" else 0)
    assert windows.all_places(np.array([3, 3])).tolist() == [[0, 2], [1, 3], [1, 4]]


def test_units_of_different_lengths():
    lengths = np.random.default_rng(0).integers(30, 90, 40)
    train = [x[:n] for x, n in zip(random_walks(40, 90, 0, 2), lengths)]
    pasts = [x[:n] for x, n in zip(random_walks(4, 90, 1, 2), (7, 15, 40, 90))]
    for name, baseline in usual_baselines(train, 20).items():
        samples = baseline.forecast(pasts, n_samples=30)
        assert samples.shape == (30, 4, 20, 2) and samples.isfinite().all(), name
        alone = baseline.forecast(pasts[:1], n_samples=30)
        assert torch.allclose(alone, samples[:, :1], atol=1e-4), name
        fewer = baseline.forecast(pasts, 5, n_samples=30)
        assert torch.equal(fewer, samples[:, :, :5]), name


def test_the_unit_of_measurement_does_not_matter():
    train, test = autoregressions(40, 50, 0), autoregressions(5, 50, 1)
    for name, make in makers().items():
        a = make(train, 10).hindcast(test)
        b = make(1e4 * train.astype(float) + 5e6, 10).hindcast(1e4 * test.astype(float) + 5e6)
        assert ((b - 5e6) / 1e4 - a).abs().max() < 5e-3, name


def test_more_samples_than_paths_are_as_balanced_as_it_goes():
    baseline = PerUnit(persistence, random_walks(7, 40, 0), 5, since=1, n_paths=7)
    samples = baseline.forecast(np.zeros((1, 10, 1)), n_samples=len(baseline.errors) * 3)
    counts = np.unique(samples[:, 0, 0, 0].numpy(), return_counts=True)[1]
    assert (counts % 3 == 0).all() and len(counts) == len(np.unique(baseline.errors[:, 0, 0]))


def test_errors_come_from_where_forecasts_are_made():
    lengths = np.array([100, 60])
    train = [np.zeros((n, 1)) for n in lengths]
    late = PerUnit(persistence, train, 10, since=1, n_paths=6).origins()
    assert late.tolist() == [[0, 88], [0, 89], [0, 90], [1, 48], [1, 49], [1, 50]]
    half = PerUnit(persistence, train, 10, n_paths=6).origins()
    assert half[half[:, 0] == 0, 1].tolist() == [40, 50, 65, 78, 90] or half[0, 1] == 40
    assert half[-1].tolist() == [1, 50] and half[half[:, 0] == 1, 1].min() == 20
    many = PerUnit(persistence, np.zeros((900, 30, 1)), 10, since=1, n_paths=50).origins()
    assert len(many) == 50 == len(np.unique(many[:, 0])) and (many[:, 1] == 20).all()


def test_bad_requests_say_what_to_do():
    train = random_walks(10, 40, 0)
    with pytest.raises(ValueError, match="longest has 40"):
        PerUnit(persistence, train, 38)
    with pytest.raises(ValueError, match="fitted for 5 steps, 6 were asked for"):
        PerUnit(persistence, train, 5).forecast(train, 6)
    with pytest.raises(ValueError, match=r"series 1 has shape \(3, 1\)"):
        PerUnit(persistence, train, 5).forecast([train[0], train[0, :3]])
    with pytest.raises(ValueError, match="since is a share"):
        PooledRidge(train, 5, since=0)
    with pytest.raises(ValueError, match="view is one of"):
        PooledRidge(train, 5, view="lst")
    for bad in (dict(lags=0), dict(penalty=-1.0)):
        with pytest.raises(ValueError):
            PooledRidge(train, 5, **bad)


def ragged(units, seed, u_dim=0):
    "Units of different lengths with holes, one of them without a single value in a channel"
    rng = np.random.default_rng(seed)
    lengths = rng.integers(35, 80, units)
    x = [with_holes(w[:n], 0.2, i) for i, (w, n) in enumerate(zip(random_walks(units, 80, seed, 2), lengths))]
    x[0][:, 1] = np.nan
    u = [rng.standard_normal((n, u_dim)).astype(np.float32) for n in lengths] if u_dim else None
    return SeriesSet(x, [f"unit {i}" for i in range(units)], u=u)


@pytest.mark.parametrize("u_dim", [0, 1])
def test_judge_puts_the_baselines_beside_the_model(u_dim):
    train, held = ragged(20, 0, u_dim), ragged(5, 1, u_dim)
    model = DVAE(2, 2, 8, u_dim).eval()
    table, full = judge(model, held, 10, train, n_samples=20)
    assert list(table.index) == [
        "model", "persistence", "straight line", "seasonal naive", "AR, per unit", "pooled ridge",
    ]  # fmt: skip
    spread = table[["rmse", "crps", "cover50", "cover90", "cover3s"]]
    assert spread.notna().all(axis=None) and (table.crps < table.rmse).all()
    assert full["crps"] == table.crps["model"]
    cuts = held_cuts(held, 10)
    truth = torch.from_numpy(np.stack([x[-10:] for x in cuts]))
    own = PooledRidge(train, 10).hindcast(cuts, 20)
    assert table.crps["pooled ridge"] == score(own, truth, scale=model.x_scale)["crps"]


def test_a_split_that_no_baseline_could_learn_from_is_refused_before_training():
    x = [np.zeros((n, 1), np.float32) for n in (18, 18, 18, 90, 18)]
    for seed in range(6):
        try:
            train, _ = hold_out(SeriesSet(x), 0.2, 15, seed)
        except ValueError as error:
            assert "long enough" in str(error)
        else:
            assert train.lengths.max() >= 21


@pytest.mark.slow
def test_demo_puts_the_baselines_beside_the_model(monkeypatch, tmp_path, capsys):
    small = dict(units=230, window=60, horizon=8, rows=8, n_paths=1, h_dim=8, steps=2, lr=1e-3, bs=8)
    monkeypatch.setattr(cli, "DEMO", small)
    rule = lambda x, horizon, dt, grid: persistence(x, horizon)  # noqa: E731
    monkeypatch.setattr(cli, "harmonic", rule)
    monkeypatch.setattr(cli, "_demo_figures", lambda *args: None)
    few = lambda net, test, horizon, clean: evaluate(net, test[:3], horizon, 5, clean[:3])  # noqa: E731
    monkeypatch.setattr(cli, "evaluate", few)
    cli.demo(str(tmp_path), steps=2)
    rows = pd.read_csv(tmp_path / "table.csv", index_col=0)
    assert {"DVAE", "seasonal naive", "pooled ridge", "oracle: two harmonics"} < set(rows.index)
    assert rows[["crps", "cover90"]].notna().all(axis=None)
    assert "pooled ridge" in capsys.readouterr().out


@pytest.mark.parametrize("lengths", [(22,), (40,), (16, 22, 30), (12, 12, 12, 12, 12, 60)])
def test_few_short_units_are_enough_for_something(lengths):
    train = [random_walks(1, n, i)[0] for i, n in enumerate(lengths)]
    samples = PooledRidge(train, 10).forecast([train[-1][:8]], n_samples=7)
    assert samples.shape == (7, 1, 10, 1) and samples.isfinite().all()


def test_what_is_not_a_number_is_refused_where_it_stands():
    x = random_walks(6, 40, 0, 2)
    x[3, 17, 1] = np.inf
    with pytest.raises(ValueError, match="unit 3 has inf in column 1 of x at step 17"):
        PerUnit(persistence, x, 5)
    u = np.zeros((6, 40, 1))
    u[2, 5] = np.nan
    x = random_walks(6, 40, 0, 2)
    with pytest.raises(ValueError, match="unit 2 has nan in column 0 of u at step 5"):
        PooledRidge(SeriesSet(x, u=u), 5)
    ridge = PooledRidge(SeriesSet(x, u=np.zeros((6, 40, 1))), 5)
    with pytest.raises(ValueError, match="unit 0 has nan in column 0 of u at step 5"):
        ridge.forecast(x[:1, :20], u=u[2:3])


def test_linear_prediction_has_the_exact_likelihood_of_a_gaussian_process():
    rng = np.random.default_rng(0)
    x = np.zeros((40, 60))
    for t in range(1, 60):
        x[:, t] = 0.7 * x[:, t - 1] + 0.5 * rng.standard_normal(40)
    lp = LinearPrediction(x, order=1, spans=(), ridge=0)
    slope, variance = lp.weights[0], lp.level
    errors = x - slope * np.concatenate([np.zeros((40, 1)), x[:, :-1]], 1)
    expected = torch.distributions.Normal(0, variance**0.5).log_prob(torch.tensor(errors)).sum(1)
    assert np.allclose(lp.log_prob(x), expected)
    assert slope == pytest.approx(0.7, abs=0.05) and variance == pytest.approx(0.25, rel=0.06)


def test_linear_prediction_is_a_density():
    "The integral over the next value is 1, whatever came before; nothing later is read"
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 50)) * np.exp(rng.standard_normal((30, 1)))
    lp = LinearPrediction(list(x), order=3, spans=(1, 4))
    grid = np.linspace(-60, 60, 24001)
    for t in (1, 2, 30):
        before = lp.log_prob([x[0, :t]])[0]
        nexts = np.array(lp.log_prob([np.append(x[0, :t], v) for v in grid[::8]]))
        assert np.exp(nexts - before).sum() * (grid[8] - grid[0]) == pytest.approx(1, abs=2e-3)
    assert lp.log_prob(list(x)).sum() > LinearPrediction(list(x), 3, ()).log_prob(list(x)).sum() + 100


def test_training_data_are_bounded_without_thinning_time():
    x = SeriesSet(list(random_walks(10, 30, 0, 2)), [f"u{i}" for i in range(10)])
    assert bounded(x) is x
    some = bounded(x, values=200)
    assert len(some) == 3 and set(some.units) < set(x.units)
    assert np.array_equal(some[1], x[x.units.index(some.units[1])])
    u = np.arange(30.0)[None, :, None]
    one = bounded(SeriesSet(x[4][None], ["long"], u=u), values=60)
    assert one.units == ["long"] and np.array_equal(one[0], x[4][-20:])
    assert np.array_equal(one.known(0)[:, 0], np.arange(10.0, 30))


@pytest.mark.parametrize("process", ["walk", "noise"])
def test_many_holes_neither_leak_nor_narrow_the_spread(process):
    "Filled with what comes later, windows would tell the future; filled targets are easier than measured ones"
    make = random_walks if process == "walk" else lambda n, t, seed: np.diff(random_walks(n, t + 1, seed), axis=1)
    train, test = with_holes(make(300, 50, 0), 0.6), make(300, 50, 1)
    truth, known = last(test, 8), with_holes(test, 0.6, 1)
    inside = coverage(PooledRidge(train, 8, lags=4, since=1).hindcast(known), truth)
    assert 0.86 < inside.mean() < 0.945 and inside[0] > 0.84, inside


def test_spread_of_windows_goes_with_their_amplitude():
    train, test = random_walks(200, 60, 0), random_walks(200, 60, 1)
    for x in (train, test):
        x[::2] *= 4
    inside = PooledRidge(train, 10, lags=30, view="window").hindcast(test)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        share = coverage(inside[:, half], last(test, 10)[half]).mean()
        assert 0.75 < share < 0.985
