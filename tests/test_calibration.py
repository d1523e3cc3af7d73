"The default learner and the default call: forecasts whose spread is right at every step"

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from calibration import MODELS, judge, train  # noqa: E402
from processes import PROCESSES  # noqa: E402

from seqvae.dvae import AutoregressiveRNN  # noqa: E402


def random_walk_model():
    "An AutoregressiveRNN whose weights make it a random walk of unit steps"
    net = AutoregressiveRNN(1, h_dim=4).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.emission.linear.bias[2] = 30.0  # the gate on the last value is open
        raw = torch.linspace(-1, 1, 20_001)
        from seqvae.core import bound_logvar

        net.emission.linear.bias[1] = raw[bound_logvar(raw).abs().argmin()]
    return net


def test_a_random_walk_spreads_with_the_root_of_the_horizon():
    fc = random_walk_model().forecast(torch.zeros(20, 5, 1), 25, 400, seed=0)
    spread = fc.samples.std(0).mean((0, 2))
    root = torch.arange(1, 26).sqrt()
    assert torch.allclose(spread / root, torch.ones(25), atol=0.08), spread / root


def check(process, model, seeds=(0,), overshoot=False):
    rows = [judge(PROCESSES[process], train(PROCESSES[process], model, s, overshoot), s) for s in seeds]
    median = lambda v: float(torch.tensor(v).median())  # noqa: E731
    for place in range(3):
        cover = median([r["cover90_ours"][place] for r in rows])
        assert 0.86 <= cover <= 0.94, rows
        spread = median([r["sd_ratio"][place] for r in rows])
        assert 0.85 <= spread <= 1.2, rows
    if process != "switch, two futures":
        assert median([r["crps_ratio"] for r in rows]) <= 1.1, rows


def test_default_forecasts_are_calibrated():
    check("oscillator, both", "AutoregressiveRNN")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("process", PROCESSES)
def test_default_forecasts_are_calibrated_everywhere(process, model):
    check(process, model)


@pytest.mark.slow
def test_the_recipe_of_fit_is_calibrated_too():
    check("random walk", "DVAE", overshoot=True)
