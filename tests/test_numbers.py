"Numbers that would be wrong without a word: precision, moments, holes, tails, small ensembles, names of classes, threads"
import json, math, os, stat, threading, tracemalloc, warnings
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pandas as pd, pytest, torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
import seqvae.dvae
from seqvae.core import (
    EMISSIONS, MODELS, Forecast, FullNormal, SequenceModel, diag_normal, full_name, kl_latents, load_model, make_emission,
    read_model_file, register, tril_from_flat, write_whole)
from seqvae.cli import main
from seqvae.data import Normalizer, SeqDataLoaders, SeriesSet, WindowDataset, frame_to_series, read_series
from seqvae.dvae import DKF, DVAE, RVAE, SRNN, STORN, VRNN, AutoregressiveRNN
from seqvae.models import VAE, VAEConv1d
from seqvae.ode import LatentODE, ODERNN
from seqvae.plot import plot_forecast
from seqvae.rul import evaluate_rul, inputs_of
from seqvae.train import Loss, crps, cut_inputs, cut_series, evaluate, latent_use, masked, score, seq_learner
from seqvae.wavenet import VAEWaveNet

FAR,SCALE = 1e9,2.
close = torch.testing.assert_close

def says(text): return pytest.raises(ValueError, match=text)

# --- moments -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('period', [2,3])
def test_every_row_of_periodic_data_counts(period):
    "More than a million rows, and a period that divides the stride of anybody who would read a million of them"
    day = np.arange(period, dtype=np.float64)
    norm = Normalizer.fit([np.tile(day.astype(np.float32), 1_000_000)[:,None]])
    np.testing.assert_allclose([norm.loc[0],norm.scale[0]], [day.mean(),day.std()], rtol=1e-9)

def test_moments_are_stable_skip_holes_and_belong_to_their_units():
    rng = np.random.default_rng(0); units = [rng.standard_normal((n,3))*[.01,1,1e5] for n in rng.integers(3, 2000, 400)]
    for o in units: o[rng.random(o.shape)<.2] = np.nan
    shift = np.array([1e9,-1e9,0]); pick = [5,6,7,30,399,2]
    norm = Normalizer.fit(SeriesSet([o+shift for o in units])[pick]); x = np.concatenate([units[i] for i in pick])
    np.testing.assert_allclose((norm.loc-shift)/np.nanstd(x, 0), np.nanmean(x, 0)/np.nanstd(x, 0), atol=1e-4)
    np.testing.assert_allclose(norm.scale, np.nanstd(x, 0), rtol=1e-4)

def test_blocks_of_different_means_are_put_together():
    n = 1_000_000; norm = Normalizer.fit([np.arange(n, dtype=np.float64)[:,None]])
    np.testing.assert_allclose([norm.loc[0],norm.scale[0]], [(n-1)/2,math.sqrt((n**2-1)/12)], rtol=1e-12)

def test_a_file_is_read_in_blocks(tmp_path):
    x = np.random.default_rng(0).standard_normal((1,1_500_000,6)).astype(np.float32); np.save(tmp_path/'big.npy', x)
    mean,size = x.mean((0,1), dtype=np.float64),x.nbytes; del x
    series = read_series(tmp_path/'big.npy'); tracemalloc.start()
    try: norm = Normalizer.fit(series.check()); peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert peak<size/2; np.testing.assert_allclose(norm.loc, mean, atol=1e-9)

# --- precision until standardised ----------------------------------------------------------------------------------

def far_units():
    rng = np.random.default_rng(0); return [FAR+rng.standard_normal((n,2)) for n in (60,40,50)]

def sources(folder):
    "The same units from everywhere"
    units = far_units(); long = pd.concat([pd.DataFrame(o, columns=['a','b']).assign(unit=i) for i,o in enumerate(units)])
    long.to_csv(folder/'a.csv', index=False, float_format='%.17g'); long.to_parquet(folder/'a.parquet'); np.savez(folder/'a.npz', *units)
    yield units
    yield [torch.from_numpy(o) for o in units]
    yield frame_to_series(long, unit='unit')
    for f in ('a.csv','a.parquet'): yield read_series(folder/f, unit='unit')
    yield read_series(folder/'a.npz')

def test_values_keep_their_digits_up_to_the_model(tmp_path):
    units = far_units(); model = DVAE(2, z_dim=2, h_dim=8)
    for source in sources(tmp_path):
        series = source if isinstance(source, SeriesSet) else SeriesSet(source); norm = Normalizer.fit(series); model.set_scale(norm.loc, norm.scale)
        want = [torch.from_numpy((o-norm.loc)/norm.scale).float() for o in units]
        x,mask = masked(series.padded()); close(model.prepare(x, mask=mask)[0][1,:40], want[1], atol=1e-5, rtol=0)
        for kw in (dict(window=30), dict(), dict(window=55, pad=True)):
            ds = WindowDataset(series, **kw); x,_,_,mask,y,_ = ds[[len(ds)-1]]; n = min(x.shape[1], 50)
            close(model.prepare(x, mask=mask)[0][0,:n], want[2][-n:] if kw.get('window')==30 else want[2][:n], atol=1e-5, rtol=0)
        x,_,truth = cut_series(series, 5); close(truth[1], torch.from_numpy(units[1][-5:]), rtol=0, atol=0)

def test_whole_numbers_and_single_precision():
    assert WindowDataset([np.arange(5)[:,None]+2**30]).batch([0])[0].flatten().tolist()==[2**30+i for i in range(5)]
    for kind,want in ((np.float32,torch.float32), (np.int16,torch.float32), (np.uint8,torch.float32), (np.float64,torch.float64), (np.int64,torch.float64)):
        s = SeriesSet([np.zeros((4,1), kind)]); assert s.padded().dtype==WindowDataset(s).batch([0])[0].dtype==want
    df = pd.DataFrame(dict(a=np.float32([1,2]), b=pd.array([2**30+1,None], dtype='Int64')))
    assert frame_to_series(df, columns=['a']).x.dtype==np.float32 and frame_to_series(df).x[0,1]==2**30+1 and np.isnan(frame_to_series(df).x[1,1])

CONTINUOUS = ['normal','mse','student_t','mixture','censored','logistic','mulaw']
def options(emission): return dict(emission_kwargs=dict(upper=3.)) if emission=='censored' else {}

def two_models(make, emission, u_dim=0):
    "One set of weights for data around 0 and for the same data far away"
    torch.manual_seed(0); near = make(emission, emission_kwargs=dict(upper=5.) if emission=='censored' else None)
    torch.manual_seed(0); far = make(emission, emission_kwargs=dict(upper=FAR+SCALE*5) if emission=='censored' else None)
    far.set_scale([FAR]*2, [SCALE]*2, *([[1e9]*u_dim,[3.]*u_dim] if u_dim else []))
    return near.eval(),far.eval()

MAKERS = {'DVAE':lambda e,**kw: DVAE(2, 2, 8, emission=e, **kw), 'smoothing':lambda e,**kw: DVAE(2, 2, 8, posterior='smoothing', emission=e, **kw),
          'VRNN':lambda e,**kw: VRNN(2, 2, 8, emission=e, **kw), 'DKF':lambda e,**kw: DKF(2, 2, 8, emission=e, **kw), 'RNN':lambda e,**kw: AutoregressiveRNN(2, 8, emission=e, **kw),
          'VAEConv1d':lambda e,**kw: VAEConv1d(nf=[4], encoder=[8], decoder=[8], o_dim=16, nc_in=2, nc_out=3, z_dim=2, avg_size=2, emission=e, **kw),
          'LatentODE':lambda e,**kw: LatentODE(2, 2, 8, emission=e, **kw), 'ODERNN':lambda e,**kw: ODERNN(2, 8, emission=e, **kw)}

@pytest.mark.parametrize('emission', CONTINUOUS)
@pytest.mark.parametrize('kind', MAKERS)
def test_far_from_zero_everything_is_as_near_it(kind, emission):
    near,far = two_models(MAKERS[kind], emission); assert far.far and not near.far
    x = torch.randn(3,10,2, dtype=torch.float64).clamp(max=4.); x[1,7:] = float('nan'); mask = ~torch.isnan(x); away = FAR+SCALE*x
    def same(a, b, atol=2e-4): close((b.double()-FAR)/SCALE, a.double(), atol=atol, rtol=1e-4, equal_nan=True)
    run = lambda f: (f(near, x),f(far, away))
    a,b = run(lambda m,x: m.forecast(x[:1], 4, 19, seed=0)); same(a.samples, b.samples); same(a.known, b.known); assert b.samples.flatten().unique().numel()>2
    a,b = run(lambda m,x: m.impute(x, n_samples=40, n_paths=80, seed=0).samples); seen = mask.expand(a.shape); same(a[seen], b[seen])     # drawn in double precision: other numbers of the same distribution
    b = (b[:,1,7:]-FAR)/SCALE; assert b.abs().max()<100 and b.flatten().unique().numel()>1
    same(*run(lambda m,x: m.reconstruct(x, 5, mask=mask, seed=0).mean), 1e-3); same(*run(lambda m,x: m.sample(4, 6, seed=0)))
    def next_mean(m, x): torch.manual_seed(0); return m.emission.mean(m.predict_next(x, mask=mask))
    same(*run(next_mean))
    def step_mean(m, x): torch.manual_seed(0); s = m.start(3); _,s = m.step(None, s); px,_ = m.step(x[:,0], s); return m.emission.mean(px)
    same(*run(step_mean))
    for method in ('elbo','iwae') + (('fivo',) if near.sequential else ()):
        a,b = run(lambda m,x: m.log_likelihood(x, 3, mask=mask, seed=0, method=method)); at_limit = 0
        close(b.double(), a.double()-(mask.flatten(1).sum(1)-at_limit)*math.log(SCALE), atol=2e-3, rtol=1e-4)
    def loss(m, x): torch.manual_seed(0); x = torch.where(mask, x, 0.); return Loss()(m(x, mask=mask), x, mask)
    a,b = run(loss); close(b.double(), a.double()+2*math.log(SCALE), atol=1e-3, rtol=1e-4)
    b.backward(); assert all(p.grad is None or p.grad.isfinite().all() for p in far.parameters())

@pytest.mark.parametrize('distribution', ['normal','mixture','logistic','categorical'])
def test_a_wavenet_far_from_zero(distribution):
    make = lambda e,**kw: VAEWaveNet(in_channels=1, out_channels=1, nf=[4], encoder=[8], decoder=[8], o_dim=20, z_dim=2, avg_size=2, c_channels=2, res_channels=4, skip_channels=4, layer_size=2, use_pad=True, out_distribution=e, num_mixtures=2 if e!='normal' else 1)
    torch.manual_seed(0); near = make(distribution).eval(); torch.manual_seed(0); far = make(distribution).eval(); far.set_scale([FAR], [SCALE])
    x = torch.randn(2,12,1, dtype=torch.float64); holes = x.clone(); holes[0,5] = float('nan')
    for f,v in ((lambda m,x: m.forecast(x, 4, 5, seed=0).samples,x), (lambda m,x: m.sample(3, 5, seed=0),x), (lambda m,x: m.impute(x, n_samples=5, seed=0).samples,holes)):
        close((f(far, FAR+SCALE*v)-FAR)/SCALE, f(near, v).double(), atol=1e-4, rtol=1e-4)
    a,b = near.log_likelihood(x, seed=0),far.log_likelihood(FAR+SCALE*x, seed=0); close(b.double(), a.double()-12*math.log(SCALE), atol=1e-3, rtol=1e-4)

def test_known_inputs_far_from_zero():
    near,far = two_models(lambda e,**kw: DVAE(2, 2, 8, u_dim=1, emission=e, **kw), 'normal', 1); x = torch.randn(3,10,2, dtype=torch.float64); u = torch.randn(3,14,1, dtype=torch.float64)
    a,b = near.forecast(x, 4, 5, u=u, seed=0).samples,far.forecast(FAR+SCALE*x, 4, 5, u=1e9+3*u, seed=0).samples; close((b-FAR)/SCALE, a.double(), atol=1e-4, rtol=0)

def test_draws_far_from_zero_are_finer_than_what_was_given():
    model = DVAE(1, 2, 8).set_scale([2.**27], [1.]).eval(); x = torch.full((1,8,1), 2.**27); x[0,5:7] = float('nan')      # single precision counts in steps of 16 there
    fc = model.impute(x, n_samples=30, seed=0); assert fc.samples[:,0,5].unique().numel()>5 and model.as_batch(x[:,:5]).dtype==torch.float64

def test_training_and_evaluation_far_from_zero():
    rng = np.random.default_rng(0); x = np.cumsum(rng.standard_normal((12,30,2)), 1); res = {}
    for off in (0.,FAR):
        torch.manual_seed(0); dls = SeqDataLoaders.from_series(x+off, window=15, bs=8, seed=0); model = DVAE(2, 2, 8)
        learn = seq_learner(dls, model)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
        res[off] = {**evaluate(model, x+off, 5, n_samples=19), 'loss':float(learn.recorder.values[-1][-1])}
    for k,v in res[0.].items(): assert math.isclose(v, res[FAR][k], rel_tol=2e-3, abs_tol=2e-3), k

def test_scores_keep_their_digits():
    y = torch.randn(4000, dtype=torch.float64); s = torch.randn(20,4000, dtype=torch.float64)
    close(crps((s+FAR), y+FAR), crps(s, y), atol=1e-5, rtol=0); close(crps((s+3e4).float(), (y+3e4).float()).mean().double(), crps(s, y).mean(), atol=1e-3, rtol=0)

def test_location_survives_casts_and_files(tmp_path):
    x = FAR+torch.randn(2,8,1, dtype=torch.float64); loc = 1e9+1/3
    model = DVAE(1, 2, 8).set_scale([loc], [.25]).eval(); want = model.prepare(x)[0]
    whole = lambda m: float(m.x_loc.double()+m.x_rest)
    assert model.x_loc.dtype==torch.float32 and abs(whole(model)-loc)<1e-6 and want.abs().max()<30
    for there,back in (('half','float'), ('bfloat16','float'), ('double','float')):
        cast = getattr(model, there)(); kind = next(cast.parameters()).dtype
        assert cast.x_loc.dtype==kind and abs(whole(cast)-loc)<1e-6 and float(cast.x_scale)==.25
        close(cast.prepare(x)[0].float(), want, atol=0, rtol=.01)
        model = getattr(cast, back)(); close(model.prepare(x)[0], want)
    assert model.to('cpu').x_rest.dtype==torch.float64
    again = load_model(model.save(tmp_path/'m.safetensors')); close(again.forecast(x, 3, 4, seed=0).samples, model.forecast(x, 3, 4, seed=0).samples, rtol=0, atol=0)
    with says('finite and positive'): model.set_scale([0.], [0.])
    with says('finite'): model.set_scale([math.inf], [1.])

def old_file(model, path, name=None):
    "As version 0.1.0 wrote it: the bare name of the class, and locations in single precision only"
    from safetensors.torch import save_file
    state = {k:v for k,v in model.state_dict().items() if not k.endswith('_rest')}
    save_file(state, path, metadata=dict(format='seqvae', version='1', model=name or type(model).__name__, config=json.dumps(model.config))); return path

@pytest.mark.parametrize('model', [DVAE(2, 2, 8, u_dim=1), VRNN(2, 2, 8), LatentODE(2, 2, 8), VAE(3), DVAE(1, 2, 8, emission='censored')], ids=lambda m: type(m).__name__)
def test_files_of_version_010_load(model, tmp_path):
    model.set_scale([3.]*model.x_dim, [2.]*model.x_dim); f = old_file(model, tmp_path/'old.safetensors'); new = load_model(f)
    assert type(new) is type(model) and new.x_loc.tolist()==[3.]*model.x_dim and all(torch.equal(v, model.state_dict()[k]) for k,v in new.state_dict().items())
    type(model)(**model.config).load(f); type(model)(**model.config).load_state_dict(read_model_file(f)[1])        # a plain state dict too

# --- holes ---------------------------------------------------------------------------------------------------------

def with_hole(value, pad=True):
    "Six units of different length with two known inputs, a hole in unit motor3, column load, step 7"
    lengths = (30,30,25,30,20,30) if pad else (30,)*6; rng = np.random.default_rng(0)
    u = [rng.standard_normal((n,2)) for n in lengths]; u[3][7,1] = value
    return SeriesSet([rng.standard_normal((n,2)) for n in lengths], [f'motor{i}' for i in range(6)], ['a','b'], u, u_names=['speed','load'])

@pytest.mark.parametrize('value', [np.nan,np.inf,-np.inf])
@pytest.mark.parametrize('pad', [True,False])
def test_a_hole_in_u_is_refused_by_name(value, pad):
    s = with_hole(value, pad); place = 'known input load of unit motor3 is (nan|-?inf) at step 7'; model = DVAE(2, 2, 8, u_dim=2)
    for f in (s.check, lambda: cut_inputs(s, 5), lambda: inputs_of(s), lambda: evaluate(model, s, 5, n_samples=3), lambda: SeqDataLoaders.from_series(s, window=10),
              lambda: SeqDataLoaders.from_series(s[[0,1,2]], valid=s[[3]], window=10), lambda: SeqDataLoaders.from_series(s, window=10, normalize=False), lambda: WindowDataset(s).batch([0,3]),
              lambda: WindowDataset(s, window=5, pad=True).batch(np.arange(100))):
        with says(place): f()
    good = s[[0,1,2,4,5]]; assert good.check() is good and cut_inputs(good, 5).isfinite().all() and WindowDataset(good).batch([0,2,3])[1].isfinite().all()    # padding is no hole
    u = torch.from_numpy(s.known(3))[None]
    with says('u has 1 (NaN|non-finite values) in unit 0 at steps 7, columns 1: fill them, a known input cannot be missing'): model.forecast(torch.zeros(1,25,2), 5, u=u)

@pytest.mark.parametrize('rows', [6,1])
def test_a_hole_in_u_ends_the_program_before_training(rows, tmp_path, capsys):
    s = with_hole(np.nan, False); df = pd.concat([pd.DataFrame(np.c_[s[i],s.known(i)], columns=['a','b','speed','load']).assign(unit=s.units[i]) for i in ([3] if rows==1 else range(6))])
    df.to_csv(tmp_path/'a.csv', index=False)
    with pytest.raises(SystemExit): main(['fit', str(tmp_path/'a.csv'), '--unit','unit', '--u','speed,load', '--horizon','3', '--steps','2', '--out',str(tmp_path/'run')])
    assert 'known input load of unit motor3 is nan at step 7' in capsys.readouterr().err and not (tmp_path/'run/model.safetensors').exists()

def test_names_of_known_inputs_travel():
    from seqvae.data import known_set, prefixes, split_units
    s = with_hole(0.); assert all(o.u_names==['speed','load'] for o in (s, s[[1,2]], *split_units(s, .5), prefixes(s, (.5,1.)))) and known_set(s).names==['speed','load']
    with says('1 names for 2 known inputs'): SeriesSet([np.zeros((3,1))], u=[np.zeros((3,2))], u_names=['a'])

def test_infinite_values_are_refused_by_name():
    x = [np.random.default_rng(i).standard_normal((20,2)) for i in range(4)]; x[2][5,1] = np.inf; s = SeriesSet(x, list('pqrs'), ['a','b']); place = 'channel b of unit r is inf at step 5'
    model = DVAE(2, 2, 8)
    for f in (s.check, s.padded, lambda: evaluate(model, s, 4, n_samples=3), lambda: SeqDataLoaders.from_series(s, window=5), lambda: SeqDataLoaders.from_series(s[[0,1]], valid=s[[2]], window=5),
              lambda: WindowDataset(s, window=20).batch([2])):
        with says(place): f()
    with says('x has 1 non-finite values in unit 2 at steps 5'): x,m = masked(torch.from_numpy(np.stack(x))); model(x, mask=m)

# --- levels --------------------------------------------------------------------------------------------------------

def integral(px, reach):
    "Of exp log p over the real line, in pieces: levels finely, tails on a logarithmic scale"
    edge = torch.linspace(-6, 6, 400_001, dtype=torch.float64); out = torch.logspace(-9, math.log10(reach), 100_001, dtype=torch.float64)
    x = torch.cat([-(6+out).flip(0), edge, 6+out]); place = 5+.5*x; lp = px.log_prob(place[:,None,None])[:,0]
    return float(torch.trapezoid(lp.exp(), place)),lp

@pytest.mark.parametrize('emission,kw', [('logistic',dict(n_components=3, n_levels=32)), ('logistic',{}), ('mulaw',dict(n_levels=32)), ('mulaw',{}), ('mulaw',dict(n_levels=2))])
def test_levels_hold_all_probability_and_no_more(emission, kw):
    head = make_emission(emission, 4, 1, **kw).double(); px = head.to_units(head(3*torch.randn(1,4, dtype=torch.float64)), torch.tensor([5.]).double(), torch.tensor([.5]).double())
    total,lp = integral(px, 1e12); assert abs(total-1)<2e-3, total
    tail = lp[-100_000:]; assert (tail.diff()<=0).all() and (lp[:100_000].diff()>=0).all() and tail[-1]<tail[0]-30      # falls on both sides
    six_million = px.log_prob(torch.tensor([[5+.5*6e6]]).double()); assert six_million<lp[100_001:-100_001].min()-10 and six_million.isfinite()

def test_inside_the_limit_the_levels_are_as_published():
    "Salimans et al. 2017, eq. 2; and a level's probability over its width"
    head = make_emission('logistic', 4, 1, n_components=2, n_levels=16, residual=False).double(); px = head(torch.randn(1,4).double()).base_dist; logits,mu,log_s = (o[0,0] for o in px.params)
    w = 12/15; c = torch.linspace(-6, 6, 16).double()[:,None]; upper,lower = torch.sigmoid((c+w/2-mu)/log_s.exp()),torch.sigmoid((c-w/2-mu)/log_s.exp())
    upper[-1],lower[0] = 1,0; mass = ((upper-lower)*logits.softmax(0)).sum(1)
    close(px.log_prob(c[:,:,None])[:,0,0].exp(), mass/w)
    head = make_emission('mulaw', 4, 1, n_levels=16).double(); px = head(torch.randn(1,4).double()).base_dist; p = px.logits[0,0].softmax(0)
    close(px.log_prob(px.centres[:,None,None].double())[1:-1,0,0].exp(), (p/px.edges.diff())[1:-1])

@pytest.mark.parametrize('n_levels', [8,256])
@pytest.mark.parametrize('mu', [-30.,-6.1,-.3,.21,5.5,8.])
@pytest.mark.parametrize('s', [.003,.1,1.,4.])
def test_the_mean_of_a_logistic_is_the_mean_of_its_draws(n_levels, mu, s):
    from seqvae.core import LogisticMixture
    d = LogisticMixture((torch.zeros(1,1), torch.full((1,1), mu), torch.full((1,1), math.log(s))), n_levels, 6., loc=10., scale=2.); x = d.sample((40_000,))
    assert abs(float(d.mean-x.mean()))<5*float(x.std())/200+2e-3*12/n_levels+1e-5

# --- small ensembles -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('level,least', [(.5,3), (.9,19), (.95,39), (.99,199)])
def test_an_interval_needs_enough_members(level, least):
    torch.manual_seed(0); fc = Forecast(torch.randn(least,8000,1,1)); lo,hi = fc.interval(level); truth = torch.randn(8000,1,1)
    assert abs(float(((truth>=lo)&(truth<=hi)).float().mean())-level)<.02                                # the smallest that can is calibrated
    small = Forecast(fc.samples[:-1]); assert fc.reaches(level) and not small.reaches(level)
    with says(f'an interval that holds {100*level:g} % takes at least {least} samples, there are {least-1}'): small.interval(level)
    with says(f'{least-1} samples have no quantile at'): small.quantile((1+level)/2)
    assert torch.equal(small.quantile([0,1]), torch.stack([small.samples.amin(0), small.samples.amax(0)]))

@pytest.mark.parametrize('S', [1,2,10])
def test_small_ensembles_leave_out_what_cannot_be_had(S):
    import matplotlib.pyplot as plt
    fc = Forecast(torch.randn(S,2,4,1)); truth = torch.randn(2,4,1)
    with warnings.catch_warnings(record=True) as w: warnings.simplefilter('always'); df = fc.to_frame()
    assert df.hi90.isna().all() and df.lo50.isna().all()==(S<3) and df['mean'].notna().all() and any('too few' in str(o.message) for o in w)
    ax = plot_forecast(fc, truth)[0]; assert len(ax.collections)==(1 if S==10 else 0); plt.close('all')
    res = score(fc.samples, truth); assert ('cover90' not in res) if S==1 else math.isnan(res['cover90']) and math.isnan(res['cover50'])==(S<3)
    res = evaluate_rul(torch.rand(S,30), torch.rand(30)); assert ('cover90' not in res) if S==1 else math.isnan(res['cover90']) and math.isfinite(res['crps'])
    res = evaluate(DVAE(1, 2, 8), torch.randn(3,12,1).numpy(), 4, n_samples=S); assert math.isfinite(res['crps'])

# --- heads without x_t-1 -------------------------------------------------------------------------------------------

def data_for(emission, shape):
    x = torch.randn(shape)
    if emission=='bernoulli': return (x>0).float()
    if emission=='categorical': return (x>0).float()
    return x.abs() if emission=='exponential' else x.clamp(max=.9)

BLIND = {'VAE':lambda e: VAE(3, 2, 8, emission=e), 'VAE full':lambda e: VAE(3, 2, 8, posterior='full', emission=e), 'VAEConv1d':lambda e: VAEConv1d(nf=[4], encoder=[8], decoder=[8], o_dim=12, nc_in=3, nc_out=3, z_dim=2, avg_size=2, emission=e),
         'LatentODE':lambda e: LatentODE(3, 2, 8, emission=e), 'DKF':lambda e: DKF(3, 2, 8, emission=e), 'RVAE':lambda e: RVAE(3, 2, 8, emission=e), 'bottleneck':lambda e: DVAE(3, 2, 8, bottleneck=True, emission=e),
         'reads_x=False':lambda e: DVAE(3, 2, 8, u_dim=1, reads_x=False, emission=e), 'RNN reads_x=False':lambda e: AutoregressiveRNN(3, 8, u_dim=1, reads_x=False, emission=e)}
SEES = {'DVAE':lambda e: DVAE(3, 2, 8, emission=e), 'VRNN':lambda e: VRNN(3, 2, 8, emission=e), 'SRNN':lambda e: SRNN(3, 2, 8, emission=e), 'STORN':lambda e: STORN(3, 2, 8, emission=e), 'RNN':lambda e: AutoregressiveRNN(3, 8, emission=e), 'ODERNN':lambda e: ODERNN(3, 8, emission=e)}

def without_gradient(model, emission):
    x = data_for(emission, (4,3) if isinstance(model, VAE) else (4,10,3)); u = torch.randn(4,10,1) if model.u_dim and not isinstance(model, (LatentODE,ODERNN)) else None
    Loss()(model(x, u), x[:,None] if x.ndim==2 else x).backward()
    return [k for k,p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()>0]

@pytest.mark.parametrize('emission', EMISSIONS)
@pytest.mark.parametrize('kind', BLIND)
def test_no_weights_without_gradient(kind, emission):
    model = BLIND[kind](emission); dead = without_gradient(model, emission)
    assert not model.emission.residual and not [k for k in dead if k.startswith(('emission','decoder'))], dead
    rows = model.emission.linear.weight.grad.abs().sum(1); assert (rows>0).all()                          # each output of the head is used

@pytest.mark.parametrize('emission', EMISSIONS)
@pytest.mark.parametrize('kind', SEES)
def test_heads_that_see_the_past_use_all_of_it(kind, emission):
    model = SEES[kind](emission); without_gradient(model, emission); assert model.emission.residual==EMISSIONS[emission].has_residual
    assert (model.emission.linear.weight.grad.abs().sum(1)>0).all()

@pytest.mark.parametrize('distribution', ['normal','mixture','logistic','categorical','bernoulli'])
def test_a_wavenet_has_no_weights_without_gradient(distribution):
    model = VAEWaveNet(in_channels=1, out_channels=1, nf=[4], encoder=[8], decoder=[8], o_dim=20, z_dim=2, avg_size=2, c_channels=2, res_channels=4, skip_channels=16, layer_size=2, use_pad=True, out_distribution=distribution, num_mixtures=2 if distribution in ('mixture','logistic') else 1)
    x = data_for(distribution, (4,12,1)); Loss()(model(x), x).backward(); assert (model.out_conv[-1].weight.grad.abs().sum((1,2))>0).all() and not model.emission.residual

@pytest.mark.parametrize('make', [lambda: VAE(3, emission_kwargs=dict(residual=True)), lambda: VAEConv1d(emission_kwargs=dict(residual=True)), lambda: LatentODE(3, emission_kwargs=dict(residual=True)), lambda: DKF(3, emission_kwargs=dict(residual=True))])
def test_a_residual_that_cannot_be_is_refused(make):
    with says('has no residual mean'): make()

# --- names of classes ----------------------------------------------------------------------------------------------

def test_a_class_of_the_same_name_replaces_nobody(tmp_path):
    ours = VRNN(2, 2, 8); new,old = ours.save(tmp_path/'new.safetensors'),old_file(ours, tmp_path/'old.safetensors')
    class VRNN_(SequenceModel): pass
    Mine = type('VRNN', (seqvae.dvae.VRNN,), dict(__module__='laboratory', __qualname__='VRNN'))
    try:
        assert MODELS['seqvae.dvae.VRNN'] is VRNN and MODELS['laboratory.VRNN'] is Mine
        assert type(load_model(new)) is VRNN and type(load_model(old)) is VRNN
        mine = Mine(2, 2, 8).save(tmp_path/'mine.safetensors'); assert type(load_model(mine)) is Mine and read_model_file(mine)[0]['model']=='laboratory.VRNN'
        with says('holds a laboratory.VRNN, this is a seqvae.dvae.VRNN'): VRNN(2, 2, 8).load(mine)
        with says('is the name of another model'): register(Mine, 'seqvae.dvae.VRNN')
    finally: del MODELS['laboratory.VRNN']
    with says(r"holds a laboratory.VRNN: import the module that defines it first"): load_model(mine)
    try: register(Mine, 'elsewhere.VRNN'); MODELS['laboratory.VRNN'] = MODELS.pop('elsewhere.VRNN'); assert type(load_model(mine)) is Mine
    finally: MODELS.pop('laboratory.VRNN', None); MODELS.pop(full_name(VRNN_), None)

def test_our_models_are_found_wherever_they_have_moved(tmp_path):
    f = old_file(VRNN(2, 2, 8), tmp_path/'a.safetensors', 'seqvae.family.VRNN'); assert type(load_model(f)) is VRNN
    f = old_file(VRNN(2, 2, 8), tmp_path/'b.safetensors', 'other.family.VRNN')
    with says('holds a other.family.VRNN: import the module'): load_model(f)

class Own(DVAE): "A user's model, in a file of version 0.1.0 under its bare name"

def test_own_classes_of_old_files(tmp_path):
    assert type(load_model(old_file(Own(2, 2, 8), tmp_path/'own.safetensors'))) is Own
    assert type(load_model(Own(2, 2, 8).save(tmp_path/'new.safetensors'))) is Own and full_name(Own) in MODELS

# --- the rest ------------------------------------------------------------------------------------------------------

def test_kl_between_every_pair_of_gaussians():
    tril = lambda: tril_from_flat(torch.randn(5,6), 3); mu = lambda: torch.randn(5,3); diag = lambda: diag_normal(mu(), torch.randn(5,3)); full = lambda: FullNormal(mu(), tril())
    plain = lambda d: MultivariateNormal(d.mean, scale_tril=torch.diag_embed(d.stddev) if not hasattr(d, 'scale_tril') else d.scale_tril)
    for q in (diag(),full()):
        for p in (diag(),full(),MultivariateNormal(mu(), scale_tril=tril())): parts = kl_latents(q, p); assert parts.shape==(5,3); close(parts.sum(-1), kl_divergence(plain(q), plain(p)), rtol=1e-3, atol=1e-3)

@pytest.mark.parametrize('make', [lambda: DVAE(1, 3, 8), lambda: VAEConv1d(nf=[4], encoder=[8], decoder=[8], o_dim=12, nc_out=3, z_dim=3, avg_size=2)])
def test_a_latent_is_active_by_its_nats_a_draw(make):
    model = make().eval(); x = torch.randn(6,10,1); torch.manual_seed(0); use = latent_use(model, x, threshold=0.); k = use['kl_latents']
    torch.manual_seed(0); kl = model(x).kl(); close(k, kl.flatten(0,-2).mean(0).cpu())                     # a step, or a sequence
    for t in (k*.99).tolist()+(k*1.01).tolist(): torch.manual_seed(0); assert latent_use(model, x, threshold=t)['active']==int((k>t).sum())
    assert 'nats a draw (a step, or a sequence' in latent_use.__doc__

def test_shares_of_held_out_units():
    x = np.random.default_rng(0).standard_normal((10,20,1))
    for v in (0,1,None,0.,1.,-.2,True,np.float32(0),2):
        with says('valid is the share of the units to hold out, above 0 and below 1'): SeqDataLoaders.from_series(x, valid=v)
    for v,n in ((.3,3), (np.float32(.3),3), (np.float64(.3),3), (x[:4],4), (list(x[:2]),2), (SeriesSet(x[:5]),5)): assert len(SeqDataLoaders.from_series(x, valid=v).valid_ds.series)==n

def test_seeded_draws_in_many_threads_are_those_of_one():
    torch.manual_seed(0); model = DVAE(2, 2, 16).eval(); x = torch.randn(4,12,2); seeds = [0,1,2,3]*3
    work = lambda s: (model.forecast(x, 12, 30, seed=s).samples, model.log_likelihood(x, 5, seed=s), model.impute(torch.where(torch.rand(4,12,2, generator=torch.Generator().manual_seed(s))>.8, float('nan'), x), n_samples=4, seed=s).samples)
    alone = [work(s) for s in seeds]; before = torch.get_rng_state(); done = threading.Event()
    def disturb():
        while not done.is_set(): model.forecast(x, 3, 5); model.sample(3, 4)
    with ThreadPoolExecutor(5) as pool:
        noise = pool.submit(disturb)
        try: together = list(pool.map(work, seeds))
        finally: done.set(); noise.result()
    assert all(torch.equal(p, q) for a,b in zip(alone, together) for p,q in zip(a, b))
    torch.set_rng_state(before); alone = [work(s) for s in seeds[:2]]; assert torch.equal(torch.get_rng_state(), before)      # and outside nothing has changed

@pytest.mark.parametrize('mask,mode', [(0o022,0o644), (0o077,0o600), (0o002,0o664)])
def test_files_are_readable_as_any_other(mask, mode, tmp_path):
    was = os.umask(mask)
    try:
        f = DVAE(1, 2, 8).save(tmp_path/'m.safetensors'); g = write_whole(tmp_path/'a.txt', lambda tmp: open(tmp, 'w').write('x') and None); (tmp_path/'plain').write_text('')
    finally: os.umask(was)
    assert [stat.S_IMODE(o.stat().st_mode) for o in (f, g, tmp_path/'plain')]==[mode]*3
    def fails(tmp): open(tmp, 'w').write('half'); raise RuntimeError
    with pytest.raises(RuntimeError): write_whole(tmp_path/'a.txt', fails)
    assert (tmp_path/'a.txt').read_text()=='x' and len(list(tmp_path.iterdir()))==3
