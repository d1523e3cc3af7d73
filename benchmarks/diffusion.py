"""Diffusing particles: what VAEWaveNet learns of fractional Brownian motion, against the exact limits; one seed a call, one JSON line.

    python benchmarks/diffusion.py --seed 0
    python benchmarks/diffusion.py --speed [--spivae PYTHON]   # an interpreter, in an environment of its own, that has the spivae package (it needs numpy < 2)
"""
import argparse, json, os, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from seqvae.analysis import fgn_nll, ideal_observer, latent_relations, msd, msd_slope
from seqvae.data import fbm, load_data
from seqvae.train import BetaSchedule, Loss, ModelSchedule, seq_learner
from seqvae.wavenet import VAEWaveNet

PUBLISHED = dict(o_dim=400, nc_in=1, nc_out=6, nf=[16]*4, avg_size=16, encoder=[200,100], z_dim=6, decoder=[100,200], beta=0, in_channels=1, res_channels=16, skip_channels=16, c_channels=6, g_channels=0,
                 res_kernel_size=3, layer_size=4, stack_size=1, out_distribution='Normal', num_mixtures=1, use_pad=False, model_name='SPIVAE')
ALPHAS,DS,T = np.linspace(.2,1.8,9),np.linspace(2e-5,2e-2,5),400

def data(seed, bs=16): return load_data(dict(model='fbm', N=133, T=T, D=DS, alpha=ALPHAS, seed=seed, valid_pct=.2, bs=bs))

def fit(dls, seed, epochs, stages, **changes):
    "`stages`: betas with their shares, depths with theirs; returns the model, the last row of the table, CPU seconds"
    torch.manual_seed(seed); model = VAEWaveNet(**{**PUBLISHED, **changes}); betas,depths = stages
    learn = seq_learner(dls, model, Loss(beta=0.), clip=1., cbs=[BetaSchedule(*betas, ramp=.5), ModelSchedule('depth', *depths)])
    start = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-3)
    return model.cpu().eval(),dict(zip(learn.recorder.metric_names[1:], map(float, learn.recorder.values[-1]))),time.process_time()-start

FREE = ([0.],),([1,None],[.5,.5])                                       # no price on the latents, as published
ELBO = ([1.,.02,1.],[.05,.4,.55]),([0,1,None],[.05,.25,.7])             # the scale alone; short-sighted and nearly untaxed; then all of it, and the full price

@torch.no_grad()
def generated_slopes(model, x, params, copies, lo, hi, seed=0):
    "{alpha: MSD slope between two lags}, of paths generated with the latents of validation paths of that alpha"
    lags,slopes = np.unique(np.geomspace(lo, hi, 12).round().astype(int)),{}
    for a in ALPHAS:
        rows = np.isclose(params.alpha, a); q = model.encode(x[rows]); torch.manual_seed(seed); z = q.sample((copies,)).flatten(0,1)
        X = np.pad(model.sample(len(z), T-1, z=z, seed=seed)[...,0].numpy()/np.sqrt(2*np.tile(params.D[rows], copies))[:,None], ((0,0),(1,0))).cumsum(1)
        slopes[round(float(a), 2)] = float(msd_slope(lags, msd(X, lags).mean(0)))
    return slopes

def quality(seed):
    dls = data(seed); x,P = torch.from_numpy(dls.valid_ds.series.x.reshape(-1,T-1,1)),dls.valid_params; a,d = P.alpha.to_numpy(),P.D.to_numpy()
    post,marginal = ideal_observer(x[...,0], ALPHAS, DS, start=32)
    res = dict(known=float(fgn_nll(x[...,0], a, d)[:,32:].mean()), known_32=float(fgn_nll(x[...,0], a, d, memory=32)[:,32:].mean()), exact=float(marginal.mean()/(T-1-32)), ideal_alpha_rmse=float((((post.sum(2)@torch.from_numpy(ALPHAS)).numpy()-a)**2).mean()**.5))
    _,row,cpu = fit(dls, seed, 4, FREE); res['four'] = dict(nll=row['valid_nll'], kl=row['valid_kl']*(T-1-32), minus_elbo=row['valid_nll']+row['valid_kl'], cpu_s=round(cpu))
    m,row,cpu = fit(dls, seed, 16, ELBO); rel = latent_relations(m, x, P.assign(log_D=np.log(d))[['alpha','log_D']])
    with torch.no_grad(): torch.manual_seed(0); minus_elbo = float(np.mean([-m(x).elbo(x).mean()/(T-1-32) for _ in range(8)]))
    slopes = generated_slopes(m, x, P, 4, 1, 32)
    res['long'] = dict(nll=row['valid_nll'], minus_elbo=minus_elbo, gap=minus_elbo-res['exact'], survivors=int(rel.survives.sum()), kl=float(rel.kl.sum()), spearman_alpha=float(rel['spearman alpha'].abs().max()), spearman_log_D=float(rel['spearman log_D'].abs().max()),
                       slope_error=max(abs(v-k) for k,v in slopes.items() if .35<k<1.65), slopes=slopes, cpu_s=round(cpu))
    m,row,cpu = fit(dls, seed, 16, ELBO, layer_size=6, use_pad=True, position=True); tail = generated_slopes(m, x, P, 4, 200, T-2)
    res['memory'] = dict(receptive_field=m.receptive_field, minus_elbo=row['valid_nll']+row['valid_kl'], slope_02=tail[.2], slope_18=tail[1.8], slopes=tail, slope_error=max(abs(v-k) for k,v in generated_slopes(m, x, P, 4, 1, 32).items() if .35<k<1.65), cpu_s=round(cpu))
    return res

def cpu(f, repeat=3):
    f(); times = []
    for _ in range(repeat): start = time.process_time(); f(); times.append(time.process_time()-start)
    return min(times)

def one_path(alpha, T, rng):
    "Fractional Gaussian noise by Davies & Harte (1987), one path at a time, as packages for it do: the reference"
    k = np.arange(T+1.); cov = (np.abs(k+1)**alpha-2*k**alpha+np.abs(k-1)**alpha); power = np.fft.fft(np.concatenate([cov, cov[-2:0:-1]])).real.clip(0)
    noise = rng.standard_normal(2*T)+1j*rng.standard_normal(2*T); return np.fft.fft(noise*np.sqrt(power/(2*T))).real[:T]

SPIVAE = """
import sys, time, warnings; warnings.filterwarnings('ignore')
import numpy as np, torch; torch.set_num_threads(1)
from SPIVAE.models import VAEWaveNet
from SPIVAE.utils import Loss
x = torch.from_numpy(np.load(sys.argv[1])); args = dict(o_dim=399, nc_in=1, nc_out=6, nf=[16]*4, avg_size=16, encoder=[200,100], z_dim=6, decoder=[100,200], beta=0, in_channels=1, res_channels=16, skip_channels=16, c_channels=6,
    g_channels=0, res_kernel_size=3, layer_size=4, stack_size=1, out_distribution='Normal', num_mixtures=1, use_pad=False, model_name='SPIVAE')
m = VAEWaveNet(**args); loss = Loss(32, 6, beta=0, reduction='mean'); opt = torch.optim.Adam(m.parameters(), 1e-3)
def epoch():
    for b in x.split(256): l = loss(m(b.transpose(1,2)), b); opt.zero_grad(); l.backward(); opt.step()
times = []
for _ in range(4): start = time.process_time(); epoch(); times.append(time.process_time()-start)
print(min(times[1:]))
"""

def speed(spivae=None):
    rng = np.random.default_rng(0); a = rng.uniform(.1, 1.9, 20_000); res = dict(fbm_ratio=round(cpu(lambda: [one_path(v, 399, rng) for v in a[:2000]])*len(a)/2000/cpu(lambda: fbm(a, 1., 399, seed=0)), 1), generation={})
    for B,layers in ((100,4),(600,6)):
        m = VAEWaveNet(**{**PUBLISHED, 'layer_size':layers, 'use_pad':True}).eval(); z = torch.randn(B,6); RF = m.receptive_field
        with torch.no_grad(): c = m.features(z, RF+1)
        x = torch.randn(B,RF+1,1); steps = 200 if B==100 else 40
        def window():                                    # what the naive way does for one step: the network over one receptive field; it gets the decoder's output for nothing
            with torch.no_grad(): g = m.units(c); m.emit_in_units(m.net(m.emission.feed(x)*g, c, pad=False)[:,-1], g[:,-1]).sample()
        res['generation'][f'B={B}, receptive field {RF}'] = cpu(lambda: [window() for _ in range(steps)], 2)*200/steps/cpu(lambda: m.sample(B, 200, z=z), 5)
    x = torch.from_numpy(fbm(np.repeat(ALPHAS, 532), 1e-2, 399, seed=0))[...,None].contiguous()
    m = VAEWaveNet(**PUBLISHED); loss,opt = Loss(beta=0.),torch.optim.Adam(m.parameters(), 1e-3)
    def epoch():
        for b in x.split(256): l = loss(m(b), b); opt.zero_grad(); l.backward(); opt.step()
    ours = cpu(epoch); res['epoch_cpu_s'] = ours
    if spivae:
        with tempfile.TemporaryDirectory() as d:
            np.save(f'{d}/x.npy', x.numpy()); out = subprocess.run([spivae, '-c', SPIVAE, f'{d}/x.npy'], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS':'1'})
        if out.returncode: print(f'spivae did not run in {spivae}: {out.stderr.strip().splitlines()[-1]}', file=sys.stderr)
        else: theirs = float(out.stdout.split()[-1]); res.update(spivae_epoch_cpu_s=theirs, epoch_ratio=ours/theirs)
    else: print('no --spivae interpreter given: the epoch is not compared', file=sys.stderr)
    return res

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seed', type=int, default=0); p.add_argument('--speed', action='store_true'); p.add_argument('--spivae')
    a = p.parse_args(); torch.set_num_threads(1)
    print(json.dumps(dict(set='diffusion', speed=speed(a.spivae)) if a.speed else dict(set='diffusion', seed=a.seed, **quality(a.seed))), flush=True)
