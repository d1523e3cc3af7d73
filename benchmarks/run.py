"""All measured claims: speed ratios, then accuracy over three data seeds (some seven hours on two cores with all data sets), summed up as medians with their range.

    python benchmarks/run.py [--cmapss FOLDER] [--sparc FOLDER] [--spivae PYTHON] [--review FOLDER] [--music FOLDER] [--fsdd FOLDER] [--physionet FOLDER] [--coal FOLDER] [--quakes FOLDER] [--results FILE]      # run; JSON lines are added to FILE
    python benchmarks/run.py --summary FILE                          # sum up what is there
"""
import argparse, json, os, statistics, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

here = Path(__file__).resolve().parent

def one(cmd):
    r = subprocess.run([sys.executable, *map(str, cmd)], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    if r.returncode: sys.exit(f"{' '.join(map(str, cmd))} failed:\n{r.stderr[-3000:]}")
    return r.stdout.strip().splitlines()[-1]

def spread(vs, form='{:.4g}'): return f"{form.format(statistics.median(vs))} ({form.format(min(vs))} to {form.format(max(vs))})"

def summary(rows):
    "Median and range over seeds of each figure"
    for noise in sorted({r['noise'] for r in rows if 'noise' in r}):
        rs = [r for r in rows if r.get('noise')==noise and 'dvae' in r]; simple = [r for r in rows if r.get('noise')==noise and 'ridge' in r]
        print(f"\nmass_spring, noise {noise}, {len(rs)} data seeds, {spread([r['cpu_s'] for r in rs], '{:.0f}')} CPU-seconds of training: median (range)")
        for k in ('one_step_mse_median','one_step_mse','mse','mse_median','crps','cover50','cover90','cover3s','kl','kl_T40','active','nll','nll_shuffled'): print(f"  {k:20} {spread([r['dvae'][k] for r in rs])}")
        for b in ('persistence','trend','seasonal','ar32','var2','ridge','harmonic2'):
            have = [r[b] for r in ((simple or rs) if b!='harmonic2' else rs) if b in r]
            if have: print(f"  {'mse of '+b:20} {spread([o['mse'] for o in have])}   median unit {spread([o['mse_median'] for o in have])}" + (f"   crps {spread([o['crps'] for o in have])}   cover90 {spread([o['cover90'] for o in have], '{:.3f}')}" if 'cover90' in have[0] else ''))
    rs = [r for r in rows if r.get('set')=='FD001' and 'rows' in r and r.get('part')!='baselines']; simple = [r for r in rows if r.get('set')=='FD001' and r.get('part')=='baselines'] or rs
    if rs:
        print(f"\nFD001, 30 cycles ahead, 14 sensors, {len(rs)} seeds of split and training, {spread([r['cpu_s'] for r in rs], '{:.0f}')} CPU-seconds")
        for n in dict.fromkeys(['model', *simple[0]['rows']]):
            have = [r['rows'][n] for r in (rs if n=='model' else simple)]
            for k in ('rmse','crps','cover90'):
                if have[0].get(k) is not None: print(f"  {n:14} {k:8} {spread([o[k] for o in have])}")

    rs = [r for r in rows if r.get('set')=='static']
    if rs: static_summary(rs)
    rs = [r for r in rows if r.get('set')=='diffusion' and 'seed' in r]
    if rs: diffusion_summary(rs)
    rul_summary([r for r in rows if r.get('task')=='rul'])
    calibration_summary([r for r in rows if r.get('task')=='calibration'])
    first = [r for r in rows if r.get('task')=='first_page']
    if first: print(f"\nthe first page's example, {len(first)} seeds of data and training: "+', '.join(f"{k} {spread([r[k] for r in first])}" for k in ('rmse','crps','cover90','kl','active','cpu_s'))+', AR of each unit: '+', '.join(f"{k} {spread([r['ar'][k] for r in first])}" for k in ('rmse','crps')))
    ode_summary(rows)
    speed_summary([r for r in rows if r.get('task')=='speed' or (r.get('set')=='diffusion' and 'speed' in r)])
    for name,flat in (('jsb',lambda r: r), ('fsdd',lambda r: {f'{task} {m}':v for task in ('waves','spectra') for m,v in r.get(task, {}).items()})):
        rs = [r for r in rows if r.get('set')==name and r['part']=='test']
        if rs: family_summary(name, [flat(r) for r in rs])

def speed_summary(rows):
    "Ratios of time: how often ours fits into the reference"
    if rows: print('\nspeed, ratios of time (median, quartiles where there are several runs)')
    for r in rows:
        for k,v in r.get('speed', r).items():
            if isinstance(v, list): print(f"  {k:42} {v[0]:.2f}x ({v[1]:.2f} to {v[2]:.2f})")
            elif k=='generation': [print(f"  {'drawing, '+w:42} {x:.1f}x") for w,x in v.items()]
            elif k=='epoch_ratio': print(f"  {'VAEWaveNet epoch, spivae':42} {1/v:.2f}x")
            elif k=='fbm_ratio': print(f"  {'fractional Brownian motion, path by path':42} {v:.0f}x")

def family_summary(name, rs):
    print(f"\n{dict(jsb='JSB chorales, test, nats per frame (lower is better)', fsdd='FSDD, test: waveforms of a held-out speaker, nats per 200-sample frame (higher is better); spectra, SI-SDR in dB')[name]}")
    for m in sorted({k for r in rs for k,v in r.items() if isinstance(v, dict)}):
        have = [r[m] for r in rs if m in r]
        for k in [k for k in have[0] if all(k in o for o in have)]: print(f"  {m+' '+k:34} {spread([r[k] for r in have])}   {len(have)} seed{'s' if len(have)>1 else ''}")

def rul_summary(rows):
    "Remaining useful life: a line for each model and set, at the last cycle, over all cycles, and on held-out training engines"
    names = dict(last='test engines, last cycle, truth capped at 125 too', last_uncapped='test engines, last cycle, true RUL without a cap', all='test engines, all cycles (another task)', mid_life='held-out training engines, all cycles with 6 to 145 left')
    keys = dict(last=('rmse','nasa','crps','cover50','cover95','width95'), last_uncapped=('rmse','nasa','crps','cover95'), all=('rmse','crps','cover95'), mid_life=('rmse','crps','cover50','cover95','width95'))
    for s,part,n in sorted({(r['set'],k,r['members']) for r in rows for k in names if k in r}):
        rs = [r for r in rows if r['set']==s and part in r and r['members']==n]; print(f"\nRUL, {s}, {names[part]}, {n} network{'s' if n>1 else ''}, cap 125: median (range) of the seeds")
        for m in dict.fromkeys(m for r in rs for m in r[part]):
            have = [r for r in rs if m in r[part]]; show = lambda vs,form='{:.3g}': spread(vs, form)
            line = [f"{k} {show([r[part][m][k] for r in have], '{:.0f}' if k=='nasa' else '{:.3g}')}" for k in keys[part] if k in have[0][part][m]]
            if part=='last' and f'{m} cautious' in have[0]: line.append(f"nasa of the cautious answer {show([r[f'{m} cautious'] for r in have], '{:.0f}')}")
            cpu = [r['cpu_s'][m] for r in have if m in r['cpu_s']]
            if cpu and part in ('last','mid_life'): line.append(f"CPU-s {show(cpu, '{:.0f}')}")
            print(f"  {m:14} {', '.join(line)}   {len(have)} seed{'s' if len(have)>1 else ''}")

def ode_summary(rows):
    "Continuous time: spirals, PhysioNet, rates of events, speed"
    for n in (100,50,30):
        rs = [r for r in rows if r.get('task')=='spirals' and r['n_obs']==n and r['part']=='test']
        if rs: print(f"\nspirals, {n} measurements, RMSE on clean points, {len(rs)} seeds: median (range)\n  " + ', '.join(f"{label} {spread([r[k] for r in rs], '{:.3f}')}" for k,label in dict(after='100 steps after', within='within the window', median_series='median series, after', oracle='oracle, after', cover50='50 % interval holds', cover90='90 % interval holds', before='100 steps before, which nothing asks for', solver_error='largest error of the solver').items()) + f", CPU-s {spread([r['cpu_s'] for r in rs], '{:.0f}')}")
    for what,label in dict(reconstruct='all measurements through one latent (interpolation in the published sense)', ahead='one step ahead').items():
        rs = [r for r in rows if r.get('task')=='physionet' and r['what']==what and r['part']=='test']
        if rs:
            print(f"\nPhysioNet 2012, {label}, MSE x 1000: published measure on [0, 1], the same divided by the maximum as in the published code, pooled; {len(rs)} seeds, CPU-s {spread([r['cpu_s'] for r in rs], '{:.0f}')}")
            for m in [k for k in rs[0] if isinstance(rs[0][k], dict)]: print(f"  {m:18} " + ', '.join(f"{k} {spread([r[m][k] for r in rs], '{:.2f}')}" for k in ('published','by_max','pooled')))
    rs = [r for r in rows if r.get('task')=='events']
    if rs:
        print(f"\nrates of events, {len(rs)} seeds of fitting: log-likelihood in nats")
        for d,keys in (('coal',('ode','change','constant','p','cpu_s')),('coal held out',('ode','change','constant','over_change','over_change_sd','wins','ode p>0.05','change p>0.05','constant p>0.05')),('coal held out, 100 splits',('ode','change','constant','over_change','over_change_sd','wins','ode p>0.05'))):
            if d in rs[0]: print(f"  {d:26} " + ', '.join(f"{k} {spread([r[d][k] for r in rs])}" for k in keys))
        for k in rs[0]['known']: print(f"  {'known rate, '+k:26} relative error {spread([r['known'][k]['error'] for r in rs])}, inside the 90 % band {spread([r['known'][k]['inside'] for r in rs])}")
        for d in ('global M7','Parkfield M2'): print(f"  {d:26} " + ', '.join(f"{k} {spread([r[d][k] for r in rs])}" for k in ('ode','constant','p','p_constant')) + ", held out " + ', '.join(f"{k} {spread([r[d]['held_out'][k] for r in rs])}" for k in ('ode','change','constant')))
    for r in [r for r in rows if r.get('task')=='ode_speed']: print('\ncontinuous time against the published ways, ratios of time:', json.dumps({k:v for k,v in r.items() if k!='task'}))

def static_summary(rs):
    print(f"\nGaussian in two dimensions, {len(rs)} seeds of data and training")
    for k in rs[0]['gaussian']: print(f"  {k:34} {spread([r['gaussian'][k] for r in rs])}")
    print(f"\nrotation curves, {len(rs)} seeds of data and training")
    for p in ('diag','full'):
        for k in ('elbo','error','cpu_s'): print(f"  {p+' '+k:34} {spread([r[p][k] for r in rs])}")
        for k in ('linear','network'):
            print(f"  {p+' R2 '+k+', mean of four':34} {spread([statistics.mean(r[p][k]) for r in rs])}")
            for i,n in enumerate(('disc mass','halo mass','disc length','concentration')): print(f"  {p+' R2 '+k+', '+n:34} {spread([r[p][k][i] for r in rs])}")
    print(f"  {'ELBO, full minus diag':34} {spread([r['full']['elbo']-r['diag']['elbo'] for r in rs])}")
    for k in ('tilt','tilt_stretches'): print(f"  {k:34} {spread([r['full'][k] for r in rs])}")
    for k in rs[0]['full'].get('sparc', {}): print(f"  {'SPARC within 2 sigma, '+k:34} {spread([r['full']['sparc'][k] for r in rs])}")

def calibration_summary(rows):
    "Coverage, spread and crps of default forecasts beside the exact predictive distribution"
    for recipe in dict.fromkeys(r["recipe"] for r in rows):
        print(f"\ncalibration of default forecasts, recipe {recipe!r}, medians (ranges) over seeds at steps 1, 10 and 20; sd and crps relative to the exact predictive distribution")
        own = [r for r in rows if r["recipe"] == recipe]
        for process, model in dict.fromkeys((r["process"], r["model"]) for r in own):
            rs = [r for r in own if (r["process"], r["model"]) == (process, model)]
            at = lambda k: "  ".join(spread([r[k][i] for r in rs], "{:.2f}") for i in range(3))
            print(f"  {process:33} {model:18} cover90 {at('cover90_ours')}   sd {at('sd_ratio')}   crps {spread([r['crps_ratio'] for r in rs], '{:.2f}')}   CPU-s {max(r['cpu_s'] for r in rs):.0f}")

def diffusion_summary(rs):
    print(f"\ndiffusing particles, {len(rs)} seeds of data and training, nats per displacement")
    for k in ('known','known_32','exact','ideal_alpha_rmse'): print(f"  {k:34} {spread([r[k] for r in rs], '{:.4f}')}")
    for m in ('four','long','memory'):
        for k in rs[0][m]:
            if k!='slopes': print(f"  {m+' '+k:34} {spread([r[m][k] for r in rs])}")
        for a in rs[0][m].get('slopes', {}): print(f"  {m+' slope, alpha '+a:34} {spread([r[m]['slopes'][a] for r in rs], '{:.3f}')}")

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--cmapss', default=os.environ.get('SEQVAE_CMAPSS')); p.add_argument('--sparc', default=os.environ.get('SEQVAE_SPARC')); p.add_argument('--spivae', default=os.environ.get('SEQVAE_SPIVAE'), help='interpreter of an environment that has the spivae package'); p.add_argument('--review', default=os.environ.get('SEQVAE_REVIEW'), help='clone of the code of the review of dynamical VAEs'); p.add_argument('--music', default=os.environ.get('SEQVAE_MUSIC')); p.add_argument('--fsdd', default=os.environ.get('SEQVAE_FSDD')); p.add_argument('--physionet', default=os.environ.get('SEQVAE_PHYSIONET')); p.add_argument('--coal', default=os.environ.get('SEQVAE_COAL')); p.add_argument('--quakes', default=os.environ.get('SEQVAE_QUAKES')); p.add_argument('--results', default='runs/bench.jsonl'); p.add_argument('--summary')
    a = p.parse_args()
    if a.summary: summary([json.loads(l) for l in Path(a.summary).read_text().splitlines()]); sys.exit()
    quiet = json.loads(one((here/'speed.py', *(['--review', a.review] if a.review else []))))      # alone, before the others take the cores
    jobs = [(here/'mass_spring.py', '--noise', n, '--seed', s) for s in range(3) for n in (0.1, 0.)]
    jobs += [(here/'static.py', '--seed', s, *(['--sparc', a.sparc] if a.sparc else [])) for s in range(3)]
    jobs += [(here/'diffusion.py', '--speed', *(['--spivae', a.spivae] if a.spivae else []))]+[(here/'diffusion.py', '--seed', s) for s in range(5)]
    if a.cmapss:
        jobs += [(here/'turbofan.py', a.cmapss, '--seed', s) for s in range(3)]
        jobs += [(here/'rul.py', a.cmapss, '--set', d, '--seed', s) for d in ('FD001','FD002','FD004') for s in range(3)]
        jobs += [(here/'rul.py', a.cmapss, '--part', 'valid', '--kinds', 'dvae,dvae chain,rnn,dvae feedback,rnn feedback', '--members', 1, '--seed', s) for s in range(3)]
    else: print('no C-MAPSS folder given (--cmapss or SEQVAE_CMAPSS): FD001 is left out')
    jobs += [(here/'ode_speed.py',)]+[(here/'spirals.py', '--n_obs', n, '--seed', s) for n in (100,50,30) for s in range(3)]
    if a.physionet: jobs += [(here/'physionet.py', a.physionet, '--task', t, '--seed', s) for t in ('reconstruct','ahead') for s in range(3)]
    if a.coal and a.quakes: jobs += [(here/'events.py', a.coal, a.quakes, '--seed', s) for s in range(3)]
    if a.music: jobs += [(here/'music.py', a.music, '--seed', s) for s in range(3)]
    if a.fsdd: jobs += [(here/'speech.py', a.fsdd, '--seed', s) for s in range(3)]
    jobs += [(here/'first_page.py', '--data', d, '--seed', s) for d,s in ((0,0),(0,1),(77,0),(78,0),(79,0),(77,77))]
    jobs += [(here/'calibration.py', '--seed', s, '--processes', p, '--models', m) for s in range(3) for p in range(7) for m in ('DVAE','VRNN','SRNN','AutoregressiveRNN')]
    jobs += [(here/'calibration.py', '--seed', s, '--processes', p, '--models', 'DVAE', '--overshoot') for s in range(3) for p in range(7)]
    out = Path(a.results); out.parent.mkdir(parents=True, exist_ok=True); rows = [quiet]
    with ThreadPoolExecutor(2) as ex, out.open('a') as f:
        f.write(json.dumps(quiet)+'\n')
        for line in ex.map(one, jobs): rows.append(json.loads(line)); f.write(line+'\n'); f.flush(); print(f"{len(rows)-1} of {len(jobs)} runs done", flush=True)
    summary(rows)
