"""Speed and memory against plain references, both sides in turn in one run, one thread: prints ratios (absolute times mean little on shared machines).

    python benchmarks/speed.py
"""
import statistics, subprocess, sys, tempfile, time
import numpy as np, torch
from fastai.data.core import DataLoaders
from seqvae.data import SeqDataLoaders, WindowDataset, mass_spring
from seqvae.dvae import DKF, DVAE, RVAE, SRNN, STORN, VRNN
from plain_dvae import PlainDVAE
from plain_family import PlainDKF, PlainRVAE, PlainSRNN, PlainSTORN, PlainVRNN

def ratio(name, ours, plain, runs=15):
    "Median CPU times of both, in turn, and the median of the ratios pair by pair"
    for f in (ours, plain): f()
    pairs = []
    for _ in range(runs):
        t0 = time.process_time(); plain(); t1 = time.process_time(); ours(); pairs.append((t1-t0, time.process_time()-t1))
    rs = sorted(p/o for p,o in pairs); med = lambda i: 1e3*statistics.median(p[i] for p in pairs)
    print(f"{name:66} {med(0):8.1f} ms {med(1):8.1f} ms   {statistics.median(rs):5.2f}x  ({rs[len(rs)//4]:.2f} to {rs[-len(rs)//4]:.2f})", flush=True)

def training_step():
    x = torch.randn(150, 40, 14); plain,fast = PlainDVAE(14, 2, 50),DVAE(14, z_dim=2, h_dim=50)
    assert sum(p.numel() for p in plain.parameters())==sum(p.numel() for p in fast.parameters())
    def a(): fast.zero_grad(); (-fast(x).elbo(x).mean()).backward()
    def b(): plain.zero_grad(); plain.loss(x).backward()
    def c(): fast.zero_grad(); (-fast.unroll_steps(x).elbo(x).mean()).backward()
    ratio('training step, B=150 T=40 H=50: plain loop / ours', a, b)
    ratio('training step, B=150 T=40 H=50: unroll_steps / unroll', a, c)
    x = torch.randn(32, 40, 14)
    ratio('training step, B=32  T=40 H=50: plain loop / ours', a, b)

def family():
    "Forward and backward pass in the setting of the review's motion experiments: T=50, B=32, z=10, h=64"
    x = torch.randn(32, 50, 16)
    for Fast,Slow in ((VRNN,PlainVRNN),(SRNN,PlainSRNN),(STORN,PlainSTORN),(DKF,PlainDKF),(RVAE,PlainRVAE)):
        fast,slow = Fast(16, 10, 64),Slow(16, 10, 64)
        assert sum(p.numel() for p in fast.parameters())==sum(p.numel() for p in slow.parameters())
        def a(): fast.zero_grad(); (-fast(x).elbo(x).mean()).backward()
        def b(): slow.zero_grad(); slow.loss(x).backward()
        ratio(f'{Fast.__name__} training step, B=32 T=50 x=16 z=10 h=64: plain loop / ours', a, b)

class Items:
    "Windows one by one, as fastai's own loader wants them"
    def __init__(self, ds): self.x,self.start,self.w = torch.from_numpy(ds.series.x),ds.place(np.arange(len(ds)))[1],ds.window
    def __len__(self): return len(self.start)
    def __getitem__(self, i): x = self.x[self.start[i]:self.start[i]+self.w]; return x,x

def loader():
    x = mass_spring(400, seed=0).x
    ours = SeqDataLoaders.from_series(x, window=40, bs=150, stride=4)
    theirs = DataLoaders.from_dsets(Items(ours.train_ds), Items(ours.valid_ds), bs=150, num_workers=0, device=torch.device('cpu'))
    def all(dl):
        for _ in dl: pass
    ratio(f'{len(ours.train)} shuffled batches of 150 x 40 x 14: fastai default / ours', lambda: all(ours.train), lambda: all(theirs.train), runs=5)

MEMORY = """
import resource, sys, numpy as np
from seqvae.data import WindowDataset, read_series, windows
x = read_series(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
before = peak(); ds = WindowDataset(x, window=40); n,w = len(ds),windows(x[0], 40).shape; b = ds[np.arange(0, n, n//150)[:150]]
print(f"{n} {peak()-before:.0f}")
"""
def memory():
    "Peak memory to make all windows of a 1 GB file and read one batch of them"
    with tempfile.TemporaryDirectory() as d:
        a = np.lib.format.open_memmap(f'{d}/x.npy', 'w+', np.float32, (64,300_000,14)); a.flush(); size = a.nbytes; del a
        n,mb = subprocess.run([sys.executable, '-c', MEMORY, f'{d}/x.npy'], capture_output=True, text=True, check=True).stdout.split()
    print(f"memory for {int(n):,} windows of a {size/1e9:.2f} GB memory-mapped array: {mb} MB (copies would take {int(n)*40*14*4/1e9:.0f} GB)", flush=True)

if __name__=='__main__':
    torch.set_num_threads(1); torch.manual_seed(0); torch.distributions.Distribution.set_default_validate_args(False)   # no handicap for the references
    print(f"{'':66} {'reference':>11} {'ours':>11}   ratio  (quartiles)")
    training_step(); family(); loader(); memory()
