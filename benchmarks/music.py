"""Bach's chorales (JSB): the bound on the test set, nats per frame, for a VRNN trained on all keys, for the recurrent net without latents, and for a logistic regression; one seed a call, one JSON line.

    python benchmarks/music.py FOLDER --seed 0 [--part valid]

A frame is a quarter note; the mean is over all frames of all chorales, the first of each included. Training chorales are heard in all keys (transposed by -5 to +6 semitones), in their own four times as often as in any other; the shift is a known input of the model, zero for the data that are scored.
"""
import argparse, json, time
import numpy as np, torch
from seqvae.data import SeqDataLoaders, SeriesSet, jsb_chorales, transposed
from seqvae.dvae import SRNN, VRNN, AutoregressiveRNN
from seqvae.train import KeepBest, KLAnneal, latent_use, masked, seq_learner

def keyed(series, shifts):
    "The same rolls with their shift as a known input: one of twelve, at every step"
    onehot = np.eye(12, dtype=np.float32)
    return SeriesSet(list(series), units=series.units, names=series.names, u=[np.tile(onehot[s%12], (len(x),1)) for x,s in zip(series, shifts)])

def in_all_keys(series):
    every = transposed(series); own = [x for x,(_,s) in zip(every, every.units) if s==0]
    return keyed(SeriesSet(list(every)+3*own, names=every.names), [s for _,s in every.units]+[0]*3*len(own))

def inputs(series): "x, u, mask"; x,mask = masked(series.padded()); u = torch.zeros(*x.shape[:2], 12); u[...,0] = 1; return x,u,mask

def fit(model, train, valid, seed, epochs, lr):
    torch.manual_seed(seed); dls = SeqDataLoaders.from_series(train, valid=valid, bs=8, by_length=True, normalize=False, seed=seed)
    learn = seq_learner(dls, model, clip=5., cbs=[KLAnneal(.8, start=.2), KeepBest()]); start = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return model.cpu().eval(),time.process_time()-start

def logistic(train, valid, test, lags=(1,2,4), penalties=(.5,1.,2.,4.)):
    "Nats per frame of `test`: a logistic regression of every key on the last frames, one for all chorales; lags and penalty by `valid`"
    def before(series, p): return torch.from_numpy(np.concatenate([np.concatenate([np.vstack([np.zeros((k,88)), x[:-k]])[:len(x)] for k in range(1, p+1)], 1) for x in series])).float()
    frames = lambda series: torch.from_numpy(np.concatenate(list(series))).float()
    nll = lambda logits,y: float(torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction='sum'))/len(y)
    best = None
    for p in lags:
        X,Y = before(train, p),frames(train)
        for penalty in penalties:
            W = torch.zeros(X.shape[1], 88, requires_grad=True); b = torch.logit(Y.mean(0).clamp(1e-4, 1-1e-4)).requires_grad_()
            search = torch.optim.LBFGS([W,b], max_iter=60, line_search_fn='strong_wolfe')
            def loss(): search.zero_grad(); l = torch.nn.functional.binary_cross_entropy_with_logits(X@W+b, Y, reduction='sum')/len(Y)+penalty*W.square().sum()/len(Y); l.backward(); return l
            search.step(loss)
            with torch.no_grad(): row = (nll(before(valid, p)@W+b, frames(valid)), nll(before(test, p)@W+b, frames(test)), p, penalty)
            best = row if best is None or row<best else best
    return dict(exact=round(best[1], 4), lags=best[2], penalty=best[3])

def bounds(model, series, counts, seed=0):
    "Nats per frame, lower is better"
    x,u,mask = inputs(series); n = int(mask.any(-1).sum()); nll = lambda k,m: round(-float(model.log_likelihood(x, k, u=u, mask=mask, seed=seed, method=m).sum())/n, 4)
    if isinstance(model, AutoregressiveRNN): return dict(exact=nll(1, None))
    use = latent_use(model, x, u, mask)
    return dict(elbo=nll(8, 'elbo'), fivo256=nll(256, 'fivo'), **{f'{m}{k}':nll(k, m) for m in ('iwae','fivo') for k in counts}, **{k:use[k] for k in ('kl','active','nll','nll_shuffled')})

SHAPE = dict(h_dim=300, u_dim=12, emission='bernoulli', dropout=.15)
MODELS = dict(rnn=lambda: AutoregressiveRNN(88, **SHAPE), vrnn=lambda: VRNN(88, z_dim=32, **SHAPE), srnn=lambda: SRNN(88, z_dim=32, **SHAPE))

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder'); p.add_argument('--seed', type=int, default=0); p.add_argument('--part', default='test', choices=('valid','test')); p.add_argument('--models', default='rnn,vrnn'); p.add_argument('--epochs', type=int, default=12)
    a = p.parse_args(); torch.set_num_threads(1); rolls = jsb_chorales(a.folder); train,valid = in_all_keys(rolls.train),keyed(rolls.valid, [0]*len(rolls.valid)); res = dict(set='jsb', part=a.part, seed=a.seed)
    start = time.process_time(); res['linear'] = logistic(rolls.train, rolls.valid, getattr(rolls, a.part)); res['linear']['cpu_s'] = round(time.process_time()-start)
    for name in filter(None, a.models.split(',')):
        torch.manual_seed(a.seed); model,cpu = fit(MODELS[name](), train, valid, a.seed, 4 if name=='rnn' else a.epochs, 3e-3)
        res[name] = dict(**bounds(model, getattr(rolls, a.part), (64,)), cpu_s=round(cpu))
    print(json.dumps(res))
