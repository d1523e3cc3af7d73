"The program looks before it trains, writes all or nothing, and takes either spelling of an option."
import argparse
import json
import warnings
import numpy as np
import pandas as pd
import pytest
import torch
import seqvae.cli as cli
from fastcore.script import anno_parser
from seqvae.cli import FIT_FILES, check_folder, forecast_unit, held_cuts, hold_out, main, spelled, whole_folder
from seqvae.core import diag_normal
from seqvae.data import SeriesSet, mass_spring
from seqvae.dvae import AutoregressiveRNN

SPRINGS = mass_spring(10, sensors=2, T=32, t_max=10, noise=0.1, low=0.2, seed=0)


def write(path, series, names=('left', 'right')):
    "Series of any lengths as a table"
    rows = [pd.DataFrame(o, columns=list(names)).assign(unit=f'm{i}', step=range(len(o))) for i,o in enumerate(series)]
    pd.concat(rows).to_csv(path, index=False)
    return str(path)


def run(*args):
    main([*args, '--unit', 'unit', '--time', 'step', '--horizon', '6', '--steps', '1', '--h_dim', '8', '--z_dim', '2'])


def fails(capsys, *args, code=2):
    "The one line that a command says before it exits"
    with pytest.raises(SystemExit) as e: run(*args)
    assert e.value.code==code
    line = capsys.readouterr().err.strip().splitlines()[-1]
    return line


@pytest.fixture
def no_figures(monkeypatch): monkeypatch.setattr(cli, '_save_fig', lambda axs, path: path.write_text(''))


@pytest.fixture
def untrained(monkeypatch):
    "Nothing may be trained"
    def never(*args, **kwargs): raise AssertionError('it trained')
    monkeypatch.setattr('seqvae.train.SeqLearner.fit', never)


# data that used to end a run behind its training

def held_units(series, seed=0):
    return hold_out(SeriesSet(series), .2, 6, seed)[1].units


@pytest.mark.parametrize('kind', ['late', 'very late', 'early', 'short', 'gap'])
def test_a_held_out_unit_that_is_not_whole(tmp_path, no_figures, kind):
    series = [o.copy() for o in SPRINGS.x]
    unit = held_units(series)[0]
    if kind=='late': series[unit][:12] = np.nan                 # nothing observed at half of its length
    if kind=='very late': series[unit][:27] = np.nan            # nor anywhere else before a forecast
    if kind=='early': series[unit][25:] = np.nan                # nothing to hold the last forecast against
    if kind=='gap': series[unit][22:26] = np.nan                # nothing observed right before the last forecast
    if kind=='short': series[unit] = series[unit][:9]           # no forecast fits in
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        run('fit', write(tmp_path/'a.csv', series), '--out', str(tmp_path/'run'))
    said = [str(w.message) for w in said if 'judged' in str(w.message)]
    assert sorted(p.name for p in (tmp_path/'run').iterdir())==sorted(FIT_FILES)
    table = pd.read_csv(tmp_path/'run/table.csv', index_col=0)
    assert np.isfinite(table.drop(columns='one_step_rmse')[['rmse','crps']].to_numpy()).all()
    if kind in ('very late', 'short'): assert f'unit m{unit}' in said[0]
    elif kind in ('late', 'early'): assert 'judged in 5 of 6 places' in said[0]
    else: assert not said


def test_nobody_can_be_judged(tmp_path, capsys, untrained):
    series = [o.copy() for o in SPRINGS.x]
    for i in held_units(series): series[i][:28] = np.nan
    assert 'no held-out unit can be judged' in fails(capsys, 'fit', write(tmp_path/'a.csv', series), '--out', str(tmp_path/'run'))
    assert not (tmp_path/'run').exists()


def test_a_unit_without_any_value_does_not_end_a_fit(tmp_path, no_figures):
    series = [o.copy() for o in SPRINGS.x]
    other = next(i for i in range(10) if i not in held_units(series))
    series[other][:] = np.nan
    run('fit', write(tmp_path/'a.csv', series), '--out', str(tmp_path/'run'))
    assert sorted(p.name for p in (tmp_path/'run').iterdir())==sorted(FIT_FILES)


def test_the_picture_is_in_step_with_its_truth():
    "A model that counts on from the last value, and a unit with a gap of 4 before the horizon"
    class Counter(AutoregressiveRNN):
        def emit(self, s, z, u): return diag_normal(s['x']+1., torch.full_like(s['x'], -20.))
        def unroll(self, x, u=None, mask=None, whole=False): return self.unroll_steps(x, u, mask, whole)
    x = np.arange(30, dtype=np.float32)[:,None]; x[16:20] = np.nan
    fc,truth = forecast_unit(Counter(1, 4), SeriesSet([x], names=['n']), 10, seed=0)
    assert fc.samples.shape[2]==truth.shape[1]==14 and truth[0,:4].isnan().all()
    assert (fc.mean-torch.arange(16., 30.)[None,:,None]).abs().max()<.1
    assert torch.equal(truth[0,4:,0], torch.arange(20., 30.))


def test_bad_values_are_named_before_training(tmp_path, capsys, untrained):
    series = [o.copy() for o in SPRINGS.x]; series[4][7,1] = np.inf
    said = fails(capsys, 'fit', write(tmp_path/'a.csv', series), '--out', str(tmp_path/'run'))
    assert 'channel right of unit m4 is inf at step 7' in said
    said = fails(capsys, 'fit', write(tmp_path/'b.csv', SPRINGS.x.round()), '--emission', 'bernoulli', '--out', str(tmp_path/'run'))
    assert 'needs x to be 0 or 1' in said and 'of unit m' in said and 'at step' in said
    assert not (tmp_path/'run').exists()


@pytest.mark.parametrize('names', [('price $ per $kg', '$^ $'), ('US$', '$$')])
def test_a_dollar_in_a_name(tmp_path, names):
    run('fit', write(tmp_path/'a.csv', SPRINGS.x, names), '--out', str(tmp_path/'run'))
    assert json.loads((tmp_path/'run/run.json').read_text())['columns']==list(names)
    main(['forecast', str(tmp_path/'run'), str(tmp_path/'a.csv'), '--samples', '20'])
    assert set(pd.read_csv(tmp_path/'run/forecast.csv').channel)==set(names)


def test_forecast_names_the_unit(tmp_path, capsys, no_figures):
    path = write(tmp_path/'a.csv', SPRINGS.x)
    run('fit', path, '--out', str(tmp_path/'run'))
    series = [o.copy() for o in SPRINGS.x]; series[3][:] = np.nan
    bad = write(tmp_path/'b.csv', series)
    with pytest.raises(SystemExit): main(['forecast', str(tmp_path/'run'), bad])
    assert 'unit m3 has no observed value' in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path/'run').iterdir())==sorted(FIT_FILES)


# folders

def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path, capsys, untrained, monkeypatch):
    path = write(tmp_path/'a.csv', SPRINGS.x)
    for out in (path, f'{path}/below', f'{path}/further/below'):
        assert 'a.csv exists and is no folder' in fails(capsys, 'fit', path, '--out', out)
    (tmp_path/'run/table.csv').mkdir(parents=True)
    assert 'table.csv is a folder' in fails(capsys, 'fit', path, '--out', str(tmp_path/'run'))
    def denied(*args, **kwargs): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(cli.tempfile, 'mkdtemp', denied)
    assert 'cannot be written (Permission denied)' in fails(capsys, 'fit', path, '--out', str(tmp_path/'new'))
    with pytest.raises(SystemExit): main(['demo', '--out', str(tmp_path/'new')])
    assert not (tmp_path/'new').exists()


def test_check_folder_leaves_nothing_behind(tmp_path):
    assert check_folder(tmp_path/'a/b', ['c'])==tmp_path/'a/b'
    check_folder(tmp_path, ['c'])
    assert not list(tmp_path.iterdir())


def test_files_come_all_at_once_or_not_at_all(tmp_path):
    out = tmp_path/'a/b'
    with pytest.raises(RuntimeError), whole_folder(out) as folder:
        (folder/'x').write_text('1'); raise RuntimeError
    assert not list(tmp_path.iterdir())
    out.mkdir(parents=True); (out/'x').write_text('old')
    with pytest.raises(RuntimeError), whole_folder(out) as folder:
        (folder/'x').write_text('new'); raise RuntimeError
    assert [p.name for p in out.iterdir()]==['x'] and (out/'x').read_text()=='old'
    with whole_folder(out) as folder:
        (folder/'x').write_text('new'); (folder/'y').write_text('new')
        assert (out/'x').read_text()=='old'
    assert sorted(p.name for p in out.iterdir())==['x', 'y'] and (out/'x').read_text()=='new'


def test_a_fit_that_dies_behind_its_training_leaves_nothing(tmp_path, capsys, monkeypatch):
    def dies(*args, **kwargs): raise ValueError('what nobody thought of')
    monkeypatch.setattr(cli, 'plot_forecast', dies)
    assert 'nobody thought of' in fails(capsys, 'fit', write(tmp_path/'a.csv', SPRINGS.x), '--out', str(tmp_path/'run'))
    assert sorted(p.name for p in tmp_path.iterdir())==['a.csv']


# options

def dashes(command):
    "What fastcore 2 makes of a command: dashes in place of underscores"
    parser = argparse.ArgumentParser()
    for action in anno_parser(command)._actions:
        name = action.option_strings[0] if action.option_strings else action.dest
        if name!='-h': parser.add_argument(name.replace('_', '-') if name.startswith('--') else name, type=action.type, default=action.default)
    return parser


@pytest.mark.parametrize('make', [anno_parser, dashes])
@pytest.mark.parametrize('written', [['--h_dim','16'], ['--h-dim','16'], ['--h_dim=16'], ['--h-dim=16'], ['--h_d','16'], ['--h-d=16']])
def test_both_spellings_with_both_versions(make, written):
    parser = make(cli.fit)
    args = vars(parser.parse_args(spelled(parser, ['a_b-c.csv', *written, '--z-dim', '3', '--emission', 'student_t', '--columns=x_1,x-2'])))
    assert (args['path'], args['h_dim'], args['z_dim'], args['emission'], args['columns'])==('a_b-c.csv', 16, 3, 'student_t', 'x_1,x-2')


def test_what_is_no_option_stays_as_it_is():
    parser = anno_parser(cli.fit)
    assert spelled(parser, ['--nothing_like-it', 'x', '-h', '--', '--h-dim'])==['--nothing_like-it', 'x', '-h', '--', '--h-dim']
    assert spelled(parser, ['--h', '3'])==['--h', '3']           # ambiguous, and argparse says so


def test_held_cuts_say_what_they_leave_out():
    series = SeriesSet([o.copy() for o in SPRINGS.x[:3]], units=['a', 'b', 'c']); series[1][:28] = np.nan
    with pytest.warns(UserWarning, match='not judged.*unit b$'): cuts = held_cuts(series, 6)
    assert {u for u,_ in cuts.units}=={'a', 'c'}
