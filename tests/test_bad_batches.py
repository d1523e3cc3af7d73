"Batches with nothing to predict, steps that are not finite, and values that cannot be: what is said of them, and where."
import math
import warnings
import numpy as np
import pytest
import torch
from fastai.basics import Callback, CancelBatchException
from seqvae.core import SeqOutput, diag_normal
from seqvae.data import SeqDataLoaders, SeriesSet, WindowDataset, mass_spring
from seqvae.dvae import DVAE, VRNN, AutoregressiveRNN
from seqvae.models import VAEConv1d
from seqvae.ode import ODERNN, LatentODE
from seqvae.train import KeepBest, Loss, Overshooting, SkipNonFinite, evaluate, forecast_end, seq_learner
from seqvae.wavenet import VAEWaveNet

SPRINGS = mass_spring(24, sensors=2, T=20, t_max=4, noise=0.05, seed=0).x


def fit(learn, epochs=1, **kwargs):
    "The last row of the table, and what was warned of"
    with warnings.catch_warnings(record=True) as said, learn.no_bar(), learn.no_logging():
        warnings.simplefilter('always')
        learn.fit(epochs, 3e-3, **kwargs)
    said = [str(w.message) for w in said if issubclass(w.category, UserWarning)]
    return dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1])),said


def units(*empty, n=12):
    "Series without a single measurement among whole ones"
    x = SPRINGS[:n].copy()
    x[list(empty)] = np.nan
    return x


# nothing to predict

def test_an_empty_batch_is_an_error_for_everybody_but_a_learner():
    out = SeqOutput(diag_normal(torch.zeros(2,3,1), torch.zeros(2,3,1)))
    with pytest.raises(ValueError, match='without a single observed step to predict'): Loss()(out, torch.zeros(2,3,1), torch.zeros(2,3).bool())
    with pytest.raises(CancelBatchException): Loss(skip=3)(out, torch.zeros(2,3,1))


@pytest.mark.parametrize('by_length', [False, True])
@pytest.mark.parametrize('make', [
    lambda: DVAE(2, 2, 8), lambda: DVAE(2, 2, 8, posterior='smoothing'), lambda: VRNN(2, 2, 8), lambda: AutoregressiveRNN(2, 8), lambda: ODERNN(2, 8), lambda: LatentODE(2, 2, 8),
    lambda: LatentODE(2, 2, 8, encoder='ode_rnn', events=True), lambda: VAEConv1d(nf=(8,8), encoder=(16,), decoder=(16,), o_dim=20, nc_in=2, nc_out=2, z_dim=2),
    lambda: VAEWaveNet(2, 8, 8, 2, out_channels=2, o_dim=20, layer_size=1, res_kernel_size=2, nf=(8,8), encoder=(16,), decoder=(16,))])
def test_empty_batches_count_for_nothing(make, by_length):
    "In training and in validation: the run goes on, says so once, and ends as one without those units"
    torch.manual_seed(0)
    held = SeriesSet(units(1, 2, n=5))
    dls = SeqDataLoaders.from_series(SeriesSet(units(3, 4, 5)), valid=held, bs=1, by_length=by_length)
    learn = seq_learner(dls, make(), cbs=KeepBest())
    row,said = fit(learn, 2)
    assert all(math.isfinite(v) for k,v in row.items() if v is not None)
    assert len([s for s in said if 'count for nothing' in s])==1
    assert all(p.isfinite().all() for p in learn.model.parameters())
    alone = seq_learner(SeqDataLoaders.from_series(SeriesSet(SPRINGS[6:12]), valid=SeriesSet(SPRINGS[[0,3,4]]), bs=3), learn.model)
    whole = seq_learner(SeqDataLoaders.from_series(SeriesSet(SPRINGS[6:12]), valid=held, bs=3), learn.model)
    for l in (alone, whole): l.model.temperature = 0.
    for l in (alone, whole): l.model.set_scale(torch.zeros(2), torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert alone.validate()[0]==pytest.approx(whole.validate()[0], rel=1e-4)


def test_weights_do_not_move_on_an_empty_batch():
    learn = seq_learner(SeqDataLoaders.from_series(SeriesSet(units(0, 1, 2)[:4]), valid=SeriesSet(SPRINGS[:2]), bs=1), DVAE(2, 2, 8))
    moved = []
    class Look(Callback):
        def before_batch(self): self.before = [p.detach().clone() for p in self.model.parameters()]
        def after_batch(self):
            if self.training: moved.append((self.yb[1] is None, any(not torch.equal(a, b) for a,b in zip(self.before, self.model.parameters()))))
    fit(learn, 2, cbs=Look())
    assert sorted(moved)==[(False, False)]*6+[(True, True)]*2


def test_the_warning_names_the_units():
    series = SeriesSet(units(0)[:4], units=['ann', 'bob', 'cid', 'dan'])
    _,said = fit(seq_learner(SeqDataLoaders.from_series(series, valid=series, bs=1), DVAE(2, 2, 8)))
    text, = [s for s in said if 'count for nothing' in s]
    assert 'units ann' in text and 'bob' not in text


def test_losses_are_means_over_steps_however_units_fall_into_batches():
    "Units of 3, 7, 12 and 20 steps: the loss of one batch, of two, and of four is one number"
    held = SeriesSet([o[:n] for o,n in zip(SPRINGS, (3, 7, 12, 20))])
    torch.manual_seed(0); model = AutoregressiveRNN(2, 8); losses = []
    for bs in (1, 2, 4):
        dls = SeqDataLoaders.from_series(SeriesSet(SPRINGS), valid=held, bs=bs)
        learn = seq_learner(dls, model)
        learn.dls.valid.bs = bs
        losses.append(learn.validate()[0])
    x,mask = held.padded().nan_to_num(),~held.padded().isnan()
    whole = float(Loss()(model(x, mask=mask), x, mask))
    assert losses==pytest.approx([whole]*3, rel=1e-5)


def test_a_patient_of_one_visit():
    "Whose first and only visit is given rather than predicted"
    rng = np.random.default_rng(0); lengths = [1, 6, 1, 8, 5, 1]
    t = [np.sort(rng.uniform(0, 10, n)) for n in lengths]
    series = SeriesSet([np.stack([np.sin(o), np.cos(o)], 1).astype(np.float32) for o in t], t=t)
    for bs in (1, 2, 6):
        learn = seq_learner(SeqDataLoaders.from_series(series, valid=series, bs=bs), ODERNN(2, 8), loss_func=Loss(skip=1))
        row,said = fit(learn, 2)
        assert math.isfinite(row['valid_loss'])
        if bs!=2: assert len(said)==(bs==1)


def test_nothing_at_all_to_learn_from():
    dls = SeqDataLoaders.from_series(SeriesSet(units(*range(1, 12))), valid=SeriesSet(SPRINGS[:2]), bs=4)
    learn = seq_learner(dls, DVAE(2, 2, 8), loss_func=Loss(skip=20))
    with pytest.raises(RuntimeError, match='no batch of the training data has an observed step to predict'): fit(learn)


def test_an_empty_validation_set_gives_nan_and_stops_nothing():
    dls = SeqDataLoaders.from_series(SeriesSet(SPRINGS), valid=SeriesSet(units(0, 1)[:2]), bs=4)
    row,_ = fit(seq_learner(dls, DVAE(2, 2, 8), cbs=[KeepBest(), Overshooting(4)]))
    assert math.isnan(row['valid_loss']) and math.isfinite(row['train_loss'])


# steps that are not finite

class Poison(Callback):
    "Makes the loss, or a gradient, of some steps NaN"
    def __init__(self, when, gradient=False): self.when,self.gradient = when,gradient
    def after_loss(self):
        if self.training and not self.gradient and self.when(self.train_iter): self.learn.loss_grad = self.learn.loss_grad*math.nan
    def after_backward(self):
        if self.training and self.gradient and self.when(self.train_iter): next(self.model.parameters()).grad.fill_(math.inf)


def poisoned(when, gradient=False, **kwargs):
    dls = SeqDataLoaders.from_series(SPRINGS, bs=4)
    return seq_learner(dls, DVAE(2, 2, 8), cbs=Poison(when, gradient), **kwargs)


@pytest.mark.parametrize('gradient', [False, True])
def test_every_second_step(gradient):
    with pytest.raises(RuntimeError, match='11 of 2[12] training steps with a non-finite loss or gradient'): fit(poisoned(lambda i: i%2==1, gradient), 10)


def test_a_few_steps_are_borne():
    learn = poisoned(lambda i: i%10==5)
    row,said = fit(learn, 30)
    assert math.isfinite(row['train_loss']) and learn.skip_non_finite.total==12==len(said)
    assert learn.skip_non_finite.taken==learn.skip_non_finite.tried-12==108


@pytest.mark.parametrize('gradient', [False, True])
def test_all_steps_of_a_short_fit(gradient):
    learn = poisoned(lambda i: True, gradient)
    with pytest.raises(RuntimeError, match='the model is untrained: none of 4 batches led to a step, 4 had'): fit(learn)


def test_a_row_of_skips():
    with pytest.raises(RuntimeError, match='11 training steps in a row'): fit(poisoned(lambda i: i>=60), 30)


def test_what_is_borne_can_be_chosen():
    with pytest.raises(ValueError, match='max_share is a share'): SkipNonFinite(max_share=2)
    learn = poisoned(lambda i: i%2==1)
    learn.remove_cb(learn.skip_non_finite); learn.add_cb(SkipNonFinite(max_share=.6))
    row,_ = fit(learn, 10)
    assert math.isfinite(row['train_loss'])


# values that cannot be

NAMES = dict(units=['pump', 'valve', 'motor'], names=['speed', 'load'])


@pytest.mark.parametrize('valid', [.34, 'given'])
@pytest.mark.parametrize('normalize', [True, False])
def test_an_infinite_value_is_named_before_training(valid, normalize):
    x = SPRINGS[:3].copy(); x[1,7,1] = -np.inf
    series = SeriesSet(x, **NAMES)
    kwargs = dict(valid=.34) if valid!='given' else dict(valid=series[1:2])
    with pytest.raises(ValueError, match='channel load of unit valve is -inf at step 7'): SeqDataLoaders.from_series(series[[0,2]] if valid=='given' else series, normalize=normalize, **kwargs)


def test_values_on_disk_are_named_when_they_are_read(tmp_path):
    a = np.lib.format.open_memmap(tmp_path/'x.npy', 'w+', np.float32, (3,20,2)); a[:] = SPRINGS[:3]; a[2,11,0] = np.inf
    u = np.lib.format.open_memmap(tmp_path/'u.npy', 'w+', np.float32, (3,20,1)); u[:] = 0; u[1,19,0] = np.nan
    data = WindowDataset(SeriesSet(a, u=u, **NAMES), window=8, stride=4)
    data.batch([0, 4])
    with pytest.raises(ValueError, match='channel speed of unit motor is inf at step 11'): data.batch([0, 9])
    with pytest.raises(ValueError, match='known input u0 of unit valve is nan at step 19'): data.batch([0, 7])


def test_a_subset_knows_nothing_of_the_rest():
    x = SPRINGS[:3].copy(); x[1,7,1] = np.inf
    series = SeriesSet(x, **NAMES)
    series[[0,2]].check()
    assert WindowDataset(series[[2,0]]).batch([0,1])[3] is None
    with pytest.raises(ValueError, match='unit valve .* step 7'): series[[2,1]].check(rows=3)


@pytest.mark.parametrize('unit,step', [(0, 0), (0, 19), (1, 0), (1, 19), (2, 19)])
def test_values_at_the_ends_of_units_belong_to_them(unit, step):
    x = SPRINGS[:3].copy(); x[unit,step,0] = np.inf
    series = SeriesSet(x, **NAMES)
    assert series.locate(20*unit+step)==(unit, step)
    with pytest.raises(ValueError, match=f'unit {NAMES["units"][unit]} is inf at step {step}:'): series.check()


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_known_inputs_are_named_in_training_and_evaluation(value):
    u = np.zeros((3,20,2), np.float32); u[2,4,1] = value
    series = SeriesSet(SPRINGS[:3], u=u, **NAMES)
    series.u_names = ['valve position', 'set point']
    with pytest.raises(ValueError, match='known input set point of unit motor is (nan|inf) at step 4'): SeqDataLoaders.from_series(series)
    with pytest.raises(ValueError, match='known input set point of unit motor is (nan|inf) at step 4'): evaluate(DVAE(2, 2, 8, u_dim=2), series, 5)


def test_the_names_of_known_inputs_come_with_a_table(tmp_path):
    from seqvae.data import prefixes, read_series
    (tmp_path/'a.csv').write_text('unit,x,heat\n'+'\n'.join(f'{k},{i},{"" if (k,i)==("b",3) else 1}' for k in 'ab' for i in range(6)))
    series = read_series(tmp_path/'a.csv', 'unit', columns=['x'], u=['heat'])
    for s in (series, prefixes(series, (1.,))):
        with pytest.raises(ValueError, match=r'known input heat of unit .*b.* is nan at step 3'): s.check()


@pytest.mark.parametrize('emission,bad,text', [
    ('bernoulli', .5, 'needs x to be 0 or 1'), ('categorical', 7., 'whole numbers from 0 to 1'), ('exponential', -1., 'needs x >= 0'), ('censored', 3., 'cut them off at the limit')])
def test_a_value_that_the_emission_cannot_give(emission, bad, text):
    x = (SPRINGS[:3]>1).astype(np.float32); x[0,3] = np.nan; x[1,12,1] = bad
    series = SeriesSet(x, **NAMES); model = DVAE(2, 2, 8, emission=emission)
    where = f'channel load of unit valve at step 12: .*{text}'
    with pytest.raises(ValueError, match=where): seq_learner(SeqDataLoaders.from_series(series, valid=.34, normalize=False), model)
    with pytest.raises(ValueError, match=where): seq_learner(SeqDataLoaders.from_series(series[[0,2]], valid=series[[1]], normalize=False), model)
    with pytest.raises(ValueError, match=where): evaluate(model, series, 5)
    seq_learner(SeqDataLoaders.from_series(series[[0,2]], valid=series[[0]], normalize=False), model)


# units that start late or end early

def test_evaluate_names_a_unit_with_nothing_to_forecast_from():
    x = SPRINGS[:3].copy(); x[2,:15] = np.nan
    with pytest.raises(ValueError, match='unit motor has no observed value before its last 5 steps'): evaluate(DVAE(2, 2, 8), SeriesSet(x, **NAMES), 5)
    x = SPRINGS[:3].copy(); x[2,0,0] = np.inf
    with pytest.raises(ValueError, match='channel speed of unit motor is inf at step 0'): evaluate(DVAE(2, 2, 8), SeriesSet(x, **NAMES), 5)


def counter():
    "A model whose forecast is the last value seen plus the number of steps since"
    class Counter(AutoregressiveRNN):
        def emit(self, s, z, u):
            mean = s['x']+1.
            return diag_normal(mean, torch.full_like(mean, -20.))
        def unroll(self, x, u=None, mask=None, whole=False): return self.unroll_steps(x, u, mask, whole)
    return Counter(1, 4)


def test_a_forecast_crosses_the_gap_before_it():
    "Steps 0, 1, 2, ... of which the last few before the horizon are missing: the forecast is of the horizon, not of the gap"
    lengths,gaps = (20, 16, 20, 12),(0, 3, 7, 1)
    series = []
    for n,g in zip(lengths, gaps):
        x = np.arange(n, dtype=np.float32)[:,None]; x[n-5-g:n-5] = np.nan
        series.append(x)
    fc = forecast_end(counter(), SeriesSet(series), 5, 20)
    truth = torch.stack([torch.from_numpy(o[-5:]) for o in series])
    assert fc.samples.shape==(20,4,5,1) and (fc.mean-truth).abs().max()<.1
    res = evaluate(counter(), SeriesSet(series), 5, 20)
    assert res['rmse']<.1


def test_known_inputs_follow_the_gap():
    "A model that says what its input of the step is"
    class Echo(AutoregressiveRNN):
        def emit(self, s, z, u): return diag_normal(u, torch.full_like(u, -20.))
        def unroll(self, x, u=None, mask=None, whole=False): return self.unroll_steps(x, u, mask, whole)
    x = [np.arange(n, dtype=np.float32)[:,None] for n in (20, 14)]; u = [o.copy() for o in x]
    x[0][9:15] = np.nan; x[1][8:9] = np.nan
    fc = forecast_end(Echo(1, 4, u_dim=1), SeriesSet(x, u=u), 5, 10)
    assert (fc.mean[...,0]-torch.stack([torch.arange(15., 20.), torch.arange(9., 14.)])).abs().max()<.05
