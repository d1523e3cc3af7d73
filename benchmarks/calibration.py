"""Is the default path calibrated? The default learner and the default call on processes whose predictive distribution is known.

    python benchmarks/calibration.py --seed 0 --models DVAE,VRNN
"""

import argparse
import json
import time
import warnings

import fastai.callback.all  # noqa: F401  adds fit_one_cycle to Learner
import torch
from processes import PROCESSES

from seqvae.core import Forecast
from seqvae.data import SeqDataLoaders
from seqvae.dvae import DVAE, SRNN, VRNN, AutoregressiveRNN
from seqvae.train import KLAnneal, Overshooting, crps, seq_learner

MODELS = dict(DVAE=DVAE, VRNN=VRNN, SRNN=SRNN, AutoregressiveRNN=AutoregressiveRNN)
UNITS, TEST_UNITS, STEPS, HORIZON, EPOCHS = 350, 600, 60, 20, 40
PLACES = [0, HORIZON // 2 - 1, HORIZON - 1]


def train(process, model, seed, overshoot=False):
    """The default learner on series of the process; with `overshoot` as `seqvae fit` trains."""
    torch.manual_seed(seed)
    x = process.sample(UNITS, STEPS, 100 + seed)
    dls = SeqDataLoaders.from_series(x, bs=32, seed=seed)
    cbs = [KLAnneal(), Overshooting(HORIZON)] if overshoot else []
    learn = seq_learner(dls, MODELS[model](1), cbs=cbs)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(EPOCHS)
    return learn.model.eval()


def judge(process, model, seed):
    """Coverage, spread and crps of the default forecast beside the exact one."""
    x = torch.from_numpy(process.sample(TEST_UNITS, STEPS, 10_000 + seed))
    past, truth = x[:, :-HORIZON], x[:, -HORIZON:]
    ours = model.forecast(past, HORIZON, seed=0).samples
    exact = torch.from_numpy(process.forecast(past.numpy(), HORIZON, 1000))
    out = {}
    for name, samples in (("ours", ours), ("exact", exact)):
        low, high = Forecast(samples).interval(0.9)
        inside = ((truth >= low) & (truth <= high)).float().mean((0, 2))
        out[f"cover90_{name}"] = [round(float(inside[i]), 3) for i in PLACES]
    ratio = (ours.var(0).mean((0, 2)) / exact.var(0).mean((0, 2))).sqrt()
    out["sd_ratio"] = [round(float(ratio[i]), 3) for i in PLACES]
    out["crps_ratio"] = round(float(crps(ours, truth).mean() / crps(exact, truth).mean()), 3)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--processes", default=",".join(map(str, range(len(PROCESSES)))))
    parser.add_argument("--overshoot", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = list(PROCESSES)
    for name in (names[int(i)] for i in a.processes.split(",")):
        for model in a.models.split(","):
            start = time.process_time()
            net = train(PROCESSES[name], model, a.seed, a.overshoot)
            row = dict(
                task="calibration",
                process=name,
                model=model,
                recipe="fit" if a.overshoot else "default",
                seed=a.seed,
                cpu_s=round(time.process_time() - start, 1),
            )
            print(json.dumps(row | judge(PROCESSES[name], net, a.seed)), flush=True)
