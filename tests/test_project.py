"The project itself: notebooks were executed, carry no machine's paths, and the rooms import downwards only"
import ast, json, re
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
rooms = ['core','data','models','wavenet','dvae','train','ode','plot','baselines','analysis','rul','events','cli']
below = dict(core=set(), data={'core'}, models={'core'}, wavenet={'core','models'}, dvae={'core','models'}, train={'core','data'}, ode={'core','models'}, plot={'core'}, baselines={'core'}, analysis={'core','data'}, rul={'core','data','dvae','train'}, events={'core','data','ode','train'}, cli=set(rooms)-{'cli'})

@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_notebook_was_executed_and_is_clean(nb):
    cells = json.loads(nb.read_text())['cells']
    code = [c for c in cells if c['cell_type']=='code' and ''.join(c['source']).strip()]
    outputs = [o for c in code for o in c['outputs']]
    assert outputs and not any(o['output_type']=='error' for o in outputs)
    assert not any(o.get('name')=='stderr' and 'Traceback' in ''.join(o['text']) for o in outputs)
    assert all(c.get('id') for c in cells)
    assert not re.search(r'/(home|root|Users|work|tmp)/\w', nb.read_text().replace('\\/', '/'))

@pytest.mark.parametrize('nb', [p for p in notebooks if p.name[0].isdigit()], ids=lambda p: p.stem)
def test_exported_cells_fit_on_a_screen(nb):
    for c in json.loads(nb.read_text())['cells']:
        src = ''.join(c['source'])
        if c['cell_type']=='code' and re.search(r'^#\|\s*export', src, re.M): assert sum(bool(l.strip()) for l in src.splitlines())<=40, src.splitlines()[1:4]

@pytest.mark.parametrize('room', rooms)
def test_imports_run_down(room):
    tree = ast.parse((root/'seqvae'/f'{room}.py').read_text())
    top = {n.module.split('.')[1] for n in tree.body if isinstance(n, ast.ImportFrom) and (n.module or '').startswith('seqvae.')}
    assert top<=below[room]

def test_every_public_name_is_documented():
    for room in rooms:
        tree = ast.parse((root/'seqvae'/f'{room}.py').read_text())
        exported = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id=='__all__')
        for n in tree.body:
            if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in exported: assert ast.get_docstring(n), f'{room}.{n.name}'
