"""What training must not get wrong silently: betas, generators, counters, shuffles"""

import math
import warnings
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from seqvae.core import MSEEmission, SequenceModel, diag_normal, fork_seed
from seqvae.data import SeqDataLoaders, SeriesSet, mass_spring
from seqvae.dvae import DVAE, AutoregressiveRNN
from seqvae.models import VAEConv1d
from seqvae.ode import ODERNN
from seqvae.rul import REGRESSIONS, window_regression
from seqvae.train import (
    BetaSchedule,
    FixedNoise,
    KeepBest,
    KLAnneal,
    KLPerLatent,
    Loss,
    LossPart,
    ModelSchedule,
    ScheduledSampling,
    Simulation,
    SkipNonFinite,
    Snapshots,
    crps,
    evaluate,
    latent_use,
    seq_learner,
)


def make_learner(model=None, cbs=None, seed=0, units=24, **kwargs):
    "A learner of three batches an epoch"
    series = mass_spring(units, sensors=2, T=12, t_max=5, noise=0.1, seed=0).x
    torch.manual_seed(seed)
    model = model or DVAE(2, z_dim=2, h_dim=8)
    dls = SeqDataLoaders.from_series(series, bs=6, seed=0)
    return seq_learner(dls, model, cbs=cbs, **kwargs)


def fit(learn, epochs=2, lr=1e-2):
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, lr)
    return learn


def weights(learn):
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


class Watch(Callback):
    "Keeps what `look(learn)` gives in every batch, with whether it was one of training"

    order = 100

    def __init__(self, look):
        self.look, self.seen = look, []

    def after_loss(self):
        self.seen.append((self.training, self.epoch, self.look(self.learn)))

    def of(self, training):
        return [v for t, _, v in self.seen if t == training]


class Wasteful(Callback):
    "Draws random numbers in validation"

    run_train = False

    def after_batch(self):
        torch.randn(7)


# ---- betas ---------------------------------------------------------------------------

SCHEDULES = {
    "anneal": (lambda: KLAnneal(1.0, start=0.1), 1.0),
    "anneal to two": (lambda: KLAnneal(1.0, start=0.1, end=2.0), 2.0),
    "geometric": (lambda: KLAnneal(1.0, start=0.1, end=2.0, shape="geometric"), 2.0),
    "stages": (lambda: BetaSchedule([0.1, 0.5, 3.0]), 3.0),
    "ramp": (lambda: BetaSchedule([0.1, 3.0], ramp=1.0), 3.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_validation_is_at_the_last_beta_from_the_first_epoch_on(name):
    make, last = SCHEDULES[name]
    watch = Watch(lambda learn: learn.loss_func.beta)
    learn = make_learner(cbs=[make(), watch])
    fit(learn, 2)
    assert watch.of(False) and all(b == pytest.approx(last) for b in watch.of(False))
    trained = watch.of(True)
    assert (
        trained[0] == pytest.approx(0.1)
        and trained == sorted(trained)
        and trained[-1] > trained[0]
    )
    assert learn.loss_func.beta == pytest.approx(last)  # and it stays
    learn.loss_func.beta = 7.0
    with learn.no_bar(), learn.no_logging():
        learn.validate()
    assert watch.of(False)[-1] == pytest.approx(last)


def test_the_validation_loss_holds_the_full_kl():
    learn = make_learner(cbs=[KLAnneal(1.0, start=0.0)])
    fit(learn, 1)
    names, row = learn.recorder.metric_names[1:-1], learn.recorder.values[-1]
    value = dict(zip(names, row, strict=True))
    assert value["valid_loss"] == pytest.approx(
        value["valid_nll"] + value["valid_kl"], rel=1e-3
    )
    assert value["valid_kl"] > 1e-3


def test_validation_has_the_last_value_of_a_schedule_of_the_model():
    model = DVAE(2, z_dim=2, h_dim=8)
    watch = Watch(lambda learn: learn.model.temperature)
    learn = make_learner(
        model, cbs=[ModelSchedule("temperature", [0.25, 0.5, 1.0]), watch]
    )
    fit(learn, 3)
    assert (
        set(watch.of(False)) == {1.0}
        and watch.of(True)[0] == 0.25
        and watch.of(True) == sorted(watch.of(True))
    )
    assert model.temperature == 1.0


# ---- generators ----------------------------------------------------------------------


def test_a_fork_of_the_generator_leaves_no_trace():
    torch.manual_seed(3)
    state, expected = torch.get_rng_state(), torch.randn(2)
    torch.set_rng_state(state)
    fork = fork_seed(1)  # kept, so that nothing is put back because it was thrown away
    with fork:
        a = torch.randn(4)
        with fork_seed(2):
            torch.randn(5)
        b = torch.randn(4)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(KeyError), fork_seed(1):
        assert torch.equal(torch.randn(4), a)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(
        torch.randn(2), expected
    )
    with fork_seed(1):  # a fork within leaves none either
        assert torch.equal(torch.randn(4), a) and torch.equal(torch.randn(4), b)
    with fork_seed(None):  # does nothing: draws move on
        torch.randn(2)
    assert not torch.equal(torch.get_rng_state(), state)


def test_validation_draws_the_same_noise_and_training_goes_on_as_if_it_had_not_been():
    watch = Watch(lambda learn: float(learn.pred.z.sum()))
    learn = make_learner(cbs=[watch])
    with learn.no_bar(), learn.no_logging():
        a = learn.validate()
        torch.randn(3)
        state = torch.get_rng_state()
        b = learn.validate()
        assert list(a) == list(b) and torch.equal(state, torch.get_rng_state())
    first, second = (
        watch.of(False)[: len(watch.seen) // 2],
        watch.of(False)[len(watch.seen) // 2 :],
    )
    assert first == second
    learners = [make_learner(), make_learner(cbs=[Wasteful()])]
    for learn in learners:
        torch.manual_seed(5)
        fit(learn, 2)
    assert torch.equal(*map(weights, learners))


def test_other_seeds_of_the_validation_noise_are_other_noise():
    losses = []
    for seed in (0, 1):
        learn = make_learner()
        learn.remove_cb(FixedNoise)
        learn.add_cb(FixedNoise(seed))
        with learn.no_bar(), learn.no_logging():
            losses.append(learn.validate()[0])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("steps", [(), (0, 2, 5)])
def test_snapshots_do_not_touch_training(steps):
    snaps = Snapshots(lambda m: (m.training, m.sample(1, 3)), steps)
    learn, plain = make_learner(cbs=[snaps]), make_learner()
    for one in (learn, plain):
        torch.manual_seed(5)
        fit(one, 2)
    assert torch.equal(weights(plain), weights(learn)) and set(snaps.shots) == set(
        steps
    )
    assert not any(training for training, _ in snaps.shots.values())


def test_evaluation_leaves_generator_and_mode_as_they_were():
    model = DVAE(2, z_dim=2, h_dim=8)
    x = mass_spring(3, sensors=2, T=20, seed=0).x
    for mode in (True, False):
        model.train(mode)
        state = torch.get_rng_state()
        a, b = (evaluate(model, x, 4, n_samples=5, seed=0) for _ in range(2))
        assert torch.equal(state, torch.get_rng_state()) and model.training == mode
        assert a == b or all(a[k] == b[k] or math.isnan(a[k]) for k in a)
        assert evaluate(model, x, 4, n_samples=5, seed=1)["crps"] != a["crps"]


# ---- counters ------------------------------------------------------------------------


def test_the_kl_of_latents_is_that_of_validation_after_each_epoch_of_the_last_fit():
    kept = KLPerLatent()
    watch = Watch(
        lambda learn: (
            learn.loss_func.kl_latents.detach().numpy() * learn.loss_func.n,
            learn.loss_func.n,
        )
    )
    learn = make_learner(cbs=[kept, watch])
    for epochs in (3, 2):
        watch.seen.clear()
        fit(learn, epochs)
        assert kept.kls.shape == (epochs, 2)
        for epoch in range(epochs):
            parts = [v for training, e, v in watch.seen if not training and e == epoch]
            expected = sum(total for total, _ in parts) / sum(n for _, n in parts)
            np.testing.assert_allclose(kept.kls[epoch], expected, rtol=1e-5)


def test_parts_of_the_loss_are_means_over_the_steps_of_their_epoch():
    watch = Watch(
        lambda learn: (
            float(learn.loss_func.nll.detach()),
            float(learn.loss_func.kl.detach()),
            learn.loss_func.n,
        )
    )
    learn = fit(make_learner(cbs=[watch]), 3)
    names = learn.recorder.metric_names[1:-1]
    for epoch, row in enumerate(learn.recorder.values):
        value = dict(zip(names, row, strict=True))
        for training, prefix in ((True, "train"), (False, "valid")):
            parts = np.array(
                [v for t, e, v in watch.seen if t == training and e == epoch]
            )
            nll, kl = (np.average(parts[:, i], weights=parts[:, 2]) for i in (0, 1))
            assert value[f"{prefix}_nll"] == pytest.approx(nll, rel=1e-4)
            assert value[f"{prefix}_kl"] == pytest.approx(kl, rel=1e-3)


def test_a_part_of_the_loss_starts_anew_when_it_is_reset():
    part = LossPart("nll")

    class Holder:
        loss_func = Loss()

    Holder.loss_func.nll, Holder.loss_func.n = torch.tensor(2.0), 10
    part.accumulate(Holder)
    Holder.loss_func.nll, Holder.loss_func.n = torch.tensor(5.0), 5
    part.accumulate(Holder)
    assert part.value == pytest.approx(3.0)
    part.reset()
    assert part.value is None
    part.accumulate(Holder)
    assert part.value == pytest.approx(5.0)


class Spoil(Callback):
    "Makes the loss of these training steps NaN"

    order = -1

    def __init__(self, steps):
        self.steps, self.count = steps, 0

    def before_fit(self):
        self.count = 0

    def after_loss(self):
        if not self.training:
            return
        if self.count in self.steps:
            self.learn.loss_grad = self.learn.loss_grad * math.nan
        self.count += 1


def skips_of(learn):
    return next(c for c in learn.cbs if isinstance(c, SkipNonFinite))


def test_skipped_steps_in_a_row_are_counted_from_the_last_good_one():
    learn = make_learner(
        cbs=[Spoil({0, 1, 2, 4, 5, 6})]
    )  # three, and three, never four
    skips_of(learn).max_skips = 3
    skips_of(learn).max_share = 1.0  # in all, any number: those in a row alone count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):  # a second fit counts from zero
            fit(learn, 4)
            assert skips_of(learn).total == 6 and skips_of(learn).row == 0
        learn = make_learner(cbs=[Spoil({4, 5, 6, 7})])
        skips_of(learn).max_skips = 3
        skips_of(learn).max_share = 1.0
        with pytest.raises(RuntimeError, match="4 training steps in a row"):
            fit(learn, 4)


def test_the_last_steps_of_a_fit_do_not_count_in_the_next():
    learn = make_learner(cbs=[Spoil(set(range(2, 100)))])
    skips_of(learn).max_skips = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        n = len(learn.dls.train)
        for _ in range(3):
            fit(learn, 1)  # n - 2 in a row at the end of each
            assert skips_of(learn).row == n - 2 > 0


# ---- evaluation ----------------------------------------------------------------------


class Repeat(SequenceModel):
    "x_t is x_t-1, and at first 0, with a little noise; no latents"

    def __init__(self, x_dim=1):
        super().__init__(x_dim)
        self.emission = MSEEmission(1, x_dim, residual=False, sigma=1e-3)

    def init_state(self, batch):
        return dict(x=self.x_loc.new_zeros(batch, self.x_dim))

    def prior(self, s, u):
        return None

    def posterior(self, s, x, m, u, ahead):
        return None

    def emit(self, s, z, u):
        return diag_normal(s["x"], self.emission.logvar.expand_as(s["x"]))

    def advance(self, s, x, m, z, u):
        return dict(x=x)


class Mirror(SequenceModel):
    "z is x, nearly without noise, and x is z: latents that carry all there is"

    z_dim = 1

    def __init__(self, x_dim=1):
        super().__init__(x_dim)
        self.emission = MSEEmission(1, x_dim, residual=False, sigma=1.0)

    def init_state(self, batch):
        return dict(x=self.x_loc.new_zeros(batch, self.x_dim))

    def prior(self, s, u):
        return diag_normal(0 * s["x"], 0 * s["x"])

    def posterior(self, s, x, m, u, ahead):
        return diag_normal(x, torch.full_like(x, -20.0))

    def emit(self, s, z, u):
        return diag_normal(z, torch.zeros_like(z))

    def advance(self, s, x, m, z, u):
        return dict(x=x)


def test_one_step_errors_leave_out_the_first_step_and_no_other():
    "Nothing is before the first step, and what is before the second is known"
    x = torch.full((2, 10, 1), 7.0)
    x[0, 1:] = 9.0  # a jump of 2 at the second step
    x[1, 9:] = 10.0  # a jump of 3 at the last
    res = evaluate(Repeat(), x.numpy(), horizon=3, n_samples=20)
    assert res["one_step_mse"] == pytest.approx((4 / 9 + 9 / 9) / 2, rel=1e-3)
    assert res["one_step_rmse"] == pytest.approx(math.sqrt(13 / 18), rel=1e-3)
    assert res["rmse"] == pytest.approx(
        math.sqrt(9 / 6), rel=1e-3
    )  # of three steps each, one is missed by 3


def test_one_step_errors_count_only_what_was_observed():
    x = torch.full((1, 10, 1), 7.0)
    x[0, 4], x[0, 5:] = math.nan, 9.0  # one error of 2, of eight steps
    res = evaluate(Repeat(), [x[0].numpy()], horizon=3, n_samples=20)
    assert res["one_step_mse"] == pytest.approx(4 / 8, rel=1e-3)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_the_shuffled_nll_is_that_with_the_latents_of_another_series(rows):
    x = torch.randn(rows, 6, 1) + 10 * torch.arange(rows)[:, None, None]
    use = latent_use(Mirror(), x)
    own = 0.5 * math.log(2 * math.pi)
    assert use["nll"] == pytest.approx(own, abs=1e-2)
    others = (
        torch.stack([(x - x.roll(k, 0)).square().mean() / 2 for k in range(1, rows)])
        + own
    )
    assert any(use["nll_shuffled"] == pytest.approx(float(o), rel=1e-3) for o in others)
    assert math.isnan(latent_use(Mirror(), x[:1])["nll_shuffled"])


def test_a_model_whose_latents_are_not_read_loses_nothing_by_a_shuffle():
    use = latent_use(AutoregressiveRNN(2, h_dim=8), torch.randn(3, 6, 2))
    assert use["nll_shuffled"] == use["nll"] and use["kl"] == 0.0 and use["active"] == 0


# ---- parts of the loss ------------------------------------------------------------------


def test_a_loss_skips_the_first_steps_that_are_given():
    x, loss = torch.randn(3, 8, 2), Loss(skip=3)
    out = AutoregressiveRNN(2, h_dim=8)(x)
    assert float(loss(out, x)) == pytest.approx(
        float(out.nll(x)[:, 3:].mean()), rel=1e-5
    )
    assert loss.n == 15


def test_the_kl_of_one_latent_a_series_is_counted_once_a_series():
    x, loss = torch.randn(3, 10, 1), Loss()
    out = short_vae()(x)
    total = loss(out, x)
    torch.testing.assert_close(loss.kl_latents, out.kl().mean(0))
    assert float(total) == pytest.approx(float(-out.elbo(x).mean()) / 10, rel=1e-5)


def short_vae(**options):
    layers = dict(nf=[4], encoder=[8], decoder=[8], nc_out=3, z_dim=2, avg_size=2)
    return VAEConv1d(o_dim=12, **layers, **options)


def test_the_learner_takes_beta_from_the_model():
    series = np.random.default_rng(0).standard_normal((8, 12, 1)).astype(np.float32)
    dls = SeqDataLoaders.from_series(series, bs=4)
    assert seq_learner(dls, short_vae(beta=0.25)).loss_func.beta == 0.25
    assert seq_learner(dls, AutoregressiveRNN(1, h_dim=8)).loss_func.beta == 1


def test_the_clock_runs_as_long_as_the_longest_window():
    t = [
        np.linspace(0, end, 6) for end in (5.0, 40.0, 11.0, 7.0, 40.0, 40.0, 40.0, 40.0)
    ]
    series = SeriesSet([np.random.randn(6, 1) for _ in t], t=t)
    model = ODERNN(1, h_dim=8)
    seq_learner(SeqDataLoaders.from_series(series, bs=4, valid=0.2), model)
    assert float(model.t_scale) == 40


def test_simulation_takes_its_share_of_the_loss():
    series = SeriesSet(np.random.randn(8, 6, 1), u=np.random.randn(8, 6, 1))
    watch = Watch(lambda learn: float(learn.loss_grad.detach()))
    watch.order = -7  # before `Simulation`
    after, part = Watch(lambda learn: float(learn.loss_grad.detach())), Simulation(0.3)
    parts = Watch(lambda learn: float(part.simulation_loss.detach()))
    model = AutoregressiveRNN(1, h_dim=8, u_dim=1)
    dls = SeqDataLoaders.from_series(series, bs=4, valid=0.25)
    fit(seq_learner(dls, model, cbs=[watch, part, after, parts]), 1)
    for before, total, simulated in zip(
        *(w.of(True) for w in (watch, after, parts)), strict=True
    ):
        assert total == pytest.approx(0.7 * before + 0.3 * simulated, rel=1e-4)


def test_scheduled_sampling_hides_steps_in_training_alone_and_never_the_ends():
    masks = Watch(lambda learn: learn.xb[3])
    fit(make_learner(cbs=[ScheduledSampling(0.6, gap=3, ramp=1e-6), masks]), 3)
    assert masks.of(False) and all(mask is None for mask in masks.of(False))
    hidden = [mask for mask in masks.of(True) if mask is not None]
    assert hidden and not torch.cat(hidden).all()
    assert torch.cat(hidden)[:, [0, -1]].all()


def test_the_best_epoch_is_kept_with_its_own_weights():
    kept = KeepBest()
    states = []

    class After(Callback):
        order = 200

        def after_epoch(self):
            states.append(weights(self.learn).clone())

    learn = make_learner(cbs=[kept, After()])
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-2)
        states.clear()
        learn.fit(4, 0.3)  # far too fast
    losses = [
        row[learn.recorder.metric_names[1:].index("valid_loss")]
        for row in learn.recorder.values
    ]
    best = int(np.argmin(losses))
    assert kept.epoch_of_best == best and kept.best == min(losses)
    assert torch.equal(weights(learn), states[best])


# ---- scores -----------------------------------------------------------------------------


def test_crps_is_fair_to_small_ensembles():
    samples = torch.tensor([0.0, 2.0])[:, None]
    assert float(crps(samples, torch.tensor([1.0]))) == pytest.approx(0)  # 1 - 2/2
    assert float(crps(samples, torch.tensor([5.0]))) == pytest.approx(3)  # 4 - 2/2
    assert float(crps(samples[:1], torch.tensor([5.0]))) == pytest.approx(5)


def test_units_count_by_their_steps_however_they_are_batched():
    units = [np.random.default_rng(n).standard_normal((n, 1)) * n for n in (5, 9, 30)]
    model = AutoregressiveRNN(1, h_dim=8)
    one, all_ = (evaluate(model, units, 2, n_samples=5, batch=b) for b in (1, 25))
    assert one["elbo"] == pytest.approx(all_["elbo"], rel=1e-5)
    assert one["nll"] == pytest.approx(all_["nll"], rel=1e-5)


def test_latents_are_active_above_the_threshold():
    model, x = DVAE(2, z_dim=3, h_dim=8), torch.randn(4, 6, 2)
    kl = latent_use(model, x)["kl_latents"]
    for threshold in (0.0, float(kl.sort().values[:2].mean()), 1e9):
        torch.manual_seed(1)
        use = latent_use(model, x, threshold=threshold)
        assert use["active"] == int((use["kl_latents"] > threshold).sum())


class Spy:
    "A regression that refuses what it was fitted to"

    def fit(self, X, y):
        self.seen = {row.tobytes() for row in np.asarray(X)}
        return self

    def predict(self, X):
        assert not any(row.tobytes() in self.seen for row in np.asarray(X))
        return np.full(len(X), 50.0)


def test_errors_of_a_regression_are_on_units_it_has_not_seen(monkeypatch):
    monkeypatch.setitem(REGRESSIONS, "spy", Spy)
    rng = np.random.default_rng(0)
    lives = [np.arange(40.0)[::-1, None].copy() for _ in range(8)]
    parts = (
        SeriesSet(lives, u=[rng.standard_normal((40, 2)) for _ in lives])
        for _ in range(2)
    )
    assert window_regression("spy", *parts, k=4).samples.isfinite().all()
