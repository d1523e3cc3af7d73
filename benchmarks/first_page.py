"""The example of the first page over seeds of data and training: is it better than an autoregression of each unit, are its latents alive?

    python benchmarks/first_page.py --data 0 --seed 1
"""

import argparse
import json
import time

import fastai.callback.all  # noqa: F401  adds fit_one_cycle to Learner
import torch

from seqvae.baselines import ar, forecast_all, usual_baselines
from seqvae.data import SeqDataLoaders, mass_spring
from seqvae.dvae import DVAE
from seqvae.train import KLAnneal, Loss, Overshooting, evaluate, score, seq_learner

HORIZON, HELD_OUT, EPOCHS = 50, 50, 24
SHOWN = ("rmse", "crps", "cover50", "cover90")


def train(series, seed):
    """The model of the first page, and the CPU-seconds of its training."""
    torch.manual_seed(seed)
    dls = SeqDataLoaders.from_series(series, bs=32)
    model = DVAE(x_dim=14, z_dim=4, h_dim=64)
    cbs = [KLAnneal(), Overshooting(HORIZON, n_paths=2, rows=32)]
    learn = seq_learner(dls, model, Loss(free_bits=0.05), cbs=cbs)
    start = time.process_time()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(EPOCHS, 6e-3)
    return model.eval(), time.process_time() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=int, default=0, help="seed of the data")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    a = parser.parse_args()
    torch.set_num_threads(1)
    x = mass_spring(1500, T=150, t_max=15, noise=0.1, low=0.2, seed=a.data).x
    known, held = x[:-HELD_OUT], x[-HELD_OUT:]
    model, cpu = train(known, a.seed)
    found = evaluate(model, held, HORIZON)
    truth = torch.from_numpy(held[:, -HORIZON:])
    rivals = {"ar": score(forecast_all(ar, held, HORIZON), truth, scale=model.x_scale)}
    ridge = usual_baselines(known, HORIZON, since=1, order=32)["pooled ridge"]
    rivals["ridge"] = score(ridge.hindcast(held), truth, scale=model.x_scale)
    row = dict(task="first_page", data=a.data, seed=a.seed, cpu_s=round(cpu))
    row |= {k: round(float(found[k]), 4) for k in (*SHOWN, "kl", "active")}
    row |= {n: {k: round(r[k], 4) for k in SHOWN if k in r} for n, r in rivals.items()}
    print(json.dumps(row))
