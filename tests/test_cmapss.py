"Real sensors, as a user has them: a CSV file, the command line, engines held out. Needs the C-MAPSS files (skipped, with a reason, without)"
import pandas as pd, pytest, subprocess, sys
from seqvae.cli import fit_series, judge, main
from seqvae.core import load_model
from seqvae.data import cmapss, split_units

def test_reader(cmapss_path):
    fd = cmapss(cmapss_path, 'FD001'); train,test = fd.series()
    assert len(train)==len(test)==100 and train.lengths.sum()==20631 and test.lengths.sum()==13096 and (train.lengths.min(),train.lengths.max())==(128,362)
    assert train.names==['s2','s3','s4','s7','s8','s9','s11','s12','s13','s14','s15','s17','s20','s21']
    assert fd.train.rul.max()==125 and fd.test.groupby('unit').rul.last().min()==7
    assert len(cmapss(cmapss_path, 'FD002').series()[0])==260 and len(cmapss(cmapss_path, 'FD004').series()[0])==249

def test_from_csv_to_forecast(cmapss_path, tmp_path):
    fd = cmapss(cmapss_path, 'FD001'); sensors = fd.moving()
    fd.train.to_csv(tmp_path/'engines.csv.gz', index=False); fd.test.to_csv(tmp_path/'new.csv', index=False)
    main(['fit', str(tmp_path/'engines.csv.gz'), '--unit','unit', '--time','cycle', '--columns',','.join(sensors), '--horizon','30', '--steps','150', '--h_dim','32', '--out',str(tmp_path/'run')])
    table = pd.read_csv(tmp_path/'run/table.csv', index_col=0)
    assert {'persistence','straight line','seasonal naive','AR, per unit','pooled ridge'}<set(table.index) and table[['crps','cover50','cover90']].notna().all(axis=None)
    assert table.rmse['model']<0.9*table.rmse['persistence'] and table.crps['model']<0.9*table.crps['persistence']       # held-out engines, 30 cycles ahead
    assert table.rmse['pooled ridge']<0.8*table.rmse['persistence'] and 0.85<table.cover90['pooled ridge']<0.94
    assert 0.75<table.cover90['model']<0.98
    main(['forecast', str(tmp_path/'run'), str(tmp_path/'new.csv'), '--horizon','30', '--samples','50'])
    fc = pd.read_csv(tmp_path/'run/forecast.csv')
    assert len(fc)==100*30*14 and fc['mean'].notna().all() and set(fc.unit)==set(range(1,101))
    assert load_model(tmp_path/'run/model.safetensors').x_dim==14
