"""PhysioNet 2012 in the protocol of Rubanova et al. (2019): reconstruction of all measurements through one latent (their interpolation), or one step ahead; one seed a call, one JSON line.

    python benchmarks/physionet.py FOLDER --task reconstruct --seed 0
    python benchmarks/physionet.py FOLDER --task ahead --seed 0

Their error: for each stay and channel the mean squared error over its measurements, 0 for channels that were never measured, then the mean over 41 channels and over stays, times 1000. Values are scaled to [0, 1] with the range of the training stays; `by_max` divides by the maximum instead of the range, as the published code does. One step ahead, a stay's first row (the descriptors) is taken as given, as there. 80 % of all stays of sets A and B are for training (a tenth of them decided everything), 20 % were looked at once.
"""
import argparse, json, time
import numpy as np, torch
from seqvae.data import Normalizer, SeqDataLoaders, physionet2012, split_units
from seqvae.ode import LatentODE, ODERNN, channel_mse
from seqvae.train import Loss, masked, seq_learner

def scales(series):
    "Lowest value, range and largest value of each channel"
    lo,hi = np.nanmin(series.x, 0),np.nanmax(series.x, 0); return tuple(torch.as_tensor(v, dtype=torch.float32) for v in (lo, np.where(hi>lo, hi-lo, 1), np.where(hi>0, hi, 1)))

def figures(pred, x, mask, scale):
    "All three errors, times 1000"
    lo,width,top = scale; err = torch.where(mask, pred-x, 0.)
    return dict(published=round(1e3*float(channel_mse(err/width, 0*err, mask)), 4), by_max=round(1e3*float(channel_mse(err/top, 0*err, mask)), 4), pooled=round(1e3*float(((err/width)**2).sum()/mask.sum()), 4))

def by_rows(f, series, n=200):
    "f(x, t, mask) for some stays at a time, padded together"
    T = int(series.lengths.max()); out = []
    for i in range(0, len(series), n):
        s = series[i:i+n]; x,m = masked(s.padded()); out.append(torch.nn.functional.pad(f(x, s.padded_times(), m), (0,0,0,T-x.shape[1])))
    return torch.cat(out)

def last_values(x, m, start):
    "The last value of each channel before each step, `start` before any"
    steps = torch.arange(1, x.shape[1]+1)[:,None]; at = torch.nn.functional.pad(torch.where(m, steps, 0).cummax(1).values[:,:-1], (0,0,1,0))
    return torch.cat([start.expand(len(x),1,-1), x], 1).gather(1, at)

def baselines(task, x, m, mean, m_score):
    if task=='ahead': return {'channel mean':mean.expand_as(x), 'last value':last_values(x, m, mean)}
    n = m.sum(1, keepdim=True); return {'channel mean':mean.expand_as(x), "stay's own mean":torch.where(n>0, torch.where(m, x, 0.).sum(1, keepdim=True)/n.clamp(min=1), mean).expand_as(x)}

def build(task, norm, width):
    sigma = (.01*width/torch.as_tensor(norm.scale, dtype=torch.float32)).tolist()                  # 0.01 of each channel's range, as published, in standard units
    kw = dict(emission='mse', emission_kwargs=dict(sigma=sigma))
    return LatentODE(41, z_dim=32, h_dim=128, n_steps=8, n_layers=1, **kw) if task=='reconstruct' else ODERNN(41, h_dim=64, **kw)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter); p.add_argument('folder'); p.add_argument('--task', default='reconstruct', choices=('reconstruct','ahead')); p.add_argument('--seed', type=int, default=0)
    p.add_argument('--epochs', type=int); p.add_argument('--part', default='test', choices=('valid','test'))
    a = p.parse_args(); torch.set_num_threads(1); torch.manual_seed(a.seed); data = physionet2012(a.folder)
    train,test = split_units(data.x, .2, seed=0); train,valid = split_units(train, .1, seed=1); judged = test if a.part=='test' else valid
    norm,scale = Normalizer.fit(train, constant='keep'),scales(train); model = build(a.task, norm, scale[1])
    dls = SeqDataLoaders.from_series(train, valid=valid, bs=50, by_length=True, normalize=False, seed=a.seed); dls.normalizer = norm
    learn = seq_learner(dls, model, Loss(skip=int(a.task=='ahead')), clip=10.); start = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(a.epochs or dict(reconstruct=40, ahead=8)[a.task], 8e-3)
    cpu = time.process_time()-start; model.eval(); x,m = masked(judged.padded()); shown = m.clone()
    if a.task=='ahead': shown[:,0] = False                                                         # the first row is given
    model.temperature = 0.
    with torch.no_grad(): pred = by_rows((lambda x,t,m: model(x, t=t, mask=m).px.mean) if a.task=='reconstruct' else (lambda x,t,m: model.predict_next(x, t=t, mask=m).mean), judged)
    score = lambda v: figures(torch.where(shown, v, x), x, m, scale)                               # what is given has no error
    print(json.dumps(dict(task='physionet', what=a.task, part=a.part, seed=a.seed, stays=len(train), cpu_s=round(cpu), model=score(pred), **{k:score(v) for k,v in baselines(a.task, x, m, torch.as_tensor(norm.loc, dtype=torch.float32), shown).items()})))
