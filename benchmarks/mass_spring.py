"""Forecast accuracy of the DVAE on simulated masses on springs, one data seed a call: prints one JSON line.

    python benchmarks/mass_spring.py --noise 0.1 --seed 0

The model never sees test units; training, checking and test units are drawn independently; errors are in units of each
sensor's standard deviation over the training units, against the clean signal; the last 60 of 200 steps are forecast from the first 140.
"""
import argparse, json, time
import numpy as np, torch
from seqvae.baselines import ar, forecast_all, harmonic, persistence, var
from seqvae.data import SeqDataLoaders, SeriesSet, mass_spring
from seqvae.dvae import DVAE
from seqvae.train import KLAnneal, Overshooting, evaluate, score, seq_learner

def main(noise, seed, units=4200, epochs=24, h_dim=96, lr=4e-3, horizon=60, out=None):
    torch.manual_seed(seed); torch.set_num_threads(1)
    ms = mass_spring(units, noise=noise, seed=seed)
    n = units-200; parts = slice(0, n),slice(n, n+100),slice(n+100, None)
    dls = SeqDataLoaders.from_series(ms.x[parts[0]], valid=SeriesSet(ms.x[parts[1]]), bs=64, seed=seed)
    model = DVAE(14, z_dim=4, h_dim=h_dim)
    learn = seq_learner(dls, model, lr=lr, cbs=[KLAnneal(), Overshooting(horizon, n_paths=4, rows=32)])
    start = time.process_time()
    with learn.no_bar(): learn.fit_one_cycle(epochs, lr)
    cpu = time.process_time()-start
    test,clean = ms.x[parts[2]],ms.clean[parts[2]]
    res = {'dvae':evaluate(model, test, horizon, n_samples=200, clean=clean)}
    use40 = evaluate(model, test[:,:40], horizon=10, n_samples=10)
    res['dvae'] |= {f'{k}_T40':use40[k] for k in ('elbo','kl','active','nll','nll_shuffled')}
    dt = ms.t[1]-ms.t[0]; future,cfuture = (torch.from_numpy(o[:,-horizon:]) for o in (test,clean))
    for name,f,kw in (('persistence',persistence,{}),('ar32',ar,{}),('var2',var,{}),('harmonic2',harmonic,dict(dt=dt))):
        res[name] = score(forecast_all(f, test, horizon, **kw), future, clean=cfuture, scale=model.x_scale)
    if out: model.save(out)
    print(json.dumps(dict(noise=noise, seed=seed, cpu_s=round(cpu), **res)), flush=True)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,t,d in (('noise',float,0.1),('seed',int,0),('units',int,4200),('epochs',int,24),('h_dim',int,96),('lr',float,4e-3),('out',str,None)): p.add_argument(f'--{k}', type=t, default=d)
    main(**vars(p.parse_args()))
