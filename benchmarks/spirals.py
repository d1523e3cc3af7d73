"""A latent ODE on spirals (Chen et al. 2018): error on the 100 clean points after the window, beside an oracle that knows both curves. One JSON line a call.

    python benchmarks/spirals.py --n_obs 100 --seed 0

1000 noisy training series (seed s), 1000 fresh series for the figures (seed 9000 + s; 5000 + s with --part valid, on which everything was chosen). The prediction is the decoded path through the posterior mean at the first observation. `--weight 0` leaves the consistency term out.
"""
import argparse, json, time
import numpy as np, torch
from seqvae.data import SeqDataLoaders, spirals
from seqvae.ode import LatentODE, solver_error
from seqvae.train import Consistency, score, seq_learner

def oracle(sp, noise=.3):
    "RMSE after the window of the posterior mean when both curves and the noise are known, and every start is as likely"
    T = sp.T; starts = np.arange(T, 500-2*T+1); paths = torch.from_numpy(sp.curves[:,starts[:,None]+np.arange(2*T)].reshape(-1, 2*T, 2)); se = []
    for i,o in enumerate(sp.x):
        t = sp.x.times(i).astype(int); w = (-((paths[:,t]-torch.from_numpy(o.astype(float)))**2).sum((1,2))/(2*noise**2)).softmax(0)
        se.append(((w@paths[:,T:].flatten(1)).view(T, 2)-torch.from_numpy(sp.after[i])).square().mean())
    return float(torch.stack(se).mean().sqrt())

def fit(train, valid, seed=0, epochs=700, weight=1., restart=1., lr=1e-2, z_dim=3, h_dim=48, n_steps=8, bs=50, **kwargs):
    "The model and its training CPU-seconds"
    torch.manual_seed(seed); dls = SeqDataLoaders.from_series(train.x, valid=valid.x[:100], bs=bs, seed=seed); model = LatentODE(2, z_dim=z_dim, h_dim=h_dim, n_steps=n_steps, **kwargs)
    learn = seq_learner(dls, model, clip=1., cbs=[Consistency(weight, restart)] if weight or restart else []); start = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return model.eval(),time.process_time()-start

@torch.no_grad()
def paths(model, sp):
    "Clean prediction before, within and after the window, (n, 3T, 2), from the posterior mean"
    x,t = sp.x.padded(),sp.x.padded_times(); when = torch.arange(-sp.T, 2*sp.T)-t[:,:1]
    return model.emission.mean(model.decode(model.encode(x, t=t).mean, when))

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter); p.add_argument('--n_obs', type=int, default=100); p.add_argument('--seed', type=int, default=0); p.add_argument('--part', default='test', choices=('valid','test'))
    p.add_argument('--epochs', type=int, default=700); p.add_argument('--weight', type=float, default=1.); p.add_argument('--restart', type=float, default=1.); p.add_argument('--lr', type=float, default=1e-2); p.add_argument('--z_dim', type=int, default=3); p.add_argument('--encoder', default='rnn')
    a = p.parse_args(); torch.set_num_threads(1); test = spirals(1000, n_obs=a.n_obs, seed=a.seed+(9000 if a.part=='test' else 5000), followed=True)
    model,cpu = fit(spirals(1000, n_obs=a.n_obs, seed=a.seed), spirals(1000, n_obs=a.n_obs, seed=7000+a.seed), a.seed, a.epochs, a.weight, a.restart, a.lr, a.z_dim, encoder=a.encoder, emission_kwargs=dict(same_noise=True))
    err = (paths(model, test)-torch.from_numpy(test.path)).square().mean(-1); T = test.T; rmse = lambda v: round(float(v.mean().sqrt()), 4)
    x,t = test.x.padded()[:200],test.x.padded_times()[:200]; truth = torch.from_numpy(test.after[:200]+.3*np.random.default_rng(a.seed).standard_normal((200,T,2)))
    fan = score(model.forecast(x, t=t, times=torch.arange(T, 2*T), n_samples=100, seed=0).samples, truth)
    with torch.no_grad(): off = solver_error(model.field, model.encode(x, t=t).mean, torch.zeros(200), ((2*T-t[:,:1])/model.t_scale.item()).float(), 2*model.n_steps).max()
    print(json.dumps(dict(task='spirals', n_obs=a.n_obs, seed=a.seed, part=a.part, weight=a.weight, restart=a.restart, encoder=a.encoder, cpu_s=round(cpu), after=rmse(err[:,2*T:]), within=rmse(err[:,T:2*T]), before=rmse(err[:,:T]), median_series=round(float(err[:,2*T:].mean(1).median().sqrt()), 4),
        clockwise=rmse(err[~test.counter][:,2*T:]), counter=rmse(err[test.counter][:,2*T:]), cover50=round(fan['cover50'], 3), cover90=round(fan['cover90'], 3), solver_error=round(float(off), 6), oracle=round(oracle(test), 4))))
