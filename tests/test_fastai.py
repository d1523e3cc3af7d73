"What fastai offers beside fitting works with these models, or says what to use instead."
import math
import warnings
import matplotlib
import pytest
import torch
from fastai.basics import Callback, CancelBatchException
from fastai.callback.all import LRFinder, ShowGraphCallback, minimum, slide, steep, valley
from seqvae.core import tensors_of
from seqvae.data import SeqDataLoaders, mass_spring
from seqvae.dvae import Combiner, DKF, DVAE, GatedTransition, RVAE, SRNN, STORN, VRNN, AutoregressiveRNN, ZChain
from seqvae.models import VAE, GaussianMLP, VAEConv1d
from seqvae.ode import ODERNN, LatentODE
from seqvae.train import BetaSchedule, KLAnneal, Loss, ModelSchedule, Overshooting, TCLoss, seq_learner
from seqvae.wavenet import VAEWaveNet

matplotlib.use('Agg')
SPRINGS = mass_spring(40, sensors=2, T=24, t_max=5, noise=0.01, seed=0).x
SUGGESTIONS = (valley, slide, minimum, steep)


def learner(scale=1e-3, model=None, bs=8, **kwargs):
    "Of data so small that every density is large, and every loss negative"
    torch.manual_seed(0)
    dls = SeqDataLoaders.from_series(SPRINGS*scale, bs=bs)
    return seq_learner(dls, model or DVAE(2, z_dim=2, h_dim=8), path=kwargs.pop('path', '.'), **kwargs)


def fit(learn, epochs=1, **kwargs):
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, **kwargs)
    return dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))


def search(learn, **kwargs):
    with learn.no_bar(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return learn.lr_find(show_plot=False, suggest_funcs=SUGGESTIONS, **kwargs)


# the search for a learning rate

@pytest.mark.parametrize('scale', [1e-3, 1., 1e3])
def test_lr_find_whatever_the_sign_of_the_loss(tmp_path, scale):
    learn = learner(scale, path=tmp_path)
    before = {k:v.clone() for k,v in learn.model.state_dict().items()}
    rates = search(learn)
    first = float(learn.recorder.losses[0])
    assert first<0 if scale==1e-3 else first>0
    assert all(1e-6<r<10 for r in rates)
    assert len(learn.recorder.losses)>40
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
    assert not list((tmp_path/'models').iterdir())


def test_lr_find_does_not_depend_on_where_zero_is(tmp_path):
    "A change of units adds a constant to every loss: the rates that are suggested stay"
    small,large = (search(learner(s, path=tmp_path)) for s in (1e-3, 1e3))
    assert small==pytest.approx(large, rel=1e-3)


def test_lr_find_stops_when_the_loss_explodes(tmp_path):
    learn = learner(path=tmp_path)
    rates = search(learn, end_lr=1e6, num_it=200)
    assert len(learn.recorder.losses)<190 and max(rates)<10
    assert all(math.isfinite(l) for l in learn.recorder.losses)


def test_lr_find_without_stopping(tmp_path):
    learn = learner(path=tmp_path)
    search(learn, end_lr=.1, num_it=40, stop_div=False)
    assert len(learn.recorder.losses)==40


class Poison(Callback):
    "Makes the loss of some steps NaN"
    def __init__(self, when): self.when = when
    def after_loss(self):
        if self.training and self.when(self.train_iter): self.learn.loss_grad = self.learn.loss_grad*math.nan


def test_lr_find_ends_at_a_loss_that_is_not_finite(tmp_path):
    "And SkipNonFinite, which would go on, or give up with an error of its own, stays out of it"
    learn = learner(path=tmp_path, cbs=Poison(lambda i: i>=60))
    assert all(math.isfinite(r) for r in search(learn))
    assert len(learn.recorder.losses)==60


@pytest.mark.parametrize('start', [0, 1, 12])
def test_lr_find_says_when_it_was_too_short(tmp_path, start):
    learn = learner(path=tmp_path, cbs=Poison(lambda i: i>=start))
    with pytest.raises(ValueError, match=f'diverged or was not finite after {start} steps of the search.*start_lr'): search(learn)
    assert not list((tmp_path/'models').iterdir())


def test_lr_find_calls_an_error_of_a_diverged_model_divergence(tmp_path):
    class Fails(Callback):
        def after_pred(self):
            if self.train_iter==5: raise RuntimeError('normal expects all elements of std >= 0.0')
    with pytest.raises(ValueError, match='(?s)after 5 steps.*normal expects.*start_lr'): search(learner(path=tmp_path, cbs=Fails()))


def test_schedules_hold_still_while_a_rate_is_looked_for(tmp_path):
    model,seen = DVAE(2, z_dim=2, h_dim=8),[]
    class Look(Callback):
        order = 1
        def after_batch(self): seen.append((self.loss_func.beta, self.model.depth))
    model.depth = 1
    search(learner(path=tmp_path, model=model, cbs=[KLAnneal(.5), ModelSchedule('depth', [1, 2]), Look()]), num_it=30)
    assert set(seen)=={(1., 2)}
    seen.clear(); model.depth = 1
    search(learner(path=tmp_path, model=model, cbs=[BetaSchedule([0., 3.]), Look()]), num_it=30)
    assert {b for b,_ in seen}=={3.}


def test_lr_find_with_overshooting_and_a_fit_after_it(tmp_path):
    learn = learner(path=tmp_path, cbs=[KLAnneal(), Overshooting(6)])
    search(learn, num_it=40)
    a,b = fit(learn, lr=3e-3, epochs=2)['valid_loss'],fit(learner(cbs=[KLAnneal(), Overshooting(6)]), lr=3e-3, epochs=2)['valid_loss']
    assert a==pytest.approx(b, abs=.3)


# half precision

def models():
    n = 24
    return dict(
        dvae=lambda: DVAE(2, 2, 8), smoothing=lambda: DVAE(2, 2, 8, posterior='smoothing'), no_z=lambda: DVAE(2, 2, 8, reads_z=False),
        vrnn=lambda: VRNN(2, 2, 8), vrnn_lstm=lambda: VRNN(2, 2, 8, cell='lstm'), srnn=lambda: SRNN(2, 2, 8), storn=lambda: STORN(2, 2, 8),
        dkf=lambda: DKF(2, 2, 8), rvae=lambda: RVAE(2, 2, 8), rvae_noncausal=lambda: RVAE(2, 2, 8, causal=False), rnn=lambda: AutoregressiveRNN(2, 8),
        conv=lambda: VAEConv1d(nf=(8,8), encoder=(16,), decoder=(16,), o_dim=n, nc_in=2, nc_out=2, z_dim=2), wavenet=lambda: VAEWaveNet(2, 8, 8, 2, out_channels=2, o_dim=n, layer_size=2, res_kernel_size=2, nf=(8,8), encoder=(16,), decoder=(16,)),
        latent_ode=lambda: LatentODE(2, 2, 8).set_clock(n), ode_rnn_events=lambda: LatentODE(2, 2, 8, encoder='ode_rnn', events=True).set_clock(n), ode_rnn=lambda: ODERNN(2, 8).set_clock(n),
        full=lambda: VAE(2, posterior='full'), mixture=lambda: DVAE(2, 2, 8, emission='mixture'), student_t=lambda: DVAE(2, 2, 8, emission='student_t'),
        logistic=lambda: DVAE(2, 2, 8, emission='logistic'), mulaw=lambda: DVAE(2, 2, 8, emission='mulaw'))


def steps(make, x, mask, dtype, n=3):
    "Losses of some steps, and the densities of the last"
    torch.manual_seed(0); model = make(); losses = []
    opt = torch.optim.Adam(model.parameters(), 3e-3)
    for i in range(n):
        torch.manual_seed(i)
        with torch.autocast('cpu', dtype=dtype, enabled=dtype is not None):
            out = model(x, mask=mask)
            loss = Loss()(out, x, mask)
        opt.zero_grad(); loss.backward(); opt.step(); losses.append(float(loss.detach()))
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    return torch.tensor(losses),loss,out


@pytest.mark.parametrize('holes', [False, True])
@pytest.mark.parametrize('name', models())
def test_densities_stay_whole_under_autocast(name, holes):
    "And a few steps in bfloat16 end where those in single precision do"
    x = torch.as_tensor(SPRINGS[:12]); x = (x-x.mean((0,1)))/x.std((0,1))
    mask = torch.rand(12, 24)>.3 if holes else None
    make = models()[name]
    whole,_,_ = steps(make, x, mask, None)
    half,loss,out = steps(make, x, mask, torch.bfloat16)
    assert loss.dtype==torch.float32
    for d in (out.px, out.qz, out.pz):
        assert all(t.dtype==torch.float32 for t in tensors_of(d))
    assert (half-whole).abs().max()<.015*whole.abs().max()


def test_last_layers_are_not_rounded_to_three_digits():
    "A mean of 50 known to a quarter would be worth nothing to a density with a standard deviation of 0.01"
    torch.manual_seed(0); features = torch.randn(100, 8)
    for net,mean in ((GaussianMLP(8, 8, 2), lambda d: d.mean), (DVAE(2, h_dim=8).emission, lambda d: d.mean), (Combiner(2, 8), lambda p: p[0]), (GatedTransition(8, 8), lambda d: d.mean)):
        last = next(m for m in reversed(list(net.modules())) if isinstance(m, torch.nn.Linear)) if not isinstance(net, GatedTransition) else net.linear
        with torch.no_grad(): last.bias.add_(50.)
        call = (lambda: net.params(torch.zeros(100, 2), features)) if isinstance(net, Combiner) else lambda: net(features)
        with torch.autocast('cpu', dtype=torch.bfloat16): half = mean(call())
        assert half.dtype==torch.float32 and (half-mean(call())).abs().max()<.08


def test_gradients_inside_autocast():
    "backward within the region, as some loops have it"
    torch.manual_seed(0); x = torch.randn(4, 12, 2)
    for make in (lambda: DVAE(2, 2, 8), lambda: VRNN(2, 2, 8)):
        grads = []
        for where in (False, True):
            torch.manual_seed(1); model = make()
            with torch.autocast('cpu', dtype=torch.bfloat16, enabled=where):
                Loss()(model(x), x).backward()
            grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert (grads[0]-grads[1]).norm()<.02*grads[0].norm()


def test_the_chain_of_latents_is_whole_both_ways():
    "Forward and backward inside autocast give what they give outside, to the last digits"
    torch.manual_seed(0); shapes = [(3,2,5), (3,2,12), (3,2,2), (4,5), (5,4), (4,), None, None, (12,2), (12,4), (12,)]
    args = [None if n is None else torch.randn(*n, requires_grad=True) for n in shapes]
    grads = []
    for inside in (False, True):
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=inside):
            loss = sum(o.square().sum() for o in ZChain.apply(*args, -10., 4.))
            given = [a for i,a in enumerate(args) if a is not None and i!=2]
            grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, given)]))
    assert torch.allclose(*grads, rtol=1e-5)


def test_extra_losses_under_autocast():
    for cbs,loss in ((Overshooting(6), None), (None, TCLoss())):
        learn = learner(1., model=VAEConv1d(nf=(8,8), encoder=(16,), decoder=(16,), o_dim=24, nc_in=2, nc_out=2, z_dim=2) if loss else None, cbs=cbs, loss_func=loss).to_bf16()
        assert math.isfinite(fit(learn)['valid_loss'])


@pytest.mark.parametrize('to', ['to_bf16', 'to_fp16'])
def test_half_precision_learner(to):
    whole,half = learner(1.),getattr(learner(1.), to)()
    a,b = (fit(l, 2, lr=3e-3)['valid_loss'] for l in (whole, half))
    assert a!=b and a==pytest.approx(b, rel=.01)
    assert not torch.is_autocast_enabled('cpu')
    assert half.validate()[0]==pytest.approx(b, rel=1e-5)           # fastai's own fails here
    half.to_fp32(); seen = []
    class Look(Callback):
        def after_pred(self): seen.append(torch.is_autocast_enabled('cpu'))
    fit(half, cbs=Look())
    assert seen and not any(seen)


def test_autocast_is_on_while_the_model_runs():
    seen = []
    class Look(Callback):
        order = 20
        def before_batch(self): seen.append((self.training, torch.is_autocast_enabled('cpu')))
    fit(learner(1., cbs=Look()).to_bf16())
    assert set(seen)=={(True, True), (False, True)}


def test_an_error_or_a_skipped_batch_leaves_no_autocast_behind():
    class Boom(Callback):
        def after_pred(self): raise ValueError('boom')
    with pytest.raises(ValueError, match='boom'): fit(learner(cbs=Boom()).to_bf16())
    assert not torch.is_autocast_enabled('cpu')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        fit(learner(cbs=Poison(lambda i: i==1)).to_bf16(), 3)
    assert not torch.is_autocast_enabled('cpu')
    class Skip(Callback):
        def after_pred(self):                                       # as for a batch without an observed step
            if self.iter==1: raise CancelBatchException()
    fit(learner(cbs=Skip()).to_bf16())
    assert not torch.is_autocast_enabled('cpu')


def test_an_overflow_of_float16_is_the_scalers_business():
    "It halves the scale and goes on: SkipNonFinite must not take the infinite gradients for a broken model"
    learn = learner(1.).to_fp16(init_scale=2.**20)
    fit(learn, 6, lr=3e-3)
    assert learn.skip_non_finite.total==0 and learn.skip_non_finite.taken>0


# curves and logs

def test_show_graph_draws_validation_losses_of_either_sign():
    graphs = []
    class Bar(Callback):
        order = 64                                                  # behind the progress bar, before the graph
        def after_epoch(self): self.progress.mbar.update_graph = lambda *a, **k: graphs.append(a)
    learn = learner(cbs=[ShowGraphCallback(), Bar()])
    with learn.no_logging(): learn.fit(2)
    column = learn.recorder.metric_names[1:].index('valid_loss')
    (_,train),(_,valid) = graphs[-1][0]
    assert valid==pytest.approx([v[column] for v in learn.recorder.values]) and max(valid)<0
    assert graphs[-1][2]==(min(train+valid), max(train+valid))
    fit(learner(cbs=ShowGraphCallback()))                           # without a bar there is nothing to draw on


def test_tensorboard_with_defaults(tmp_path):
    pytest.importorskip('tensorboard', reason='tensorboard is not installed')
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for model in (DVAE(2, 2, 8), AutoregressiveRNN(2, 8)):
        log = tmp_path/type(model).__name__
        learn = learner(model=model, cbs=TensorBoardCallback(log_dir=str(log))).to_bf16()
        last = fit(learn, 2)
        seen = EventAccumulator(str(log)).Reload()
        assert len(seen.Scalars('train_loss'))==learn.train_iter
        assert [s.value for s in seen.Scalars('valid_loss')][-1]==pytest.approx(last['valid_loss'], rel=1e-5)
        assert ('valid_kl' in seen.Tags()['scalars'])==(type(model) is DVAE)


def test_callbacks_can_be_given_to_one_fit_and_are_gone_behind_it():
    learn = learner()
    with learn.no_logging(): learn.fit(1, cbs=ShowGraphCallback)
    learn.fit(1, cbs=(mine := LRFinder(num_it=6, start_lr=1e-7, end_lr=1e-3)))
    assert isinstance(mine, LRFinder) and not hasattr(learn, 'show_graph') and not hasattr(learn, 'lr_finder')


# what has another name here

@pytest.mark.parametrize('call,instead', [
    (lambda l: l.get_preds(), 'reconstruct.*encode.*forecast.*evaluate'),
    (lambda l: l.predict(SPRINGS[0]), 'forecast.*predict_next'),
    (lambda l: l.show_results(), r'forecast\(x, horizon\).plot'),
    (lambda l: l.export(), r'model.save\(path\).*load_model'),
])
def test_what_collects_tensors_says_what_to_use(call, instead):
    with pytest.raises(NotImplementedError, match=instead): call(learner())


def test_summary_counts_every_parameter_once():
    learn = learner()
    text = str(learn.summary())
    rows = [line.split() for line in text.splitlines()[2:-1]]
    total = sum(p.numel() for p in learn.model.parameters())
    assert sum(int(r[-1]) for r in rows)==total and f'{total:,} parameters' in text
    assert any('1x24x8' in r for r in rows)
    assert math.isfinite(fit(learn)['valid_loss'])                  # hooks are gone
