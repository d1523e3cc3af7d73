"""The contract: every model is held to every law of `seqvae.testing`, and every law is broken once on purpose"""

import itertools
import math
import pytest
import torch
from torch import nn
from seqvae.core import SequenceModel, as_series
from seqvae.dvae import DKF, DVAE, RVAE, SRNN, STORN, VRNN, AutoregressiveRNN
from seqvae.models import VAEConv1d
from seqvae.ode import ODERNN, LatentODE
from seqvae.testing import LAWS, broken_laws, check_member, latents_at_means, make_case, one_by_one
from seqvae.wavenet import VAEWaveNet

SMALL = dict(nf=[4], encoder=[8], decoder=[8], z_dim=2, avg_size=2)
WAVES = dict(SMALL, o_dim=24, in_channels=2, out_channels=2, g_channels=1, res_channels=4, skip_channels=4,
             c_channels=3, layer_size=1, res_kernel_size=2)
STALE = ('predictions', 'streaming')  # `VAEWaveNet.predict_next` takes latents older than they could be


def moving(cls, **options):
    "A model in continuous time whose fields, at rest to begin with, move"
    model = cls(2, h_dim=8, t_scale=5., **options)
    for p in model.parameters():
        p.data.add_(.1*torch.randn_like(p))
    return model


def of_family(cls, **options):
    return cls(2, **{'h_dim': 8, 'u_dim': 1, **({} if issubclass(cls, AutoregressiveRNN) else dict(z_dim=2)), **options})


def of_dvae(reads_x, reads_z, bottleneck, posterior):
    return DVAE(2, 2, 8, u_dim=1, s_dim=4, reads_x=reads_x, reads_z=reads_z, bottleneck=bottleneck, posterior=posterior)


MODELS = {
    **{f'dvae-{post}-{rx:d}{rz:d}{bn:d}': (lambda o=(rx, rz, bn, post): of_dvae(*o), ())
       for rx, rz, bn, post in itertools.product((True, False), (True, False), (True, False), ('filtering', 'smoothing'))},
    'dvae-dropout': (lambda: of_family(DVAE, dropout=.3, emission='mixture', emission_kwargs=dict(n_components=2)), ()),
    'vrnn': (lambda: of_family(VRNN), ()),
    'vrnn-i': (lambda: of_family(VRNN, prior='standard', cell='lstm', n_layers=2), ()),
    'vrnn-inputs': (lambda: of_family(VRNN, reads_x=False), ()),
    'srnn': (lambda: of_family(SRNN), ()),
    'storn': (lambda: of_family(STORN, u_dim=0), ()),
    'dkf': (lambda: of_family(DKF), ()),
    'rvae': (lambda: of_family(RVAE), ()),
    'rvae-noncausal': (lambda: of_family(RVAE, causal=False), ()),
    'rnn': (lambda: of_family(AutoregressiveRNN, n_layers=2), ()),
    'conv': (lambda: VAEConv1d(nc_in=2, o_dim=20, nc_out=3, **SMALL), ()),
    'wavenet': (lambda: VAEWaveNet(use_pad=True, **WAVES), STALE),
    'wavenet-unpadded': (lambda: VAEWaveNet(**WAVES), STALE),
    'wavenet-plain': (lambda: VAEWaveNet(use_pad=True, **{**WAVES, 'c_channels': 0}), ()),
    'latent-ode': (lambda: moving(LatentODE, z_dim=2, n_steps=6), ()),
    'latent-ode-events': (lambda: moving(LatentODE, z_dim=2, n_steps=6, encoder='ode_rnn', events=True), ()),
    'ode-rnn': (lambda: moving(ODERNN, max_step=.2), ()),
}


@pytest.mark.parametrize('name', MODELS)
def test_keeps_the_contract(name):
    make, skip = MODELS[name]
    check_member(make(), skip=skip)


@pytest.mark.parametrize('emission', ['student_t', 'bernoulli', 'categorical', 'exponential', 'censored', 'logistic', 'mulaw'])
def test_keeps_the_contract_with_every_emission(emission):
    options = dict(categorical=dict(n_levels=3), censored=dict(upper=.5), logistic=dict(n_levels=8),
                   mulaw=dict(n_levels=8)).get(emission)
    check_member(of_family(DVAE, emission=emission, emission_kwargs=options))


def late(u, by=1):
    "Known inputs of `by` steps before"
    return None if u is None else u.roll(by, 1)


class NoMask(DVAE):
    "Reads what was not observed"
    def forward(self, x, u=None, t=None, mask=None):
        return super().forward(torch.nan_to_num(x), u)


class ForecastsHidden(DVAE):
    "Reads what was not observed when it forecasts"
    def forecast(self, x, horizon, n_samples=100, u=None, mask=None, **kwargs):
        x = torch.as_tensor(x)
        return super().forecast(torch.nan_to_num(x), horizon, n_samples, u=u, **kwargs)


class Explosive(DVAE):
    "Adds nothing to its latents, by a root whose slope at nothing is infinite"
    def emit(self, s, z, u):
        return super().emit(s, z+(0*z).sqrt(), u)


class PadReader(DVAE):
    "A smoother that begins to read behind the end"
    def lookahead(self, x, m, u):
        return super().lookahead(x, torch.ones_like(m), u)


class Gregarious(DVAE):
    "Sees the mean of its batch"
    def look(self, x, m, u):
        return super().look(x-x.mean(0), m, u)


class Hasty(VRNN):
    "A fast pass whose emissions have latents of the step before"
    def unroll_fast(self, feed, m, u):
        out = super().unroll_fast(feed, m, u)
        out.px = self.emit({k: v[:, :-1] for k, v in out.state.items()}, out.z.roll(1, 1), u)
        return out


class Frozen(VRNN):
    "A fast pass without the gradient of its latents"
    def unroll_fast(self, feed, m, u):
        out = super().unroll_fast(feed, m, u)
        out.px = self.emit({k: v[:, :-1] for k, v in out.state.items()}, out.z.detach(), u)
        return out


class Modest(DKF):
    "A smoother that does not say so"
    smooths = False


class Boastful(VRNN):
    "A filter that calls itself a smoother"
    smooths = True


class Unsteady(RVAE):
    "Reads later latents and says that it runs step by step"
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sequential = True


class Shuffled(DVAE):
    "`emit_with` that gives each row the latents of another"
    def emit_with(self, out, z, u=None, mask=None):
        return super().emit_with(out, z.roll(1, 0), u, mask)


class Clairvoyant(VRNN):
    "Predicts with the posterior"
    def predict_next(self, x, u=None, mask=None):
        return self(x, u, mask=mask).px


class LatePredictions(VRNN):
    def predict_next(self, x, u=None, mask=None):
        return super().predict_next(x, late(u), mask)


class EarlyPredictions(VRNN):
    def predict_next(self, x, u=None, mask=None):
        return super().predict_next(x, late(u, -1), mask)


class LateMemory(VRNN):
    "`step` that remembers an observation with the inputs of the step that follows it"
    def step(self, x_prev, state, u=None):
        return super().step(x_prev, state if u is None else {**state, 'u': self.prepare_u(u[:, None], len(u), 1)[:, 0]}, u)


class LateForecast(DVAE):
    def forecast(self, x, horizon, n_samples=100, u=None, **kwargs):
        return super().forecast(x, horizon, n_samples, u=late(u), **kwargs)


class EarlyForecast(DVAE):
    def forecast(self, x, horizon, n_samples=100, u=None, **kwargs):
        return super().forecast(x, horizon, n_samples, u=late(u, -1), **kwargs)


class Seedless(DVAE):
    def forecast(self, x, horizon, n_samples=100, u=None, mask=None, seed=None, **kwargs):
        return super().forecast(x, horizon, n_samples, u=u, mask=mask, **kwargs)


class SeedsForGood(DVAE):
    "Seeds torch's generator and leaves it so"
    def forecast(self, x, horizon, n_samples=100, u=None, mask=None, seed=None, **kwargs):
        if seed is not None:
            torch.manual_seed(seed)
        return super().forecast(x, horizon, n_samples, u=u, mask=mask, **kwargs)


class CountsSteps(DVAE):
    "Begins a forecast at the number of observed steps, so one early for each hole before the end"
    def forecast(self, x, horizon, n_samples=100, u=None, mask=None, **kwargs):
        if mask is None or len(mask) > 1:
            return super().forecast(x, horizon, n_samples, u=u, mask=mask, **kwargs)
        n = int(mask.any(-1).sum())
        more = dict(u=None if u is None else u[:, :n+horizon], mask=mask[:, :n], **kwargs)
        return super().forecast(x[:, :n], horizon, n_samples, **more)


class IgnoresEnds(DVAE):
    "Continues every row behind the last step of the batch"
    def forecast(self, x, horizon, n_samples=100, u=None, mask=None, **kwargs):
        if mask is None or len(mask) > 1 or mask[:, -1].any():
            return super().forecast(x, horizon, n_samples, u=u, mask=mask, **kwargs)
        x = torch.where(mask, x, 9.)
        u = None if u is None else torch.cat([u, u[:, -horizon:]], 1)[:, :x.shape[1]+horizon]
        return super().forecast(x, horizon, n_samples, u=u, **kwargs)


class LateSamples(DVAE):
    def sample(self, n, length, u=None, **kwargs):
        return super().sample(n, length, u=late(u), **kwargs)


class LateBehindWarmup(DVAE):
    def sample(self, n, length, u=None, warmup=None, **kwargs):
        if u is not None and warmup is not None:
            u = torch.cat([u[:, :warmup], u[:, warmup-1:-1]], 1)
        return super().sample(n, length, u=u, warmup=warmup, **kwargs)


class EarlySimulation(DVAE):
    def simulate(self, u, n_samples=100, **kwargs):
        return super().simulate(late(u, -1), n_samples, **kwargs)


class Improver(DVAE):
    "Draws anew what was observed, too"
    def impute(self, x, mask=None, **kwargs):
        fc = super().impute(x, mask, **kwargs)
        fc.samples = fc.samples+.1
        return fc


class LooseBound(DVAE):
    "Forgets half of log K, the other way round"
    def log_likelihood(self, x, n_samples=1, **kwargs):
        return super().log_likelihood(x, n_samples, **kwargs)-3*math.log(n_samples)


class CountedTwice(AutoregressiveRNN):
    "Does not divide by the number of draws"
    def log_likelihood(self, x, n_samples=1, **kwargs):
        return super().log_likelihood(x, n_samples, **kwargs)+math.log(n_samples)


class RawInputs(DVAE):
    "Does not standardise its known inputs"
    def prepare_u(self, u, batch, steps):
        return None if u is None else as_series(u, self.u_dim, 'u', self.u_loc)


class NoLocation(DVAE):
    "Densities in the user's scale, around zero"
    def to_units(self, px):
        return self.emission.to_units(px, 0*self.x_loc, self.x_scale)


class Forgetful(DVAE):
    "Keeps something outside its configuration and its weights"
    scale = 1.
    def emit(self, s, z, u):
        return super().emit(s, self.scale*z, u)


BREACHES = [
    (Explosive, 'pass', 'is not finite'), (NoMask, 'masks', 'other numbers where the mask is False'),
    (ForecastsHidden, 'masks', 'change the forecast'), (PadReader, 'padding', 'padding changes the bound'),
    (Gregarious, 'rows', "a row's bound depends on the other rows"), (Hasty, 'fast_pass', 'another bound than the loop'),
    (Frozen, 'fast_pass', 'another gradient than the loop'), (Modest, 'declarations', 'smooths=False, but the posterior'),
    (Boastful, 'declarations', 'smooths=True, but the posterior'), (Unsteady, 'declarations', 'sequential=True, but the emission'),
    (Shuffled, 'latents', "own latents give another emission"),
    (Clairvoyant, 'predictions', 'sees what it predicts'), (LatePredictions, 'predictions', 'does not read the known inputs of its step'),
    (EarlyPredictions, 'predictions', 'reads known inputs before their step'), (LateMemory, 'streaming', 'differ at step'),
    (LateForecast, 'forecast', 'does not read the known inputs of its step 0 of 4'), (EarlyForecast, 'forecast', 'reads known inputs before their step'),
    (Seedless, 'forecast', 'with a seed differs from call to call'), (SeedsForGood, 'forecast', "changes torch's generator"),
    (CountsSteps, 'forecast', 'of a row with a hole does not read the known inputs'), (CountsSteps, 'last', 'does not read its last observation'),
    (IgnoresEnds, 'forecast', 'of a row that ends early'), (IgnoresEnds, 'ends', 'not continued like the row cut off'),
    (LateSamples, 'generation', '`sample` does not read'), (LateBehindWarmup, 'generation', 'with a warm-up of 2 steps'),
    (EarlySimulation, 'simulation', '`simulate` does not read the known inputs of its step 0'), (Improver, 'imputation', 'changes what was observed'),
    (LooseBound, 'bounds', 'is below that of one'), (CountedTwice, 'bounds', 'without latents the number of draws'),
    (RawInputs, 'units', 'another unit changes'), (NoLocation, 'units', 'changes the bound by more than log scale'),
    (Forgetful, 'files', 'a saved model has another bound')]


def test_every_law_is_broken_once():
    assert {law for _, law, _ in BREACHES} == set(LAWS)


@pytest.mark.parametrize('cls,law,says', BREACHES, ids=[f'{c.__name__}-{n}' for c, n, _ in BREACHES])
def test_a_breach_is_caught(cls, law, says):
    options = {Unsteady: dict(causal=False), PadReader: dict(posterior='smoothing'), CountsSteps: dict(u_dim=int(law == 'forecast'))}
    model = of_family(cls, **options.get(cls, {}))
    if cls is Forgetful:
        model.scale = 2.
    broken = broken_laws(model, skip=set(LAWS)-{law})
    assert says in broken.get(law, 'nothing broken'), broken
