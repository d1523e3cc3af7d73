"A training process that is killed, for real, and started again"
import os, signal, subprocess, sys, time
import torch
from seqvae.core import load_model

SCRIPT = """
import sys, torch, time
from seqvae.data import SeqDataLoaders, mass_spring
from seqvae.dvae import DVAE
from seqvae.train import Checkpoint, KLAnneal, Overshooting, seq_learner
from fastai.callback.core import Callback
torch.set_num_threads(1); torch.manual_seed(0)
class Slow(Callback):
    order = 99
    def after_epoch(self): print('epoch', self.epoch, flush=True); time.sleep(float(sys.argv[3]))
ms = mass_spring(30, sensors=3, T=40, noise=0.1, low=0.2, seed=0)
learn = seq_learner(SeqDataLoaders.from_series(ms.x, bs=8), DVAE(3, z_dim=2, h_dim=8), cbs=[KLAnneal(), Overshooting(10), Checkpoint(sys.argv[1]), Slow()])
with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(5, 1e-2)
learn.model.save(sys.argv[2])
"""
def start(*args): return subprocess.Popen([sys.executable, '-c', SCRIPT, *map(str, args)], stdout=subprocess.PIPE, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))

def test_a_killed_run_ends_where_the_unbroken_one_does(tmp_path):
    whole = start(tmp_path/'a.pt', tmp_path/'a', 0)
    broken = start(tmp_path/'b.pt', tmp_path/'b', 0.5)
    for line in broken.stdout:
        if line.startswith('epoch 2'): break
    broken.send_signal(signal.SIGKILL); broken.wait()
    assert not (tmp_path/'b').exists() and (tmp_path/'b.pt').exists()
    again = start(tmp_path/'b.pt', tmp_path/'b', 0)
    out,_ = again.communicate(timeout=120); whole.communicate(timeout=120)
    assert whole.returncode==again.returncode==0
    assert [l for l in out.splitlines() if 'epoch' in l][-1]=='epoch 4'
    a,b = load_model(tmp_path/'a').state_dict(),load_model(tmp_path/'b').state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not list(tmp_path.glob('.*'))                         # no temporary files left
