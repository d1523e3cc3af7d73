"""Rates of Poisson processes: coal-mining disasters (in-sample and on held-out events), known rates, earthquakes. One JSON line a seed of fitting.

    python benchmarks/events.py COAL_FOLDER QUAKE_FOLDER --seed 0

Held out: each event with probability 0.2 (ten splits, seeds 0 to 9, and a hundred more, the same for every seed of fitting); the rate learned on the rest, times 0.25, is judged on them. Everything was chosen on synthetic rates.
"""
import argparse, json, time
import numpy as np, torch
from seqvae.data import coal_disasters, earthquakes, poisson_events
from seqvae.events import change_point, constant_rate, fit_rate, fit_rates

RATES = {'constant':lambda t: 3+0*t, 'linear':lambda t: 1+.4*t, 'sinusoidal':lambda t: 3+2*np.sin(2*np.pi*t/5), 'bump':lambda t: 2+6*np.exp(-.5*((t-6)/.7)**2), 'two sided':lambda t: 1.5+6*np.exp(-abs(t-4)/.7)}

def held_out(events, splits, members, seed):
    "Log-likelihood and KS p-value on held-out events, by split and model"
    pairs = [events.split(.2, seed=s) for s in splits]; fits = fit_rates([a for a,_ in pairs], members=members, seed=seed); rows = []
    for (a,b),r in zip(pairs, fits):
        models = {k:m.scaled(.25) for k,m in dict(ode=r, change=change_point(a), constant=constant_rate(a)).items()}
        rows.append(dict(n=b.count, **{k:round(m.log_likelihood(b), 3) for k,m in models.items()}, **{f'{k} p':round(m.ks(b), 4) for k,m in models.items()}))
    return rows

def summed(rows):
    diff = np.array([r['ode']-r['change'] for r in rows])
    return dict({k:round(float(np.mean([r[k] for r in rows])), 3) for k in ('ode','change','constant')}, over_change=round(float(diff.mean()), 3), over_change_sd=round(float(diff.std(ddof=1)), 3), wins=int((diff>0).sum()), **{f'{k} p>0.05':int(sum(r[f'{k} p']>.05 for r in rows)) for k in ('ode','change','constant')}, p_median=float(np.median([r['ode p'] for r in rows])))

def known(seed, n=200):
    "Relative L2 error of the learned rate, and the share of the window where the 90 % band holds the truth"
    evs = {k:poisson_events(f, 10., n=n, seed=100+seed, bound=8.5) for k,f in RATES.items()}; grid = np.linspace(0, 10, 1001); out = {}
    for k,r in zip(evs, fit_rates(evs.values(), members=10, steps=600, n_steps=24, h_dim=32, seed=seed)):
        f = RATES[k](grid); lo,hi = r.band(grid); out[k] = dict(error=round(float(np.sqrt(((r.at(grid)-f)**2).mean()/(f**2).mean())), 4), inside=round(float(((lo<=f)&(f<=hi)).mean()), 3))
    return out

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter); p.add_argument('coal'); p.add_argument('quakes'); p.add_argument('--seed', type=int, default=0); p.add_argument('--members', type=int, default=30)
    a = p.parse_args(); torch.set_num_threads(1); coal = coal_disasters(a.coal); start = time.process_time()
    r,cp = fit_rate(coal, members=a.members, seed=a.seed),change_point(coal); cpu = time.process_time()-start
    res = dict(task='events', seed=a.seed, coal=dict(cpu_s=round(cpu, 1), ode=round(r.log_likelihood(coal), 3), change=round(cp.log_likelihood(coal), 3), where=round(float(cp.where), 2), constant=round(constant_rate(coal).log_likelihood(coal), 3), p=round(r.ks(coal), 3)))
    start = time.process_time(); res['coal held out'] = summed(held_out(coal, range(10), a.members, a.seed)); res['coal held out']['cpu_s'] = round(time.process_time()-start, 1)
    res['coal held out, 100 splits'] = summed(held_out(coal, range(100, 200), 10, a.seed)); res['known'] = known(a.seed)
    for name,ev in (('global M7', earthquakes(a.quakes, 'global')), ('Parkfield M2', earthquakes(a.quakes, 'parkfield', min_mag=2, start='1984-01-01'))):
        r = fit_rate(ev, members=20, seed=a.seed); flat = constant_rate(ev)
        res[name] = dict(n=ev.count, ode=round(r.log_likelihood(ev), 1), constant=round(flat.log_likelihood(ev), 1), p=round(r.ks(ev), 5), p_constant=round(flat.ks(ev), 5), held_out=summed(held_out(ev, range(10), 10, a.seed)))
    print(json.dumps(res))
