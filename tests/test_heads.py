"""Options of emission heads: Gaussians with full covariance in a mixture, against torch
and against integrals; grey values as a Bernoulli's cross-entropy"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from seqvae.core import log_prob, load_model, make_emission, sample_missing, tensors_of
from seqvae.dvae import DVAE, VRNN, AutoregressiveRNN
from seqvae.models import VAE
from seqvae.ode import ODERNN, LatentODE, mixture_of
from torch.distributions import MultivariateNormal

FULL = dict(n_components=3, covariance='full')


def head_and_px(C=3, batch=(4, 5), tilted=True, **options):
    torch.manual_seed(0)
    head = make_emission('mixture', 6, C, **{**FULL, **options}).double()
    if tilted:
        torch.nn.init.normal_(head.linear.weight, std=0.5)
    prev = torch.randn(*batch, C).double()
    return head, head(torch.randn(*batch, 6).double(), prev)


def test_a_full_mixture_starts_as_a_diagonal_one():
    head, px = head_and_px(tilted=False)
    d = px.component_distribution
    assert isinstance(d, MultivariateNormal) and d.batch_shape == (4, 5, 3)
    diagonal = torch.diag_embed(d.scale_tril.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(d.scale_tril, diagonal)
    same = make_emission('mixture', 6, 3, n_components=3).double()
    weights = head.linear.state_dict()
    kept = {k: torch.cat([v[:21], v[-3:]]) for k, v in weights.items()}  # 3 + 9 + 9, gate
    same.linear.load_state_dict(kept)
    torch.manual_seed(1)
    features, prev = torch.randn(7, 6).double(), torch.randn(7, 3).double()
    x = torch.randn(7, 3).double()
    a, b = head(features, prev), same(features, prev)
    torch.testing.assert_close(a.log_prob(x), b.log_prob(x))
    a.log_prob(x).sum().backward()
    assert head.linear.weight.grad[21:30].abs().min() > 0  # and learns to tilt


@pytest.mark.parametrize('seen', [s for s in itertools.product([True, False], repeat=3)])
def test_what_is_seen_has_its_exact_marginal(seen):
    _, px = head_and_px()
    d, weights = px.component_distribution, px.mixture_distribution.probs
    at = [i for i, s in enumerate(seen) if s]
    x = torch.randn(4, 5, 3).double()
    mask = torch.tensor(seen).expand(4, 5, 3)
    holes = torch.where(mask, x, float('nan'))
    want = torch.zeros(4, 5).double()
    if at:
        loc, cov = d.loc[..., at], d.covariance_matrix[..., at, :][..., at]
        each = MultivariateNormal(loc, cov).log_prob(x[..., None, at])
        want = torch.logsumexp(weights.log() + each, -1)
    torch.testing.assert_close(log_prob(px, holes, mask), want)


def test_masks_may_differ_from_step_to_step_and_gradients_are_finite():
    head, _ = head_and_px()
    head = head.float()
    torch.manual_seed(2)
    features, x = torch.randn(4, 5, 6, requires_grad=True), torch.randn(4, 5, 3)
    mask = torch.rand(4, 5, 3) > 0.4
    px = head(features, torch.zeros(4, 5, 3))
    got = log_prob(px, torch.where(mask, x, float('nan')), mask)
    for i, j in itertools.product(range(4), range(5)):
        one = head(features[i, j], torch.zeros(3))
        alone = log_prob(one, x[i, j], mask[i, j])
        torch.testing.assert_close(got[i, j], alone, rtol=1e-4, atol=1e-5)
    got.sum().backward()
    assert features.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    # a very narrow, tilted Gaussian keeps its digits in single precision
    thin = torch.tensor([[1.0, 0.0], [0.9, 1e-3]])
    narrow = make_emission('mixture', 2, 2, n_components=1, covariance='full')
    a = narrow.make(torch.zeros(1), torch.zeros(1, 2), thin[None])
    b = narrow.make(torch.zeros(1).double(), torch.zeros(1, 2).double(), thin[None].double())
    for part in ([True, False], [False, True], [True, True]):
        v, m = torch.tensor([0.3, 0.2705]), torch.tensor(part)
        torch.testing.assert_close(
            log_prob(a, v, m), log_prob(b, v.double(), m).float(), rtol=1e-4, atol=1e-3
        )


def test_a_marginal_is_the_integral_over_what_is_missing():
    _, px = head_and_px(C=2, batch=(1,))
    grid = torch.linspace(-40, 40, 40_001).double()
    x = torch.stack([torch.full_like(grid, 0.3), grid], -1)[:, None]
    integral = torch.trapezoid(px.log_prob(x).exp()[:, 0], grid)
    mask = torch.tensor([[True, False]])
    got = log_prob(px, torch.tensor([[0.3, 7.0]]).double(), mask)
    torch.testing.assert_close(got.exp()[0], integral, rtol=1e-6, atol=1e-9)
    # and the density as a whole integrates to one
    a, b = torch.linspace(-25, 25, 801).double(), torch.linspace(-25, 25, 801).double()
    cells = torch.cartesian_prod(a, b)[:, None]
    total = px.log_prob(cells).exp().sum() * (a[1] - a[0]) * (b[1] - b[0])
    torch.testing.assert_close(total, torch.tensor(1.0).double(), rtol=1e-4, atol=0)


def test_units():
    for relative in (False, True):
        head, px = head_and_px(relative=relative)
        loc = torch.tensor([10.0, 20.0, 30.0]).double()
        scale = torch.tensor([2.0, 3.0, 4.0]).double()
        x = px.sample()
        far = head.to_units(px, loc, scale)
        shift = scale.log()
        torch.testing.assert_close(far.log_prob(x * scale + loc), px.log_prob(x) - shift.sum())
        torch.testing.assert_close(far.mean, px.mean * scale + loc)
        torch.testing.assert_close(far.variance, px.variance * scale**2)
        mask = torch.rand(4, 5, 3) > 0.5
        want = log_prob(px, x, mask) - (shift * mask).sum(-1)
        torch.testing.assert_close(log_prob(far, x * scale + loc, mask), want)
        twice = head.to_units(px, 0.0, torch.full((4, 5, 1, 1), 2.0).double())
        torch.testing.assert_close(twice.mean, 2 * px.mean)


def test_missing_channels_are_drawn_given_the_seen_ones():
    "Mean and covariance of many draws, against the formulas of a conditional mixture"
    _, px = head_and_px(batch=(1,))
    many, mask = 200_000, torch.tensor([False, True, False])
    x = torch.tensor([[0.0, 0.7, 0.0]]).double()
    wide = type(px)(
        torch.distributions.Categorical(
            logits=px.mixture_distribution.logits.expand(many, 3)
        ),
        MultivariateNormal(
            px.component_distribution.loc.expand(many, 3, 3),
            scale_tril=px.component_distribution.scale_tril.expand(many, 3, 3, 3),
        ),
    )
    draws = sample_missing(wide, x.expand(many, 3), mask.expand(many, 3))
    torch.testing.assert_close(draws[:, 1], x[0, 1].expand(many))
    d = px.component_distribution
    loc, cov = d.loc[0], d.covariance_matrix[0]
    seen = torch.distributions.Normal(loc[:, 1], cov[:, 1, 1].sqrt())
    w = (px.mixture_distribution.logits[0] + seen.log_prob(x[0, 1])).softmax(0)
    lean = cov[:, [0, 2], 1] / cov[:, 1, 1][:, None]
    means = loc[:, [0, 2]] + lean * (x[0, 1] - loc[:, 1])[:, None]
    inner = cov[:, [0, 2]][..., [0, 2]] - lean[:, :, None] * cov[:, [0, 2], 1][:, None]
    mean = w @ means
    away = means - mean
    want = (w[:, None, None] * (inner + away[:, :, None] * away[:, None])).sum(0)
    torch.testing.assert_close(draws[:, [0, 2]].mean(0), mean, rtol=0.02, atol=0.03)
    torch.testing.assert_close(torch.cov(draws[:, [0, 2]].T), want, rtol=0.05, atol=0.05)


def test_models_with_a_full_mixture(tmp_path):
    x = torch.randn(4, 7, 2)
    mask = torch.rand(4, 7, 2) > 0.3
    mask[:, 0] = True
    holes = torch.where(mask, x, float('nan'))
    options = dict(emission='mixture', emission_kwargs=dict(n_components=2, covariance='full'))
    for cls in (DVAE, VRNN, AutoregressiveRNN, LatentODE, ODERNN):
        model = cls(2, h_dim=8, **options).set_scale([1.0, 2.0], [3.0, 4.0])
        out = model(holes, mask=mask)
        out.elbo(x, mask).sum().backward()
        model.temperature = 0.0
        fast = model(holes, mask=mask).elbo(x, mask)
        other = torch.where(mask, x, 99.0)
        torch.testing.assert_close(model(other, mask=mask).elbo(other, mask), fast)
        model.temperature = 1.0
        assert model.forecast(x, 3, 5).samples.shape == (5, 4, 3, 2)
        filled = model.impute(holes, n_samples=3, n_paths=20).samples
        assert filled.isfinite().all() and torch.equal(filled[0][mask], x[mask])
        assert model.predict_next(x).batch_shape == (4, 7)
        assert model.log_likelihood(holes, 3, mask=mask).isfinite().all()
        again = load_model(model.save(tmp_path / cls.__name__))
        assert again.emission.covariance == 'full'
    assert len(tensors_of(out.px)) >= 3
    vae = VAE(5, **options)
    assert vae(torch.randn(3, 5)).elbo(torch.randn(3, 5)).isfinite().all()


def test_a_full_covariance_sees_what_a_diagonal_one_cannot():
    "Two channels that are nearly the same: exact log-density after a fit"
    torch.manual_seed(0)
    truth = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.99], [0.99, 1.0]]))
    x, gaps = truth.sample((500,)), {}
    for covariance in ('diag', 'full'):
        head = make_emission(
            'mixture', 1, 2, residual=False, n_components=1, covariance=covariance
        )
        optimiser = torch.optim.Adam(head.parameters(), 0.1)
        for _ in range(150):
            loss = -head(torch.ones(1, 1)).log_prob(x).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        gaps[covariance] = float((truth.log_prob(x).mean() + loss).detach())
    assert abs(gaps['full']) < 0.02 and gaps['diag'] > 1.5
    with pytest.raises(ValueError, match="'diag' or 'full'"):
        make_emission('mixture', 1, 2, covariance='tri')


def test_grey_values_are_scored_by_their_cross_entropy():
    features, x = torch.randn(4, 5, 6), torch.rand(4, 5, 3)
    head = make_emission('bernoulli', 6, 3, grey=True)
    px = head(features)
    want = -F.binary_cross_entropy(px.mean, x, reduction='none')
    torch.testing.assert_close(px.log_prob(x), want.sum(-1))
    mask = torch.rand(4, 5, 3) > 0.5
    torch.testing.assert_close(log_prob(px, x, mask), (want * mask).sum(-1))
    assert set(px.sample().unique().tolist()) <= {0.0, 1.0}
    head.check(x)
    mixed = make_emission('bernoulli', 6, 3, grey=True, n_components=4)
    assert mixed(features).log_prob(x).isfinite().all()
    with pytest.raises(ValueError, match='between 0 and 1, got values from'):
        head.check(x + 0.5)
    with pytest.raises(ValueError, match='grey=True'):
        make_emission('bernoulli', 6, 3).check(x)
    vae = VAE(8, z_dim=2, emission='bernoulli', emission_kwargs=dict(grey=True))
    pixels = torch.rand(6, 8)
    out = vae(pixels)
    nll = F.binary_cross_entropy(out.px.mean[:, 0], pixels, reduction='none').sum(1)
    torch.testing.assert_close(out.nll(pixels)[:, 0], nll)
    dvae = DVAE(3, z_dim=2, h_dim=8, emission='bernoulli', emission_kwargs=dict(grey=True))
    assert dvae(x).elbo(x).isfinite().all()
    with pytest.raises(ValueError, match='between 0 and 1'):
        dvae(x - 1)


def test_a_mixture_of_particles_is_a_distribution():
    "Of every head: log p(x) is the weighed mean of the particles' densities"
    torch.manual_seed(0)
    heads = dict(
        normal={}, mse={}, student_t={}, mixture=dict(n_components=2), bernoulli={},
        categorical=dict(n_levels=4), exponential={}, censored=dict(upper=0.5),
        logistic=dict(n_levels=16), mulaw=dict(n_levels=16),
    )
    cases = [(name, options) for name, options in heads.items()]
    cases += [('mixture', FULL), ('bernoulli', dict(n_components=3))]
    cases += [('censored', dict(upper=0.5, n_components=2))]
    logw = torch.randn(4, 5, 6).log_softmax(-1)
    for name, options in cases:
        head = make_emission(name, 8, 2, **options)
        parts = head(torch.randn(4, 5, 6, 8))
        px = mixture_of(parts, logw)
        x = px.sample().float()
        assert x.shape == (4, 5, 2) and px.batch_shape == (4, 5)
        want = torch.logsumexp(parts.log_prob(x[..., None, :]) + logw, -1)
        torch.testing.assert_close(px.log_prob(x), want, rtol=1e-4, atol=1e-4)
        mask = torch.ones(4, 5, 2, dtype=torch.bool)
        torch.testing.assert_close(log_prob(px, x, mask), want, rtol=1e-4, atol=1e-4)
        mean = (head.mean(parts) * logw.exp()[..., None]).sum(-2)
        torch.testing.assert_close(head.mean(px), mean, rtol=1e-4, atol=1e-4)


def test_relative_means_are_in_units_of_the_marginal_spread():
    torch.manual_seed(0)
    options = dict(residual=False, **FULL)
    plain = make_emission('mixture', 6, 3, **options)
    torch.nn.init.normal_(plain.linear.weight, std=0.5)
    relative = make_emission('mixture', 6, 3, relative=True, **options)
    relative.load_state_dict(plain.state_dict())
    features = torch.randn(4, 6)
    a, b = (head(features).component_distribution for head in (plain, relative))
    torch.testing.assert_close(b.loc, a.loc * a.variance.sqrt())
