"The project itself: notebooks were executed, carry no machine's paths, and the rooms import downwards only"
import ast, json, re, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
rooms = ['core','data','models','wavenet','dvae','train','ode','plot','baselines','analysis','rul','events','testing','cli']
below = dict(core=set(), data={'core'}, models={'core'}, wavenet={'core','models'}, dvae={'core','models'}, train={'core','data'}, ode={'core','models'}, plot={'core'}, baselines={'core','data'}, analysis={'core','data'}, rul={'core','data','dvae','train'}, events={'core','data','ode','train'}, testing={'core'}, cli=set(rooms)-{'cli'})

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

def imported_rooms(source):
    """The rooms of seqvae that a module's source imports, anywhere in it

    Relative or absolute, at the top or inside a function, by statement or by name
    (`import_module`). The package itself (`import seqvae`, for its version) is no room.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ('seqvae.' if node.level else '') + (node.module or '')
            found.add(module)
            found |= {f"{module.rstrip('.')}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, 'attr', getattr(node.func, 'id', None))
            first = node.args[0]
            if called in ('import_module', '__import__') and isinstance(first, ast.Constant):
                name = str(first.value)
                found.add(f'seqvae{name}' if name.startswith('.') else name)
    parts = [name.split('.') for name in found]
    return {name[1] for name in parts if name[0] == 'seqvae' and len(name) > 1} & set(rooms)


@pytest.mark.parametrize('source', [
    'from .plot import plot_forecast',
    'from seqvae.plot import (plot_forecast,\n    plot_latents)',
    'from . import plot',
    'from . import (check, plot as pictures)',
    'from seqvae import plot',
    'import seqvae.plot',
    'import math, seqvae.plot as pictures',
    'def draw():\n    from .plot import plot_forecast\n    return plot_forecast',
    'class A:\n    def draw(self):\n        if self:\n            import seqvae.plot',
    'try:\n    from .plot import plot_forecast\nexcept ImportError:\n    pass',
    'import importlib\nimportlib.import_module("seqvae.plot")',
    'from importlib import import_module\nimport_module(".plot", "seqvae")',
])
def test_a_breach_is_seen_however_it_is_written(source):
    assert imported_rooms(f'"About seqvae.cli"\nfrom .core import Loss\n{source}\n') == {'core', 'plot'}


def test_other_packages_and_the_package_itself_are_no_rooms():
    source = 'import seqvae, plot, core.data\nfrom train import cli\nfrom seqvae import __version__'
    assert imported_rooms(source) == set()


def test_the_order_of_rooms_is_one():
    assert set(below) == set(rooms) == {p.stem for p in (root/'seqvae').glob('[!_]*.py')}
    for i, room in enumerate(rooms):
        assert below[room] <= set(rooms[:i]), room


@pytest.mark.parametrize('room', rooms)
def test_imports_run_down(room):
    found = imported_rooms((root/'seqvae'/f'{room}.py').read_text())
    assert found <= below[room], f'{room} imports {sorted(found-below[room])}, which lie above it'
    assert found or room == 'core'  # a checker that finds nothing anywhere checks nothing


def test_every_public_name_is_documented():
    for room in rooms:
        tree = ast.parse((root/'seqvae'/f'{room}.py').read_text())
        exported = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id=='__all__')
        for n in tree.body:
            if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in exported: assert ast.get_docstring(n), f'{room}.{n.name}'

def test_a_forecast_draws_itself_whichever_room_was_imported_first():
    "core names no room above it, and still `fc.plot()` is there for who imported core alone"
    program = ('import torch; from seqvae.core import Forecast; '
               'print(len(Forecast(torch.randn(20, 1, 4, 2)).plot()))')
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, cwd=root)
    assert run.stdout.strip() == '2', run.stderr
