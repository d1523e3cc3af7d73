"""README.md is made from nbs/index.ipynb. `python tools/readme.py` writes it, `--check` fails where the two disagree.

Markdown cells are taken as they are, code cells are fenced, text output is fenced, pictures go to nbs/images.
(nbdev_readme does the same with the help of Quarto, which not everybody has.)
"""
import base64, json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
index,readme,images = root/'nbs/index.ipynb',root/'README.md',root/'nbs/images'

def text(o): return o if isinstance(o, str) else ''.join(o)

def render(cell, files):
    "One cell as Markdown; pictures are added to `files`"
    src = text(cell['source'])
    if cell['cell_type']=='markdown': return re.sub(r'\]\((?!http)([\w/]+\.ipynb)\)', r'](nbs/\1)', src)  # links start from the top level here
    if re.search(r'^#\|\s*(hide|default_exp)\s*$', src, re.M): return ''
    code = '\n'.join(l for l in src.splitlines() if not l.startswith('#|')).strip('\n')
    out = [f"``` python\n{code}\n```"] if code and not re.search(r'^#\|\s*echo: false', src, re.M) else []
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        if 'image/png' in data:
            name = f'index-{len(files)+1}.png'; files[name] = base64.b64decode(text(data['image/png'])); out.append(f'![](nbs/images/{name})')
        elif 'text/markdown' in data: out.append(text(data['text/markdown']))
        elif o.get('name')!='stderr' and (t := text(o.get('text', data.get('text/plain', ''))).rstrip()): out.append('\n'.join('    '+l for l in t.splitlines()))
    return '\n\n'.join(out)

def build():
    files = {}
    cells = json.loads(index.read_text(encoding='utf-8'))['cells']
    body = '\n\n'.join(filter(None, (render(c, files).strip('\n') for c in cells)))
    return f"{body}\n",files

if __name__=='__main__':
    body,files = build()
    if '--check' in sys.argv:
        old = {p.name:p.read_bytes() for p in images.glob('index-*.png')}
        if readme.read_text(encoding='utf-8')!=body or old!=files: sys.exit("README.md is not what nbs/index.ipynb makes of it: run `python tools/readme.py`")
    else:
        images.mkdir(exist_ok=True)
        for p in images.glob('index-*.png'): p.unlink()
        for n,b in files.items(): (images/n).write_bytes(b)
        readme.write_text(body, encoding='utf-8')
