"One answer to p(x_t | x_<t): what the particle filter says, beside a Kalman filter"

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from processes import Linear  # noqa: E402

from seqvae.core import bound_logvar, log_prob  # noqa: E402
from seqvae.dvae import DKF, DVAE, AutoregressiveRNN  # noqa: E402

DECAY, PUSH = 0.99, 0.01  # z' = .99 z + N(0, .01), x = z + N(0, 1)


def inverse_bound(logvar, lo, hi):
    "What `bound_logvar` makes `logvar` of"
    raw = torch.linspace(lo, hi, 200_001, dtype=torch.float64)
    return float(raw[(bound_logvar(raw, lo, hi) - logvar).abs().argmin()])


def identity_pair(layer, columns, rows):
    "Set a linear layer to copy numbers that come as silu(a) - silu(-a) into such pairs again"
    with torch.no_grad():
        for (plus, minus), (up, down) in zip(columns, rows):
            for row, sign in ((up, 1.0), (down, -1.0)):
                layer.weight[row, plus] = sign
                if minus is not None:
                    layer.weight[row, minus] = -sign


def exact_dkf(d):
    "A deep Kalman filter whose weights make it the linear Gaussian state-space model, with the optimal proposal"
    net = DKF(d, z_dim=d, h_dim=6 * d)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        pairs = [(2 * i, 2 * i + 1) for i in range(d)]
        raw = [(i, None) for i in range(d)]
        net.transition.linear.weight.copy_(DECAY * torch.eye(d))
        net.transition.gate[-1].bias.fill_(-40.0)
        net.transition.spread.bias.fill_(inverse_bound(np.log(PUSH), -10.0, 4.0))
        identity_pair(net.phi_z[0], raw, pairs)
        identity_pair(net.emission_net[0], pairs, pairs)
        for i, (plus, minus) in enumerate(pairs):
            net.emission.linear.weight[i, plus] = 1.0
            net.emission.linear.weight[i, minus] = -1.0
        net.emission.linear.bias[d:] = inverse_bound(0.0, -12.0, 4.0)
        identity_pair(net.phi_x[0], raw, pairs)
        identity_pair(net.phi_x[2], pairs, pairs)
        variance = 1 / (1 / PUSH + 1)
        small = 1e-3  # tanh is linear here
        for i, (plus, minus) in enumerate(pairs):
            net.combiner.before.weight[4 * d + i, i] = small
            net.combiner.join.weight[i, 4 * d + i] = 2 * variance * DECAY / PUSH / small
            net.combiner.join.weight[i, plus] = 2 * variance
            net.combiner.join.weight[i, minus] = -2 * variance
        net.combiner.join.bias[d:] = inverse_bound(np.log(variance), -10.0, 4.0)
    return net.eval()


def state_space(d):
    eye = np.eye(d)
    return Linear(DECAY * eye, PUSH * eye, eye, eye, PUSH * eye)


@pytest.fixture(scope="module", params=[1, 2])
def setting(request):
    d = request.param
    truth = state_space(d)
    return exact_dkf(d), truth, truth.sample(200, 60, seed=d)


def mse(prediction, x, steps):
    return float(((np.asarray(prediction) - x)[:, steps] ** 2).mean())


def test_the_weights_are_the_model(setting):
    net, truth, x = setting
    out = net(torch.from_numpy(x))
    assert torch.allclose(out.px.mean, out.z, atol=1e-4)
    assert torch.allclose(out.px.stddev, torch.ones(()), atol=1e-3)
    assert torch.allclose(out.pz.mean[:, 1:], DECAY * out.z[:, :-1], atol=1e-4)


def test_predict_next_is_the_kalman_filter(setting):
    net, truth, x = setting
    exact = mse(truth.one_step(x.astype(float)), x, slice(5, None))
    ours = mse(net.predict_next(torch.from_numpy(x), seed=0).mean, x, slice(5, None))
    assert abs(ours / exact - 1) < 0.01, (ours, exact)


def test_with_holes(setting):
    net, truth, x = setting
    holes = np.random.default_rng(0).random(60) < 0.3
    seen = x.copy()
    seen[:, holes] = np.nan
    exact = mse(truth.one_step(seen.astype(float)), x, slice(5, None))
    px = net.predict_next(torch.from_numpy(seen), mask=torch.from_numpy(~np.isnan(seen)), seed=0)
    ours = mse(px.mean, x, slice(5, None))
    assert abs(ours / exact - 1) < 0.01, (ours, exact)


def test_step_and_forecast_agree_with_it(setting):
    net, truth, x = setting
    exact = truth.one_step(x.astype(float))
    torch.manual_seed(0)
    state, means = net.start(len(x)), []
    for t in range(60):
        px, state = net.step(None if t == 0 else torch.from_numpy(x[:, t - 1]), state)
        means.append(px.mean)
    streamed = mse(torch.stack(means, 1), x, slice(5, None))
    assert abs(streamed / mse(exact, x, slice(5, None)) - 1) < 0.01
    ahead = net.forecast(torch.from_numpy(x[:, :-1]), 1, 2000, seed=0).mean[:, 0]
    error = float((ahead - torch.from_numpy(exact[:, -1])).pow(2).mean())
    assert error < 0.01 * mse(exact, x, slice(59, None))  # draws and particles: 1 % of the noise


def test_a_forecast_starts_where_its_row_ends(setting):
    "Rows of other lengths beside it, and what stands in the padding, change nothing"
    net, truth, x = setting
    exact = truth.one_step(x.astype(float))
    ends = np.where(np.arange(len(x)) % 2, 60, 30)
    seen = np.where(np.arange(60)[None, :, None] < ends[:, None, None], x, 9.0)
    mask = torch.from_numpy(np.arange(60)[None] < ends[:, None])
    ahead = net.forecast(torch.from_numpy(seen.astype(np.float32)), 1, 2000, mask=mask, seed=0)
    short = ends == 30
    error = ahead.mean[short, 0].numpy() - exact[short, 30]
    assert (error**2).mean() < 0.01 * mse(exact[short], x[short], slice(30, 31))


def test_the_density_is_the_kalman_filters(setting):
    net, truth, x = setting
    px = net.predict_next(torch.from_numpy(x), seed=0)
    mean, cov = list(truth.filtered(x.astype(float)))[30]
    variance = np.diag(truth.H @ cov @ truth.H.T + truth.R)
    exact = torch.distributions.Normal(torch.from_numpy(mean), torch.from_numpy(variance).sqrt())
    gap = px.log_prob(torch.from_numpy(x))[:, 30] - exact.log_prob(torch.from_numpy(x[:, 30])).sum(-1)
    assert abs(float(gap.mean())) < 0.02
    assert torch.allclose(px.variance[:, 30].mean(0).double(), torch.from_numpy(variance), rtol=0.05)


def test_fivo_is_the_kalman_filters_likelihood(setting):
    net, truth, x = setting
    exact = 0.0
    for t, (mean, cov) in enumerate(list(truth.filtered(x[:50].astype(float)))[:-1]):
        spread = torch.from_numpy(np.sqrt(np.diag(truth.H @ cov @ truth.H.T + truth.R)))
        normal = torch.distributions.Normal(torch.from_numpy(mean), spread)
        exact = exact + normal.log_prob(torch.from_numpy(x[:50, t]).double()).sum(-1)
    ours = net.log_likelihood(torch.from_numpy(x[:50]), 512, method="fivo", seed=0)
    assert abs(float((ours - exact).mean())) < 0.1


def test_unweighed_draws_would_fail(setting, monkeypatch):
    "The tests above can fail: without weights the filter is far from Kalman's"
    net, truth, x = setting
    monkeypatch.setattr(type(net), "redraws", True)  # `absorb` then gives all particles one weight
    monkeypatch.setattr(net, "n_particles", 64)
    blind = lambda s, x, m, u, ahead: net.prior(s, u)  # noqa: E731
    monkeypatch.setattr(net, "posterior", blind)
    exact = mse(truth.one_step(x.astype(float)), x, slice(30, None))
    ours = mse(net.predict_next(torch.from_numpy(x), seed=0).mean, x, slice(30, None))
    assert ours > 1.02 * exact


def test_a_poor_proposal_is_weighed_right(setting, monkeypatch):
    "The bootstrap filter: the prior as proposal, which has not seen x_t, still ends at Kalman's answer"
    net, truth, x = setting
    monkeypatch.setattr(net, "posterior", lambda s, x, m, u, ahead: net.prior(s, u))
    exact = mse(truth.one_step(x.astype(float)), x, slice(5, None))
    ours = mse(net.predict_next(torch.from_numpy(x), n_particles=128, seed=0).mean, x, slice(5, None))
    assert abs(ours / exact - 1) < 0.01


@pytest.mark.parametrize("kind", [DVAE, AutoregressiveRNN])
def test_no_flag_is_read_that_was_not_trained(kind):
    "A model that never met a hole draws what is missing: its networks are told that all was observed"
    net = kind(2, h_dim=8)
    read = []
    look = net.look
    net.look = lambda x, m, u: (read.append(bool(m.bool().all())), look(x, m, u))[1]
    x = torch.randn(3, 12, 2)
    mask = torch.ones(3, 12, 2, dtype=torch.bool)
    mask[0, 4:7] = False
    mask[1, 5, 1] = False
    net.eval()
    net.predict_next(x, mask=mask)
    net.forecast(x, 3, 5, mask=mask)
    net.log_likelihood(x, 4, mask=mask, method="fivo")
    assert read and all(read)
    assert not net.reads_missing
    net.train()(x, mask=mask)  # training on holes teaches the flag
    assert net.reads_missing and not all(read)


def test_holes_are_filled_by_draws_that_later_steps_remember():
    "What is drawn in a hole is what the rest of the path follows: a random walk bridges its gap"
    from test_calibration import random_walk_model

    net = random_walk_model()
    x = torch.zeros(1, 9, 1)
    x[0, 6:] = 6.0
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[0, 1:6] = False
    filled = net.impute(x, mask, n_samples=400, n_paths=40_000, lag=1, seed=0)
    middle = filled.mean[0, 1:6, 0]
    assert torch.allclose(middle, torch.arange(1.0, 6.0), atol=0.4), middle
    ahead = net.predict_next(x, mask=mask, n_particles=2000, seed=0)
    assert 0.8 < float(ahead.stddev[0, 5, 0]) / 5**0.5 < 1.2  # five unseen steps


def test_mixtures_of_every_emission():
    from seqvae.core import EMISSIONS, mixture_of

    options = dict(categorical=dict(n_levels=4), censored=dict(upper=9.0))
    for name in EMISSIONS:
        net = DVAE(2, z_dim=2, h_dim=8, emission=name, emission_kwargs=options.get(name)).eval()
        x = net.sample(3, 6, seed=0)
        px = net.predict_next(x, n_particles=5, seed=0)
        assert px.batch_shape == (3, 6), name
        lp = log_prob(px, x, torch.ones_like(x, dtype=torch.bool))
        assert torch.allclose(lp, px.log_prob(x), atol=1e-4), name
        assert net.emission.mean(px).shape == (3, 6, 2), name
        assert px.sample().shape == (3, 6, 2), name
        one = net.predict_next(x, n_particles=1, seed=0)
        assert one.batch_shape == (3, 6), name
        p, logw = net.filter_next(*net.prepare(x)[:2], None, 5)
        by_hand = torch.logsumexp(p.log_prob(net.prepare(x)[0][:, :, None]) + logw, -1)
        assert torch.allclose(by_hand, mixture_of(p, logw).log_prob(net.prepare(x)[0]), atol=1e-4), name


def test_temperature_and_particle_counts():
    net = DVAE(2, z_dim=2, h_dim=8).eval()
    x = torch.randn(2, 5, 2)
    for wrong in (-1, 2.5):
        with pytest.raises(ValueError, match="n_particles must be a whole number"):
            net.predict_next(x, n_particles=wrong)
    again = [net.predict_next(x, seed=3).mean for _ in range(2)]
    assert torch.equal(*again)
    net.temperature = 0.0
    assert torch.equal(net.predict_next(x).mean, net.predict_next(x).mean)
