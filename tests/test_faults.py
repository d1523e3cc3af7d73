"Bad input ends with a message that says what was wrong, where, and what to do. (More stand beside each function in the notebooks.)"
import numpy as np, pandas as pd, pytest, torch
from seqvae.data import Normalizer, SeqDataLoaders, SeriesSet, WindowDataset, cmapss, mass_spring, read_series, split_units, windows
from seqvae.dvae import DVAE
from seqvae.train import Checkpoint, Loss, evaluate, seq_learner

def raises_saying(text): return pytest.raises((ValueError, TypeError, FileNotFoundError), match=text)

@pytest.fixture
def model(): return DVAE(3, z_dim=2, h_dim=8, s_dim=4)
@pytest.fixture
def x(): return torch.randn(9,60,3)

def test_nan_is_located(model, x):
    x[7,[12,13,40],0] = float('nan')
    for f in (model, model.forecast.__get__(model), model.log_likelihood):
        args = (x,3) if f==model.forecast.__get__(model) else (x,)
        with raises_saying(r'x has 3 NaN in unit 7 at steps 12, 13, 40: pass mask=~torch.isnan\(x\) or fill them'): f(*args)

def test_infinity_is_located(model, x):
    x[2,5,1] = float('inf')
    with raises_saying('1 non-finite values in unit 2 at steps 5'): model(x)

@pytest.mark.parametrize('shape,text', [((60,),'must have shape'), ((2,3,4,3),'must have shape'), ((9,60,4),'4 channels, the model was built for 3'), ((9,0,3),'x is empty'), ((0,5,3),'x is empty')])
def test_shapes(model, shape, text):
    with raises_saying(text): model(torch.zeros(shape))

def test_what_is_no_array(model):
    with raises_saying('must be a torch tensor or numpy array'): model([[1.,2.,3.]])
    with raises_saying('must hold numbers'): model(np.array([['a','b','c']]))

@pytest.mark.parametrize('horizon', [0,-3,2.5,None,'4'])
def test_horizon(model, x, horizon):
    with raises_saying('horizon must be a whole number of at least 1'): model.forecast(x, horizon)

def test_masks(model, x):
    with raises_saying(r'mask has shape \(9, 59\)'): model(x, mask=torch.ones(9,59,dtype=torch.bool))
    with raises_saying('mask must be boolean'): model(x, mask=torch.ones(9,60))
    with raises_saying('series 4 has no observed step'):
        m = torch.ones(9,60,dtype=torch.bool); m[4] = False; model.forecast(x, 3, mask=m)

def test_known_inputs(x):
    m = DVAE(3, u_dim=2, z_dim=2, h_dim=8); u = torch.randn(9,60,2)
    with raises_saying('built with u_dim=2: pass u'): m(x)
    with raises_saying('u must cover 65 steps of 9 series'): m.forecast(x, 5, u=u)
    with raises_saying('u has 1 channels'): m(x, u[...,:1])
    u[3,7] = float('nan')
    with raises_saying('u has 2 NaN in unit 3 at steps 7'): m(x, u)
    with raises_saying('u was given, but the model was built with u_dim=0'): DVAE(3)(x, u)

def test_discrete_values(x):
    with raises_saying('needs x to be 0 or 1'): DVAE(3, emission='bernoulli')(x)
    with raises_saying('whole numbers from 0 to 3'): DVAE(3, emission='categorical', emission_kwargs=dict(n_levels=4))(x.abs().round()+4)
    with raises_saying('unknown emission'): DVAE(3, emission='gauss')

def test_series():
    with raises_saying('holds no series'): SeriesSet([])
    with raises_saying('series 1 of x is empty'): SeriesSet([np.zeros((4,2)), np.zeros((0,2))])
    with raises_saying('window of 50 steps is longer than the series of unit b'): WindowDataset(SeriesSet([np.zeros((60,1)),np.zeros((40,1))], ['a','b']), window=50)
    with raises_saying('window of 5 steps is longer'): windows(np.zeros((4,1)), 5)
    with raises_saying('channel flat never changes in the training data'): Normalizer.fit(SeriesSet([np.c_[np.arange(9.),np.ones(9)]], names=['ramp','flat']))
    with raises_saying('every part needs a unit'): split_units([np.zeros((3,1))]*3, 0.5, 0.5)

def test_files(tmp_path):
    with raises_saying('no such file'): read_series(tmp_path/'a.csv')
    (tmp_path/'a.csv').write_text('')
    with raises_saying('cannot be read as csv'): read_series(tmp_path/'a.csv')
    (tmp_path/'a.csv').write_text('x,y\n')
    with raises_saying('holds no rows'): read_series(tmp_path/'a.csv')
    (tmp_path/'a.csv').write_text('t,x\n0,1\n1,2\n1,3\n')
    with raises_saying('t = 1 twice'): read_series(tmp_path/'a.csv', time='t')
    (tmp_path/'a.npy').write_bytes(b'\x93NUMPY')
    with raises_saying('cannot be read as npy'): read_series(tmp_path/'a.npy')
    np.save(tmp_path/'o.npy', np.array([{}], dtype=object), allow_pickle=True)
    with raises_saying('cannot be read as npy'): read_series(tmp_path/'o.npy')       # a pickle in disguise is not opened
    with raises_saying('no train_FD001.txt'): cmapss(tmp_path)
    with raises_saying('choose from FD001'): cmapss(tmp_path, 'FD009')

def test_an_unreadable_file(tmp_path):
    (tmp_path/'d.csv').mkdir()
    with raises_saying('no such file'): read_series(tmp_path/'d.csv')

def test_training(x):
    dls = SeqDataLoaders.from_series(x.numpy(), window=20)
    with raises_saying('the data have 3 channels, the model was built for 2'): seq_learner(dls, DVAE(2))
    with raises_saying('the model was built with u_dim=1'): seq_learner(dls, DVAE(3, u_dim=1))
    with raises_saying('Loss scores a SeqOutput'): Loss()(x, x)
    with raises_saying('too short to forecast its last 60'): evaluate(DVAE(3, h_dim=8), x.numpy(), 60)
    with raises_saying('share of the units|every part needs a unit'): SeqDataLoaders.from_series(x.numpy(), window=20, valid=1.5)

def test_a_file_of_another_model(tmp_path, model):
    path = model.save(tmp_path/'m'); before = {k:v.clone() for k,v in model.state_dict().items()}
    with raises_saying('saved from another configuration'): DVAE(3, z_dim=5, h_dim=8).load(path)
    from safetensors.torch import save_file
    save_file({'a':torch.zeros(1)}, tmp_path/'foreign')
    with raises_saying('not a seqvae model'): model.load(tmp_path/'foreign')
    with raises_saying('no model file'): model.load(tmp_path/'none')
    assert all(torch.equal(v, before[k]) for k,v in model.state_dict().items())
    assert [p.name for p in sorted(tmp_path.iterdir())]==['foreign','m']

def test_a_data_set_that_yields_x_alone_cannot_train_silently(x):
    "fastai takes a batch (x,) for inputs without targets and trains nothing; ours always carries targets"
    b = SeqDataLoaders.from_series(x.numpy(), window=20).one_batch()
    assert len(b)==6 and torch.equal(b[0], b[4])
