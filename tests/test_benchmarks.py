"The references that the benchmarks time against do the same mathematics"
import sys
from pathlib import Path
import pytest, torch
from torch import nn
from torch.distributions import Normal
from seqvae.dvae import DKF, RVAE, SRNN, STORN, VRNN

sys.path.append(str(Path(__file__).resolve().parent.parent/'benchmarks'))
from plain_family import PlainDKF, PlainRVAE, PlainSRNN, PlainSTORN, PlainVRNN

PARTS = dict(VRNN='memory:cell prior_net:prior posterior_net:posterior', SRNN='memory:cell backward_memory:back prior_net:prior posterior_net:posterior', STORN='memory:cell read_memory:read posterior_net:posterior',
             DKF='backward_memory:back transition.gate:gate transition.propose:propose transition.linear:linear transition.spread:spread combiner.before:before combiner.join:join', RVAE='memory:cell backward_memory:back posterior_net:posterior')

@pytest.mark.parametrize('Fast,Slow', [(VRNN,PlainVRNN), (SRNN,PlainSRNN), (STORN,PlainSTORN), (DKF,PlainDKF), (RVAE,PlainRVAE)])
def test_same_loss_from_the_same_weights(Fast, Slow, monkeypatch):
    fast,slow = Fast(3, 2, 8),Slow(3, 2, 8); x = torch.randn(4,9,3)
    def copy(a, b):
        for p,q in zip(a, b): assert p.shape==q.shape; q.data.copy_(p)
    for part in ('phi_x:phi_x phi_z:phi_z '+PARTS[Fast.__name__]).split(): a,b = part.split(':'); copy(fast.get_submodule(a).parameters(), slow.get_submodule(b).parameters())
    copy([*fast.emission_net.parameters(), *fast.emission.parameters()], slow.decoder.parameters())
    assert sum(p.numel() for p in fast.parameters())==sum(p.numel() for p in slow.parameters())
    monkeypatch.setattr(Normal, 'rsample', lambda self, *a: self.loc); fast.temperature = 0.
    torch.testing.assert_close(-fast(x).elbo(x).mean(), slow.loss(x), rtol=1e-4, atol=1e-3)
