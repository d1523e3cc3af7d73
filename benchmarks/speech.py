"""Spoken digits (FSDD): waveforms of a speaker that nobody trained on, and spectrograms through 16 latents a frame; one seed a call, one JSON line.

    python benchmarks/speech.py FOLDER --seed 0 [--part valid] [--task waves|spectra]

Waveforms: frames of 200 samples, each recording scaled to a mean square of one, quantisation dithered; trained on george, lucas, nicolas and yweweler, stopped by jackson, scored on theo; nats per frame, higher is better.
Spectra: the same speakers; means of the posterior decoded and put back with the true phases; median SI-SDR over recordings in dB. VRNN and SRNN decode each frame with the TRUE frames before it at hand; VAE and DKF decode from the latents alone. `pca` is 16 principal components of the moduli.
`--models ""` leaves the networks out.
"""
import argparse, json, time
from copy import copy
import numpy as np, torch
from seqvae.baselines import LinearPrediction
from seqvae.data import SeqDataLoaders, as_vectors, fsdd, istft, si_sdr, stft
from seqvae.dvae import DKF, SRNN, VRNN, AutoregressiveRNN
from seqvae.models import VAE
from seqvae.train import KeepBest, KLAnneal, latent_use, masked, seq_learner

def fit(model, train, valid, seed, epochs, bs, lr, warmup):
    torch.manual_seed(seed); dls = SeqDataLoaders.from_series(train, valid=valid, bs=bs, by_length=True, normalize=model.emission.positive, seed=seed)
    learn = seq_learner(dls, model, clip=5., cbs=[KLAnneal(warmup, start=.1), KeepBest()]); start = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return model.cpu().eval(),round(time.process_time()-start)

def level(digits): out = copy(digits); out.waves = [w/np.sqrt(np.mean(w**2)) for w in digits.waves]; return out

def waves(digits, part, seed, models=('gauss','gmm','vrnn')):
    shape = dict(h_dim=256, emission_kwargs=dict(residual=False)); mixture = dict(emission='mixture', emission_kwargs=dict(residual=False, n_components=20))
    s,res = {k:v.frames(200) for k,v in by_speakers(digits).items()},{}
    x,mask = masked(s[part].padded()); n = int(mask.any(-1).sum())
    samples = {k:[f.reshape(-1) for f in s[k]] for k in ('train',part)}
    for name,kw in {'linear':dict(spans=()), 'linear, width follows':{}}.items():
        start = time.process_time(); lp = LinearPrediction(samples['train'], **kw); res[name] = dict(exact=round(float(lp.log_prob(samples[part]).sum())/n, 2), cpu_s=round(time.process_time()-start))
    for name,make in {'gauss':lambda: AutoregressiveRNN(200, **shape), 'gmm':lambda: AutoregressiveRNN(200, **{**shape, **mixture}), 'vrnn':lambda: VRNN(200, z_dim=64, **shape)}.items():
        if name not in models: continue
        torch.manual_seed(seed); model,cpu = fit(make(), s['train'], s['valid'], seed, 15, 32, 1e-3, .8)
        ll = lambda K,method: round(float(model.log_likelihood(x, K, mask=mask, seed=0, method=method).sum())/n, 2)
        res[name] = dict(exact=ll(1, None), cpu_s=cpu) if not model.z_dim else dict(elbo=ll(4, 'elbo'), iwae32=ll(32, 'iwae'), fivo32=ll(32, 'fivo'), cpu_s=cpu, **{k:latent_use(model, x, mask=mask)[k] for k in ('kl','active','nll','nll_shuffled')})
    return res

@torch.no_grad()
def resynthesis(model, digits):
    "SI-SDR of each recording, dB: encoded, decoded from the posterior's means, with the phases of the original"
    model.temperature,out = 0.,[]
    for w in map(torch.from_numpy, digits.waves):
        s = stft(w); power = s.abs().square(); px = model.forward_once(power if isinstance(model, VAE) else power[None]).px
        out.append(float(si_sdr(w, istft(s/s.abs().clamp(min=1e-12)*px.mean.reshape(power.shape).sqrt(), length=len(w)))))
    model.temperature = 1.
    return out

def components(train, digits, k=16):
    "SI-SDR of each recording through the first k principal components of the moduli of all training frames, with the phases of the original"
    loud = torch.from_numpy(train.x).sqrt(); mean = loud.mean(0); axes,out = torch.linalg.eigh(torch.cov((loud-mean).T)).eigenvectors[:,-k:],[]
    for w in map(torch.from_numpy, digits.waves):
        s = stft(w); m = (mean+(s.abs()-mean)@axes@axes.T).clamp(min=0); out.append(float(si_sdr(w, istft(s/s.abs().clamp(min=1e-12)*m, length=len(w)))))
    return out

def by_speakers(digits): rest,test = digits.by_speaker(['theo']); train,valid = rest.by_speaker(['jackson']); return dict(train=train, valid=valid, test=test)

def spectra(sets, part, seed, epochs, models=('vae','dkf','vrnn','srnn')):
    s = {k:v.power_spectrogram() for k,v in sets.items()}
    shape = dict(z_dim=16, h_dim=128, emission='exponential'); start = time.process_time(); d = components(s['train'], sets[part])
    res = dict(pca=dict(si_sdr=round(float(np.median(d)), 3), mean=round(float(np.mean(d)), 3), cpu_s=round(time.process_time()-start)))
    for name in models:
        make = lambda: dict(vae=VAE, dkf=DKF, vrnn=VRNN, srnn=SRNN)[name](257, **shape)
        torch.manual_seed(seed); flat = lambda v: as_vectors(v.x) if name=='vae' else v
        model,cpu = fit(make(), flat(s['train']), flat(s['valid']), seed, epochs, 256 if name=='vae' else 16, 2e-3, .3)
        d = resynthesis(model, sets[part]); x,mask = masked(s[part].padded())
        if name=='vae': x,mask = x[mask.any(-1)],None
        out = model.forward_once(x, mask=mask); n = len(x) if mask is None else int(mask.any(-1).sum())
        res[name] = dict(si_sdr=round(float(np.median(d)), 3), mean=round(float(np.mean(d)), 3), kl=round(float(out.kl(mask).sum())/n, 2), elbo=round(float(out.elbo(x, mask).sum())/n, 2), cpu_s=cpu)
    return res

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder'); p.add_argument('--seed', type=int, default=0); p.add_argument('--part', default='test', choices=('valid','test')); p.add_argument('--task', default='both'); p.add_argument('--epochs', type=int, default=25, help='of the spectra')
    p.add_argument('--models', default='gauss,gmm,vrnn,vae,dkf,srnn')
    a = p.parse_args(); torch.set_num_threads(1); models = tuple(a.models.split(',')); digits = level(fsdd(a.folder, dither=0)); res = dict(set='fsdd', part=a.part, seed=a.seed)
    if a.task!='spectra': res['waves'] = waves(digits, a.part, a.seed, models)
    if a.task!='waves': res['spectra'] = spectra(by_speakers(digits), a.part, a.seed, a.epochs, [m for m in ('vae','dkf','vrnn','srnn') if m in models])
    print(json.dumps(res))
