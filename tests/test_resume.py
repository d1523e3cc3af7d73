"A run that was interrupted and started again is the run that was left alone"

import functools
import os
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.basics import Callback, DataLoader, DataLoaders, Learner, OptimWrapper
from fastai.callback import progress
from fastai.callback.all import (
    CSVLogger,
    EarlyStoppingCallback,
    GradientAccumulation,
    ReduceLROnPlateau,
    SaveModelCallback,
    ShowGraphCallback,
)
from fastprogress import fastprogress
from torch.utils.data import TensorDataset

from seqvae.data import SeqDataLoaders, mass_spring
from seqvae.dvae import DVAE
from seqvae.train import (
    BetaSchedule,
    Checkpoint,
    KeepBest,
    KLAnneal,
    KLPerLatent,
    Loss,
    ModelSchedule,
    Overshooting,
    ScheduledSampling,
    Snapshots,
    TCLoss,
    _digest,
    seq_learner,
)
from seqvae.wavenet import VAEWaveNet

EPOCHS = 4
series = mass_spring(15, sensors=2, T=10, t_max=3, noise=0.1, low=0.2, seed=0).x


class Die(Callback):
    "Die in an epoch: at its start, in its middle, in its validation, or at its end"

    order = 40

    def __init__(self, epoch, when="after_epoch"):
        self.epoch_of_death = epoch
        setattr(self, when, self.die)

    def die(self):
        if self.epoch == self.epoch_of_death and (self.iter or not self.training):
            raise KeyboardInterrupt


class Poison(Callback):
    "Make the loss of every third step NaN, and draw from all generators"

    def after_loss(self):
        random.random()
        np.random.rand()
        if self.training and self.train_iter % 3 == 1:
            self.learn.loss_grad = self.learn.loss_grad * float("nan")


def look(model):
    return {"mu": model.init_state(1), "first": next(model.parameters()).numpy().copy()}


def learner(cbs=(), loss=None, bs=4, seed=1, data=series, loader_seed=42, **kwargs):
    "A small learner from nothing, always the same"
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    dls = SeqDataLoaders.from_series(data, bs=bs, seed=loader_seed)
    model = DVAE(2, **{"z_dim": 2, "h_dim": 8, **kwargs})
    return seq_learner(dls, model, loss, cbs=cbs)


def train(learn, epochs=EPOCHS, cbs=(), quiet=True, **kwargs):
    "One cycle, or at rate `lr`; without bar and words by default; a death is survived"
    how = {"lr_max": 1e-2, "cbs": list(cbs), **kwargs}
    fit = learn.fit if "lr" in kwargs else learn.fit_one_cycle
    if "lr" in kwargs:
        del how["lr_max"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if not quiet:
                fit(epochs, **how)
            else:
                with learn.no_bar(), learn.no_logging():
                    fit(epochs, **how)
        except KeyboardInterrupt:
            pass
    return learn


def same(a, b, where=""):
    "Equal bit by bit, in value and type, through lists and dictionaries"
    if isinstance(a, torch.Tensor):
        assert torch.equal(a.isnan(), b.isnan()) and torch.equal(
            a.nan_to_num(), b.nan_to_num()
        ), where
        assert a.dtype == b.dtype, where
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (str, type(None))):
        assert a == b, where
    elif hasattr(a, "__len__"):
        assert type(a) is type(b) and len(a) == len(b), where
        for i, (p, q) in enumerate(zip(a, b, strict=True)):
            same(p, q, f"{where}[{i}]")
    else:
        assert a == b or (a != a and b != b), f"{where}: {a} {b}"


def same_run(whole, again):
    "Weights, optimiser, history and the loss's beta of two learners"
    same(dict(whole.model.state_dict()), dict(again.model.state_dict()), "model")
    r, s = whole.recorder, again.recorder
    for name in ("values", "losses", "lrs", "iters", "metric_names"):
        same(getattr(r, name), getattr(s, name), name)
    same(r.smooth_loss.val, s.smooth_loss.val, "smooth_loss")
    assert r.smooth_loss.count == s.smooth_loss.count
    same(whole.smooth_loss, again.smooth_loss, "learn.smooth_loss")
    same(whole.final_record, again.final_record, "final_record")
    assert whole.train_iter == again.train_iter and whole.epoch == again.epoch
    assert whole.pct_train == again.pct_train
    same(getattr(r, "hps", None), getattr(s, "hps", None), "hps")
    assert getattr(whole.loss_func, "beta", 0) == getattr(again.loss_func, "beta", 0)
    same(list(whole.opt.hypers), list(again.opt.hypers), "hypers")
    for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        same(dict(whole.opt.state[p]), dict(again.opt.state[q]), "opt.state")


# Everything we ship, and fastai's, in one place: a new callback goes in here
def every():
    "Callbacks that train, watch and choose, with what each must have at the end"
    return dict(
        anneal=KLAnneal(0.7),
        over=Overshooting(4, n_paths=2, min_context=3),
        sampling=ScheduledSampling(0.3, 3),
        poison=Poison(),
        kls=KLPerLatent(),
        shots=Snapshots(look, [0, 2, 5, 9]),
        keep=KeepBest(),
    )


def generators():
    "States of torch's, numpy's and Python's random numbers"
    return torch.get_rng_state(), np.random.get_state()[1], random.getstate()


@functools.cache
def unbroken():
    "A run with all callbacks that was left alone, these, and the generators after it"
    cbs = every()
    return train(learner(cbs.values())), cbs, generators()


@functools.cache
def plainly_unbroken(epochs):
    "A run without more callbacks that was left alone"
    return train(learner(), epochs)


@pytest.mark.parametrize(
    "epoch, when",
    [
        (0, "after_batch"),
        (1, "before_validate"),
        (2, "after_epoch"),
        (3, "after_batch"),
        (3, "after_fit"),
    ],
)
def test_everything_is_the_same_after_a_death(tmp_path, epoch, when):
    "Weights, history and the state of every callback, bit by bit"
    whole, a, state = unbroken()
    c = every()
    path = tmp_path / "run.pt"
    train(learner(every().values()), cbs=[Checkpoint(path), Die(epoch, when)])
    again = train(learner(c.values()), cbs=[Checkpoint(path)])
    same_run(whole, again)
    same(state, generators(), "random")
    same(a["kls"].kls, c["kls"].kls, "kls")
    assert len(a["kls"].kls) == EPOCHS
    same(a["shots"].shots, c["shots"].shots, "shots")
    assert set(a["shots"].shots) == {0, 2, 5, 9}
    for name in ("best", "epoch_of_best", "weights"):
        same(getattr(a["keep"], name), getattr(c["keep"], name), name)
    same((a["anneal"].last), (c["anneal"].last))
    skips, kept = whole.skip_non_finite, again.skip_non_finite
    assert (skips.row, skips.total) == (kept.row, kept.total) and skips.total > 1
    same(skips.last, kept.last, "last loss")


@pytest.mark.parametrize(
    "cbs, loss",
    [
        (lambda: [BetaSchedule([0, 2, 1], ramp=0.5)], lambda: Loss(free_bits=0.01)),
        (lambda: [KLAnneal(0.9, start=2.0, end=0.5)], lambda: Loss(3.0)),
        (lambda: [GradientAccumulation(8)], lambda: None),
    ],
)
def test_schedules_and_gradients_kept_over_the_end_of_an_epoch(tmp_path, cbs, loss):
    "Beta in stages, and gradients that an epoch's end leaves half gathered"
    whole = train(learner(cbs(), loss()))
    path = tmp_path / "run.pt"
    train(learner(cbs(), loss()), cbs=[Checkpoint(path), Die(1)])
    train(learner(cbs(), loss()), cbs=[Checkpoint(path), Die(3)])
    same_run(whole, train(learner(cbs(), loss()), cbs=[Checkpoint(path)]))


def test_a_model_that_changes_in_stages(tmp_path):
    "ModelSchedule, on a model whose layers were used in the first stage only"

    def run(*cbs):
        torch.manual_seed(0)
        dls = SeqDataLoaders.from_series(series[..., :1], bs=4)
        model = VAEWaveNet(
            o_dim=10,
            nf=[8],
            encoder=[8],
            decoder=[8],
            z_dim=2,
            avg_size=4,
            use_pad=True,
        )
        stages = ModelSchedule("depth", [None, 1, 2], [0.3, 0.3, 0.4])
        return train(seq_learner(dls, model, TCLoss(2.0), cbs=[stages]), cbs=cbs)

    whole = run()
    run(Checkpoint(tmp_path / "run.pt"), Die(2))
    again = run(Checkpoint(tmp_path / "run.pt"))
    same_run(whole, again)
    assert whole.model.depth == again.model.depth == 2


class Handle:
    "What IPython's display gives in a notebook"

    shown = None

    def update(self, what):
        Handle.shown = what


@pytest.mark.parametrize("bar", ["console", "notebook"])
@pytest.mark.parametrize("logging", [True, False])
def test_with_the_progress_bar(tmp_path, monkeypatch, capsys, bar, logging):
    "The bar is told of the epochs that are skipped, and its table is whole"
    monkeypatch.setattr(fastprogress.ProgressBar, "update_every", 0)
    if bar == "notebook":
        import IPython.display

        monkeypatch.setattr(progress, "master_bar", fastprogress.NBMasterBar)
        monkeypatch.setattr(progress, "progress_bar", fastprogress.NBProgressBar)
        monkeypatch.setattr(IPython.display, "display", lambda *a, **k: Handle())
    path = tmp_path / "run.pt"
    whole = plainly_unbroken(7)
    train(learner(), epochs=7, cbs=[Checkpoint(path), Die(5)], quiet=False)
    capsys.readouterr()
    learn = learner()
    spent = torch.load(path)["fits"][0]["seconds"]
    bars = {}

    class Watch(Callback):
        order = 61

        def after_epoch(self):
            main = self.progress.mbar.main_bar
            bars[self.epoch] = main.last_v
            assert spent < main.last_t - main.start_t < 10 * spent + 5
            bars["lines"] = getattr(self.progress.mbar, "lines", None)

    if not logging:
        with learn.no_logging():
            train(learn, epochs=7, cbs=[Checkpoint(path), Watch()], quiet=False)
    else:
        train(learn, epochs=7, cbs=[Checkpoint(path), Watch()], quiet=False)
    same_run(whole, learn)
    assert {k: v for k, v in bars.items() if k != "lines"} == {5: 5, 6: 6}
    said = capsys.readouterr().out
    assert ("goes on after epoch 5 of 7" in said) == logging
    if bar == "notebook" and logging:
        assert [line[0] for line in bars["lines"]] == ["epoch", *"0123456"]
    if bar == "console" and logging:
        rows = [line.split()[0] for line in said.splitlines() if line[:1].isdigit()]
        assert rows == list("0123456")


def test_without_the_bar_but_with_words(tmp_path, capsys):
    path = tmp_path / "run.pt"
    train(learner(), cbs=[Checkpoint(path), Die(2)])
    learn = learner()
    with learn.no_bar():
        train(learn, cbs=[Checkpoint(path)], quiet=False)
    assert "goes on after epoch 2 of 4" in capsys.readouterr().out
    same_run(plainly_unbroken(EPOCHS), learn)


def test_a_finished_run_has_nothing_to_do_and_says_so(tmp_path, capsys):
    path = tmp_path / "run.pt"
    keeps = [KeepBest() for _ in range(2)]
    whole = train(learner(keeps[0]), cbs=[Checkpoint(path)], lr_max=0.5)
    assert keeps[0].epoch_of_best < EPOCHS - 1
    before = path.read_bytes()
    learn = learner(keeps[1])
    train(learn, cbs=[Checkpoint(path)], quiet=False, lr_max=0.5)
    assert "nothing is left to train" in capsys.readouterr().out
    same_run(whole, learn)
    assert keeps[0].best == keeps[1].best and keeps[1].weights is not None
    assert path.read_bytes() == before


def trackers(path):
    "fastai's own, which keep a best"
    return [
        SaveModelCallback(fname=str(path), comp=np.greater),
        ReduceLROnPlateau(patience=2, min_delta=0.5),
        EarlyStoppingCallback(patience=5, min_delta=0.5),
    ]


@pytest.mark.parametrize("epoch", [2, 3])
def test_fastais_trackers_keep_their_best_and_their_counts(tmp_path, epoch):
    "Early stopping stops where it would have; the rate falls when it would have"

    def run(name, cbs=()):
        learn = learner(trackers(tmp_path / name))
        with learn.no_bar(), learn.no_logging():
            try:
                learn.fit(12, 1e-2, cbs=list(cbs))
            except KeyboardInterrupt:
                pass
        return learn

    whole = run("a")
    assert len(whole.recorder.values) == 6
    run("b", [Checkpoint(tmp_path / "run.pt"), Die(epoch)])
    (tmp_path / "b.pth").unlink()  # the best weights are in the checkpoint
    again = run("b", [Checkpoint(tmp_path / "run.pt")])
    same_run(whole, again)
    for name in ("early_stopping", "reduce_lr_on_plateau", "save_model"):
        a, b = getattr(whole, name), getattr(again, name)
        assert a.best == b.best and getattr(a, "wait", 0) == getattr(b, "wait", 0)
    saved, best = (torch.load(tmp_path / f"{name}.pth") for name in "ab")
    same(dict(saved), dict(best), "saved model")
    third = run("b", [Checkpoint(tmp_path / "run.pt")])
    same_run(whole, third)


def test_loggers_hold_the_whole_history(tmp_path):
    def run(cbs=()):
        learn = learner(CSVLogger(str(tmp_path / "history.csv")))
        train(learn, cbs=cbs)
        return [row.split(",")[:-1] for row in Path(tmp_path / "history.csv").open()]

    whole = run()
    run([Checkpoint(tmp_path / "run.pt"), Die(2)])
    assert run([Checkpoint(tmp_path / "run.pt")]) == whole and len(whole) == EPOCHS + 1


# The documented use of a Learner, with a Checkpoint among its callbacks


def plain(file, **kwargs):
    "A fastai Learner with nothing of ours but the Checkpoint"
    torch.manual_seed(0)
    random.seed(0)
    x = torch.randn(48, 3)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    dls = DataLoaders(DataLoader(data, bs=8, shuffle=True), DataLoader(data, bs=8))
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)
    )
    loss = torch.nn.functional.mse_loss
    cbs = None if file is None else Checkpoint(file)
    return Learner(dls, model, loss, cbs=cbs, **kwargs)


def test_the_rest_of_a_learner_works_beside_it(tmp_path):
    "validate, get_preds, lr_find before, between and after, as without"
    results = []
    for path in (None, tmp_path / "run.pt"):
        learn = plain(path, path=tmp_path)
        with learn.no_bar(), learn.no_logging():
            got = [learn.validate()]
            learn.lr_find(show_plot=False, num_it=20)
            learn.fit(2)
            got += [list(learn.validate()), learn.get_preds()[0], learn.validate()]
            learn.lr_find(show_plot=False, num_it=20)
            learn.fit(1)
            got += [learn.get_preds(ds_idx=0)[0].sum(), learn.validate()]
        results.append(got)
    same(results[0][1:3], results[1][1:3])
    same(results[0][-1], results[1][-1])
    fits = torch.load(tmp_path / "run.pt", weights_only=True)["fits"]
    assert [fit["epoch"] for fit in fits] == [2, 1]


def test_a_second_fit_trains_again_and_both_resume(tmp_path):
    "The fits of a learner are kept one after the other, and each is found again"
    path = tmp_path / "run.pt"

    def script(*, death=None, checkpoint=True, rate=1e-2):
        learn = learner(Checkpoint(path) if checkpoint else None)
        states = []
        for fit in range(3):
            die = [Die(*death[1:])] if death and death[0] == fit else []
            train(learn, epochs=2, cbs=die, **({"lr": rate} if fit == 1 else {}))
            states.append({k: v.clone() for k, v in learn.model.state_dict().items()})
            if die:
                return states
        return learn, states

    whole, states = script(checkpoint=False)
    script(death=(0, 1))
    script(death=(1, 0, "after_batch"), rate=2e-2)  # changed before an epoch ended
    script(death=(1, 1, "before_validate"))
    script(death=(2, 1))
    again, same_states = script()
    same_run(whole, again)
    same(states, same_states, "weights after each fit")
    for before, after in zip(states[:-1], states[1:], strict=True):
        assert not all(torch.equal(before[name], after[name]) for name in before)


def test_early_stopping_in_the_first_of_two_fits(tmp_path):
    "It ends before its last epoch, and the second is found behind it all the same"

    def script(*cbs, death=()):
        learn = learner(EarlyStoppingCallback(min_delta=0.5, patience=2))
        with learn.no_bar(), learn.no_logging():
            learn.fit(9, 1e-2, cbs=list(cbs))
            assert len(learn.recorder.values) == 3
            try:
                learn.fit(3, 1e-2, cbs=[*cbs, *death])
            except KeyboardInterrupt:
                pass
        return learn

    path = tmp_path / "run.pt"
    script(Checkpoint(path), death=[Die(1)])
    same_run(script(), script(Checkpoint(path)))


@pytest.mark.parametrize("phase, epoch", [(0, 0), (1, 0), (1, 1)])
def test_fine_tune_resumes_in_either_phase(tmp_path, phase, epoch):
    class DieInPhase(Callback):
        fits = -1

        def before_train(self):
            self.fits += self.epoch == 0

        def after_train(self):
            if (self.fits, self.epoch) == (phase, epoch):
                raise KeyboardInterrupt

    def run(*cbs):
        learn = learner(cbs)
        with learn.no_bar(), learn.no_logging():
            try:
                learn.fine_tune(2, 1e-2)
            except KeyboardInterrupt:
                pass
        return learn

    whole = run()
    run(Checkpoint(tmp_path / "run.pt"), DieInPhase())
    same_run(whole, run(Checkpoint(tmp_path / "run.pt")))


@pytest.mark.parametrize("when", ["after_batch", "before_validate", "after_validate"])
def test_going_on_in_the_same_session(tmp_path, when):
    "Interrupted by hand and called again on the same learner, with new callbacks"
    path = tmp_path / "run.pt"
    whole = train(learner(), cbs=[KLAnneal(0.9)])
    learn = learner()
    train(learn, cbs=[Checkpoint(path), KLAnneal(0.9), Die(1, when)])
    train(learn, cbs=[Checkpoint(path), KLAnneal(0.9), Die(2, when)])
    same_run(whole, train(learn, cbs=[Checkpoint(path), KLAnneal(0.9)]))
    train(learn, cbs=[Checkpoint(path), KLAnneal(0.9)])  # and now it begins another
    first, second = torch.load(path, weights_only=True)["fits"]
    assert first["epoch"] == second["epoch"] == EPOCHS
    a, b = first["model"], second["model"]
    assert not all(torch.equal(a[name], b[name]) for name in a)


def test_a_detached_checkpoint_leaves_nothing_behind(tmp_path):
    learn = learner()
    train(learn, cbs=[Checkpoint(tmp_path / "run.pt"), Die(1)])
    (tmp_path / "run.pt").unlink()
    train(learn)
    assert len(learn.recorder.values) == EPOCHS and not list(tmp_path.iterdir())
    assert "_with_events" not in vars(learn)
    two = learner([Checkpoint(tmp_path / "a.pt")])
    with pytest.raises(ValueError, match="one Checkpoint"):
        train(two, cbs=[Checkpoint(tmp_path / "b.pt")])
    train(two)
    assert (tmp_path / "a.pt").exists()


# What is another run


def changed_data():
    data = series.copy()
    data[3, 7, 1] += 1e-3
    return data


@functools.cache
def refusing_file():
    "The file of a run that died in its third epoch"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.pt"
        train(learner([KLAnneal()]), cbs=[Checkpoint(path), Die(2)])
        return path.read_bytes()


@pytest.mark.parametrize(
    "change, fit, says",
    [
        (dict(data=changed_data()), {}, "training data x"),
        (dict(data=series[:12]), {}, "units"),
        (dict(bs=3), {}, "batch size was 4, is 3"),
        (dict(seed=2), {}, "seed was 1, is 2"),
        (dict(loader_seed=43), {}, "seed was 42, is 43"),
        (dict(loss=Loss(free_bits=0.1)), {}, "loss free_bits was 0, is 0.1"),
        (dict(loss=Loss(2.0)), {}, "loss beta was 1, is 2"),
        (dict(loss=TCLoss(2.0)), {}, "loss was .*Loss, is .*TCLoss"),
        (dict(h_dim=9), {}, "model h_dim was 8, is 9"),
        ({}, dict(epochs=5), "epochs was 4, is 5"),
        ({}, dict(lr_max=2e-2), "highest lr was 0.0.*, is 0.0"),
        ({}, dict(div=30), "schedule of lr"),
        ({}, dict(moms=(0.9, 0.8, 0.9)), "schedule of mom"),
        ({}, dict(wd=0.1), "wd was 0.01, is 0.1"),
        (dict(cbs=[KLAnneal(0.3)]), {}, "KLAnneal warmup was 0.2, is 0.3"),
        (dict(cbs=[]), {}, "callbacks was .*KLAnneal.*, is "),
        (dict(cbs=[KLAnneal(), Overshooting(5)]), {}, "callbacks was .*Overshooting"),
        (dict(cbs=[KLAnneal(), KeepBest()]), {}, "callbacks was .*KeepBest"),
    ],
)
def test_a_file_of_another_run_is_refused(tmp_path, change, fit, says):
    "What differs is named, and the file is left as it was"
    path = tmp_path / "run.pt"
    path.write_bytes(before := refusing_file())
    other = learner(**{"cbs": [KLAnneal()], **change})
    weights = next(other.model.parameters()).clone()
    with pytest.raises(ValueError, match=says) as error:
        train(other, cbs=[Checkpoint(path)], **fit)
    assert str(path) in str(error.value) and "start anew" in str(error.value)
    assert path.read_bytes() == before
    assert torch.equal(weights, next(other.model.parameters()))


def test_other_metrics_and_plain_fits_are_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(learner(), cbs=[Checkpoint(path), Die(2)])
    learn = learner()
    with learn.no_bar(), pytest.raises(ValueError, match="schedules"):
        learn.fit(EPOCHS, 1e-2, cbs=Checkpoint(path))
    learn = learner()
    learn.metrics = [lambda pred, x, mask: x.mean()]
    with pytest.raises(ValueError, match="metrics"):
        train(learn, cbs=[Checkpoint(path)])


def test_what_may_differ(tmp_path):
    "Bars, loggers, callbacks of the user's own; a file in which no epoch has ended"
    path = tmp_path / "run.pt"
    train(learner(), cbs=[Checkpoint(path), Die(0)])
    train(learner(h_dim=9), epochs=2, cbs=[Checkpoint(path), Die(1, "before_train")])
    train(learner(h_dim=9), epochs=2, cbs=[Checkpoint(path), Die(1, "after_train")])
    with pytest.raises(ValueError, match="h_dim"):
        train(learner(), epochs=2, cbs=[Checkpoint(path)])


def test_a_run_without_a_seed_resumes(tmp_path):
    "Somebody who set none starts from other weights every time: the file's count"
    path = tmp_path / "run.pt"
    script = ([Checkpoint(path)], [Checkpoint(path), Die(2)])
    for cbs in script[::-1]:
        learn = learner()
        torch.seed()
        with torch.no_grad():
            for p in learn.model.parameters():
                p.normal_()
        train(learn, cbs=cbs)
    assert len(learn.recorder.values) == EPOCHS


# The file


def test_the_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    train(learner(every().values()), cbs=[Checkpoint(path), Die(2)])
    whole = path.read_bytes()
    torch.load(path, weights_only=True)
    save = torch.save

    def half(state, file, *args, **kwargs):
        save(state, file, *args, **kwargs)
        Path(file).write_bytes(Path(file).read_bytes()[:100])
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        train(learner(every().values()), cbs=[Checkpoint(path)])
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    learn = learner()
    weights = next(learn.model.parameters()).clone()
    with pytest.raises(OSError):
        train(learn, cbs=[Checkpoint(tmp_path / "file" / "run.pt")])
    assert torch.equal(weights, next(learn.model.parameters()))


def test_what_a_file_cannot_hold_is_named(tmp_path):
    "Before the first step, if it is there by then"
    shots = Snapshots(lambda model: object(), [0])
    with pytest.raises(TypeError, match="Snapshots.*shots.*object"):
        train(learner(shots), cbs=[Checkpoint(tmp_path / "run.pt")])


def test_a_callback_of_ones_own_keeps_its_state(tmp_path):
    class Count(Callback):
        "Counts steps"

        def before_fit(self):
            self.steps = 0

        def after_train(self):
            self.steps += self.n_iter

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    path = tmp_path / "run.pt"
    train(learner(), cbs=[a := Count()])
    train(learner(), cbs=[Checkpoint(path), Die(2), Count()])
    train(learner(), cbs=[Checkpoint(path), b := Count()])
    assert a.steps == b.steps > 0


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(b"junk")
    for content, says in (
        (None, "not a readable checkpoint"),
        ({"a": 1}, "not a checkpoint of this library"),
        ([1, 2], "not a checkpoint of this library"),
        (dict(model={}, opt={}, epoch=1, n_epoch=4, rng={}), "earlier version"),
    ):
        if content:
            torch.save(content, path)
        with pytest.raises(ValueError, match=says):
            train(learner(), cbs=[Checkpoint(path)])


def test_one_of_torchs_optimisers(tmp_path):
    "OptimWrapper, and the callback that draws its graph from what it has seen"

    def run(*cbs):
        opt = functools.partial(OptimWrapper, opt=torch.optim.AdamW)
        learn = plain(None, opt_func=opt)
        try:
            learn.fit(3, 1e-2, cbs=[graph := ShowGraphCallback(), *cbs])
        except KeyboardInterrupt:
            return
        assert graph.nb_batches == learn.recorder.iters and len(graph.nb_batches) == 3
        return [*learn.model.parameters(), *learn.recorder.losses]

    whole = run()
    run(Checkpoint(tmp_path / "run.pt"), Die(2))
    same(whole, run(Checkpoint(tmp_path / "run.pt")))


# What the callbacks keep, without a Checkpoint


def test_validation_and_searches_leave_the_records_of_a_fit(tmp_path):
    "A validation is no fit, nor is a search for the learning rate"
    cbs = [KLPerLatent(), KeepBest(), Snapshots(look, [0, 2])]
    learn = train(learner(cbs), epochs=2)
    kls, keep, shots = cbs
    before = [kls.kls.copy(), keep.best, keep.weights, dict(shots.shots)]
    end = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.path = tmp_path

    class Search(Callback):
        "Known to callbacks as fastai's search is"

        name = "lr_finder"

    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.fit(1, 0.0, wd=0.0, cbs=Search())
        learn.validate()
    after = [kls.kls, keep.best, keep.weights, shots.shots]
    same(before, after, "records")
    same(end, dict(learn.model.state_dict()), "weights")
    train(learn, cbs=[Die(1, "before_validate")])
    weights = next(learn.model.parameters()).clone()
    with learn.no_bar(), learn.no_logging():
        learn.validate()
    assert torch.equal(weights, next(learn.model.parameters()))  # of a fit that died


@pytest.mark.parametrize("schedule", [KLAnneal, lambda: BetaSchedule([0, 3])])
def test_a_fit_that_died_leaves_the_losss_own_beta_known(schedule):
    "KLAnneal() goes to the beta that the loss was built with, also in the next try"
    learn = learner(loss=Loss(3.0))
    train(learn, cbs=[schedule(), Die(0, "after_batch")])
    assert learn.loss_func.beta < 3
    train(learn, cbs=[KLAnneal()])
    assert learn.loss_func.beta == 3
    learn.loss_func.beta = 2.0
    train(learn, epochs=1, cbs=[KLAnneal()])
    assert learn.loss_func.beta == 2


def test_the_seed_after_a_death_in_a_validation(tmp_path):
    "The noise of the validation is not what the user had set"
    path = tmp_path / "run.pt"
    train(learner(seed=5), cbs=[Checkpoint(path), Die(1, "before_validate")])
    assert torch.initial_seed() == 5


def test_large_data_are_told_apart_by_blocks_of_them():
    rows = np.zeros((20 * 2**20, 1), np.float32)
    hashes = {_digest(rows)}
    for where in (0, len(rows) - 1, slice(10**7, 10**7 + 2**20)):
        other = rows.copy()
        other[where] += 1
        hashes.add(_digest(other))
    assert len(hashes) == 4


# Killed from outside


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    "SIGKILL, again and again, until a run gets through: bit by bit the unbroken one"
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)],
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole, broken = (torch.load(tmp_path / f"{name}.pt")["fits"][0] for name in "ab")
    del whole["seconds"], broken["seconds"], whole["rows"], broken["rows"]
    for fit in (whole, broken):  # of the recorder's log, the time
        for _, state in fit["callbacks"]:
            state.pop("log", None)
    same(whole, broken)
    assert int(done.stdout) > 3


KILLS = """
import os, random, signal, sys, time, torch
sys.path.insert(0, 'tests')
from test_resume import Checkpoint, every, learner, train

torch.set_num_threads(1)
folder = sys.argv[1]

def start(name):
    child = os.fork()
    if child == 0:
        train(learner(every().values()), 8, cbs=[Checkpoint(f'{folder}/{name}.pt')])
        os._exit(0)
    return child

begun = time.monotonic()
assert os.waitpid(start('a'), 0)[1] == 0
lasted = time.monotonic() - begun
kills, over = 0, False
random.seed(0)
while not over:
    child = start('b')
    time.sleep(random.uniform(.2, .5) * lasted)
    pid, status = os.waitpid(child, os.WNOHANG)
    over = pid != 0
    assert status == 0
    if not over:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
print(kills)
"""
