"Continuous time: readers on the real files, training on irregular series, and what goes wrong"
import math, tarfile
import numpy as np, pytest, torch
from conftest import folder
from seqvae.core import SequenceModel, fork_seed, load_model, log_prob, tensors_of
from seqvae.data import PHYSIONET, Events, SeqDataLoaders, SeriesSet, coal_disasters, earthquakes, physionet2012, poisson_events, spirals, toy_periodic
from seqvae.dvae import DVAE
from seqvae.events import change_point, constant_rate, fit_rate
from seqvae.ode import LatentODE, ODERNN, SolverError, poisson_log_likelihood, poisson_log_prob, solve
from seqvae.train import Consistency, KLAnneal, evaluate, seq_learner

def test_coal_mines():
    ev = coal_disasters(folder('SEQVAE_COAL', 'events_coal', 'coal.csv')); assert ev.count==191 and abs(ev.start-1851.2026)<1e-3 and abs(ev.end-1962.2197)<1e-3
    assert abs(constant_rate(ev).log_likelihood(ev)+87.37)<.01                            # the figures of the data's own page
    cp = change_point(ev); assert abs(cp.where-1890.2)<.5 and -51.84<cp.log_likelihood(ev)<-51

def test_earthquakes():
    path = folder('SEQVAE_QUAKES', 'events_earthquakes', 'usgs_global_M7_to_2021.csv.gz')
    assert earthquakes(path).count==9991 and earthquakes(path, min_mag=2).count==1009 and earthquakes(path, min_mag=3).count==225
    world = earthquakes(path, 'global'); assert world.count==725 and (np.diff(world.times[0])>=0).all() and world.marks.mag.min()>=7 and abs(world.end-51.94)<.01

@pytest.mark.slow
def test_physionet_against_a_plain_parser():
    path = folder('SEQVAE_PHYSIONET', 'physionet2012', 'set-a.tar.xz'); pn = physionet2012(path, 'a', quantum=.1)
    assert len(pn.x)==3997 and abs(pn.outcomes['In-hospital_death'].mean()-.1385)<.001 and not {140501,140936,141264}&set(pn.x.units)
    with tarfile.open(path/'set-a.tar.xz') as tar:
        for name in ('132539','135797','142673'):
            rows = {}
            for line in tar.extractfile(next(m for m in tar if m.name.endswith(f'{name}.txt'))).read().decode().splitlines()[1:]:
                when,param,value = line.split(','); h,m = when.split(':')
                if param!='RecordID' and not (float(value)==-1 and param in PHYSIONET[:5]): rows.setdefault((round((int(h)+int(m)/60)/.1),param), []).append(float(value))
            i = pn.x.units.index(int(name)); x,t = pn.x[i],pn.x.times(i); assert np.isfinite(x).sum()==len(rows)
            for (step,param),vs in rows.items(): assert abs(x[np.abs(t-.1*step).argmin(),PHYSIONET.index(param)]-np.mean(vs))<1e-3*max(1, abs(np.mean(vs)))

@pytest.mark.parametrize('make', [lambda: LatentODE(1, z_dim=3, h_dim=16, n_steps=8), lambda: LatentODE(1, z_dim=3, h_dim=16, n_steps=8, encoder='ode_rnn', events=True), lambda: ODERNN(1, h_dim=16)], ids=['latent_ode','events','ode_rnn'])
def test_learns_from_irregular_series_of_many_lengths(make, tmp_path):
    torch.manual_seed(0); s,_ = toy_periodic(200, n_obs=30, T=500., freq=(.001,.002), seed=1); rng = np.random.default_rng(0); n = rng.integers(10, 31, 200)
    cut = SeriesSet([np.where(rng.random((k,1))<.1, np.nan, s[i][:k]) for i,k in enumerate(n)], t=[s.times(i)[:k] for i,k in enumerate(n)])   # holes, too
    dls = SeqDataLoaders.from_series(cut, bs=20, seed=0); model = make(); learn = seq_learner(dls, model, cbs=KLAnneal(.5))
    with learn.no_bar(), learn.no_logging(): learn.validate(); before = learn.validate()[0]; learn.fit_one_cycle(40, 1e-2); after = learn.validate()[0]
    assert 300<float(model.t_scale)<=500 and after<before-.2
    res = evaluate(model.eval(), dls.valid_ds.series, horizon=4, n_samples=20, seed=0); assert all(math.isfinite(v) for k,v in res.items() if isinstance(v, float) and k!='nll_shuffled') and res['rmse']<1.2
    again = load_model(model.save(tmp_path/'m')); x = torch.zeros(1,5,1); t = torch.tensor([[0.,10,40,90,200]])
    assert torch.equal(*(m.forecast(x, t=t, times=[250.,300.], n_samples=3, seed=0).samples for m in (model.eval(),again)))

def test_the_learner_refuses_what_does_not_fit():
    s,_ = toy_periodic(30, n_obs=8); dls = SeqDataLoaders.from_series(s, bs=8)
    with pytest.raises(ValueError, match='times of their own, for which a DVAE has no use'): seq_learner(dls, DVAE(1, z_dim=2, h_dim=8))
    with pytest.raises(ValueError, match='takes regular steps'): DVAE(1, z_dim=2, h_dim=8)(torch.zeros(1,3,1), t=torch.zeros(1,3))
    with pytest.raises(ValueError, match='consistency'): seq_learner(dls, ODERNN(1, h_dim=8), cbs=Consistency()).fit(1)

def test_a_diverging_field_is_skipped_in_training_and_named_outside():
    s,_ = toy_periodic(40, n_obs=8); dls = SeqDataLoaders.from_series(s, bs=8); model = LatentODE(1, h_dim=8); learn = seq_learner(dls, model)
    for p in model.field.parameters(): p.data.mul_(1e20)
    with learn.no_bar(), learn.no_logging(), pytest.raises(Exception, match='finite'): learn.fit(3)          # skipped, and after too many given up
    with pytest.raises(SolverError, match='row 0 is not finite'): model.eval()(torch.zeros(2,5,1), t=torch.linspace(0, 1, 5))

def test_solver_on_rows_of_every_kind():
    "One row without any way to go, one backwards only, one in both directions, unsorted times"
    f = lambda z: -z; z0 = torch.tensor([[1.],[2.],[3.]], dtype=torch.float64); t0 = torch.tensor([0.,1.,2.], dtype=torch.float64)
    times = torch.tensor([[0.,0.,0.],[1.,.5,-1.],[3.,1.,2.5]], dtype=torch.float64); want = z0[:,None,0]*torch.exp(-(times-t0[:,None]))
    torch.testing.assert_close(solve(f, z0, t0, times, 40)[...,0], want, rtol=1e-6, atol=1e-8)

@pytest.mark.parametrize('solver', ['dopri5','rk4'])
def test_latent_ode_by_other_solvers_agrees(solver):
    pytest.importorskip('torchdiffeq'); torch.manual_seed(0); a = LatentODE(2, z_dim=3, h_dim=8, n_steps=40); b = LatentODE(2, z_dim=3, h_dim=8, n_steps=40, solver=solver); b.load_state_dict(a.state_dict())
    x,t = torch.randn(5,6,2),torch.rand(5,6).sort(1).values; a.temperature = b.temperature = 0.
    torch.testing.assert_close(a(x, t=t).px.mean, b(x, t=t).px.mean, rtol=1e-4, atol=1e-5)

def test_no_channel_is_left_out_of_the_poisson_likelihood():
    rate = torch.rand(3,41); lp = poisson_log_likelihood(torch.zeros(3,5,41), rate, torch.zeros(3,5,41, dtype=torch.bool)); assert torch.equal(lp, -rate)

def test_rate_of_events_in_a_far_unit():
    "Times with many digits, such as seconds since 1970, and a window of seconds"
    ev = poisson_events(lambda t: 2e-3+1e-3*np.sin((t-1.6e9)/5e3), (1.6e9,1.6e9+6e4), seed=0, bound=.003); r = fit_rate(ev, members=8, steps=200); t = np.linspace(ev.start, ev.end, 50)
    assert abs(r.integral(np.array([ev.end]))[0]/ev.count-1)<.1 and (r.at(t)>0).all() and isinstance(ev, Events)

def test_spirals_end_where_the_curve_ends():
    a,b = spirals(300, seed=0),spirals(300, seed=0, followed=True); assert np.isnan(a.after).any() and not np.isnan(b.path).any() and not np.isnan(a.before).any()

def wavy(z_dim=1, seed=0, **options):
    "A latent ODE with fields that move, a decoder that bends, and little noise"
    torch.manual_seed(seed)
    m = LatentODE(1, z_dim=z_dim, h_dim=16, t_scale=5., n_steps=20, **options)
    with torch.no_grad():
        for p in m.field.parameters(): p.normal_(std=.6)
        for p in m.decoder.parameters(): p.normal_(std=.8)
        m.emission.linear.weight.normal_(std=.5)
        m.emission.linear.weight[-1:] = 0
        m.emission.linear.bias[-1:] = 2*math.log(.2)
    return m.eval()

def on_a_grid(m, x, t, mask, n=4001):
    "Exact mean and log-density of p(x_i | x_<i) for one latent, (T,) each"
    z = torch.linspace(-6, 6, n)[:,None]
    logw,first = -.5*z[:,0]**2,int(mask.float().argmax())
    px = m.decode(z, t-t[first])
    each,means,densities = px.log_prob(x.expand(n, -1, -1)),[],[]
    for i in range(len(t)):
        means.append(logw.softmax(0)@px.mean[:,i,0])
        densities.append(torch.logsumexp(logw.log_softmax(0)+each[:,i], 0))
        if mask[i]: logw = logw+each[:,i]
    return torch.stack(means),torch.stack(densities)

@torch.no_grad()
@pytest.mark.parametrize('seed', [0,1,2])
def test_the_filter_of_a_latent_ode_is_exact(seed):
    "Against a grid over the latent, with holes, at steps of uneven length"
    m = wavy(seed=seed)
    t = torch.cumsum(torch.rand(20).double()+.05, 0)
    x = m.sample(1, t=t, seed=seed)[0]
    mask = torch.ones(20, dtype=torch.bool)
    mask[5:8] = False
    means,densities = on_a_grid(m, x, t, mask)
    px = m.predict_next(torch.where(mask[:,None], x, float('nan'))[None], mask=mask[None], t=t)
    off = ((px.mean[0,:,0]-means)/px.stddev[0,:,0]).abs()[1:]
    assert off.mean()<.08 and off.max()<.4
    assert abs(float((px.log_prob(x[None])[0]-densities)[mask][1:].sum()))<1.2
    if seed: return
    slow,logw = SequenceModel.filter_next(m, *m.prepare(x[None], ((t-t[0])/5).float()[None,:,None], mask[None]), 200)
    slow = (logw.exp()[...,None]*slow.mean).sum(2)
    assert ((slow[0,:,0]-means).abs()/px.stddev[0,:,0]).mean()<.4   # the definition, with 32 draws to choose from

@torch.no_grad()
@pytest.mark.parametrize('options', [{}, dict(z_dim=3, encoder='ode_rnn'), dict(z_dim=2, events=True)], ids=['plain','ode_rnn','events'])
def test_streaming_is_predict_next_and_does_not_grow(options):
    m = wavy(**options)
    m.n_particles = 64
    T = 40
    t = torch.cumsum(torch.rand(3,T).double()+.05, 1)
    x = torch.randn(3,T,1)
    x[1,7:9] = float('nan')
    with fork_seed(3): whole = m.predict_next(x, mask=~x.isnan(), t=t).log_prob(torch.zeros(3,T,1))
    looks,sizes,out = [],[],[]
    def count(_, args): looks[-1] += len(args[0])
    hook = m.field.register_forward_pre_hook(count)
    with fork_seed(3):
        state = m.start(3)
        for i in range(T):
            looks.append(0)
            px,state = m.step(x[:,i-1] if i else None, state, t=t[:,i])
            out.append(px.log_prob(torch.zeros(3,1)))
            sizes.append(sum(o.numel() for o in tensors_of(state)))
    hook.remove()
    torch.testing.assert_close(torch.stack(out, 1), whole, rtol=1e-4, atol=1e-4)
    assert set(sizes[1:])=={sizes[1]}                                          # state
    assert max(looks[1:])<=3*64*(4*5+1)                                        # time: looks at the field, four a Runge-Kutta step and one at its end

def test_forecasts_and_steps_answer_alike():
    m = wavy(seed=4)
    t = torch.arange(12).double()
    x = m.sample(1, t=t, seed=2)
    forecast = m.forecast(x[:,:-1], t=t[:-1], times=t[-1:], n_samples=4000, seed=0)
    state = m.start(1)
    for i in range(12): px,state = m.step(x[:,i-1] if i else None, state, t=float(t[i]))
    assert abs(float(forecast.mean[0,0,0]-px.mean[0,0]))<.2*float(px.stddev[0,0])
    assert abs(float(forecast.std[0,0,0]/px.stddev[0,0])-1)<.15

def test_wrong_steps_of_a_latent_ode():
    m = wavy()
    with pytest.raises(ValueError, match='first step has nothing before'): m.step(torch.zeros(1,1), m.start(1), t=0.)
    px,state = m.step(None, m.start(2), t=0.)
    with pytest.raises(ValueError, match='x_prev has 1 rows, the state has 2'): m.step(torch.zeros(1,1), state, t=1.)
    with pytest.raises(ValueError, match='times must increase'): m.step(torch.zeros(2,1), state, t=0.)
    with pytest.raises(ValueError, match='times t_scale'): m.step(torch.zeros(2,1), state, t=1e9)

@torch.no_grad()
@pytest.mark.parametrize('events', [False, True])
def test_weights_of_the_filter_are_the_scores_of_its_first_cloud(events):
    "While observations say too little to draw particles anew, step by step adds up to the score of whole paths: values, arrivals and silence, with holes"
    m = wavy(z_dim=2, events=events)
    m.emission.linear.bias[-1:] = 3.9
    if events: m.rate.weight.mul_(.01)
    t = torch.tensor([[0.,.4,1.1,1.3,2.]]).double()
    x = torch.randn(1,5,1)
    mask = torch.tensor([[True,True,False,True,True]])[...,None]
    clock = m.prepare_u(m.inputs(x, t=t), 1, 5)
    s = start = m.cloud(1)
    for i in range(5):
        if i: s = m.move(s, clock[:,i,0]-clock[:,i-1,0])
        s = m.reweigh(s, x[:,i], mask[:,i])
    z = start['z'][0]
    whole = m.score(z, *(v.expand(len(z), *v.shape[1:]) for v in (x, clock, mask)))
    torch.testing.assert_close(s['logw'][0], whole.log_softmax(0), rtol=1e-3, atol=1e-3)
    assert s['logw'].std()>.01
    end = m.path(z, clock[...,0].expand(len(z), 5))[:,-1]
    torch.testing.assert_close(s['z'][0], end, rtol=1e-3, atol=1e-3)

def windowed(seed=0, **options):
    torch.manual_seed(seed)
    m = LatentODE(2, z_dim=3, h_dim=8, events=True, t_scale=5., n_steps=40, window=(-1.,6.), **options)
    for p in m.parameters(): p.data.add_(.2*torch.randn_like(p))
    return m

@pytest.mark.parametrize('encoder', ['rnn','ode_rnn'])
def test_measurements_in_a_given_window(encoder):
    "log p of all times = the sum of log rates minus the integral from t_start to t_end, by brute force; rows end at different steps"
    m = windowed(encoder=encoder)
    x,t = torch.randn(4,7,2),5*torch.rand(4,7).double().sort(1).values
    mask = (torch.rand(4,7,2)>.3) | (torch.arange(7)==1)[:,None]
    mask[2,4:] = False
    out = m(x, t=t, mask=mask)
    fine = torch.linspace(0, 7, 4001)
    integral = m.intensity(out.z, fine).sum(-1)[:,:-1].mean(1)*7
    came = torch.where(mask, m.intensity(out.z, t+1).log(), 0.).sum((1,2))
    torch.testing.assert_close(out.arrivals.sum(1), came-integral, rtol=1e-3, atol=5e-3)
    assert (out.arrivals[2,4:]==0).all()                                      # padding has none: the last silence counts at the last measurement
    values = log_prob(out.px, x, mask).sum(1)
    torch.testing.assert_close(-out.nll(x, mask).sum(1), values+out.arrivals.sum(1), rtol=1e-4, atol=1e-4)
    out.elbo(x, mask).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())
    m.temperature = 0.
    ref = m(x, t=t, mask=mask).elbo(x, mask)
    more = lambda v,fill: torch.cat([v, torch.full((4,2,*v.shape[2:]), fill, dtype=v.dtype)], 1)
    torch.testing.assert_close(m(more(x, 0.), t=more(t, 0.), mask=more(mask, False)).elbo(more(x, 0.), more(mask, False)), ref, rtol=1e-4, atol=1e-4)
    alone = torch.cat([m(x[i:i+1], t=t[i:i+1], mask=mask[i:i+1]).elbo(x[i:i+1], mask[i:i+1]) for i in range(4)])
    torch.testing.assert_close(alone, ref, rtol=1e-4, atol=1e-3)
    later = m.encode(x, t=t+.5, mask=mask).mean
    assert (later-m.encode(x, t=t, mask=mask).mean).abs().min(1).values.max()>1e-6    # how long it took is read

def test_a_constant_rate_in_a_window_is_known(tmp_path):
    m = windowed()
    m.rate.weight.data.zero_()
    m.rate.bias.data.copy_(torch.tensor([2.,1.]))
    rate = 12*torch.tanh(torch.tensor([2.,1.])/12)                             # log of it, per 5 units
    t = torch.tensor([[0.,1.,2.5]]).double()
    mask = torch.tensor([[[1,0],[1,1],[0,1]]]).bool()
    out = m(torch.randn(1,3,2), t=t, mask=mask)
    want = (2*(rate-math.log(5))).sum()-rate.exp().sum()*7/5
    torch.testing.assert_close(out.arrivals.sum(), want, rtol=1e-4, atol=1e-4)
    # at the first step, all that came before it; at the last, all that did not come until the end
    each = torch.stack([rate[0], rate.sum(), rate[1]])-torch.tensor([1.,2.,1.])*math.log(5)
    torch.testing.assert_close(out.arrivals[0], each-rate.exp().sum()/5*torch.tensor([1.,1.,5.]), rtol=1e-4, atol=1e-4)
    # and in everything else
    x = torch.randn(1,3,2)
    assert m.log_likelihood(x, 5, t=t, mask=mask).isfinite().all() and m.log_likelihood(x, 5, t=t).shape==(1,)
    assert m.forecast(x, t=t, times=[4.,5.], n_samples=3).samples.shape==(3,1,2,2)
    assert m.impute(torch.where(mask, x, float('nan')), n_samples=3, n_paths=20, t=t).samples.isfinite().all()
    assert m.sample(2, t=[0.,1.]).shape==(2,2,2) and m.predict_next(x, t=t).batch_shape==(1,3)
    again = load_model(m.save(tmp_path/'m'))
    assert again.window==(-1.,6.)
    with fork_seed(0): whole = m.predict_next(x, t=t).mean
    with fork_seed(0):
        s,steps = m.start(1),[]
        for i in range(3):
            px,s = m.step(x[:,i-1] if i else None, s, t=t[:,i])
            steps.append(px.mean)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-4, atol=1e-4)
    for wrong,message in ((dict(window=(0,1)),'events=True'), (dict(events=True, window=(3,1)),'a start before an end')):
        with pytest.raises(ValueError, match=message): LatentODE(1, **wrong)
    with pytest.raises(ValueError, match='t of row 0 is 7 at step 2, outside the window from -1 to 6'): m(x, t=torch.tensor([[0.,1.,7.]]).double())

def test_the_filter_in_a_window_weighs_silence_from_its_start():
    m = windowed().eval()
    m.emission.linear.bias.data[-2:] = 3.9
    m.rate.weight.data.mul_(.05)
    t = torch.tensor([[.4,1.1,1.3,2.]]).double()
    x,mask = torch.randn(1,4,2),torch.tensor([[True,False,True,True]])[...,None].expand(1,4,2)
    with torch.no_grad():
        clock = m.prepare_u(m.inputs(x, t=t), 1, 4)
        s = start = m.cloud(1)
        for i in range(4):
            s = m.move(s, clock[:,i,0]-(clock[:,i-1,0] if i else 0.))
            s = m.reweigh(s, x[:,i], mask[:,i])
        m.window = -1.,float(t[0,-1])                                          # watched until the last of them
        z = start['z'][0]
        whole = m.score(z, *(v.expand(len(z), *v.shape[1:]) for v in (x, clock, mask)))
    torch.testing.assert_close(s['logw'][0], whole.log_softmax(0), rtol=1e-3, atol=2e-3)

def test_poisson_log_prob_is_that_of_the_integral():
    ev = poisson_events(lambda t: 3+np.sin(t), (2.,9.), n=5, seed=0)
    t,m = ev.padded()
    rate = lambda t: torch.log(3+torch.sin(t))[...,None]
    want = torch.stack([rate(o).sum(0)-(21+math.cos(2)-math.cos(9)) for o in map(torch.as_tensor, ev.times)])
    torch.testing.assert_close(poisson_log_prob(rate, t, 2., 9., m[...,None]), want, rtol=1e-6, atol=1e-6)
    split = poisson_log_prob(rate, t, 2., 9., m[...,None]&(t<5)[...,None])     # a mask leaves events out, never the window
    assert torch.allclose(split-want, -torch.where(m&(t>=5), rate(t)[...,0], 0.).sum(1, keepdim=True))
