"""Forecasts of real-sized sensors: C-MAPSS FD001, 14 sensors, 30 cycles ahead, engines held out; one seed (of split and training) a call, one JSON line.

    python benchmarks/turbofan.py FOLDER --seed 0 [--baselines]     # the last: nothing is trained but what needs no network
"""
import argparse, json, time
import torch
from seqvae.baselines import usual_baselines
from seqvae.cli import fit_series, held_cuts, judge
from seqvae.data import cmapss, split_units
from seqvae.train import cut_series, score

def only_baselines(train, held, horizon):
    "Scores of the usual baselines at the places where `judge` looks, and the CPU-seconds of each"
    cuts = held_cuts(held, horizon)
    truth, scale = cut_series(cuts, horizon)[2], torch.from_numpy(train.x.std(0))
    start = time.process_time()
    fitted = usual_baselines(train, horizon)
    rows = {name: score(b.hindcast(cuts), truth, scale=scale) for name, b in fitted.items()}
    return rows, round(time.process_time()-start, 1)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path'); p.add_argument('--seed', type=int, default=0); p.add_argument('--steps', type=int, default=600); p.add_argument('--baselines', action='store_true')
    a = p.parse_args(); torch.set_num_threads(1)
    train,held = split_units(cmapss(a.path, 'FD001').series()[0], 0.2, seed=100+a.seed)
    if a.baselines:
        rows,cpu = only_baselines(train, held, 30); print(json.dumps(dict(set='FD001', part='baselines', seed=a.seed, cpu_s=cpu, rows=rows)), flush=True); raise SystemExit
    start = time.process_time(); learn,_ = fit_series(train, horizon=30, steps=a.steps, seed=a.seed, bar=False); cpu = time.process_time()-start
    tab,full = judge(learn.model, held, 30, train)      # baselines learn from the engines that the network had, those that chose its epochs too
    print(json.dumps(dict(set='FD001', seed=a.seed, cpu_s=round(cpu), rows=json.loads(tab.to_json(orient='index')), use={k:full[k] for k in ('elbo','kl','active','nll','nll_shuffled')})), flush=True)
