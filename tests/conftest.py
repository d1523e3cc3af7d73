import os
from pathlib import Path
import pytest, torch

torch.set_num_threads(1)
root = Path(__file__).resolve().parent.parent

def pytest_configure(config): config.addinivalue_line('markers', 'slow: takes more than a few seconds; `make test-slow` runs it')

@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)

def folder(variable, name, file):
    "Folder of a data set: $variable, or shared/data/name in or beside the project; skips the test if `file` is in none"
    for p in (os.environ.get(variable), root/'shared/data'/name, root.parent/'shared/data'/name):
        if p and (Path(p)/file).is_file(): return Path(p)
    pytest.skip(f'{file} is not here: set {variable} to its folder')

@pytest.fixture(scope='session')
def cmapss_path(): return folder('SEQVAE_CMAPSS', 'cmapss', 'RUL_FD001.txt')

@pytest.fixture(scope='session')
def sparc_path(): return folder('SEQVAE_SPARC', 'sparc', 'Rotmod_LTG.zip')
