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


def test_overshooting_grows_and_fades():
    from seqvae.train import Overshooting

    over = Overshooting(50, weight=2.0, grow=0.2, fade=(0.3, 0.5))
    assert [over.weight_at(p) for p in (0.0, 0.3, 0.4, 0.5, 1.0)] == pytest.approx([2, 2, 1, 0, 0])
    assert [over.horizon_at(p) for p in (0.0, 0.1, 0.2, 1.0)] == [5, 28, 50, 50]
    assert Overshooting(50, fade=None).weight_at(1.0) == 1.0
    assert Overshooting(3, grow=0.0).horizon_at(0.0) == 3
    for wrong in ((0.5, 0.3), (-0.1, 0.5), (0.5, 1.5)):
        with pytest.raises(ValueError, match="fade is two shares of training"):
            Overshooting(50, fade=wrong)


def test_the_last_word_has_the_elbo():
    "Rollouts end where the fade does, and are trained on the model's own draws"
    from seqvae.data import SeqDataLoaders
    from seqvae.train import Overshooting, seq_learner
    from fastai.basics import Callback

    seen = []

    class Look(Callback):
        order = Overshooting.order + 1

        def after_loss(self):
            if self.training:
                extra = float((self.learn.loss_grad - self.learn.loss).detach())
                seen.append((round(self.pct_train, 3), extra))

    dls = SeqDataLoaders.from_series(PROCESSES["AR(1)"].sample(40, 30, 0), bs=8)
    over = Overshooting(8, fade=(0.25, 0.5))
    learn = seq_learner(dls, MODELS["DVAE"](1, 2, 8), cbs=[over, Look()])
    with learn.no_bar(), learn.no_logging():
        learn.fit(5)
    assert all(extra != 0 for pct, extra in seen if pct < 0.5)
    assert all(extra == 0 for pct, extra in seen if pct >= 0.5)
    assert len(seen) == 20
