"""Remaining useful life on C-MAPSS, cap 125: ensembles and baselines on the test engines, or on engines held out of the training engines; one set and one seed a call, one JSON line. The truth of the test engines is capped at 125 too, as in the literature; `last_uncapped` scores the same estimates, which never exceed 125, against the true RUL.

    python benchmarks/rul.py FOLDER --set FD001 --seed 0                                   # the test engines, at their last cycle and over all cycles
    python benchmarks/rul.py FOLDER --set FD001 --seed 0 --part valid --kinds dvae,rnn     # a fifth of the training engines, all cycles with 6 to 145 left

Everything was chosen with --part valid. `cautious` is the answer with the lowest expected NASA score.
"""
import argparse, json, time
import numpy as np, torch
from seqvae.data import cmapss
from seqvae.rul import CONDITIONS, RUL_MODELS, ConditionNormalizer, at_all, at_last, by_band, cautious, evaluate_rul, fit_rul, nasa_score, rul_forecasts, rul_series, rul_table, truth_of

def split(frame, seed, share=.2):
    "Training engines and engines held out, as tables"
    units = np.random.default_rng(500+seed).permutation(frame.unit.unique()); held = frame.unit.isin(units[:round(share*len(units))])
    return frame[~held],frame[held]

def mid_life(forecasts, series, least=6, most=145):
    "Each forecast judged over all cycles with so many left, which are about as far from failure as the test engines"
    left = torch.cat([torch.arange(n-1, -1, -1) for n in series.lengths]); on = (left>=least)&(left<=most); truth = truth_of(series, 'all')[on]
    return {k:evaluate_rul(at_all(o.samples, series.lengths)[:,on], truth) for k,o in forecasts.items()}

def plain(o): return {k:{n:round(float(v), 4) for n,v in row.items()} for k,row in o.items()}

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder'); p.add_argument('--set', default='FD001', choices=list(CONDITIONS)); p.add_argument('--seed', type=int, default=0); p.add_argument('--part', default='test', choices=('valid','test'))
    p.add_argument('--kinds', default='gru,dvae', help=', '.join(RUL_MODELS)+'; "" for none: the simple rivals alone'); p.add_argument('--members', type=int, default=5); p.add_argument('--steps', type=int, default=700); p.add_argument('--save', help='folder for the trained ensembles')
    a = p.parse_args(); torch.set_num_threads(1); data = cmapss(a.folder, a.set)
    frames = (data.train,data.test) if a.part=='test' else split(data.train, a.seed); norm = ConditionNormalizer.fit(frames[0], CONDITIONS[a.set])
    train,test = (rul_series(o, norm) for o in frames); ens,cpu = {},{}
    for k in filter(None, a.kinds.split(',')):
        start = time.process_time(); ens[k] = fit_rul(train, k, members=a.members, steps=a.steps, seed=a.seed); cpu[k] = round(time.process_time()-start)
    for k,o in ens.items():
        if a.save: o.save(f'{a.save}/{a.set}-{a.part}-{a.seed}-{k}', norm, set=a.set, seed=a.seed)
    fcs = rul_forecasts(train, test, ens, seed=a.seed); res = dict(task='rul', set=a.set, part=a.part, seed=a.seed, members=a.members, cpu_s=cpu)
    if a.part=='valid': res['mid_life'] = plain(mid_life(fcs, test))
    else:
        res |= dict(last=plain(rul_table(fcs, test).T.to_dict()), all=plain(rul_table(fcs, test, 'all').T.to_dict())); truth = truth_of(test); whole = rul_series(cmapss(a.folder, a.set, cap=None).test, norm)
        res |= dict(last_uncapped=plain(rul_table(fcs, whole).T.to_dict()), beyond_cap=int((truth_of(whole)>125).sum()))
        for k in ens: s = at_last(fcs[k].samples, test.lengths); res |= {f'{k} cautious':round(nasa_score(cautious(s), truth), 2), f'{k} bands':plain(by_band(s, truth).T.to_dict())}
    print(json.dumps(res))
