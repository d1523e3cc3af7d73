"VAEWaveNet on random configurations: receptive field, cached generation, masks; diffusion simulators against exact laws; measured tracks (skipped, with a reason, without the files); wrong input"
import numpy as np, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from conftest import folder
from seqvae.analysis import fgn_nll, ideal_observer, msd, msd_slope
from seqvae.core import load_model
from seqvae.data import SeqDataLoaders, SeriesSet, dicty_beads, diffusion, diffusion_dls, fbm, sbm, split_units, spt_halotag
from fastai.basics import Callback, CancelFitException
from seqvae.train import BetaSchedule, Checkpoint, KLPerLatent, Loss, TCLoss, evaluate, latent_use, seq_learner
from seqvae.wavenet import CachedWaveNet, VAEWaveNet

few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
small = dict(nf=[4], encoder=[8], decoder=[8], z_dim=2, avg_size=2, res_channels=4, skip_channels=3)

@st.composite
def models(draw):
    "A small WaveNet of any shape, none of whose units sleeps"
    C,out = draw(st.integers(1,2)),draw(st.sampled_from(['Normal','logistic','Categorical','binary','mixture']))
    kw = dict(layer_size=draw(st.integers(1,4)), stack_size=draw(st.integers(1,2)), res_kernel_size=draw(st.integers(2,4)), g_channels=draw(st.sampled_from([0,0,2])), c_channels=draw(st.sampled_from([0,1,3])),
      use_pad=draw(st.booleans()), weight_norm=draw(st.booleans()), gate=draw(st.sampled_from(['identity','tanh'])), gain=draw(st.booleans()), num_mixtures=draw(st.integers(1,2)), discrete_channels=8)
    torch.manual_seed(draw(st.integers(0,10**6)))
    model = VAEWaveNet(in_channels=C, out_channels=C, o_dim=40, out_distribution=out, **kw, **small)
    for p in model.parameters(): p.data.add_(.2*torch.randn_like(p))
    return model.eval()

def batch(model, B, T):
    x = torch.randn(B,T,model.x_dim) if model.emission.continuous else torch.randint(0, 2, (B,T,model.x_dim)).float()
    return x,torch.randn(B,T,model.u_dim) if model.u_dim else None

@few
@given(models())
def test_the_receptive_field_is_what_it_says(model):
    model.double(); RF = model.receptive_field; T = RF+5
    for b in (model.out_conv[1].bias,*[o.conv_skip.bias for o in model.res_stack]): b.data.fill_(5.)     # no ReLU asleep
    for p in model.out_conv[1].parameters(): p.data.abs_()
    x = torch.randn(1,T,model.emission.feed_dim, dtype=torch.double, requires_grad=True); c = torch.randn(1,T,3, dtype=torch.double)[...,:model.c_channels] if model.c_channels else None
    u = torch.randn(1,T,2, dtype=torch.double) if model.u_dim else None
    f = model.net(x, c, u); assert f.shape[1]==(T if model.use_pad else T-RF)
    seen = sum(torch.autograd.grad(o, x, retain_graph=True)[0][0].abs().sum(-1) for o in f[0,-1])
    assert seen.nonzero().flatten().tolist()==list(range(T-1-RF, T-1))

@few
@given(models(), st.integers(1,4), st.integers(1,60))
def test_cached_generation_is_the_naive_one(model, n, length):
    u = torch.randn(n,length,2) if model.u_dim else None; z = torch.randn(n,2) if model.c_channels else None
    a,b = model.sample(n, length, u=u, z=z, seed=1, burn_in=0),model.sample_naive(n, length, u=u, z=z, seed=1)
    assert a.shape==(n,length,model.x_dim)
    if (a-b).abs().max()>1e-5*max(1, float(b.abs().max())): assert not model.emission.continuous or model.config['out_distribution'] in ('logistic','Categorical') # a draw at the edge of two levels
    assert model.sample(n, length, u=u, z=z, seed=1, burn_in=0, max_bytes=1).shape==a.shape

@few
@given(models(), st.integers(1,30), st.sampled_from([None,1,0]))
@torch.no_grad()
def test_cached_steps_are_the_parallel_pass(model, T, depth):
    "Fed with a series, the cache gives what one pass over it gives, at any depth, also after its rows were picked anew"
    model.depth = depth; x,u = batch(model, 4, T); z = torch.randn(4,2) if model.c_channels else None; rows = torch.tensor([3,1,1,0]); zero = torch.zeros(4, dtype=torch.long)
    cache,conds,feed,got = CachedWaveNet(model, x[:,:0], zero),model._conditions(z, u, zero, T, hold=False),None,[]
    for t in range(T):
        if t==T//2: cache.pick(rows); conds = [c[...,rows] for c in conds]; feed = feed if feed is None else feed[:,rows]; x,u,z = x[rows],u if u is None else u[rows],z if z is None else z[rows]; got = [g[rows] for g in got]
        g = model.units(conds[0][t].T) if model.gain else 1.; px = model.emit_in_units(cache.step(feed, *[c[t] for c in conds]).T, g); got.append(px.log_prob(x[:,t])); feed = (model.emission.feed(x[:,t])*g).T
    torch.testing.assert_close(torch.stack(got, 1), model.given(z, x, u).log_prob(x), rtol=1e-3, atol=2e-3)

def test_interrupted_runs_keep_their_records(tmp_path):
    "KLPerLatent beside a Checkpoint that skips epochs; a validation batch of one row; a search for the learning rate"
    dls = SeqDataLoaders.from_series(torch.randn(20,30,1).numpy(), valid=SeriesSet(torch.randn(9,30,1).numpy()), bs=4); make = lambda: VAEWaveNet(o_dim=30, layer_size=1, **small)
    for fits in (1, 2):
        kls = KLPerLatent(); learn = seq_learner(dls, make(), TCLoss(2.), cbs=[kls, Checkpoint(tmp_path/'c'), *([Stop()] if fits==1 else [])])
        with learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert len(kls.kls)>=1 and kls.survivors(-1)
    with pytest.raises(ValueError, match='nothing was recorded'): KLPerLatent().survivors()

class Stop(Callback):
    order = 100
    def after_epoch(self):
        if self.epoch==0: raise CancelFitException()

@few
@given(models(), st.integers(1,3))
def test_training_and_contract(model, B):
    T = min(40, model.receptive_field+4)
    if not model.use_pad and T<=model.receptive_field: return
    x,u = batch(model, B, T); mask = torch.rand(B,T)>.2; mask[:,0] = True; mask[:,-1] = True
    out = model(torch.where(mask[...,None], x, float('nan')), u, mask=mask); assert out.px.batch_shape==(B,T-out.start)
    Loss()(out, x, mask).backward(); assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.temperature = 0.; other = torch.where(mask[...,None], x, 1-x); a,b = (model(v, u, mask=mask).elbo(v, mask) for v in (x,other)); torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4); model.temperature = 1.
    use = latent_use(model, x, u); assert (use['kl_latents'] is None)==(model.vae is None) and np.isfinite(use['nll_shuffled']) | (B==1)
    more = None if u is None else torch.cat([u, u[:,:3]], 1)
    assert model.forecast(x, 3, 4, u=more, mask=mask).samples.shape==(4,B,3,model.x_dim)
    assert model.impute(x, mask, 3, u=u, n_paths=8, seed=0).samples.shape==(3,B,T,model.x_dim)
    y = x.clone(); y[:,T//2:] = 1-y[:,T//2:]                                            # predictions never see what they predict
    def ahead(v): torch.manual_seed(0); return model.predict_next(v, u)
    torch.testing.assert_close(ahead(x).log_prob(x)[:,:T//2], ahead(y).log_prob(x)[:,:T//2], rtol=1e-3, atol=1e-3)

def test_a_trained_model_knows_the_exact_likelihood(tmp_path):
    "White noise of two scales: the bound must come within a few hundredths of the exact marginal likelihood, and generation must follow the latent"
    dls = diffusion_dls('fbm', N=250, T=61, D=[1e-3,1e-1], alpha=[1.], seed=0, bs=32); torch.manual_seed(0)
    model = VAEWaveNet(o_dim=60, nf=[8], encoder=[32], decoder=[32], z_dim=2, avg_size=4, layer_size=2, use_pad=True); kls = KLPerLatent()
    learn = seq_learner(dls, model, cbs=[BetaSchedule([0.,1.], [.3,.7], ramp=.5), kls], clip=1.)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(12, 4e-3)
    x = torch.from_numpy(dls.valid_ds.series.x.reshape(-1,60,1)); _,exact = ideal_observer(x[...,0], [1.], [1e-3,1e-1])
    torch.manual_seed(0); gap = -float(model(x).elbo(x).mean())/60-float(exact.mean())/60
    assert -.01<gap<.06 and kls.survivors()[0]==0                                # the scale carries most
    model.eval(); z = model.encode(x).mean.detach(); spread = model.sample(len(z), 60, z=z, seed=0).std(1).flatten(); true = np.sqrt(2*dls.valid_params.D.to_numpy())
    assert np.abs(np.log(spread.numpy()/true)).max()<.7 and np.median(np.abs(np.log(spread.numpy()/true)))<.15
    model.save(tmp_path/'m'); assert torch.equal(load_model(tmp_path/'m').sample(2, 5, seed=0), model.sample(2, 5, seed=0))
    assert np.isfinite(evaluate(model, list(x[:4].numpy()), 5, n_samples=8)['crps'])

def test_total_correlation_trains():
    dls = diffusion_dls('sbm', N=20, T=41, D=[1e-2], alpha=[.5,1.5], bs=8); learn = seq_learner(dls, VAEWaveNet(o_dim=40, layer_size=1, **{**small, 'z_dim':3}), TCLoss(4., estimator='minibatch'))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    assert np.isfinite(learn.recorder.values[-1]).all() and learn.loss_func.total_correlation.isfinite()

@few
@given(st.floats(.05,1.95), st.floats(1e-6,1e3), st.integers(1,50), st.integers(0,10**6))
def test_fbm_is_scaled_and_repeatable(alpha, D, T, seed):
    x = fbm([alpha]*3, D, T, seed); assert x.shape==(3,T) and np.isfinite(x).all()
    np.testing.assert_allclose(fbm([alpha]*3, 4*D, T, seed), 2*x, rtol=1e-3, atol=1e-5*np.sqrt(D)); np.testing.assert_array_equal(fbm([alpha]*3, D, T, seed), x)
    longer = fgn_nll(x, alpha, D); np.testing.assert_allclose(fgn_nll(x[:,:T//2+1], alpha, D), longer[:,:T//2+1], rtol=1e-6)       # the past does not depend on the future

def test_exponents_can_be_read_off():
    for make in (fbm, sbm):
        for alpha in (.3,1.,1.7):
            X = np.pad(make([alpha]*3000, .5, 200, 0), ((0,0),(1,0))).cumsum(1); ensemble = (X[:,1:]**2).mean(0)
            assert abs(msd_slope(np.arange(1,201), ensemble)-alpha)<.06
            m = msd(X, [1,2,4,8,16]).mean(0); assert abs(msd_slope([1,2,4,8,16], m)-(alpha if make is fbm else 1))<(.06 if make is fbm else .2)       # ageing shows in the ensemble, not along a path
    with pytest.raises(ValueError, match='between 0 and 2'): diffusion(alpha=[2.])

def test_beads():
    tr = dicty_beads(folder('SEQVAE_DICTY', 'dicty_beads', 'dicty_bead_tracks.csv.gz')); assert len(tr)==712 and sum(map(len, tr.positions))==310762
    published = {29:(2.48,18.3,86.8), 46:(5.,30.1,131), 61:(10.6,57.8,251), 100:(28.3,123,474)}                  # the table beside the data
    for um,expect in published.items():
        steps = [tr.positions[i] for i in np.flatnonzero(tr.params.bead_um==um)]
        sq = [np.concatenate([((p[k:]-p[:-k])**2).sum(1) for p in steps if len(p)>k]) for k in (1,4,16)]
        np.testing.assert_allclose([np.nanmean(o) for o in sq], expect, rtol=.05)
    pieces = tr.displacements(length=64); train,valid = split_units(pieces, .2); assert len(train)+len(valid)==len(pieces) and pieces.x_dim==2

def test_single_molecules():
    tr = spt_halotag(folder('SEQVAE_SPT', 'spt_halotag_nls', 'u2os_ht_nls_7.48ms_tracks.csv.gz'), least=5)
    assert 1000<len(tr)<4000 and max(map(len, tr.positions))>50 and .02<tr.params.error_um.median()<.06
    dls = SeqDataLoaders.from_series(tr.displacements(), bs=32); model = VAEWaveNet(in_channels=2, out_channels=2, o_dim=int(dls.train_ds.window), layer_size=2, use_pad=True, **small)
    x,u,t,mask,*_ = dls.one_batch(); out = model(x.cpu(), mask=mask.cpu()); assert torch.isfinite(Loss()(out, x.cpu(), mask.cpu()))       # short, of many lengths

def test_wrong_input():
    model = VAEWaveNet(o_dim=60, **small); x = torch.randn(2,50,1)
    for f,kind,msg in ((lambda: model(x[:,:32]), ValueError, 'receptive field has 32'), (lambda: model(torch.randn(2,61,1)), ValueError, 'at most 60'), (lambda: model(torch.randn(2,50,2)), ValueError, '2 channels'),
               (lambda: model.sample(2, 5, z=torch.zeros(2,7)), ValueError, 'must have shape'), (lambda: model(np.array([['a']*50])[...,None]), TypeError, 'numbers'), (lambda: model(x, torch.zeros(2,50,1)), ValueError, 'u_dim=0'),
               (lambda: model.impute(torch.full((1,50,1), float('nan'))), ValueError, 'no observed'), (lambda: VAEWaveNet(out_distribution='gauss'), ValueError, 'unknown out_distribution'), (lambda: TCLoss(-1), ValueError, 'not negative')):
        with pytest.raises(kind, match=msg): f()
