"""Execute notebooks top to bottom, keep their outputs, clean them, export the package and rewrite README.md.

    python tools/notebooks.py                 # all of them, in the order they import each other
    python tools/notebooks.py nbs/04_dvae.ipynb
"""
import subprocess, sys, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
bin = Path(sys.executable).parent

def run(*cmd): subprocess.run([str(bin/cmd[0]), *map(str, cmd[1:])], cwd=root, check=True, stdout=subprocess.DEVNULL)

if __name__=='__main__':
    nbs = [Path(a) for a in sys.argv[1:]] or sorted((root/'nbs').glob('[0-9]*.ipynb')) + sorted((root/'nbs/tutorials').glob('*.ipynb')) + [root/'nbs/index.ipynb']
    run('nbdev_export')
    for nb in nbs:
        t = time.time(); run('jupyter', 'nbconvert', '--to', 'notebook', '--execute', '--inplace', '--log-level=WARN', nb.resolve())
        print(f"{nb.name:32} {time.time()-t:5.0f} s", flush=True)
    run('nbdev_clean'); run('nbdev_export'); run('python', 'tools/readme.py')
