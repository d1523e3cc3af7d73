"""What `make test` runs, in this order: notebooks clean, package exported, README made, notebooks pass, tests pass.

The last line counts what passed and failed. `--slow` includes cells and tests that are marked slow.
"""
import hashlib, os, re, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
bin = Path(sys.executable).parent
slow = '--slow' in sys.argv
env = dict(os.environ, MPLBACKEND='Agg', PATH=f"{bin}{os.pathsep}{os.environ['PATH']}")
passed,failed = 0,0

def call(*cmd): return subprocess.run([str(bin/cmd[0]), *map(str, cmd[1:])], cwd=root, env=env, text=True, capture_output=True)

def tally(ok, name, t0, detail=''):
    global passed, failed
    passed,failed = passed+bool(ok),failed+(not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {name}  ({time.time()-t0:.0f} s)" + ('' if ok else f"\n{detail}"), flush=True)

def snapshot(): return {p:hashlib.sha256(p.read_bytes()).hexdigest() for d in ('nbs','seqvae') for p in sorted((root/d).rglob('*')) if p.is_file() and '__pycache__' not in p.parts and '.ipynb_checkpoints' not in p.parts}

def unchanged(name, *cmd):
    "Run a command that must leave notebooks and package as they are"
    t,before = time.time(),snapshot(); r = call(*cmd); after = snapshot()
    diff = [str(p.relative_to(root)) for p in sorted(before.keys()|after.keys()) if before.get(p)!=after.get(p)]
    tally(r.returncode==0 and not diff, name, t, f"{cmd[0]} changed: {', '.join(diff)}\n{r.stderr[-2000:]}")

def notebook(nb):
    t = time.time(); r = call('nbdev_test', '--path', nb, '--n_workers', '0', *(['--flags', 'slow'] if slow else []))
    return nb,t,r

if __name__=='__main__':
    unchanged('notebooks are clean', 'nbdev_clean')
    unchanged('package is exported from notebooks', 'nbdev_export')
    t = time.time(); r = call('python', 'tools/readme.py', '--check'); tally(r.returncode==0, 'README.md is made from index.ipynb', t, r.stderr)
    nbs = [p for p in sorted((root/'nbs').rglob('*.ipynb')) if not any(o.startswith(('.','_')) for o in p.relative_to(root).parts)]
    with ThreadPoolExecutor(2) as ex:
        for nb,t,r in ex.map(notebook, nbs): tally(r.returncode==0, f'nbdev_test {nb.relative_to(root)}', t, r.stdout[-3000:]+r.stderr[-5000:])
    two = ['-n', '2', '--dist', 'loadfile']  # a file's tests stay in one process
    p = subprocess.run([str(bin/'pytest'), 'tests', '-q', *two, '--durations=8', *([] if slow else ['-m','not slow'])], cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(p.stdout, flush=True)
    last = p.stdout.strip().splitlines()[-1] if p.stdout.strip() else ''
    count = lambda word: sum(int(n) for n in re.findall(rf'(\d+) {word}', last))
    bad = count('failed')+count('errors?')
    passed += count('passed'); failed += bad or (p.returncode!=0)
    skipped = count('skipped')
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ''))
    sys.exit(bool(failed))
