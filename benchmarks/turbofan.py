"""Forecasts of real-sized sensors: C-MAPSS FD001, 14 sensors, 30 cycles ahead, engines held out; one seed (of split and training) a call, one JSON line.

    python benchmarks/turbofan.py FOLDER --seed 0
"""
import argparse, json, time
import torch
from seqvae.cli import fit_series, judge
from seqvae.data import cmapss, split_units

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path'); p.add_argument('--seed', type=int, default=0); p.add_argument('--steps', type=int, default=600)
    a = p.parse_args(); torch.set_num_threads(1)
    train,held = split_units(cmapss(a.path, 'FD001').series()[0], 0.2, seed=100+a.seed)
    start = time.process_time(); learn,_ = fit_series(train, horizon=30, steps=a.steps, seed=a.seed, bar=False); cpu = time.process_time()-start
    tab,full = judge(learn.model, held, 30)
    print(json.dumps(dict(set='FD001', seed=a.seed, cpu_s=round(cpu), rows=json.loads(tab.to_json(orient='index')), use={k:full[k] for k in ('elbo','kl','active','nll','nll_shuffled')})), flush=True)
