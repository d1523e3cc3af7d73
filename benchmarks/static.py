"""Vectors: a correlated Gaussian against its own likelihood, and simulated galaxies with a diagonal and a full-covariance posterior; one seed a call, one JSON line.

    python benchmarks/static.py --seed 0 [--sparc FOLDER]
"""
import argparse, json, time, warnings
from copy import deepcopy
import numpy as np, torch
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from seqvae.data import SeqDataLoaders, as_vectors, gaussian_2d, rotation_curves, sparc
from seqvae.models import VAE, laplace_posterior
from seqvae.train import KLAnneal, seq_learner

def fit(model, train, valid, bs, epochs, lr, seed, cbs=None):
    learn = seq_learner(SeqDataLoaders.from_series(as_vectors(train), valid=as_vectors(valid), bs=bs, seed=seed), model, cbs=cbs)
    start = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return model.cpu().eval(),time.process_time()-start

@torch.no_grad()
def elbos(model, x, draws=16):
    "Of each row, with the same noise for every model, (B,)"
    torch.manual_seed(0); return torch.stack([model.forward_once(x).elbo(x) for _ in range(draws)]).mean(0)

def gaussian(seed, n=50_000):
    "How far the ELBO and the samples are from the truth"
    true = torch.distributions.MultivariateNormal(torch.tensor([1.,-1.]), torch.tensor([[1.,.8],[.8,1.]])); x = torch.from_numpy(gaussian_2d(n, seed=200+seed))
    torch.manual_seed(seed); model,cpu = fit(VAE(2, z_dim=2, h_dim=32), gaussian_2d(n, seed=seed), gaussian_2d(5000, seed=100+seed), 512, 20, 5e-3, seed)
    gap = true.log_prob(x)-elbos(model, x); s = model.sample(400_000, 1, seed=0)[:,0].double()
    return dict(gap=float(gap.mean()), gap_se=float(gap.std())/n**.5, mean_error=float((s.mean(0)-true.mean).abs().max()), cov_error=float((torch.cov(s.T)-true.covariance_matrix).abs().max()), cpu_s=round(cpu))

def read_out(ztrain, ptrain, ztest, ptest):
    "R2 of each parameter on test galaxies: linear regression, and a small network"
    sz,sp = StandardScaler().fit(ztrain),StandardScaler().fit(ptrain); r2 = lambda p: (1-((p-ptest)**2).mean(0)/ptest.var(0)).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')   # it may stop before it has converged
        net = MLPRegressor(hidden_layer_sizes=(64,64), max_iter=40, early_stopping=True, random_state=0).fit(sz.transform(ztrain), sp.transform(ptrain))
    return r2(LinearRegression().fit(ztrain, ptrain).predict(ztest)),r2(sp.inverse_transform(net.predict(sz.transform(ztest))))

def tilt(model, x, mask=None):
    "What the best diagonal Gaussian loses against the posterior that the decoder implies, nats a curve, mean"
    with torch.no_grad(): z = model.encode(x).mean[:,0]
    C = laplace_posterior(model, z, x, .02*model.x_scale, mask).covariance_matrix.double()
    return float(.5*(C.logdet()+torch.linalg.inv(C).diagonal(dim1=1, dim2=2).log().sum(1)).mean())

def stretches(n, seed):
    "True on a random stretch of 10 to 50 of 50 radii, (n, 50)"
    rng = np.random.default_rng(seed); w = rng.integers(10, 51, n); a = rng.integers(0, 51-w); k = np.arange(50)
    return torch.from_numpy((k>=a[:,None])&(k<(a+w)[:,None]))

def galaxies(seed, path=None):
    """A diagonal model; then, from there, twenty epochs more with a diagonal and with a full covariance:
    bound, reconstruction and read-out on galaxies no model has seen; with a path, the measured ones too"""
    tr,va,te = (rotation_curves(n, seed=1000*k+seed) for k,n in enumerate((20_000,1_000,4_000))); lt,lv,x = np.log10(tr.v),np.log10(va.v),torch.from_numpy(np.log10(te.v))
    torch.manual_seed(seed); start,cpu = fit(VAE(50, z_dim=4, h_dim=128, emission='mse', emission_kwargs=dict(sigma=.02)), lt, lv, 256, 60, 3e-3, seed, KLAnneal(.8, start=1/.02**2, shape='geometric'))
    res = {}
    for post in ('diag','full'):
        torch.manual_seed(seed); m,more = fit(deepcopy(start) if post=='diag' else start.tilted(), lt, lv, 256, 20, 1e-3, seed)
        with torch.no_grad(): ztr,zte = (m.encode(np.log10(o.v)).mean[:,0] for o in (tr,te)); hat = 10**m.decode(zte).mean.numpy()
        lin,net = read_out(ztr.numpy(), tr.params.to_numpy(), zte.numpy(), te.params.to_numpy())
        res[post] = dict(elbo=float(elbos(m, x).mean()), error=float(np.median(np.sqrt(((hat-te.v)**2).mean(1))/te.v.max(1))), linear=lin, network=net, cpu_s=round(cpu+more))
        if post=='full': res[post].update(tilt=tilt(m, x), tilt_stretches=tilt(m, x, stretches(len(x), seed)))
        if path and post=='full': res[post]['sparc'] = measured(m, te.r, sparc(path))
    return res

def measured(model, r, sp):
    "Share of SPARC points within 2 sigma: encoder alone, decoder by Bayes and (nearly) without its prior, and cubics in log R for v and log v; galaxies with at least 4 points on the grid"
    v,_,ok = sp.on_grid(r); y,err,mask,W = sp.read_at(r); W = torch.from_numpy(W); keep = (mask.sum(1)>=4)&ok.any(1); mask = mask&keep[:,None]; ok[~ok.any(1),25] = True
    z0 = model.encode(np.where(ok, np.log10(np.where(np.isnan(v), 50., v)), np.nan), mask=torch.from_numpy(ok)).mean[:,0].detach(); read = lambda c: torch.einsum('bpd,bd->bp', W, c)
    args = z0,np.log10(np.where(mask, y, 1.)),np.where(mask, err/np.maximum(y, 1e-3), 1.)/np.log(10),torch.from_numpy(mask)
    z,best = (laplace_posterior(model, *args, read=read, prior=p, steps=100).loc for p in (1.,1e-3))
    cubic = {k:np.zeros_like(y) for k in ('v','log_v')}
    for i in np.flatnonzero(keep):
        m = mask[i]; R = np.log10(sp.r[i][m[:len(sp.r[i])]]); a,e = y[i,m],err[i,m]
        cubic['v'][i,m] = np.polyval(np.polyfit(R, a, 3, w=1/e), R); cubic['log_v'][i,m] = 10**np.polyval(np.polyfit(R, np.log10(a), 3, w=a/e), R)
    share = lambda f: float((np.abs(f-y)[mask]<2*err[mask]).mean())
    return {'encoder':share(10**read(model.decode(z0).mean).detach().numpy()), 'bayes':share(10**read(model.decode(z).mean).detach().numpy()), 'best_fit':share(10**read(model.decode(best).mean).detach().numpy()), **{f'cubic_{k}':share(f) for k,f in cubic.items()}}

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seed', type=int, default=0); p.add_argument('--sparc')
    a = p.parse_args(); torch.set_num_threads(1)
    print(json.dumps(dict(set='static', seed=a.seed, gaussian=gaussian(a.seed), **galaxies(a.seed, a.sparc))), flush=True)
