"Models of vectors and windows: properties on random shapes, the measured galaxies (skipped, with a reason, without the file), wrong input"
import numpy as np, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from seqvae.core import load_model
from seqvae.data import SeqDataLoaders, as_vectors, gaussian_2d, rotation_curves, sparc
from seqvae.models import VAE, VAEConv1d, aggregate_posterior, laplace_posterior
from seqvae.train import Loss, evaluate, seq_learner

few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

@st.composite
def vectors(draw):
    "A VAE with one of its posteriors and emissions, vectors with holes (some with nothing observed)"
    B,D,Z = draw(st.integers(1,5)),draw(st.integers(1,6)),draw(st.integers(1,4))
    torch.manual_seed(draw(st.integers(0,10**6))); e = draw(st.sampled_from(['normal','mse','bernoulli','student_t','mixture']))
    model = VAE(D, Z, 8, posterior=draw(st.sampled_from(['diag','full'])), emission=e, n_mc=draw(st.integers(1,3)), root=draw(st.sampled_from(['cholesky','symmetric'])))
    return model,(torch.rand(B,D)>.5).float() if e=='bernoulli' else torch.randn(B,D),torch.rand(B,D)>draw(st.sampled_from([-1.,.4]))

@few
@given(vectors())
def test_vectors(case):
    model,x,mask = case; B,D = x.shape; eps = torch.randn(3,B,model.z_dim)
    out = model(torch.where(mask, x, float('nan')), mask=mask, eps=eps)
    assert out.px.batch_shape==(3,B,1) and out.elbo(x, mask).shape==(B,)
    Loss()(out, x[:,None], mask[:,None]).backward() if mask.any() else None
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    order = torch.randperm(B)
    torch.testing.assert_close(model(x[order], mask=mask[order], eps=eps[:,order]).elbo(x[order], mask[order]), out.elbo(x, mask)[order], rtol=1e-4, atol=1e-4)
    other = torch.where(mask, x, (x==0).float() if x.unique().numel()<3 else x+5)                       # what is not observed does not matter
    torch.testing.assert_close(model(other, mask=mask, eps=eps).elbo(other, mask), out.elbo(x, mask), rtol=1e-4, atol=1e-4)
    assert model.log_likelihood(x, 4, mask=mask).shape==(B,) and model.sample(2, 1).shape==(2,1,D) and model.forecast(x, 1, 3).samples.shape[1]==B

@few
@given(st.integers(1,3), st.integers(1,3), st.integers(1,3), st.integers(2,5), st.integers(0,10**6))
def test_windows(n_conv, channels, z_dim, kernel, seed):
    torch.manual_seed(seed); least = n_conv*(kernel-1)+1
    model = VAEConv1d(nf=[4]*n_conv, encoder=[8], decoder=[8], o_dim=least+9, nc_in=channels, nc_out=3, z_dim=z_dim, avg_size=2, kernel_size=kernel)
    for T in (least, least+9):
        x = torch.randn(3,T,channels); out = model(x); model.zero_grad(); out.nll(x).sum().backward()
        assert all(p.grad.abs().sum()>0 for p in model.encoder[0].parameters())                                # the reconstruction teaches the encoder
        assert out.px.batch_shape==(3,T) and out.qz.batch_shape==(3,) and out.kl().shape==(3,z_dim)
    assert model.forecast(x[:,:least], 9, 4).samples.shape==(4,3,9,channels) and model.sample(2, 5).shape==(2,5,channels)

def test_the_bound_is_tight_for_the_exact_posterior():
    "Without hidden layers log p(x) and p(z|x) are known: put the latter into the encoder, and only a full covariance closes the gap"
    torch.manual_seed(0); x,s = torch.randn(500,3),.5
    for posterior in ('full','diag'):
        model = VAE(3, z_dim=2, h_dim=2, n_layers=0, emission='mse', emission_kwargs=dict(sigma=s), posterior=posterior)
        W,b = model.emission.linear.weight.data,model.emission.linear.bias.data; W.copy_(torch.tensor([[1.,.9],[.8,.5],[.2,.6]]))
        cov = torch.linalg.inv(torch.eye(2)+W.T@W/s**2); A = cov@W.T/s**2; lin = model.encoder.net[-1]
        lin.weight.data.zero_(); lin.weight.data[:2,:3] = A; lin.bias.data[:2] = -A@b; L = torch.linalg.cholesky(cov)
        if posterior=='full': lin.bias.data[2:4] = L.diagonal().log()*2; lin.bias.data[4] = L[1,0]/L[1,1]
        else: lin.bias.data[2:4] = -torch.linalg.inv(cov).diagonal().log()                # the best diagonal Gaussian
        exact = torch.distributions.MultivariateNormal(b, W@W.T+s**2*torch.eye(3)).log_prob(x).mean()
        gap = float(exact-torch.stack([model(x, eps=torch.randn(64,500,2)).elbo(x) for _ in range(4)]).mean())
        lost = .5*float(cov.logdet()+torch.linalg.inv(cov).diagonal().log().sum()) if posterior=='diag' else 0.   # KL of the two
        weighted = float(exact-model.log_likelihood(x, 200, seed=0).mean())                  # many draws close most of the gap
        assert gap==pytest.approx(lost, abs=.02) and -.02<weighted<max(.02, lost/3)
    assert lost>.2

def test_learner_keeps_validation_noise_and_trains_with_several_draws():
    x = gaussian_2d(512, seed=0); torch.manual_seed(0); model = VAE(2, h_dim=8, posterior='full', n_mc=3)
    learn = seq_learner(SeqDataLoaders.from_series(as_vectors(x), bs=64, seed=0), model)
    with learn.no_bar(), learn.no_logging(): before = learn.validate(); assert learn.validate()==before; learn.fit(3, 1e-2); assert learn.validate()[0]<before[0]-.1

def test_evaluate_knows_latents_of_whole_windows():
    torch.manual_seed(0); model = VAEConv1d(nf=[4], encoder=[8], decoder=[8], o_dim=20, nc_out=3, z_dim=2, avg_size=2); x = np.random.default_rng(0).standard_normal((6,20,1)).astype(np.float32)
    res = evaluate(model, x, 5, n_samples=10)
    assert all(np.isfinite(res[k]) for k in ('rmse','crps','elbo','kl','nll_shuffled'))

def test_saved_static_models_are_themselves(tmp_path):
    for model,x in ((VAE(4, posterior='full', emission='mse', emission_kwargs=dict(sigma=.3), n_mc=2), torch.randn(5,4)), (VAEConv1d(nf=[4,4], encoder=[8], decoder=[8], o_dim=12, z_dim=2, avg_size=2), torch.randn(5,12,1))):
        again = load_model(model.save(tmp_path/'m.safetensors'))
        assert again.config==model.config
        model.temperature = again.temperature = 0.; torch.testing.assert_close(again(x).elbo(x), model(x).elbo(x))

@pytest.mark.parametrize('wrong,says', [(lambda: gaussian_2d(10, cov=[[1,2],[2,1]]), 'positive definite'), (lambda: rotation_curves(2, radii=[-1.,1.]), 'R must be finite and positive, got -1'),
    (lambda: VAE(3)(torch.full((2,3), float('nan'))), 'NaN in unit 0'), (lambda: VAE(3)(torch.zeros(2,4)), '4 channels, the model was built for 3'), (lambda: VAE(3).decode(torch.zeros(2,5)), 'has 2 latents, z has 5'),
    (lambda: VAE(3)(torch.zeros(2,3), eps=torch.zeros(1,3,2)), 'noise of shape'), (lambda: aggregate_posterior(VAE(3), torch.zeros(2,3)), 'needs at least 3 vectors'), (lambda: VAEConv1d(o_dim=40)(torch.zeros(1,41,1)), 'at most 40 steps'), (lambda: VAE(3)(torch.zeros(2,3)).elbo(torch.zeros(3,2)), 'the output is about'), (lambda: laplace_posterior(VAE(3), torch.zeros(1,2), torch.zeros(1,3), -1.), 'errors positive')])
def test_wrong_input_is_named(wrong, says):
    with pytest.raises(ValueError, match=says): wrong()

def test_measured_galaxies(sparc_path):
    sp = sparc(sparc_path)
    assert len(sp)==175 and sum(map(len, sp.r))==3391 and (min(map(len, sp.r)),max(map(len, sp.r)))==(4,115)       # the published totals
    r = np.geomspace(.1, 50, 50); v,err,mask = sp.on_grid(r); i = sp.names.index('NGC2403')
    assert sp.distance[i]==3.16 and np.isnan(v[~mask]).all() and (err[mask]>0).all()
    for a,b in zip(r[mask[i]], v[i][mask[i]]): assert np.interp(np.log(a), np.log(sp.r[i]), sp.v[i])==pytest.approx(b, rel=1e-5)
    y,e,seen,W = sp.read_at(r); assert seen.sum()==sum(((o>=.1)&(o<=50)).sum() for o in sp.r) and np.allclose(W[seen].sum(-1), 1)

def test_what_comes_after_the_cut_does_not_train_the_rollout():
    "A latent of the whole sequence has seen the future: overshooting must infer it anew from the past"
    from seqvae.train import rollout_loss
    torch.manual_seed(0); model = VAEConv1d(nf=[4], encoder=[8], decoder=[8], o_dim=20, nc_out=3, z_dim=2, avg_size=2); model.temperature = 0.
    x = torch.randn(4,20,1); far = x.clone(); far[:,15:] += 3; score = []
    for v in (x,far):
        torch.manual_seed(1); score.append(float(rollout_loss(model, model(v), (x,None,None,None), (x,None), 5, 1, 4, 10)))      # the same targets, latents offered from two futures
    assert score[0]==pytest.approx(score[1], abs=1e-5)
