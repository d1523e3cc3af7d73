"The DVAE as one would write it from the equations: the reference that the fast pass is timed against"
import torch, math
from torch import nn
from torch.distributions import Normal, kl_divergence
class PlainDVAE(nn.Module):
    "The same DVAE as one would write it from the equations: one step after the other, modules and distributions as they come"
    def __init__(self, x_dim, z_dim, h_dim, s_dim=16):
        super().__init__()
        self.z_dim,self.h_dim,self.s_dim = z_dim,h_dim,s_dim
        mlp = lambda i,o: nn.Sequential(nn.Linear(i,h_dim), nn.SiLU(), nn.Linear(h_dim,o))
        self.phi = nn.Sequential(nn.Linear(2*x_dim,h_dim), nn.SiLU(), nn.Linear(h_dim,h_dim), nn.SiLU())
        self.memory,self.z_memory = nn.GRUCell(h_dim,h_dim),nn.GRUCell(z_dim,s_dim)
        self.prior,self.posterior = mlp(h_dim+s_dim, 2*z_dim),mlp(2*h_dim+s_dim, 2*z_dim)
        self.emit = mlp(h_dim+s_dim+z_dim, 3*x_dim)
    def gauss(self, raw, lo, hi):
        mu,lv = raw.chunk(2,-1); lv = hi-nn.functional.softplus(hi-lv); lv = lo+nn.functional.softplus(lv-lo)
        return Normal(mu, (0.5*lv).exp())
    def loss(self, x):
        B,T,C = x.shape
        h,s,last = x.new_zeros(B,self.h_dim),x.new_zeros(B,self.s_dim),x.new_zeros(B,C)
        loss = 0.
        for t in range(T):
            f = self.phi(torch.cat([x[:,t], torch.ones_like(last)],-1))
            pz = self.gauss(self.prior(torch.cat([h,s],-1)), -10, 4)
            qz = self.gauss(self.posterior(torch.cat([h,s,f],-1)), -10, 4)
            z = qz.rsample()
            mu,lv,gate = self.emit(torch.cat([h,s,z],-1)).chunk(3,-1)
            px = self.gauss(torch.cat([mu+torch.sigmoid(gate)*last,lv],-1), -12, 4)
            loss = loss - px.log_prob(x[:,t]).sum(-1) + kl_divergence(qz,pz).sum(-1)
            h,s,last = self.memory(f,h),self.z_memory(z,s),x[:,t]
        return loss.mean()
