"""The interface of published code that this library promises to keep: SPIVAE
(Fernandez-Fernandez et al. 2024) as its notebooks print it, and likelihoods of papers"""

import numpy as np
import pytest
import torch
from fastai.basics import Learner
from fastai.callback import schedule  # noqa: F401  (gives Learner fit_one_cycle)
from seqvae.core import diag_normal, load_model
from seqvae.data import load_data
from seqvae.models import (
    VAEConv1d,
    View,
    output_size_after_n_conv,
    output_size_after_n_convt,
)
from seqvae.train import KLAnneal, Loss, TCLoss, seq_learner
from seqvae.wavenet import VAEWaveNet

ALPHAS, DS = np.linspace(0.2, 1.8, 3), np.linspace(2e-5, 2e-2, 2)
DATA = dict(model='fbm', N=10, T=60, D=DS, alpha=ALPHAS, seed=0, valid_pct=0.2, bs=8)
MODEL = dict(
    o_dim=DATA['T'] - 1,
    nc_in=1,
    nc_out=6,
    nf=[16] * 4,
    avg_size=16,
    encoder=[200, 100],
    z_dim=6,
    decoder=[100, 200],
    beta=0,
    in_channels=1,
    res_channels=16,
    skip_channels=16,
    c_channels=6,
    g_channels=0,
    res_kernel_size=3,
    layer_size=4,
    stack_size=1,
    out_distribution='Normal',
    num_mixtures=1,
    use_pad=False,
    model_name='SPIVAE',
)
PRINTED = """VAEConv1d(
  (encoder): Sequential(
    (0): Conv1d(1, 16, kernel_size=(3,), stride=(1,))
    (1): ReLU(inplace=True)
    (2): Conv1d(16, 16, kernel_size=(3,), stride=(1,))
    (3): ReLU(inplace=True)
    (4): Conv1d(16, 16, kernel_size=(3,), stride=(1,))
    (5): ReLU(inplace=True)
    (6): Conv1d(16, 16, kernel_size=(3,), stride=(1,))
    (7): ReLU(inplace=True)
    (8): AdaptiveConcatPool1d(
      (ap): AdaptiveAvgPool1d(output_size=16)
      (mp): AdaptiveMaxPool1d(output_size=16)
    )
    (9): View()
    (10): Linear(in_features=512, out_features=200, bias=True)
    (11): ReLU(inplace=True)
    (12): Linear(in_features=200, out_features=100, bias=True)
    (13): ReLU(inplace=True)
    (14): Linear(in_features=100, out_features=12, bias=True)
  )
  (decoder): Sequential(
    (0): Linear(in_features=6, out_features=100, bias=True)
    (1): ReLU(inplace=True)
    (2): Linear(in_features=100, out_features=200, bias=True)
    (3): ReLU(inplace=True)
    (4): Linear(in_features=200, out_features=512, bias=True)
    (5): ReLU(inplace=True)
    (6): View()
  )
  (convt): Sequential(
    (0): ConvTranspose1d(16, 16, kernel_size=(3,), stride=(1,))
    (1): ReLU(inplace=True)
    (2): ConvTranspose1d(16, 16, kernel_size=(3,), stride=(1,))
    (3): ReLU(inplace=True)
    (4): ConvTranspose1d(16, 16, kernel_size=(3,), stride=(1,))
    (5): ReLU(inplace=True)
    (6): ConvTranspose1d(16, 6, kernel_size=(3,), stride=(1,))
    (7): ReLU(inplace=True)
  )
)"""
# what the last block hands on is read by nobody, in the published code too
UNREAD = ['res_stack.3.conv_res.weight', 'res_stack.3.conv_res.bias']
BLOCK = """    ({i}): ResidualBlock(
      (dilated): DilatedCausalConv1d(
        (conv): Conv1d(16, 32, kernel_size=(3,), stride=(1,){dilation})
      )
      (conv_c): Conv1d(6, 32, kernel_size=(1,), stride=(1,), bias=False)
      (conv_res): Conv1d(16, 16, kernel_size=(1,), stride=(1,))
      (conv_skip): Conv1d(16, 16, kernel_size=(1,), stride=(1,))
    )
"""


def quiet(learn, epochs, lr):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, lr_max=lr)
    return learn.recorder.values


def test_the_snippet_runs_as_printed():
    dls = load_data(DATA)
    model = VAEWaveNet(**MODEL)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    loss_fn = Loss(
        model.receptive_field,
        model.c_channels,
        beta=MODEL['beta'],
        reduction='mean',
    )
    learn = Learner(dls, model, loss_func=loss_fn)
    values = quiet(learn, 4, 1e-4)
    assert len(values) == 4 and np.isfinite(values).all()
    assert values[-1][0] < values[0][0] and values[-1][1] < values[0][1]
    same = [k for k, p in model.named_parameters() if torch.equal(p, before[k])]
    assert same == UNREAD
    assert (model.receptive_field, model.c_channels) == (32, 6)


def test_the_loss_is_the_published_one():
    "Mean of -log p over steps plus beta times the KL of a sequence, by hand"
    torch.manual_seed(0)
    model = VAEWaveNet(**{**MODEL, 'beta': 0.3})
    x = torch.randn(5, 59, 1)
    out = model(x)
    mu, logvar = out.qz.mean, 2 * out.qz.stddev.log()
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp())  # (5, 6)
    nll = -out.px.log_prob(x[:, 32:])  # (5, 27)
    parts = dict(mean=nll.mean(), sum=nll.sum(), sumtime=nll.mean(0).sum())
    for reduction, part in parts.items():
        loss = Loss(32, 6, beta=0.3, reduction=reduction)
        torch.testing.assert_close(loss(out, x), part + 0.3 * kl.sum(1).mean())
        torch.testing.assert_close(loss.kl_latents, kl.mean(0))
        torch.testing.assert_close(loss.nll, nll.mean())
        assert loss.n == 5 * 27 and isinstance(loss, Loss)
        torch.testing.assert_close(loss.kl, kl.sum() / loss.n)
    torch.testing.assert_close(Loss(32, 6)(out, x), nll.sum())  # as published: sum, 0
    log_p, beta, each = Loss(32, 6, beta=0.3, reduction='none')(out, x)
    torch.testing.assert_close(log_p[..., 0], nll)
    torch.testing.assert_close(each, kl)
    assert beta == 0.3 and log_p.shape == (5, 27, 1)
    # named as published, and with steps that nobody measured
    mask = torch.ones(5, 59, dtype=torch.bool)
    mask[1, 50:] = False
    part = (nll.sum() - nll[1, 18:].sum()) / (5 * 27 - 9)
    loss = Loss(RF=32, c=6, use_pad=False, beta=0, reduction='mean')
    torch.testing.assert_close(loss(out, x, mask), part)


def test_padded_and_plain_wavenets_have_the_published_loss_too():
    x = torch.randn(4, 40, 1)
    pad = VAEWaveNet(**{**MODEL, 'use_pad': True})(x)
    loss = Loss(32, 6, True, 0, 'mean')
    torch.testing.assert_close(loss(pad, x), -pad.px.log_prob(x).mean())
    plain = VAEWaveNet(**{**MODEL, 'c_channels': 0, 'nc_out': 0})
    out = plain(x)
    loss = Loss(plain.receptive_field, plain.c_channels, beta=1, reduction='mean')
    torch.testing.assert_close(loss(out, x), -out.px.log_prob(x[:, 32:]).mean())
    assert plain.vae is None and loss.kl is None
    conv = VAEConv1d([4], [8], [8], 40)
    out = conv(x)
    loss = Loss(0, -1, beta=2.0, reduction='mean')
    want = -out.px.log_prob(x).mean() + 2 * out.kl().sum(1).mean()
    torch.testing.assert_close(loss(out, x), want)


def test_the_loss_says_what_does_not_fit():
    x = torch.randn(3, 59, 1)
    out = VAEWaveNet(**MODEL)(x)
    for args, options, message in (
        ((30, 6), {}, 'predicts from step 32 on'),
        ((32, 0), {}, 'c=0'),
        ((32, 6), dict(use_pad=True), 'predicts from step 32 on'),
    ):
        with pytest.raises(ValueError, match=message):
            Loss(*args, **options)(out, x)
    for make, message in (
        (lambda: Loss(32, 6, reduction='average'), "'mean', 'sum', 'sumtime' or 'none'"),
        (lambda: Loss(32, 6, beta=-1), 'not negative'),
        (lambda: Loss(3.5, 6), 'RF must be a whole number'),
        (lambda: Loss(32, 6.5), 'c must be a whole number'),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match='c=6'):
        Loss(0, 6)(VAEWaveNet(c_channels=0, use_pad=True)(x), x)


def test_our_own_loss_is_what_it_was():
    out = VAEWaveNet(**MODEL)(x := torch.randn(3, 59, 1))
    assert type(Loss()) is Loss and type(Loss(0.5)) is Loss and type(TCLoss(2.0)) is TCLoss
    assert type(Loss(beta=1.0, free_bits=0.1, skip=1)) is Loss
    torch.testing.assert_close(Loss(1.0)(out, x), -out.elbo(x).sum() / (3 * 27))


def test_the_published_loss_works_with_our_learner_and_schedules():
    model = VAEWaveNet(**MODEL)
    loss = Loss(model.receptive_field, model.c_channels, beta=1e-3, reduction='mean')
    learn = seq_learner(load_data(DATA), model, loss, cbs=[KLAnneal(0.5)])
    row = quiet(learn, 1, 1e-3)[-1]
    assert np.isfinite(row[:6]).all() and loss.beta == 1e-3


def test_the_model_is_printed_with_the_published_layers():
    model = VAEWaveNet(**{**MODEL, 'o_dim': 400})
    assert str(model.vae) == PRINTED
    text = str(model)
    assert text.startswith('VAEWaveNet(\n  (vae): VAEConv1d(\n')
    blocks = [
        BLOCK.format(i=i, dilation=f', dilation=({2**i},)' if i else '')
        for i in range(4)
    ]
    assert '  (res_stack): ModuleList(\n' + ''.join(blocks) + '  )\n' in text
    for line in (
        '(init_conv): Conv1d(1, 16, kernel_size=(1,), stride=(1,))',
        '(causal): DilatedCausalConv1d(\n    (conv): Conv1d(16, 16, kernel_size=(2,)',
        '(out_conv): Sequential(\n    (0): ReLU(inplace=True)\n    (1): Conv1d(16, 16',
        '    (2): ReLU(inplace=True)\n    (3): Conv1d(16, 2, kernel_size=(1,)',
    ):
        assert line in text, line
    published = dict(
        in_channels=1, res_channels=16, skip_channels=16, c_channels=6, g_channels=0
    )
    for name, value in published.items():
        assert getattr(model, name) == value
    assert type(model.vae) is VAEConv1d and model.vae.z_dim == model.z_dim == 6


def test_the_last_relu_is_in_use_and_asleep_nowhere():
    "c_t has a floor, and no channel starts below it, where it could not learn"
    for seed in range(5):
        torch.manual_seed(seed)
        model = VAEWaveNet(**MODEL)
        z = torch.randn(200, 6)
        raw = model.vae._transposed(z)
        assert raw.shape == (200, 6, 59) and (raw >= 0).all()
        torch.testing.assert_close(model.vae.features(z), raw.transpose(1, 2) - 4)
        assert ((raw > 0).float().mean((0, 2)) > 0.3).all()


def test_views_sizes_and_arguments_in_the_published_order():
    x = torch.randn(3, 4, 6)
    assert View((-1, 24))(x).shape == (3, 24) and View((-1, 2, 12))(x).shape == (3, 2, 12)
    assert View([-1, 24])(x).shape == (3, 24) and str(View((-1, 24))) == 'View()'
    with pytest.raises(TypeError):
        View(4, 6)
    assert output_size_after_n_conv(4, 400, 3, 1, 0) == 392
    assert output_size_after_n_convt(4, 392, 3) == 400
    assert output_size_after_n_conv(n=2, input_size=40, kernel_size=5, stride=2) == 7
    net = torch.nn.Sequential(*[torch.nn.ConvTranspose1d(1, 1, 4, 2, 1, 1)] * 3)
    have = output_size_after_n_convt(3, 9, 4, 2, 1, 1)
    assert have == net(torch.zeros(1, 1, 9)).shape[-1]
    vae = VAEConv1d([8, 4], [20, 10], [12, 16], 50, 2, 3, 5, 0.5, 7)
    assert [m.out_features for m in vae.encoder if hasattr(m, 'out_features')] == [20, 10, 10]
    assert [m.out_features for m in vae.decoder if hasattr(m, 'out_features')] == [12, 16, 56]
    assert (vae.o_dim, vae.x_dim, vae.z_dim, vae.beta) == (50, 2, 5, 0.5)
    assert vae(torch.randn(2, 50, 2)).px.batch_shape == (2, 50)


def test_the_vae_inside_a_wavenet():
    "In the user's units, without a head of its own, saved and loaded with the whole"
    model = VAEWaveNet(**{**MODEL, 'gain': False}).set_scale([1.0], [3.0])
    x = 3 * torch.randn(4, 59, 1) + 1
    q, p = model.encode(x), model.vae.encode(x)
    torch.testing.assert_close(q.mean, p.mean)
    with pytest.raises(ValueError, match='part of another model'):
        model.vae(x)
    model(x).elbo(x).sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == UNREAD


def test_the_vae_inside_a_wavenet_is_saved_with_it(tmp_path):
    model = VAEWaveNet(**MODEL).set_scale([1.0], [3.0])
    again = load_model(model.save(tmp_path / 'm'))
    x = torch.randn(2, 59, 1)
    torch.testing.assert_close(again.vae.encode(x).mean, model.vae.encode(x).mean)
    assert str(again) == str(model)
