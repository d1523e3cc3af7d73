"""Speed and memory against plain references and the published peer, both sides in turn in one run, one thread: prints ratios (absolute times mean little on shared machines), and one JSON line with them.

    python benchmarks/speed.py [--review FOLDER]     # a clone of github.com/XiaoyuBIE1994/DVAE, the code of the review (Girin et al. 2021)
"""
import argparse, configparser, json, statistics, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from fastai.data.core import DataLoaders
from seqvae.data import SeqDataLoaders, WindowDataset, mass_spring
from seqvae.dvae import DKF, DVAE, RVAE, SRNN, STORN, VRNN
from plain_dvae import PlainDVAE
from plain_family import PlainDKF, PlainRVAE, PlainSRNN, PlainSTORN, PlainVRNN

def ratio(name, ours, plain, runs=15):
    "Median CPU times of both, in turn, and the median of the ratios pair by pair, which is returned with its quartiles"
    for f in (ours, plain): f()
    pairs = []
    for _ in range(runs):
        t0 = time.process_time(); plain(); t1 = time.process_time(); ours(); pairs.append((t1-t0, time.process_time()-t1))
    rs = sorted(p/o for p,o in pairs); med = lambda i: 1e3*statistics.median(p[i] for p in pairs)
    print(f"{name:66} {med(0):8.1f} ms {med(1):8.1f} ms   {statistics.median(rs):5.2f}x  ({rs[len(rs)//4]:.2f} to {rs[-len(rs)//4]:.2f})", flush=True)
    return [round(r, 2) for r in (statistics.median(rs),rs[len(rs)//4],rs[-len(rs)//4])]

def training_step():
    x = torch.randn(150, 40, 14); plain,fast = PlainDVAE(14, 2, 50),DVAE(14, z_dim=2, h_dim=50)
    assert sum(p.numel() for p in plain.parameters())==sum(p.numel() for p in fast.parameters())
    def a(): fast.zero_grad(); (-fast(x).elbo(x).mean()).backward()
    def b(): plain.zero_grad(); plain.loss(x).backward()
    def c(): fast.zero_grad(); (-fast.unroll_steps(x).elbo(x).mean()).backward()
    res = {'DVAE, B=150, plain loop':ratio('training step, B=150 T=40 H=50: plain loop / ours', a, b), 'DVAE, B=150, unroll_steps':ratio('training step, B=150 T=40 H=50: unroll_steps / unroll', a, c)}
    x = torch.randn(32, 40, 14); res['DVAE, B=32, plain loop'] = ratio('training step, B=32  T=40 H=50: plain loop / ours', a, b); return res

def family():
    "Forward and backward pass in the setting of the review's motion experiments: T=50, B=32, z=10, h=64"
    x,res = torch.randn(32, 50, 16),{}
    for Fast,Slow in ((VRNN,PlainVRNN),(SRNN,PlainSRNN),(STORN,PlainSTORN),(DKF,PlainDKF),(RVAE,PlainRVAE)):
        fast,slow = Fast(16, 10, 64),Slow(16, 10, 64)
        assert sum(p.numel() for p in fast.parameters())==sum(p.numel() for p in slow.parameters())
        def a(): fast.zero_grad(); (-fast(x).elbo(x).mean()).backward()
        def b(): slow.zero_grad(); slow.loss(x).backward()
        res[f'{Fast.__name__}, plain loop'] = ratio(f'{Fast.__name__} training step, B=32 T=50 x=16 z=10 h=64: plain loop / ours', a, b)
    return res

def review(folder):
    "The same step by the code of the review, in its own configuration for motion (h = 64, z = 10, LSTMs, fewer and narrower layers than ours), with x as wide as ours, squared errors and its own KL"
    sys.path.insert(0, str(folder))
    from dvae import model as theirs
    def their_kl(m):                                             # as in its loss.py, which needs packages for sound
        ratio = (m.z_logvar.exp()+(m.z_mean-m.z_mean_p).square())/(m.z_logvar_p.exp()+1e-10)
        return -0.5*(m.z_logvar-m.z_logvar_p-ratio).sum()
    x, res = torch.randn(32, 50, 16), {}
    for Ours, name in ((VRNN, "vrnn"), (SRNN, "srnn"), (STORN, "storn"), (DKF, "dkf"), (RVAE, "rvae-Causal")):
        config = configparser.ConfigParser()
        config.read(Path(folder)/f"config/motion/cfg_{name}.ini")
        config["Network"]["x_dim"] = "16"
        ours, peer = Ours(16, 10, 64), getattr(theirs, f"build_{Ours.__name__}")(config)
        time_first = x.transpose(0, 1).contiguous()
        def a():
            ours.zero_grad()
            (-ours(x).elbo(x).mean()).backward()
        def b():
            peer.zero_grad()
            error = (peer(time_first)-time_first).square().sum()        # the pass keeps means and log-variances
            (error+their_kl(peer)).backward()
        sizes = [sum(p.numel() for p in m.parameters()) for m in (ours, peer)]
        res[f"{Ours.__name__}, the review's code"] = ratio(f"{Ours.__name__} the same, {sizes[0]} weights: the review's code, {sizes[1]} weights / ours", a, b)
    return res

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
    return {'loader, fastai default':ratio(f'{len(ours.train)} shuffled batches of 150 x 40 x 14: fastai default / ours', lambda: all(ours.train), lambda: all(theirs.train), runs=5)}

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
    return {'memory for all windows, MB':int(mb)}

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter); p.add_argument('--review'); p.add_argument('--only', default='training_step,family,review,loader,memory', help='parts to run')
    a = p.parse_args(); only = a.only.split(','); torch.set_num_threads(1); torch.manual_seed(0); torch.distributions.Distribution.set_default_validate_args(False)   # no handicap for the references
    print(f"{'':66} {'reference':>11} {'ours':>11}   ratio  (quartiles)")
    res = dict(task='speed')
    for part in (training_step,family,loader,memory): res |= part() if part.__name__ in only else {}
    if a.review and 'review' in only: res |= review(a.review)
    print(json.dumps(res))
