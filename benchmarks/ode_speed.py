"""Continuous time against the published ways, both sides in turn in one run, one thread: solver, ODE-RNN, likelihood. Needs torchdiffeq. One JSON line.

    python benchmarks/ode_speed.py

Sizes: torchdiffeq's latent ODE example (z = 4, 20 hidden units, ELU, 100 times, rtol 1e-7, atol 1e-9; here 500 rows), and batches with own times for each row. The number of RK4 steps is the smallest for which the largest error of our solution is below 0.005.
"""
import json, statistics, time, warnings
import torch
from torch import nn
from torchdiffeq import odeint
from seqvae.core import diag_normal, log_prob
from seqvae.ode import ODERecurrence, solve
warnings.filterwarnings('ignore')

def ratio(name, ours, plain, runs=7):
    "Median CPU times, and the median of the ratios pair by pair, with quartiles"
    ours(); plain(); pairs = []
    for _ in range(runs): a = time.process_time(); plain(); b = time.process_time(); ours(); pairs.append((b-a, time.process_time()-b))
    rs = sorted(p/o for p,o in pairs); med = lambda i: 1e3*statistics.median(p[i] for p in pairs)
    print(f"{name:90} {med(0):8.1f} ms {med(1):8.1f} ms   {statistics.median(rs):6.1f}x  ({rs[len(rs)//4]:.1f} to {rs[-1-len(rs)//4]:.1f})", flush=True)
    return round(statistics.median(rs), 1)

def field(z=4, h=20, gain=1.):
    "The example's field at its initial weights, times `gain`: 1 moves slowly, at 2 states grow to 90"
    f = nn.Sequential(nn.Linear(z, h), nn.ELU(), nn.Linear(h, h), nn.ELU(), nn.Linear(h, z))
    with torch.no_grad(): [p.mul_(gain) for p in f.parameters()]
    return f

def enough(f, z0, t0, times, truth, least=2):
    "The smallest number of steps with an error below 0.005, and that error"
    with torch.no_grad():
        for n in range(least, 200):
            e = float((solve(f, z0, t0, times, n)-truth).abs().max())
            if e<.005: return n,e

def same_times(gain=1.):
    torch.manual_seed(0); f,z0 = field(gain=gain),torch.randn(500,4); t = torch.linspace(0, 6*torch.pi, 500)[:100]; rows = t.expand(500, -1); t0 = torch.zeros(500)
    exact = lambda **kw: odeint(lambda _,z: f(z), z0, t, **kw).transpose(0, 1)
    with torch.no_grad(): truth = exact(rtol=1e-7, atol=1e-9)
    n,e = enough(f, z0, t0, rows, truth); run = lambda make: lambda: (f.zero_grad(), make().square().sum().backward())
    out = {}
    for n_steps in (n,24):
        ours = run(lambda: solve(f, z0, t0, rows, n_steps)); label = f'500 rows, 100 common times, field x {gain:g}, {n_steps} steps'
        out[f'dopri5 / {n_steps} steps'] = ratio(f'{label}: dopri5 1e-7/1e-9 / ours', ours, run(lambda: exact(rtol=1e-7, atol=1e-9)))
        out[f'rk4 on the grid / {n_steps} steps'] = ratio(f'{label}: rk4 on the grid / ours', ours, run(lambda: exact(method='rk4')))
    return dict(out, steps=n, error=round(e, 5))

def own_times(B=64, T=50, quantum=1e-4):
    torch.manual_seed(0); f,z0 = field(),torch.randn(B,4); times = (torch.rand(B,T)*6/quantum).round()*quantum; times = times.sort(1).values; t0 = torch.zeros(B)
    union,where = torch.cat([torch.zeros(1), times.flatten()]).unique(return_inverse=True); rows = torch.arange(B)[:,None]
    on_union = lambda **kw: odeint(lambda _,z: f(z), z0, union, **kw)[where[1:].view(B, T),rows]
    with torch.no_grad(): truth = on_union(rtol=1e-7, atol=1e-9)
    n,e = enough(f, z0, t0, times, truth); run = lambda make: lambda: (f.zero_grad(), make().square().sum().backward()); out = dict(steps=n, error=round(e, 5), distinct=len(union)-1)
    for n_steps in (n,12): out[f'dopri5 / {n_steps} steps'] = ratio(f'{B} rows, {T} own times each, {len(union)-1} distinct, RK4 with {n_steps} steps: dopri5 1e-3/1e-4 on the union / ours', run(lambda: solve(f, z0, t0, times, n_steps)), run(lambda: on_union(rtol=1e-3, atol=1e-4)), runs=5)
    return out

def recurrence(B=50, T=75, C=41, H=40):
    torch.manual_seed(0); rec = ODERecurrence(2*C, H, 50); nn.init.normal_(rec.field[-1].weight, std=.1); x,t = torch.randn(B,T,2*C),torch.rand(B,T).sort(1).values
    gap = t.diff(dim=1, prepend=t[:,:1]); real = torch.ones(B, T, dtype=torch.bool); union,where = t.flatten().unique(return_inverse=True); where = where.view(B, T)
    def ours(): rec.zero_grad(); rec(x, gap, real)[1][:,-1].square().sum().backward()
    def plain():                                                           # all rows stop at every time: one Euler step, and an update of the row that was measured
        rec.zero_grad(); h,last = torch.zeros(B,H),union[0]; who = [[] for _ in union]
        for b in range(B):
            for i in range(T): who[where[b,i]].append((b,i))
        for s,rows in zip(union, who):
            h = h+(s-last)*rec.field(h); last = s; full,m = torch.zeros(B,2*C),torch.zeros(B,1, dtype=torch.bool)
            for b,i in rows: full[b],m[b] = x[b,i],True
            h = torch.where(m, rec.cell(full, h), h)
        h.square().sum().backward()
    return dict(distinct=len(union), union=ratio(f'ODE-RNN, {B} rows, {T} own times each, {len(union)} distinct: stepping over the union / ours', ours, plain, runs=3))

def likelihood(B=50, T=75, C=41):
    torch.manual_seed(0); px,x,m = diag_normal(torch.randn(B,T,C), torch.zeros(B,T,C)),torch.randn(B,T,C),torch.rand(B,T,C)<.15
    ours = lambda: log_prob(px, x, m).sum(1)
    def loop():                                                           # series by series and channel by channel, as published
        out = torch.zeros(B)
        for b in range(B):
            for c in range(C): on = m[b,:,c]; out[b] += torch.distributions.Normal(px.mean[b,on,c], px.stddev[b,on,c], validate_args=False).log_prob(x[b,on,c]).sum()
        return out
    assert torch.allclose(ours(), loop(), rtol=1e-4)
    return ratio(f'likelihood of {B} series, {C} channels, 85 % missing: loop over series and channels / ours', ours, loop, runs=3)

if __name__=='__main__':
    torch.set_num_threads(1)
    print(json.dumps(dict(task='ode_speed', same_times=same_times(), same_times_faster_field=same_times(2.), own_times=own_times(), ode_rnn=recurrence(), likelihood=likelihood())))
