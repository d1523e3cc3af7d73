"Remaining useful life on NASA's engines: data by condition, the command, wrong inputs. Needs the C-MAPSS files (skipped, with a reason, without)"
import numpy as np, pandas as pd, pytest, shutil, torch
from seqvae.cli import main
from seqvae.core import Forecast
from seqvae.data import cmapss
from seqvae.rul import CONDITIONS, ConditionNormalizer, Ensemble, at_last, evaluate_rul, inputs_of, load_ensemble, rul_model, rul_series, rul_table, truth_of, window_regression

@pytest.mark.parametrize('name,sensors,shortest', [('FD001',14,31), ('FD002',15,21), ('FD004',16,19)])
def test_conditions(cmapss_path, name, sensors, shortest):
    fd = cmapss(cmapss_path, name); K = CONDITIONS[name]; norm = ConditionNormalizer.fit(fd.train, K); k = norm.condition(fd.train)
    assert len(norm.columns)==sensors and set(k)==set(range(K)) and not {'s1','s5','s18','s19'} & set(norm.columns)
    spread = fd.train.groupby(k)[norm.settings].std().to_numpy(); assert (spread<.02).all()             # a cluster is one place in the envelope
    train,test = rul_series(fd.train, norm),rul_series(fd.test, norm); u = np.concatenate([train.known(i) for i in range(len(train))])
    assert abs(u[:,:sensors].mean(0)).max()<1e-4 and test.lengths.min()==shortest and train.x.max()==125
    assert abs(np.concatenate([test.known(i) for i in range(len(test))])[:,:sensors]).max()<20         # the test engines fly where the training engines did

def test_short_engines_are_kept(cmapss_path):
    fd = cmapss(cmapss_path, 'FD004'); norm = ConditionNormalizer.fit(fd.train, 6); train,test = rul_series(fd.train, norm),rul_series(fd.test, norm); short = int(test.lengths.argmin())
    fc = window_regression('ridge', train, test, window=30); assert fc.samples.shape[1]==248 and fc.samples[:,short,:19].isfinite().all()
    torch.manual_seed(0); net = Ensemble([rul_model('dvae', train.u_dim, h_dim=8).eval()]); few = test[[short,int(test.lengths.argmax())]]
    a,b = (at_last(net.simulate(inputs_of(o), 50, 0).samples, o.lengths) for o in (few,few[:1])); assert a.shape==(50,2) and b.shape==(50,1) and a.isfinite().all()
    net.models[0].temperature = 0.; a,b = (net.models[0].simulate_once(net.models[0].prepare_u(inputs_of(o), *inputs_of(o).shape[:2])).px.mean[0,:19] for o in (few,few[:1]))
    torch.testing.assert_close(a, b)                                                                 # padding behind it changes nothing

def test_command(cmapss_path, tmp_path, capsys):
    main(['rul', str(cmapss_path), '--set', 'FD001', '--members', '2', '--steps', '40', '--out', str(tmp_path/'run')])
    assert {'table.csv','table_uncapped.csv','table_all_cycles.csv','bands.csv','estimates.csv','engines.png','engine.png','ensemble.json','model0.safetensors','model1.safetensors'}<={o.name for o in (tmp_path/'run').iterdir()}
    tab = pd.read_csv(tmp_path/'run/table.csv', index_col=0); assert list(tab.index)==['training mean','ridge','boosting','gru','dvae']
    assert tab.rmse['training mean']>38 and 14<tab.rmse['ridge']<19 and tab.rmse['dvae']<25 and tab.crps['dvae']<.6*tab.crps['training mean']
    est = pd.read_csv(tmp_path/'run/estimates.csv'); fd = cmapss(cmapss_path, 'FD001'); assert len(est)==100 and (est.lo95<=est['mean']).all() and (est['mean']<=est.hi95+1e-4).all() and est.hi95.max()<=125
    assert (est.rul.to_numpy()==fd.test.groupby('unit').rul.last().to_numpy()).all()
    ens,norm,about = load_ensemble(tmp_path/'run'); test = rul_series(fd.test, norm); assert about['set']=='FD001'
    assert abs(evaluate_rul(at_last(ens.simulate(inputs_of(test), 200).samples, test.lengths), truth_of(test))['rmse']-tab.rmse['dvae'])<1e-3   # what was saved is what was judged

@pytest.mark.parametrize('args,says', [(['--set','FD007'], 'there is no C-MAPSS set'), (['--members','0'], 'members must be'), (['--steps','0'], 'steps must be')])
def test_wrong_arguments(cmapss_path, tmp_path, capsys, args, says):
    with pytest.raises(SystemExit) as e: main(['rul', str(cmapss_path), '--out', str(tmp_path), *args])
    assert e.value.code==2 and says in capsys.readouterr().err

def test_wrong_files(cmapss_path, tmp_path, capsys):
    def says(text):
        with pytest.raises(SystemExit): main(['rul', str(tmp_path), '--out', str(tmp_path/'out')])
        err = capsys.readouterr().err; assert text in err and len(err.strip().splitlines())==1
    says('no train_FD001.txt')
    for f in ('train_FD001.txt.gz','test_FD001.txt.gz','RUL_FD001.txt'): shutil.copy(cmapss_path/f, tmp_path/f)
    rul = (tmp_path/'RUL_FD001.txt').read_text().split(); (tmp_path/'RUL_FD001.txt').write_text('\n'.join(rul[:-1])); says('has 99 lines for 100 test engines')
    (tmp_path/'RUL_FD001.txt').write_text('\n'.join(rul)); (tmp_path/'test_FD001.txt.gz').unlink(); (tmp_path/'test_FD001.txt').write_text('1 1 0.5\n1 2 0.5\n'); says('C-MAPSS has 26')
    fd = cmapss(cmapss_path, 'FD001'); norm = ConditionNormalizer.fit(fd.train)
    with pytest.raises(ValueError, match="no column 's11'"): norm(fd.test.drop(columns='s11'))

@pytest.mark.parametrize('name,beyond', [('FD001',11), ('FD002',57), ('FD004',67)])
def test_the_truth_beyond_the_cap_is_not_lost(cmapss_path, name, beyond):
    "Estimates that are perfect under the cap are wrong by what is beyond it"
    capped, whole = cmapss(cmapss_path, name), cmapss(cmapss_path, name, cap=None)
    norm = ConditionNormalizer.fit(capped.train, CONDITIONS[name])
    test, full = rul_series(capped.test, norm), rul_series(whole.test, norm)
    missing = (truth_of(full)-125).clamp(min=0)
    assert int((missing>0).sum())==beyond
    perfect = dict(perfect=Forecast(test.padded().nan_to_num().expand(2, -1, -1, -1)))
    assert rul_table(perfect, test).rmse['perfect']==0
    assert rul_table(perfect, full).rmse['perfect']==pytest.approx(float(missing.square().mean().sqrt()), rel=1e-5)
