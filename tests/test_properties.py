"Properties every model must have, on random shapes, lengths and masks. Add new models to MODELS."
import numpy as np, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from seqvae.core import EMISSIONS, fork_seed, load_model
from seqvae.dvae import DKF, DVAE, RVAE, SRNN, STORN, VRNN, AutoregressiveRNN
from seqvae.ode import LatentODE, ODERNN
from seqvae.train import Loss

def member(cls, **own): return lambda C,U,e,kw: cls(C, h_dim=8, u_dim=U, emission=e, emission_kwargs=kw, **({} if cls is AutoregressiveRNN else dict(z_dim=2)), **own)
def moving(cls, **own):
    "A model in continuous time (it takes no known inputs) whose fields, at rest to begin with, move"
    def make(C, U, e, kw):
        m = cls(C, h_dim=8, emission=e, emission_kwargs=kw, t_scale=5., **own)
        for p in m.parameters(): p.data.add_(.1*torch.randn_like(p))
        return m
    return make
MODELS = {'filtering':member(DVAE, s_dim=4), 'smoothing':member(DVAE, s_dim=4, posterior='smoothing'),
          'dvae_inputs':member(DVAE, reads_x=False, reads_z=False, bottleneck=True), 'dvae_chain':member(DVAE, reads_x=False), 'vrnn':member(VRNN), 'vrnn_i':member(VRNN, prior='standard', cell='lstm', n_layers=2), 'srnn':member(SRNN), 'storn':member(STORN, cell='lstm'), 'dkf':member(DKF),
          'rvae':member(RVAE), 'rvae_noncausal':member(RVAE, causal=False), 'rnn':member(AutoregressiveRNN, n_layers=2),
          'latent_ode':moving(LatentODE, z_dim=2, n_steps=6), 'latent_ode_rnn':moving(LatentODE, z_dim=2, n_steps=6, encoder='ode_rnn'), 'ode_rnn':moving(ODERNN, max_step=.2)}
LATENT = [k for k in MODELS if k not in ('rnn','ode_rnn')]
few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

@st.composite
def cases(draw, knows=None):
    "A model, a batch with holes and padding, known inputs. `knows`: was it trained on holes, so that it reads its expectation there, or does it draw what is missing? None: either"
    B,T,C,U = draw(st.integers(1,4)),draw(st.integers(1,9)),draw(st.integers(1,3)),draw(st.integers(0,2))
    e = draw(st.sampled_from(list(EMISSIONS))); kw = dict(n_levels=3) if e=='categorical' else dict(n_components=2, covariance=draw(st.sampled_from(['diag','full']))) if e=='mixture' else dict(n_components=2) if e=='bernoulli' else dict(upper=.5) if e=='censored' else None
    g = torch.Generator().manual_seed(draw(st.integers(0,10**6))); torch.manual_seed(draw(st.integers(0,10**6)))
    model = MODELS[draw(st.sampled_from(list(MODELS)))](C, U, e, kw)
    model.trained_on_holes.fill_(draw(st.booleans()) if knows is None else knows); model.eval()      # eval: training on holes would teach it
    x = torch.randn(B,T,C, generator=g) if model.emission.continuous else torch.randint(0, 2, (B,T,C), generator=g).float()
    if model.emission.positive: x = x.abs()
    if e=='censored': x = x.clamp(max=.5)
    lengths = torch.randint(1, T+1, (B,), generator=g)
    mask = (torch.arange(T)<lengths[:,None])[...,None].expand(B,T,C).clone()
    if draw(st.booleans()): mask &= torch.rand(B,T,C, generator=g)>0.3
    mask[:,0] = True
    return model,x,(torch.randn(B,T,U, generator=g) if model.u_dim else None),mask

def elbo(model, x, u, mask):
    "ELBO of each row with all latents at their means, so that nothing is random in a model that knows holes"
    model.temperature = 0.
    with torch.no_grad(): out = model(torch.where(mask, x, float('nan')), u, mask=mask)
    model.temperature = 1.
    return out.elbo(x, mask)

@few
@given(cases())
def test_shapes(case):
    model,x,u,mask = case; B,T,C = x.shape
    out = model(x, u, mask=mask)
    assert out.px.batch_shape==(B,T) and out.px.event_shape==(C,) and (out.z is None or out.z.shape in ((B,T,2),(B,2)) and out.qz.batch_shape==out.pz.batch_shape==out.z.shape[:-1])
    Loss()(out, x, mask).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    ufull = None if u is None else torch.cat([u, torch.randn(B,3,u.shape[2])], 1)
    assert model.forecast(x, 3, 5, u=ufull, mask=mask).samples.shape==(5,B,3,C)
    assert model.sample(2, T, u=None if u is None else u[:1].expand(2,-1,-1)).shape==(2,T,C)
    assert model.impute(x, mask, 3, u=u, n_paths=20, lag=0).samples.shape==(3,B,T,C)

@few
@given(cases(True), st.integers(1,5))
def test_padding_changes_nothing(case, more):
    model,x,u,mask = case; B,T,C = x.shape
    pad = lambda v,fill: None if v is None else torch.cat([v, torch.full((B,more,v.shape[2]), fill, dtype=v.dtype)], 1)
    torch.testing.assert_close(elbo(model, pad(x, 0.), pad(u, 7.), pad(mask, False)), elbo(model, x, u, mask), rtol=1e-4, atol=1e-4)

@few
@given(cases(True))
def test_batch_order_changes_nothing(case):
    model,x,u,mask = case; order = torch.randperm(len(x))
    torch.testing.assert_close(elbo(model, x[order], None if u is None else u[order], mask[order]), elbo(model, x, u, mask)[order], rtol=1e-4, atol=1e-4)

@few
@given(cases(True))
def test_what_is_masked_is_never_read(case):
    model,x,u,mask = case
    other = torch.where(mask, x, 1-x if not model.emission.continuous else x+100)
    torch.testing.assert_close(elbo(model, other, u, mask), elbo(model, x, u, mask), rtol=1e-5, atol=1e-5)

@few
@given(cases(True))
def test_rows_do_not_see_each_other(case):
    model,x,u,mask = case
    alone = torch.cat([elbo(model, x[i:i+1], None if u is None else u[i:i+1], mask[i:i+1]) for i in range(len(x))])
    torch.testing.assert_close(alone, elbo(model, x, u, mask), rtol=1e-4, atol=1e-4)

@few
@given(cases())
def test_forecast_with_a_seed_is_repeatable_and_leaves_the_generator_alone(case):
    model,x,u,mask = case
    ufull = None if u is None else torch.cat([u, torch.zeros(len(u),2,u.shape[2])], 1)
    torch.manual_seed(5); state = torch.get_rng_state()
    a,b = (model.forecast(x, 2, 4, u=ufull, mask=mask, seed=3).samples for _ in range(2))
    assert torch.equal(a, b) and torch.equal(state, torch.get_rng_state())

@pytest.mark.parametrize('kind', LATENT)
def test_elbo_below_importance_weighted_bound(kind):
    torch.manual_seed(0); model = MODELS[kind](2, 0, 'normal', None); x = torch.randn(16,8,2)
    runs = lambda k,n: model.log_likelihood(x.repeat(n,1,1), k).unflatten(0, (n,-1))
    one,ten,many = runs(1,300),runs(10,100),runs(100,20)
    below = lambda a,b: (a.mean(0)<=b.mean(0)+3.5*(a.var(0)/len(a)+b.var(0)/len(b)).sqrt()).all()       # but for the noise of both
    assert below(one, ten) and below(ten, many) and one.mean()<many.mean()

@few
@given(cases(True))
def test_fast_and_slow_pass_agree(case):
    model,x,u,mask = case; model.temperature = 0.
    x,u,mask = model.prepare(torch.where(mask, x, float('nan')), u, mask)
    with torch.no_grad(): a,b = model.unroll(x, u, mask).elbo(x, mask),model.unroll_steps(x, u, mask).elbo(x, mask)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

@few
@given(cases(False))
def test_what_a_model_draws_where_the_mask_is_false_is_all_it_reads_there(case):
    "One that knows no holes, and one seed: what lies under the mask changes nothing, what lies beside it is read as it is, and all that is read can come from the emission"
    model,x,u,mask = case; model.temperature = 0.
    other = torch.where(mask, x, 1-x if not model.emission.continuous else x+100); runs = []
    for v in (torch.where(mask, x, float('nan')), other):
        ready = model.prepare(v, u, mask)
        with torch.no_grad(), fork_seed(1): runs.append(model.unroll_steps(*ready))
    a,b = runs; assert torch.equal(a.elbo(ready[0], mask), b.elbo(ready[0], mask))
    if model.reads_missing or ready[2] is None: assert a.x is None; return      # leaves holes out by construction, or there are none
    assert torch.equal(a.x, b.x); torch.testing.assert_close(a.x[mask], ready[0][mask], rtol=1e-4, atol=1e-5)
    model.emission.check(model.restore(a.x))

@few
@given(cases())
def test_bounds_are_finite_with_holes_and_padding(case):
    model,x,u,mask = case; x = torch.where(mask, x, float('nan'))
    for method in ('elbo','iwae') + (('fivo',) if model.sequential else ()):
        assert model.log_likelihood(x, 7, u=u, mask=mask, seed=0, method=method).isfinite().all()

@pytest.mark.parametrize('kind', [k for k in MODELS if k not in ('rvae_noncausal','latent_ode','latent_ode_rnn')])
def test_particle_filter_above_importance_weights_on_long_series(kind):
    torch.manual_seed(0); model = MODELS[kind](2, 0, 'normal', None); x = torch.randn(8,60,2)
    iwae,fivo = (torch.stack([model.log_likelihood(x, 20, method=m) for _ in range(10)]).mean() for m in ('iwae','fivo'))
    if kind in ('rnn','ode_rnn'): torch.testing.assert_close(iwae, fivo, rtol=1e-4, atol=1e-3)
    else: assert iwae<fivo

@few
@given(cases(True))
def test_save_and_load_give_identical_outputs(case):
    import tempfile
    model,x,u,mask = case
    if model.emission.continuous: model.set_scale(torch.arange(model.x_dim)+1., torch.arange(model.x_dim)+2.)
    with tempfile.TemporaryDirectory() as d:
        path = model.save(f'{d}/m'); again = load_model(path)
        assert torch.equal(elbo(again, x, u, mask), elbo(model, x, u, mask)) and again.config==model.config
        data = path.read_bytes()
        for bad in (data[:len(data)//2], data[:5], b'', b'\x80\x04pickle'):
            path.write_bytes(bad); before = elbo(model, x, u, mask)
            with pytest.raises(ValueError, match='not a readable safetensors file'): model.load(path)
            assert torch.equal(elbo(model, x, u, mask), before)
