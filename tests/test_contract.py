"""The contract: models are held to the laws of `seqvae.testing`, each broken once"""

import math
import pytest
import torch
from seqvae.core import as_series, fork_seed
from seqvae.dvae import DKF, DVAE, RVAE, SRNN, STORN, VRNN, AutoregressiveRNN
from seqvae.models import VAEConv1d
from seqvae.ode import ODERNN, LatentODE
from seqvae.testing import LAWS, broken_laws, check_member, latents_at_means, make_case
from seqvae.wavenet import VAEWaveNet

SMALL = dict(nf=[4], encoder=[8], decoder=[8], z_dim=2, avg_size=2)
WAVES = dict(
    SMALL,
    o_dim=24,
    in_channels=2,
    out_channels=2,
    g_channels=1,
    res_channels=4,
    skip_channels=4,
    c_channels=3,
    layer_size=1,
    res_kernel_size=2,
)
STALE = (
    "predictions",
    "streaming",
)  # `VAEWaveNet.predict_next` takes latents older than they could be


def moving(cls, **options):
    "A model in continuous time whose fields, at rest to begin with, move"
    model = cls(2, h_dim=8, t_scale=5.0, **options)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def of_family(cls, **options):
    return cls(
        2,
        **{
            "h_dim": 8,
            "u_dim": 1,
            **({} if issubclass(cls, AutoregressiveRNN) else dict(z_dim=2)),
            **options,
        },
    )


def of_dvae(reads_x, reads_z, bottleneck, posterior):
    return DVAE(
        2,
        2,
        8,
        u_dim=1,
        s_dim=4,
        reads_x=reads_x,
        reads_z=reads_z,
        bottleneck=bottleneck,
        posterior=posterior,
    )


OPTIONS = (  # any two options meet in every combination; and the smoother of the default
    (True, True, False, "filtering"),
    (True, True, False, "smoothing"),
    (True, False, True, "smoothing"),
    (False, True, True, "smoothing"),
    (False, False, False, "smoothing"),
    (False, False, True, "filtering"),
)
MODELS = {
    **{
        f"dvae-{post}-{rx:d}{rz:d}{bn:d}": (
            lambda o=(rx, rz, bn, post): of_dvae(*o),
            (),
        )
        for rx, rz, bn, post in OPTIONS
    },
    "dvae-dropout": (
        lambda: of_family(
            DVAE, dropout=0.3, emission="mixture", emission_kwargs=dict(n_components=2)
        ),
        (),
    ),
    "vrnn": (lambda: of_family(VRNN), ()),
    "vrnn-i": (lambda: of_family(VRNN, prior="standard", cell="lstm", n_layers=2), ()),
    "vrnn-inputs": (lambda: of_family(VRNN, reads_x=False), ()),
    "srnn": (lambda: of_family(SRNN), ()),
    "storn": (lambda: of_family(STORN, u_dim=0), ()),
    "dkf": (lambda: of_family(DKF), ()),
    "rvae": (lambda: of_family(RVAE), ()),
    "rvae-noncausal": (lambda: of_family(RVAE, causal=False), ()),
    "rnn": (lambda: of_family(AutoregressiveRNN, n_layers=2), ()),
    "conv": (lambda: VAEConv1d(nc_in=2, o_dim=20, nc_out=3, **SMALL), ()),
    "wavenet": (lambda: VAEWaveNet(use_pad=True, **WAVES), STALE),
    "wavenet-unpadded": (lambda: VAEWaveNet(**WAVES), STALE),
    "wavenet-plain": (
        lambda: VAEWaveNet(use_pad=True, **{**WAVES, "c_channels": 0}),
        (),
    ),
    "latent-ode": (lambda: moving(LatentODE, z_dim=2, n_steps=6), ()),
    "latent-ode-events": (
        lambda: moving(LatentODE, z_dim=2, n_steps=6, encoder="ode_rnn", events=True),
        (),
    ),
    "ode-rnn": (lambda: moving(ODERNN, max_step=0.2), ()),
}


@pytest.mark.parametrize("name", MODELS)
def test_keeps_the_contract(name):
    make, skip = MODELS[name]
    check_member(make(), skip=skip)


@pytest.mark.parametrize(
    "emission",
    [
        "student_t",
        "bernoulli",
        "categorical",
        "exponential",
        "censored",
        "mulaw",
    ],
)
def test_keeps_the_contract_with_every_emission(emission):
    options = dict(
        categorical=dict(n_levels=3),
        censored=dict(upper=0.5),
        mulaw=dict(n_levels=8),
    ).get(emission)
    u_dim = int(emission == "categorical")  # when inputs act, no emission decides
    check_member(
        of_family(DVAE, emission=emission, emission_kwargs=options, u_dim=u_dim)
    )


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


class FillsIn(DVAE):
    "Reads its expectation where it should draw"

    def infer(self, s, x, m, *args, **kwargs):
        qz, pz, z, feed, read = super().infer(s, x, m, *args, **kwargs)
        if m is None:
            return qz, pz, z, feed, read
        return qz, pz, z, self.fill(s, args[0], x, m)[0], read


class DrawsTooMuch(DVAE):
    "Draws a step that was observed in part as if nothing of it had been"

    def infer(self, s, x, m, *args, **kwargs):
        qz, pz, z, feed, read = super().infer(s, x, m, *args, **kwargs)
        if m is None or self.reads_missing:
            return qz, pz, z, feed, read
        drawn = self.emission.feed(self.emit(s, z, args[0]).sample())
        return qz, pz, z, torch.where(m.all(-1, keepdim=True), feed, drawn), read


class DrawsAround(DVAE):
    "Draws around what the mask hides"

    def prepare(self, x, u=None, mask=None, steps=None):
        prepared = super().prepare(x, u, mask, steps)
        self.peeked = torch.as_tensor(x).nan_to_num()
        return prepared

    def unroll_steps(self, x, u=None, mask=None, whole=False):
        return super().unroll_steps(
            x if self.reads_missing else torch.where(mask, x, self.peeked), u, None
        )


class Explosive(DVAE):
    "Adds nothing to its latents, by a root whose slope at nothing is infinite"

    def emit(self, s, z, u):
        return super().emit(s, z + (0 * z).sqrt(), u)


class PadReader(DVAE):
    "A smoother that begins to read behind the end"

    def lookahead(self, x, m, u):
        return super().lookahead(x, torch.ones_like(m), u)


class Gregarious(DVAE):
    "Sees the mean of its batch"

    def look(self, x, m, u):
        return super().look(x - x.mean(0), m, u)


class Hasty(VRNN):
    "A fast pass whose emissions have latents of the step before"

    def unroll_fast(self, feed, m, u):
        out = super().unroll_fast(feed, m, u)
        out.px = self.emit(
            {k: v[:, :-1] for k, v in out.state.items()}, out.z.roll(1, 1), u
        )
        return out


class Frozen(VRNN):
    "A fast pass without the gradient of its latents"

    def unroll_fast(self, feed, m, u):
        out = super().unroll_fast(feed, m, u)
        out.px = self.emit(
            {k: v[:, :-1] for k, v in out.state.items()}, out.z.detach(), u
        )
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


class Deaf(DVAE):
    "`emit_with` that does not use the latents it is given"

    def emit_with(self, out, z, u=None, mask=None):
        return super().emit_with(out, out.z, u, mask)


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
        return super().step(
            x_prev,
            state
            if u is None
            else {**state, "u": self.prepare_u(u[:, None], len(u), 1)[:, 0]},
            u,
        )


class LateForecast(DVAE):
    def forecast(self, x, horizon, n_samples=100, u=None, **kwargs):
        return super().forecast(x, horizon, n_samples, u=late(u), **kwargs)


class EarlyForecast(DVAE):
    def forecast(self, x, horizon, n_samples=100, u=None, **kwargs):
        return super().forecast(x, horizon, n_samples, u=late(u, -1), **kwargs)


class Seedless(DVAE):
    def forecast(
        self, x, horizon, n_samples=100, u=None, mask=None, seed=None, **kwargs
    ):
        return super().forecast(x, horizon, n_samples, u=u, mask=mask, **kwargs)


class SeedsForGood(DVAE):
    "Seeds torch's generator and leaves it so"

    def forecast(
        self, x, horizon, n_samples=100, u=None, mask=None, seed=None, **kwargs
    ):
        if seed is not None:
            torch.manual_seed(seed)
        return super().forecast(x, horizon, n_samples, u=u, mask=mask, **kwargs)


class CountsSteps(DVAE):
    "Begins a forecast at the number of observed steps, one early for each hole"

    def forecast(self, x, horizon, n_samples=100, u=None, mask=None, **kwargs):
        if mask is None or len(mask) > 1:
            return super().forecast(x, horizon, n_samples, u=u, mask=mask, **kwargs)
        n = int(mask.any(-1).sum())
        more = dict(
            u=None if u is None else u[:, : n + horizon], mask=mask[:, :n], **kwargs
        )
        return super().forecast(x[:, :n], horizon, n_samples, **more)


class IgnoresEnds(DVAE):
    "Continues every row behind the last step of the batch"

    def forecast(self, x, horizon, n_samples=100, u=None, mask=None, **kwargs):
        if mask is None or len(mask) > 1 or mask[:, -1].any():
            return super().forecast(x, horizon, n_samples, u=u, mask=mask, **kwargs)
        x = torch.where(mask, x, 9.0)
        u = (
            None
            if u is None
            else torch.cat([u, u[:, -horizon:]], 1)[:, : x.shape[1] + horizon]
        )
        return super().forecast(x, horizon, n_samples, u=u, **kwargs)


class LateSamples(DVAE):
    def sample(self, n, length, u=None, **kwargs):
        return super().sample(n, length, u=late(u), **kwargs)


class EarlySimulation(DVAE):
    def simulate(self, u, n_samples=100, **kwargs):
        return super().simulate(late(u, -1), n_samples, **kwargs)


class Improver(DVAE):
    "Draws anew what was observed, too"

    def impute(self, x, mask=None, **kwargs):
        fc = super().impute(x, mask, **kwargs)
        fc.samples = fc.samples + 0.1
        return fc


class LooseBound(DVAE):
    "Forgets half of log K, the other way round"

    def log_likelihood(self, x, n_samples=1, **kwargs):
        return super().log_likelihood(x, n_samples, **kwargs) - 3 * math.log(n_samples)


class CountedTwice(AutoregressiveRNN):
    "Does not divide by the number of draws"

    def log_likelihood(self, x, n_samples=1, **kwargs):
        return super().log_likelihood(x, n_samples, **kwargs) + math.log(n_samples)


class RawInputs(DVAE):
    "Does not standardise its known inputs"

    def prepare_u(self, u, batch, steps):
        return None if u is None else as_series(u, self.u_dim, "u", self.u_loc)


class NoLocation(DVAE):
    "Densities in the user's scale, around zero"

    def to_units(self, px):
        return self.emission.to_units(px, 0 * self.x_loc, self.x_scale)


class Forgetful(DVAE):
    "Keeps something outside its configuration and its weights"

    scale = 1.0

    def emit(self, s, z, u):
        return super().emit(s, self.scale * z, u)


BREACHES = [
    (Explosive, "pass", "is not finite"),
    (NoMask, "masks", "other numbers where the mask is False"),
    (ForecastsHidden, "masks", "change the forecast"),
    (FillsIn, "draws", "does not draw what is missing"),
    (DrawsTooMuch, "draws", "reads other values than those observed"),
    (DrawsAround, "draws", "reads what the mask hides"),
    (PadReader, "padding", "padding changes the bound"),
    (Gregarious, "rows", "a row's bound depends on the other rows"),
    (Hasty, "fast_pass", "another bound than the loop"),
    (Frozen, "fast_pass", "another gradient than the loop"),
    (Modest, "declarations", "smooths=False, but the posterior"),
    (Boastful, "declarations", "smooths=True, but the posterior"),
    (Unsteady, "declarations", "sequential=True, but the emission"),
    (Shuffled, "latents", "own latents give another emission"),
    (Deaf, "latents", "give the same emission"),
    (Clairvoyant, "predictions", "sees what it predicts"),
    (LatePredictions, "predictions", "does not read the known inputs of its step"),
    (EarlyPredictions, "predictions", "reads known inputs before their step"),
    (LateMemory, "streaming", "differ at step"),
    (LateForecast, "forecast", "does not read the known inputs of its step 0 of 4"),
    (EarlyForecast, "forecast", "reads known inputs before their step"),
    (Seedless, "forecast", "with a seed differs from call to call"),
    (SeedsForGood, "forecast", "changes torch's generator"),
    (CountsSteps, "forecast", "of a row with a hole does not read the known inputs"),
    (CountsSteps, "last", "does not read its last observation"),
    (IgnoresEnds, "forecast", "of a row that ends early"),
    (IgnoresEnds, "ends", "not continued like the row cut off"),
    (LateSamples, "generation", "`sample` does not read"),
    (
        EarlySimulation,
        "simulation",
        "`simulate` does not read the known inputs of its step 0",
    ),
    (Improver, "imputation", "changes what was observed"),
    (LooseBound, "bounds", "is below that of one"),
    (CountedTwice, "bounds", "without latents the number of draws"),
    (RawInputs, "units", "another unit changes"),
    (NoLocation, "units", "changes the bound by more than log scale"),
    (Forgetful, "files", "a saved model has another bound"),
]


def test_every_law_is_broken_once():
    assert {law for _, law, _ in BREACHES} == set(LAWS)


@pytest.mark.parametrize(
    "cls,law,says", BREACHES, ids=[f"{c.__name__}-{n}" for c, n, _ in BREACHES]
)
def test_a_breach_is_caught(cls, law, says):
    options = {
        Unsteady: dict(causal=False),
        PadReader: dict(posterior="smoothing"),
        CountsSteps: dict(u_dim=int(law == "forecast")),
    }
    model = of_family(cls, **options.get(cls, {}))
    if cls is Forgetful:
        model.scale = 2.0
    broken = broken_laws(model, skip=set(LAWS) - {law})
    assert says in broken.get(law, "nothing broken"), broken


# ---- what goes beyond laws of one model ----------------------------------------------


def run_on(model, x, u, horizon):
    "Means of the next steps, (B, H, C), each read back, by a filter's four densities"
    T = x.shape[1]
    xs, us, _ = model.prepare(x, u, steps=T + horizon)
    s, means, seen = (
        model.init_state(len(x)),
        [],
        torch.ones_like(xs[:, 0], dtype=torch.bool),
    )
    for t in range(T + horizon):
        z = model.prior(s, us[:, t])
        px = model.emit(s, model.draw(z), us[:, t])
        read = xs[:, t] if t < T else px.mean
        if z is not None:
            z = model.draw(
                model.posterior(s, read, seen, us[:, t], None) if t < T else z
            )
        means.append(px.mean)
        s = model.advance(s, read, seen, z, us[:, t])
    return torch.stack(means[T:], 1) * model.x_scale + model.x_loc


@pytest.mark.parametrize(
    "cls,options",
    [
        (DVAE, {}),
        (DVAE, dict(reads_x=False)),
        (VRNN, {}),
        (STORN, {}),
        (AutoregressiveRNN, {}),
    ],
    ids=["dvae", "dvae-inputs", "vrnn", "storn", "rnn"],
)
def test_a_forecast_is_the_model_run_on_with_its_own_draws(cls, options):
    "Without noise nothing is left but the four densities"
    model = of_family(
        cls, emission="mse", emission_kwargs=dict(sigma=1e-6), **options
    ).double()
    model.set_scale([1.0, 2.0], [3.0, 0.5], [1.0], [2.0])
    x, u = torch.randn(2, 9, 2).double(), torch.randn(2, 14, 1).double()
    with torch.no_grad(), latents_at_means(model):
        for mask, end in ((None, 9), (torch.arange(9).expand(2, 9) < 7, 7)):
            fc = model.forecast(x, 5, 2, u=u, mask=mask, seed=0).samples[0]
            expected = run_on(model, x[:, :end], u[:, : end + 5], 5)
            torch.testing.assert_close(fc, expected, rtol=0, atol=1e-4)


CONTINUOUS = {k: MODELS[k][0] for k in ("latent-ode", "latent-ode-events", "ode-rnn")}


def times_of(rows, steps, seed=0):
    "Irregular times, (rows, steps), of which none is regular"
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(rows, steps, generator=g) + 0.3).cumsum(1).double()


def predicted(model, x, t, mask=None):
    return model.predict_next(x, t=t, mask=mask, seed=0).mean


# at temperature 0 a latent ODE does what its definition says, without anything random;
# else it is a filter, whose particles are the same for the same seed
EITHER = [(k, 0.0) for k in CONTINUOUS] + [
    (k, 1.0) for k in CONTINUOUS if k != "ode-rnn"
]


def continuous(name, temperature):
    model = CONTINUOUS[name]().double().eval()
    model.temperature = temperature
    return model


@pytest.mark.parametrize("name,temperature", EITHER)
def test_times_act_at_their_own_step(name, temperature):
    model = continuous(name, temperature)
    case, t = make_case(model, steps=8), times_of(3, 8)
    moved = t.clone()
    moved[:, 4] += 0.2
    with torch.no_grad():
        base, other = predicted(model, case.x, t), predicted(model, case.x, moved)
        torch.testing.assert_close(other[:, :4], base[:, :4], rtol=0, atol=1e-9)
        assert ((other - base)[:, 4].abs() > 1e-7).all()
        for mask in (
            None,
            case.mask,
        ):  # when the clock began does not matter, nor its unit
            base = predicted(model, case.x, t, mask)
            torch.testing.assert_close(
                predicted(model, case.x, t + 100, mask), base, rtol=0, atol=1e-9
            )
            scale = float(model.t_scale)
            model.set_clock(60 * scale)
            torch.testing.assert_close(
                predicted(model, case.x, 60 * t, mask), base, rtol=0, atol=1e-9
            )
            model.set_clock(scale)


@pytest.mark.parametrize("name,temperature", EITHER)
def test_regular_steps_are_the_times_zero_one_two(name, temperature):
    model = continuous(name, temperature)
    case, t = make_case(model, steps=8), torch.arange(12.0).double()
    with torch.no_grad():
        torch.testing.assert_close(
            predicted(model, case.x, t[:8]), predicted(model, case.x, None)
        )
        bound = [
            model.log_likelihood(case.x, mask=case.mask, t=v, seed=0) for v in (None, t[:8])
        ]
        torch.testing.assert_close(*bound)
    for mask, first in ((None, 8), (case.mask[2:], 5)):  # behind the last observation
        row = case.x[2:]
        a = model.forecast(row, 3, 4, mask=mask, seed=0).samples
        b = model.forecast(
            row, n_samples=4, mask=mask, seed=0, t=t[:8], times=t[first : first + 3]
        ).samples
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name,temperature", EITHER)
def test_streaming_at_irregular_times_is_what_predict_next_says(name, temperature):
    model = continuous(name, temperature)
    case, t = make_case(model, steps=8), times_of(3, 8)
    whole = predicted(model, case.hidden, t, case.mask)
    with torch.no_grad(), fork_seed(0):
        state = model.start(3)
        for i in range(8):
            px, state = model.step(
                case.hidden[:, i - 1] if i else None, state, t=t[:, i]
            )
            torch.testing.assert_close(px.mean, whole[:, i], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_forecast_changes_at_the_time_that_changed(name):
    model = CONTINUOUS[name]().double().eval()
    case, t = make_case(model, steps=8), times_of(3, 12)
    t, times = t[:1, :8], t[:1, 8:]
    moved = times.clone()
    moved[:, 2] += 0.1

    def draw(when):
        return model.forecast(case.x[:1], n_samples=1, t=t, times=when, seed=0).samples

    a, b = draw(times), draw(moved)
    torch.testing.assert_close(a[:, :, :2], b[:, :, :2], rtol=0, atol=1e-9)
    assert (a[:, :, 2] != b[:, :, 2]).any()


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("cls", [DVAE, VRNN, STORN])
def test_a_step_observed_in_part_informs_its_latent_and_a_hole_does_not(cls, taught):
    model = of_family(cls).double().eval()
    model.trained_on_holes.fill_(taught)
    case = make_case(model)
    out = model(case.hidden, case.known, mask=case.mask)
    kl = out.kl(case.mask).sum(-1)
    part = case.mask.any(-1) & ~case.mask.all(-1)
    assert part.sum() == 1 and (kl[case.mask.any(-1)] > 1e-6).all()
    assert (kl[~case.mask.any(-1)] == 0).all()
    x = case.hidden.clone()
    x[1, case.x.shape[1] - 5, 1] += 1  # what is left of the step in part
    means = []
    for v in (case.hidden, case.hidden, x):
        with latents_at_means(model), fork_seed(0):  # the same draws, if it draws
            means.append(model(v, case.known, mask=case.mask).qz.mean)
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0][part], means[2][part])


@pytest.mark.parametrize("cls", [DVAE, VRNN, AutoregressiveRNN])
def test_in_a_hole_a_model_that_knows_holes_reads_what_it_expects(cls):
    model = of_family(cls, u_dim=0).double().eval()
    model.trained_on_holes.fill_(True)
    case = make_case(model)
    with torch.no_grad(), latents_at_means(model):
        out = model(case.hidden, mask=case.mask)
    read, expected = out.state["x"][:, 1:], out.px.mean
    hole = ~case.mask
    hole[1:] = False  # a step seen in part has a posterior; behind an end nobody reads
    torch.testing.assert_close(read[hole], expected[hole])
    torch.testing.assert_close(read[case.mask], case.x[case.mask])


@pytest.mark.parametrize("cls", [DVAE, VRNN, AutoregressiveRNN])
def test_in_a_hole_a_model_that_knows_none_reads_what_its_emission_draws(cls):
    "Of the place and the spread that its emission says, a row like another"
    model = of_family(cls, u_dim=0).double().eval()
    case, n = make_case(model), 500
    x, mask = case.hidden[:1].repeat(n, 1, 1), case.mask[:1].repeat(n, 1, 1)
    with torch.no_grad(), latents_at_means(model):
        out = model(x, mask=mask)
    read = out.state["x"][:, 1:]
    torch.testing.assert_close(read, out.x)
    torch.testing.assert_close(read[mask], x[mask])
    first = int((~mask[0].any(-1)).nonzero()[0])
    px, drawn = out.px, read[:, first]
    score = (drawn - px.mean[:, first]) / px.stddev[:, first]
    assert score.mean(0).abs().max() < 4 / n**0.5
    assert (score.std(0) - 1).abs().max() < 4 / (2 * n) ** 0.5
    assert len(px.mean[:, first + 1].unique(dim=0)) == n  # and the next step knows it
