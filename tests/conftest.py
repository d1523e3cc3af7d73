import os
from pathlib import Path
import pytest, torch

torch.set_num_threads(1)
root = Path(__file__).resolve().parent.parent

def pytest_configure(config): config.addinivalue_line('markers', 'slow: takes more than a few seconds; `make test-slow` runs it')

@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)

@pytest.fixture(scope='session')
def cmapss_path():
    "Folder with C-MAPSS files: $SEQVAE_CMAPSS, or shared/data/cmapss beside the project"
    for p in (os.environ.get('SEQVAE_CMAPSS'), root/'shared/data/cmapss', root.parent/'shared/data/cmapss'):
        if p and (Path(p)/'RUL_FD001.txt').is_file(): return Path(p)
    pytest.skip('the C-MAPSS files are not here: set SEQVAE_CMAPSS to their folder')
