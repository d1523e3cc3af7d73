"Continuous time: readers on the real files, training on irregular series, and what goes wrong"
import math, tarfile
import numpy as np, pytest, torch
from conftest import folder
from seqvae.core import load_model
from seqvae.data import PHYSIONET, Events, SeqDataLoaders, SeriesSet, coal_disasters, earthquakes, physionet2012, poisson_events, spirals, toy_periodic
from seqvae.dvae import DVAE
from seqvae.events import change_point, constant_rate, fit_rate
from seqvae.ode import LatentODE, ODERNN, SolverError, poisson_log_likelihood, solve
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
