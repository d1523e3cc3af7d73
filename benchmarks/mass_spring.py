"""Forecast accuracy of the DVAE on simulated masses on springs, one data seed a call: prints one JSON line.

    python benchmarks/mass_spring.py --noise 0.1 --seed 0 [--baselines]     # the last: nothing is trained but what needs no network

The model never sees test units; training, checking and test units are drawn independently; errors are in units of each
sensor's standard deviation over the training units, against the clean signal; the last 60 of 200 steps are forecast from the first 140. All baselines have a spread: paths of their own errors on training units.
"""
import argparse, json, time
import numpy as np, torch
from seqvae.baselines import PerUnit, PooledRidge, SeasonalNaive, ar, harmonic, persistence, trend, var
from seqvae.data import SeqDataLoaders, SeriesSet, mass_spring
from seqvae.dvae import DVAE
from seqvae.train import KLAnneal, Overshooting, evaluate, score, seq_learner

def baselines(train, test, clean, horizon, dt, scale, oracle=True):
    "Scores of what a model must beat, by name; errors of the rules on 200 training units, of the oracle on 60"
    makers = {name: lambda rule=rule: PerUnit(rule, train, horizon, since=1, n_paths=200) for name, rule in dict(persistence=persistence, trend=trend, var2=var).items()}
    makers |= dict(ar32=lambda: PerUnit(ar, train, horizon, since=1, n_paths=200, order=32), seasonal=lambda: SeasonalNaive(train, horizon, since=1), ridge=lambda: PooledRidge(train, horizon, since=1))
    if oracle:
        makers["harmonic2"] = lambda: PerUnit(harmonic, train, horizon, since=1, n_paths=60, dt=dt)
    future, clean_future = (torch.from_numpy(x[:, -horizon:]) for x in (test, clean))
    rows = {}
    for name, make in makers.items():
        start = time.process_time()
        baseline = make()
        cpu = time.process_time() - start
        rows[name] = score(baseline.hindcast(test, 200), future, clean=clean_future, scale=scale)
        rows[name]["cpu_s"] = round(cpu, 1)
    return rows

def main(noise, seed, units=4200, epochs=24, h_dim=96, lr=4e-3, horizon=60, out=None, baselines_only=False):
    torch.manual_seed(seed); torch.set_num_threads(1)
    ms = mass_spring(units, noise=noise, seed=seed)
    n = units-200; parts = slice(0, n),slice(n, n+100),slice(n+100, None)
    test,clean = ms.x[parts[2]],ms.clean[parts[2]]; scale = torch.from_numpy(ms.x[parts[0]].std((0,1)))
    if baselines_only:
        res = baselines(ms.x[parts[0]], test, clean, horizon, ms.t[1]-ms.t[0], scale, oracle=False)
        print(json.dumps(dict(noise=noise, seed=seed, part='baselines', **res)), flush=True); return
    dls = SeqDataLoaders.from_series(ms.x[parts[0]], valid=SeriesSet(ms.x[parts[1]]), bs=64, seed=seed)
    model = DVAE(14, z_dim=4, h_dim=h_dim)
    learn = seq_learner(dls, model, lr=lr, cbs=[KLAnneal(), Overshooting(horizon, n_paths=4, rows=32)])
    start = time.process_time()
    with learn.no_bar(): learn.fit_one_cycle(epochs, lr)
    cpu = time.process_time()-start
    res = {'dvae':evaluate(model, test, horizon, n_samples=200, clean=clean)}
    use40 = evaluate(model, test[:,:40], horizon=10, n_samples=10)
    res['dvae'] |= {f'{k}_T40':use40[k] for k in ('elbo','kl','active','nll','nll_shuffled')}
    res |= baselines(ms.x[parts[0]], test, clean, horizon, ms.t[1]-ms.t[0], model.x_scale)
    if out: model.save(out)
    print(json.dumps(dict(noise=noise, seed=seed, cpu_s=round(cpu), **res)), flush=True)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,t,d in (('noise',float,0.1),('seed',int,0),('units',int,4200),('epochs',int,24),('h_dim',int,96),('lr',float,4e-3),('out',str,None)): p.add_argument(f'--{k}', type=t, default=d)
    p.add_argument('--baselines', dest='baselines_only', action='store_true')
    main(**vars(p.parse_args()))
