"Readers of music and speech on the real files, against what is published of them (skipped, with a reason, without)"
import gzip, json
import numpy as np, pytest, torch
from conftest import folder
from seqvae.data import SeqDataLoaders, fsdd, istft, japanese_vowels, jsb_chorales, piano_rolls, si_sdr, stft, transposed

@pytest.fixture(scope='module')
def music(): return folder('SEQVAE_MUSIC', 'polyphonic_music', 'JSB_Chorales.mat')
@pytest.fixture(scope='module')
def digits(): return fsdd(folder('SEQVAE_FSDD', 'fsdd', 'fsdd_recordings.tar.xz'))
@pytest.fixture(scope='module')
def vowels(): return japanese_vowels(folder('SEQVAE_VOWELS', 'japanese_vowels', 'JapaneseVowels_TRAIN.ts.gz'))

def test_chorales(music):
    a = jsb_chorales(music); sets = a.train,a.valid,a.test
    assert [len(s) for s in sets]==[229,76,77] and [s.lengths.sum() for s in sets]==[13807,4602,4725] and (a.train.lengths.min(),a.train.lengths.max())==(25,129)
    x = np.concatenate([s.x for s in sets]); assert abs(x.sum()/len(x)-3.9)<.02 and np.flatnonzero(x.any(0))[[0,-1]].tolist()==[43-21,96-21]
    rate = a.train.x.mean(0).clip(1e-9, 1-1e-9).astype(float); nll = -(a.test.x*np.log(rate)+(1-a.test.x)*np.log1p(-rate)).sum(1).mean()
    assert abs(nll-11.06)<.05                                                               # the table beside the data: independent keys
    assert np.mean([(o[-1].argmax()+21)%12==0 for s in sets for o in s])>.9   # transposed: they end on C
    assert len(transposed(a.train))==12*229                                                 # every shift fits

def test_two_sources_agree(music):
    a,b = jsb_chorales(music),jsb_chorales(music/'jsb-chorales-quarter.json.gz')
    for s,t in ((a.train,b.train),(a.valid,b.valid),(a.test,b.test)): np.testing.assert_array_equal(s.x, t.x); np.testing.assert_array_equal(s.lengths, t.lengths)
    c = jsb_chorales(music/'jsb-chorales-16th.json.gz'); assert [len(s) for s in (c.train,c.valid,c.test)]==[229,76,77] and c.train.lengths.sum()==55228
    assert np.flatnonzero(c.train.x.any(0))[-1]+21<=81                                      # the original keys
    shape = lambda x: np.roll(x, -x.any(0).argmax(), 1).tobytes()                              # a chorale in whatever key
    where = {shape(o):k for k,s in (('train',a.train),('valid',a.valid),('test',a.test)) for o in s}; assert len(where)==382
    same = [where.get(shape(o[::4]))==k for k,s in (('train',c.train),('valid',c.valid),('test',c.test)) for o in s if shape(o[::4]) in where]
    assert len(same)==228 and all(same)                                                     # the same split
    with pytest.raises(ValueError, match='note -1'): piano_rolls(music/'Jsb16thSeparated.json.gz')

def test_broken_copies(music, tmp_path):
    for name in ('JSB_Chorales.mat','jsb-chorales-quarter.json.gz'):
        f = tmp_path/name; f.write_bytes((music/name).read_bytes()[:20000])
        with pytest.raises(ValueError, match=name): jsb_chorales(f)
    d = json.loads(gzip.decompress((music/'jsb-chorales-quarter.json.gz').read_bytes())); d['valid'][3][7] = [200]; f = tmp_path/'one.json'; f.write_text(json.dumps(d))
    with pytest.raises(ValueError, match='valid 3 has note 200'): jsb_chorales(f)

def test_digits(digits):
    n = np.array([len(o) for o in digits.waves]); assert len(digits)==3000 and (n.min(), int(np.median(n)), n.max())==(1148,3358,18262) and round(n.sum()/digits.rate, 1)==1312.3
    assert (digits.params.groupby('speaker').size()==500).all() and sorted(digits.params.speaker.unique())==['george','jackson','lucas','nicolas','theo','yweweler']
    assert all(-1<=o.min() and o.max()<1 for o in digits.waves) and set(digits.params.speaker[digits.params.bits==8])=={'nicolas'} and (digits.params.bits==8).sum()==500
    train,test = digits.official_split(); assert (len(train),len(test))==(2700,300) and set(test.params['take'])==set(range(5))
    rest,held = digits.by_speaker(['theo','lucas']); assert (len(rest),len(held))==(2000,1000)
    fr = digits.frames(); assert (fr.lengths.min(),fr.lengths.max(),fr.x_dim)==(5,91,200)
    dls = SeqDataLoaders.from_series(fr, bs=16, by_length=True); waste = [1-m[...,0].float().mean().item() if m is not None else 0. for _,_,_,m,*_ in dls.train]; assert np.mean(waste)<.15 and len(waste)==150

def test_dither(digits):
    noisy = fsdd(folder('SEQVAE_FSDD', 'fsdd', 'fsdd_recordings.tar.xz'), dither=0); i = digits.params.bits.to_numpy()
    for bits in (8,16):
        e = np.concatenate([noisy.waves[j]-digits.waves[j] for j in np.flatnonzero(i==bits)[:50]])*2.**(bits-1); assert abs(e).max()<.501 and abs(e.var()-1/12)<.001 and abs(e.mean())<.005
    assert all(len(np.unique(o))>.9*len(o) for o in noisy.waves[::100])                     # no spikes left

def test_resynthesis(digits):
    some = digits[::50]; p = some.power_spectrogram(); assert p.x_dim==257 and p.lengths.tolist()==[1+len(o)//128 for o in some.waves]
    for x,power in zip(some.waves, p):
        s = stft(x); y = istft(torch.from_numpy(power).sqrt()*torch.exp(1j*s.angle()), length=len(x))    # the protocol of the review: power and true phase
        np.testing.assert_allclose(y, x, atol=1e-5); assert si_sdr(x, y)>80

def test_vowels(vowels):
    assert np.bincount(vowels.train_speaker).tolist()==[0]+[30]*9 and np.bincount(vowels.test_speaker).tolist()==[0,31,35,88,44,29,24,40,50,29]
    assert [(len(s),s.x_dim,s.lengths.min(),s.lengths.max()) for s in (vowels.train,vowels.test)]==[(270,12,7,26),(370,12,7,29)]
    assert abs(vowels.train[0][0,0]-1.860936)<1e-6 and np.isfinite(vowels.train.x).all()
