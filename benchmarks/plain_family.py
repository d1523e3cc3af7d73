"VRNN, SRNN, STORN, DKF and RVAE as one would write them from the equations, one step after the other: the references that the fast passes are timed against"
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

def mlp(*sizes): return nn.Sequential(*[o for a,b in zip(sizes[:-1],sizes[1:]) for o in (nn.Linear(a,b), nn.SiLU())][:-1])

class Plain(nn.Module):
    "What they share; parameter for parameter as large as `seqvae.dvae`'s"
    def __init__(self, x_dim, z_dim, h_dim, n_emission):
        super().__init__()
        self.z_dim,self.h_dim = z_dim,h_dim
        self.phi_x,self.phi_z = nn.Sequential(mlp(2*x_dim, h_dim, h_dim), nn.SiLU()),nn.Sequential(mlp(z_dim, h_dim), nn.SiLU())
        self.decoder = nn.Sequential(mlp(n_emission, h_dim), nn.SiLU(), nn.Linear(h_dim, (3 if self.residual else 2)*x_dim))
    residual = True
    def gauss(self, raw, lo=-10, hi=4):
        mu,lv = raw.chunk(2, -1); lv = hi-nn.functional.softplus(hi-lv); lv = lo+nn.functional.softplus(lv-lo)
        return Normal(mu, (0.5*lv).exp())
    def emission(self, f, last):
        o = self.decoder(f)
        if not self.residual: return self.gauss(o, -12)
        mu,lv,gate = o.chunk(3, -1); return self.gauss(torch.cat([mu+torch.sigmoid(gate)*last, lv], -1), -12)
    def look(self, x): return self.phi_x(torch.cat([x, torch.zeros_like(x)], -1))
    def backwards(self, cell, x):
        h,out = x.new_zeros(len(x), self.h_dim),[]
        for t in reversed(range(x.shape[1])): f = self.look(x[:,t]); h = cell(f, h); out.insert(0, f+h)
        return out
    def standard(self, x): o = x.new_zeros(len(x), self.z_dim); return Normal(o, o+1)
    def loss(self, x):
        self.start(x); loss,last = 0.,torch.zeros_like(x[:,0])
        for t in range(x.shape[1]):
            px,qz,pz = self.step(x[:,t], last, t); last = x[:,t]
            loss = loss - px.log_prob(x[:,t]).sum(-1) + kl_divergence(qz, pz).sum(-1)
        return loss.mean()

class PlainVRNN(Plain):
    def __init__(self, x_dim, z_dim, h_dim):
        super().__init__(x_dim, z_dim, h_dim, 2*h_dim)
        self.cell,self.prior,self.posterior = nn.GRUCell(2*h_dim, h_dim),mlp(h_dim, h_dim, 2*z_dim),mlp(2*h_dim, h_dim, 2*z_dim)
    def start(self, x): self.h = x.new_zeros(len(x), self.h_dim)
    def step(self, x, last, t):
        f,h = self.look(x),self.h
        qz = self.gauss(self.posterior(torch.cat([h,f], -1))); z = self.phi_z(qz.rsample()); self.h = self.cell(torch.cat([f,z], -1), h)
        return self.emission(torch.cat([h,z], -1), last),qz,self.gauss(self.prior(h))

class PlainSRNN(Plain):
    def __init__(self, x_dim, z_dim, h_dim):
        super().__init__(x_dim, z_dim, h_dim, 2*h_dim)
        self.cell,self.back = nn.GRUCell(h_dim, h_dim),nn.GRUCell(h_dim, h_dim)
        self.prior,self.posterior = mlp(h_dim+z_dim, h_dim, 2*z_dim),mlp(2*h_dim+z_dim, h_dim, 2*z_dim)
    def start(self, x): self.h,self.z,self.a = x.new_zeros(len(x), self.h_dim),x.new_zeros(len(x), self.z_dim),self.backwards(self.back, x)
    def step(self, x, last, t):
        h,pz = self.h,self.gauss(self.prior(torch.cat([self.h,self.z], -1)))
        qz = self.gauss(self.posterior(torch.cat([h,self.a[t],self.z], -1))); qz = Normal(qz.loc+pz.loc, qz.scale)
        self.z = qz.rsample(); self.h = self.cell(self.look(x), h)
        return self.emission(torch.cat([h,self.phi_z(self.z)], -1), last),qz,pz

class PlainSTORN(Plain):
    def __init__(self, x_dim, z_dim, h_dim):
        super().__init__(x_dim, z_dim, h_dim, h_dim)
        self.cell,self.read,self.posterior = nn.GRUCell(2*h_dim, h_dim),nn.GRUCell(h_dim, h_dim),mlp(h_dim, h_dim, 2*z_dim)
    def start(self, x): self.h,self.g,self.seen = (x.new_zeros(len(x), self.h_dim) for _ in range(3))
    def step(self, x, last, t):
        f = self.look(x); self.g = self.read(f, self.g)
        qz = self.gauss(self.posterior(self.g)); self.h = self.cell(torch.cat([self.seen,self.phi_z(qz.rsample())], -1), self.h); self.seen = f
        return self.emission(self.h, last),qz,self.standard(x)

class PlainDKF(Plain):
    residual = False
    def __init__(self, x_dim, z_dim, h_dim):
        super().__init__(x_dim, z_dim, h_dim, h_dim)
        self.back,self.gate,self.propose,self.linear,self.spread = nn.GRUCell(h_dim, h_dim),mlp(z_dim, h_dim, z_dim),mlp(z_dim, h_dim, z_dim),nn.Linear(z_dim, z_dim),nn.Linear(z_dim, z_dim)
        self.before,self.join = nn.Linear(z_dim, h_dim),nn.Linear(h_dim, 2*z_dim)
    def start(self, x): self.z,self.a = x.new_zeros(len(x), self.z_dim),self.backwards(self.back, x)
    def step(self, x, last, t):
        g,new = torch.sigmoid(self.gate(self.z)),self.propose(self.z)
        pz = self.gauss(torch.cat([(1-g)*self.linear(self.z)+g*new, self.spread(nn.functional.silu(new))], -1))
        qz = self.gauss(self.join(0.5*(torch.tanh(self.before(self.z))+self.a[t]))); self.z = qz.rsample()
        return self.emission(self.phi_z(self.z), last),qz,pz

class PlainRVAE(Plain):
    residual = False
    def __init__(self, x_dim, z_dim, h_dim):
        super().__init__(x_dim, z_dim, h_dim, h_dim)
        self.cell,self.back,self.posterior = nn.GRUCell(h_dim, h_dim),nn.GRUCell(h_dim, h_dim),mlp(2*h_dim, h_dim, 2*z_dim)
    def start(self, x): self.s,self.a = x.new_zeros(len(x), self.h_dim),self.backwards(self.back, x)
    def step(self, x, last, t):
        qz = self.gauss(self.posterior(torch.cat([self.s,self.a[t]], -1))); self.s = self.cell(self.phi_z(qz.rsample()), self.s)
        return self.emission(self.s, last),qz,self.standard(x)
