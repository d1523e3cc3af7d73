"""Data whose numbers say where they are from: nothing may put them elsewhere"""

import numpy as np
import pytest
import torch
from seqvae.baselines import ar, forecast_all, persistence, trend, var
from seqvae.data import (
    SeqDataLoaders,
    SeriesSet,
    WindowDataset,
    known_set,
    prefixes,
    split_units,
    windows,
)
from seqvae.rul import (
    ConditionNormalizer,
    Ensemble,
    at_all,
    at_last,
    conformal,
    fold_of,
    nasa_score,
    truncated,
    unit_keys,
    window_features,
)
from seqvae.train import cut_inputs, cut_series

LENGTHS = [7, 4, 12, 9, 5, 8]


def told(lengths=LENGTHS):
    "x = 100 unit + step, u = x + .5 and -x, t = 2 x"
    x = [
        100.0 * i + np.arange(n, dtype=np.float64)[:, None]
        for i, n in enumerate(lengths)
    ]
    return SeriesSet(
        x,
        units=[f"unit {i}" for i in range(len(lengths))],
        u=[np.concatenate([o + 0.5, -o], 1) for o in x],
        t=[2 * o[:, 0] for o in x],
    )


def check_told(x, u, t, mask, length=None):
    "A batch of `told`: steps in order, inputs and times of the same steps"
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    real = mask[..., 0]
    for row in range(len(x)):
        n = int(real[row].sum())
        assert real[row, :n].all()  # padding lies behind
        v = x[row, :n, 0]
        assert (v.diff() == 1).all() and int(v[0]) // 100 == int(v[-1]) // 100
        torch.testing.assert_close(u[row, :n], torch.stack([v + 0.5, -v], 1))
        torch.testing.assert_close(t[row, :n], 2 * v.double())
        assert (
            (u[row, n:] == 0).all()
            and (x[row, n:] == 0).all()
            and (t[row, n:] == t[row, n - 1]).all()
        )


@pytest.mark.parametrize(
    "window,stride,pad",
    [(4, 1, False), (4, 3, False), (3, 2, False), (6, 2, True), (None, 1, False)],
)
def test_windows_hold_the_steps_they_say(window, stride, pad):
    series = told()
    ds = WindowDataset(series, window, stride, pad)
    x, u, t, mask, y, ymask = ds.batch(np.arange(len(ds)))
    check_told(x, u, t, mask)
    assert torch.equal(x, y) and (mask is None or torch.equal(mask, ymask))
    expected = [
        100 * i + k
        for i, n in enumerate(LENGTHS)
        for k in (range(0, max(n - window, 0) + 1, stride) if window else [0])
    ]
    assert x[:, 0, 0].tolist() == expected  # every window once, in order
    steps = [
        min(window or n, n)
        for i, n in enumerate(LENGTHS)
        for _ in (range(0, max(n - window, 0) + 1, stride) if window else [0])
    ]
    assert (torch.ones_like(x[..., 0]) if mask is None else mask[..., 0]).sum(
        1
    ).tolist() == steps
    for i in (0, len(ds) - 1):  # one alone is the same
        one = ds[i]
        n = one[0].shape[1]
        assert torch.equal(one[0][0], x[i, :n]) and torch.equal(one[1][0], u[i, :n])


def test_holes_are_masked_where_they_are():
    x = np.arange(24.0).reshape(2, 6, 2)
    x[0, 2, 1] = x[1, 5] = np.nan
    b = WindowDataset(x, 4, 2).batch(np.arange(4))
    expected = np.stack([x[0, :4], x[0, 2:], x[1, :4], x[1, 2:]])
    assert np.array_equal(b[3].numpy(), ~np.isnan(expected)) and np.array_equal(
        b[0].numpy(), np.nan_to_num(expected)
    )


def test_windows_of_one_series():
    x = np.arange(20.0).reshape(10, 2)
    for v in (x, torch.from_numpy(x)):
        w = np.asarray(windows(v, 4, 3))
        assert (
            w.shape == (3, 4, 2)
            and [int(o) for o in w[:, 0, 0]] == [0, 6, 12]
            and np.array_equal(w[1], x[3:7])
        )


@pytest.mark.parametrize(
    "which", [slice(1, 5), [4, 0, 2], np.array([True, False, True, True, False, False])]
)
def test_units_keep_what_is_theirs(which):
    series = told()
    part, chosen = series[which], np.arange(len(series))[which]
    assert part.units == [f"unit {i}" for i in chosen] and part.lengths.tolist() == [
        LENGTHS[i] for i in chosen
    ]
    for k, i in enumerate(chosen):
        x = 100.0 * i + np.arange(LENGTHS[i])
        assert (
            np.array_equal(part[k][:, 0], x)
            and np.array_equal(part.known(k)[:, 0], x + 0.5)
            and np.array_equal(part.times(k), 2 * x)
        )
        assert np.array_equal(known_set(part)[k][:, 0], x + 0.5)
    padded, times = part.padded(), part.padded_times()
    for k, n in enumerate(part.lengths):
        assert (
            np.array_equal(padded[k, :n, 0], part[k][:, 0])
            and padded[k, n:].isnan().all()
        )
        assert (
            np.array_equal(times[k, :n], part.times(k))
            and (times[k, n:] == times[k, n - 1]).all()
        )


def test_parts_of_a_split_share_no_unit_and_lose_none():
    series = told([5] * 20)
    splits = [split_units(series, 0.2, 0.1, seed=s) for s in range(4)]
    for parts in splits:
        assert [len(p) for p in parts] == [14, 4, 2]
        assert sorted(u for p in parts for u in p.units) == sorted(series.units)
        assert all(
            p[i][0, 0] == 100 * int(p.units[i].split()[1])
            for p in parts
            for i in range(len(p))
        )
    assert len({tuple(p[1].units) for p in splits}) > 1  # the seed chooses
    assert (
        split_units(series, 0.2, seed=1)[1].units
        == split_units(series, 0.2, seed=1)[1].units
    )


def test_what_is_held_out_stays_out_of_normalisers_and_training():
    series = told([30] * 10)
    dls = SeqDataLoaders.from_series(series, window=6, stride=2, bs=4, seed=3)
    train, valid = dls.train_ds.series, dls.valid_ds.series
    assert not set(train.units) & set(valid.units) and len(train) + len(valid) == 10
    values = np.concatenate(list(train))
    np.testing.assert_allclose(dls.normalizer.loc, values.mean(0))
    np.testing.assert_allclose(dls.normalizer.scale, values.std(0))
    inputs = np.concatenate([train.known(i) for i in range(len(train))])
    np.testing.assert_allclose(dls.u_normalizer.loc, inputs.mean(0))
    seen = {int(v) // 100 for batch in dls.train for v in batch[0][:, 0, 0]}
    assert seen <= {int(u.split()[1]) for u in train.units} and len(seen) == len(train)
    order = [torch.cat([b[0][:, 0, 0] for b in dls.valid]) for _ in range(2)]
    assert (
        torch.equal(*order) and (order[0].diff() > 0).all()
    )  # validation in order, every time
    epochs = [torch.cat([b[0][:, 0, 0] for b in dls.train]) for _ in range(2)]
    assert not torch.equal(*epochs) and len(epochs[0].unique()) == len(epochs[0])
    for b in dls.train:
        check_told(*b[:4])


def test_prefixes_are_beginnings_with_their_inputs_and_times():
    cut = prefixes(told(), (0.5, 1.0))
    for k, (unit, n) in enumerate(cut.units):
        x = 100.0 * int(unit.split()[1]) + np.arange(n)
        assert (
            np.array_equal(cut[k][:, 0], x)
            and np.array_equal(cut.known(k)[:, 0], x + 0.5)
            and np.array_equal(cut.times(k), 2 * x)
        )


def test_past_and_truth_are_cut_where_the_horizon_begins():
    series = told([9, 6, 12])
    x, mask, truth = cut_series(series, 3)
    for i, n in enumerate(series.lengths):
        v = 100.0 * i + torch.arange(float(n))
        assert torch.equal(x[i, : n - 3, 0], v[:-3]) and torch.equal(
            truth[i, :, 0], v[-3:]
        )
        assert mask[i, : n - 3].all() and not mask[i, n - 3 :].any()
        assert torch.equal(cut_inputs(series, 3)[i, :n, 0], v + 0.5)


# ---- baselines -----------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [persistence, trend, ar, var])
def test_baselines_see_the_past_alone(baseline):
    x = np.cumsum(np.random.default_rng(0).standard_normal((3, 40, 2)), 1)
    other = x.copy()
    other[:, -5:] += 100.0
    a, b = (forecast_all(baseline, v, 5) for v in (x, other))
    assert a.shape == (1, 3, 5, 2) and torch.equal(a, b)
    other = x.copy()
    other[:, -6] += 1.0  # the last that is known counts
    assert not torch.equal(forecast_all(baseline, other, 5), a)


def test_baselines_continue_what_they_are_exact_for():
    t = np.arange(60.0)[:, None]
    line = np.concatenate([2 * t + 3, 7 - t], 1)
    np.testing.assert_allclose(persistence(line[:50], 3), np.repeat(line[49:50], 3, 0))
    np.testing.assert_allclose(trend(line[:50], 10), line[50:], rtol=1e-9)
    late = np.where(t < 30, 0.0, t)  # only the last steps are a line
    np.testing.assert_allclose(trend(late[:50], 10, last=15), late[50:], rtol=1e-9)
    saw = np.tile([0.0, 0.0, 1.0, 5.0], 15)[:, None]  # looks another way backwards
    np.testing.assert_allclose(
        ar(saw[:48], 8, order=8, ridge=1e-9), saw[48:56], atol=1e-2
    )
    np.testing.assert_allclose(
        var(np.concatenate([saw, np.roll(saw, 1, 0)], 1)[:48], 8, order=4, ridge=1e-9)[
            :, 0
        ],
        saw[48:56, 0],
        atol=1e-2,
    )


# ---- remaining useful life -----------------------------------------------------------


def test_being_late_costs_more():
    assert nasa_score(torch.tensor([110.0]), torch.tensor([100.0])) == pytest.approx(
        np.e - 1
    )
    assert nasa_score(torch.tensor([87.0]), torch.tensor([100.0])) == pytest.approx(
        np.e - 1
    )


def test_values_at_cycles():
    v = torch.arange(12.0).reshape(1, 2, 6, 1)
    assert at_last(v, [6, 4]).tolist() == [[5.0, 9.0]] and at_all(
        v, [2, 3]
    ).tolist() == [[0.0, 1.0, 6.0, 7.0, 8.0]]


def test_features_of_a_window_end_with_their_cycle():
    u = np.random.default_rng(0).standard_normal((40, 2))
    f = window_features(u, 10)
    for t in (0, 3, 9, 10, 39):
        w = u[max(0, t - 9) : t + 1]
        n = min(5, len(w))
        np.testing.assert_allclose(
            f[t],
            np.concatenate([w.mean(0), u[t], w[-n:].mean(0) - w[:n].mean(0)]),
            atol=1e-12,
        )


def test_truncation_keeps_the_beginning():
    series = told([60, 90, 80])
    cut = truncated(
        SeriesSet(list(series), series.units, u=[series.known(i) for i in range(3)]),
        seed=1,
    )
    for i, n in enumerate(cut.lengths):
        x = 100.0 * i + np.arange(n)
        assert (
            20 <= n <= LENGTHS_LONG[i] - 6
            and np.array_equal(cut[i][:, 0], x)
            and np.array_equal(cut.known(i)[:, 0], x + 0.5)
        )


LENGTHS_LONG = [60, 90, 80]


def test_conformal_draws_are_estimates_plus_truth_minus_estimate():
    fc = conformal(torch.full((2, 3, 1), 50.0), torch.tensor([2.0, 4.0]), n_samples=50)
    assert (
        fc.samples.min() >= 52
        and fc.samples.max() <= 54
        and fc.samples.mean() == pytest.approx(53, abs=0.1)
    )


class Marks:
    "A model whose draws are its own number"

    def __init__(self, mark):
        self.mark = mark

    def simulate(self, u, n, seed=None):
        class Fc:
            samples = torch.full((n, *u.shape[:2], 1), float(self.mark))

        return Fc


def test_held_out_units_are_simulated_by_the_model_that_did_not_see_them():
    series, fold = told([8] * 6), fold_of(6, 3, seed=0)
    ens = Ensemble([Marks(i) for i in range(3)], fold, units=unit_keys(series))
    assert ens.held_out(series, 4).samples[0, :, 0, 0].tolist() == [
        float(f) for f in fold
    ]
    assert sorted(fold.tolist()) == [0, 0, 1, 1, 2, 2]


def test_each_condition_has_its_own_scale():
    import pandas as pd

    k = np.arange(200) % 2
    noise = np.random.default_rng(0).standard_normal(200)
    df = pd.DataFrame(
        dict(
            unit=1,
            cycle=np.arange(200) + 1,
            setting1=10.0 * k,
            setting2=0.0,
            setting3=0.0,
            s1=np.where(k, 100 + 20 * noise, noise),
        )
    )
    norm = ConditionNormalizer.fit(df, 2)
    u = norm(df)
    for c in (0, 1):
        assert abs(u[k == c, 0].mean()) < 1e-9 and u[k == c, 0].std() == pytest.approx(
            1
        )
