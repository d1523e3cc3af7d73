"The dynamical family: what its members condition on, what they refuse, whether a latent earns its place, and the particle filter against a Kalman filter"
import math, numpy as np, pytest, torch
from seqvae.core import MSEEmission, SequenceModel, diag_normal
from seqvae.dvae import DKF, DVAE, RVAE, SRNN, STORN, VRNN, AutoregressiveRNN, conditionals
from seqvae.train import Loss, latent_use

FAMILY = [VRNN, SRNN, STORN, DKF, RVAE, AutoregressiveRNN]
TABLE = [(VRNN, {}, 'x_<t, z_<t', 'x_<t, z_<=t', 'x_<=t, z_<t'), (VRNN, dict(prior='standard'), 'nothing', 'x_<t, z_<=t', 'x_<=t, z_<t'),
         (SRNN, {}, 'x_<t, z_t-1', 'x_<t, z_t', 'x_1:T, z_t-1'), (STORN, {}, 'nothing', 'x_<t, z_<=t', 'x_<=t'), (DKF, {}, 'z_t-1', 'z_t', 'x_t:T, z_t-1'),
         (RVAE, {}, 'nothing', 'z_<=t', 'x_t:T, z_<t'), (RVAE, dict(causal=False), 'nothing', 'z_1:T', 'x_1:T, z_<t'), (AutoregressiveRNN, {}, '-', 'x_<t', '-')]

@pytest.mark.parametrize('cls,kw,prior,emission,posterior', TABLE)
@pytest.mark.parametrize('shape', [{}, dict(cell='lstm', n_layers=2), dict(u_dim=2)])
def test_each_model_reads_what_its_row_of_the_table_says(cls, kw, prior, emission, posterior, shape):
    assert conditionals(cls(3, h_dim=6, **kw, **shape))=={'p(z)':prior, 'p(x)':emission, 'q(z)':posterior}

@pytest.mark.parametrize('cls', FAMILY)
def test_bad_input(cls):
    says = lambda text: pytest.raises(ValueError, match=text); x = torch.rand(4,9,3)
    with says('needs x to be 0 or 1'): cls(3, h_dim=8, emission='bernoulli')(x)
    with says('whole numbers from 0 to 3'): cls(3, h_dim=8, emission='categorical', emission_kwargs=dict(n_levels=4))(x.round()+4)
    with says('needs x >= 0'): cls(3, h_dim=8, emission='exponential')(x-1)
    with says('x is empty'): cls(3, h_dim=8)(x[:,:0])
    with says('u must cover 14 steps'): cls(3, h_dim=8, u_dim=2).forecast(x, 5, u=torch.zeros(4,9,2))
    with says('built with u_dim=2: pass u'): cls(3, h_dim=8, u_dim=2)(x)
    with says("cell is 'gru' or 'lstm'"): cls(3, cell='rnn')
    with says('dropout is a share'): cls(3, dropout=1.)
    with says('n_layers must be a whole number'): cls(3, n_layers=0)
    with says('unknown emission'): cls(3, emission='gauss')
    with says("no option 'n_levels'"): cls(3, emission='normal', emission_kwargs=dict(n_levels=2))
    with says("set its temperature to 1"): m = cls(3); m.temperature = 0.; m.log_likelihood(x, 5)
    with says('u must cover 9 steps of 4 series'): cls(3, u_dim=2).log_likelihood(x, 5, u=torch.zeros(7,9,2))
    if cls is not AutoregressiveRNN:
        with says('z_dim must be a whole number of at least 1'): cls(3, z_dim=0)

@pytest.mark.parametrize('cls', FAMILY)
def test_a_single_step_is_a_series_too(cls):
    model = cls(3, h_dim=8); x = torch.randn(4,1,3)
    assert model(x).px.batch_shape==(4,1) and model.forecast(x, 2, 3).samples.shape==(3,4,2,3) and model.log_likelihood(x, 5, method='fivo').isfinite().all()

def test_hidden_ends_are_forecast_and_depend_on_no_other_row():
    torch.manual_seed(0); x = torch.randn(2,12,2); mask = torch.arange(12)<torch.tensor([[8],[12]]); hole = mask.clone(); hole[1,4] = False
    for cls in FAMILY:
        model = cls(2, h_dim=8).eval(); a = model.impute(x[:1], mask[:1], 3000, n_paths=3000, lag=0, seed=0).samples[:,0,8:]
        model.n_particles = 1; b = model.forecast(x[:1,:8].expand(3000, -1, -1), 4, 1, seed=1).samples[0]    # a particle each: what was before a gap weighs no path of `impute` either
        off = (a.mean(0)-b.mean(0)).abs()/((a.var(0)+b.var(0))/3000).sqrt(); assert off.max()<4, (cls, off)  # in standard errors: a DKF as it begins has a spread of 4, which .12 is lost in
        torch.testing.assert_close(a.std(0), b.std(0), atol=.1, rtol=.08)
        other = torch.stack([x[0], x[1]+1]); one,two = (model.reconstruct(v, 1, mask=mask, seed=0).samples[0,0] for v in (x,other)); assert torch.equal(one, two)  # its end is drawn
        model.temperature = 0.; model.trained_on_holes.fill_(True)  # now nothing is: the other row may have holes where it likes
        one,two = (model.reconstruct(x, 1, mask=m).samples[0,0] for m in (mask,hole)); torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)

def test_a_particle_filter_needs_steps():
    with pytest.raises(ValueError, match="runs step by step, which this RVAE does not: use 'iwae'"): RVAE(3, h_dim=8, causal=False).log_likelihood(torch.randn(2,5,3), 5, method='fivo')

@pytest.mark.parametrize('cls', FAMILY)
def test_double_precision_and_a_mask_of_lengths(cls):
    model = cls(3, h_dim=8).double(); x = torch.randn(4,9,3).double(); mask = torch.arange(9)<torch.tensor([[9],[4],[1],[7]])
    out = model(x, mask=mask); Loss()(out, x, mask).backward()
    assert out.px.mean.dtype==torch.float64 and latent_use(model, x, mask=mask)['steps']==21

class Line(SequenceModel):
    "z_t = a z_t-1 + N(0, 1), x_t = z_t + N(0, r), with the prior for a posterior: what a bootstrap filter runs on"
    def __init__(self, x_dim=1, a=.9, r=.5):
        super().__init__(x_dim); self.a,self.r,self.emission = a,r,MSEEmission(1, 1, residual=False)
    def init_state(self, batch): return dict(z=torch.zeros(batch,1))
    def prior(self, s, u): return diag_normal(self.a*s['z'], torch.zeros_like(s['z']))
    def posterior(self, s, x, m, u, ahead): return self.prior(s, u)
    def emit(self, s, z, u): return diag_normal(z, torch.full_like(z, math.log(self.r)))
    def advance(self, s, x, m, z, u): return dict(z=z)

def kalman(model, x, seen):
    "log p(x) of one series, exactly"
    mu,P,total = 0.,0.,0.
    for v,s in zip(x.tolist(), seen.tolist()):
        mu,P = model.a*mu,model.a**2*P+1
        if not s: continue
        S = P+model.r; total -= .5*(math.log(2*math.pi*S)+(v-mu)**2/S); g = P/S; mu,P = mu+g*(v-mu),(1-g)*P
    return total

def test_particle_filter_against_kalman():
    model = Line(); x = model.sample(6, 40, seed=0); mask = torch.arange(40)<torch.tensor([[40],[40],[25],[40],[7],[1]]); mask[1,10:15] = False
    exact = torch.tensor([kalman(model, a[:,0], m) for a,m in zip(x, mask)])
    fine = torch.stack([model.log_likelihood(x, 4000, mask=mask, seed=i, method='fivo') for i in range(8)]).mean(0); torch.testing.assert_close(fine, exact, atol=.25, rtol=0)
    runs = lambda n,**kw: model.log_likelihood(x.repeat(n,1,1), 20, mask=mask.repeat(n,1), **kw).unflatten(0, (n,-1))
    few = runs(400, method='fivo')      # unbiased in p, so a bound in log p
    ratio = (few-exact).exp(); assert ((ratio.mean(0)-1).abs()<5*ratio.std(0)/20+.01).all() and (few.mean(0)<exact+.02).all()
    assert (few.mean(0)>=runs(100).mean(0)-.05).all()

def test_a_latent_earns_its_place_where_channels_move_together():
    "Two channels, both +1 or both -1: a Gaussian per channel cannot say so, a latent can"
    def train(model):
        opt = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(300): x = data(32); opt.zero_grad(); Loss()(model(x), x).backward(); opt.step()
        return model.eval()
    def data(n): return torch.randint(0, 2, (n,12,1)).mul(2).sub(1).float().expand(n,12,2)+.1*torch.randn(n,12,2)
    torch.manual_seed(0); x = data(100); truth = math.log(.5)+2*(-.5*math.log(2*math.pi*.01)-.5)                # nats a step, in expectation
    score = {c.__name__:float(train(c(2, h_dim=16, **kw)).log_likelihood(x, 20, seed=0).mean())/12 for c,kw in ((AutoregressiveRNN, {}), (VRNN, dict(z_dim=2)), (STORN, dict(z_dim=2)), (DKF, dict(z_dim=2)))}
    assert score['AutoregressiveRNN']<-2.5 and all(score[k]>truth-.6 for k in ('VRNN','STORN','DKF')), (score, truth)
