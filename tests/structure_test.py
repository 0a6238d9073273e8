# SPDX-License-Identifier: Apache-2.0
"""The shape of the code: layers, mesh axes, sizes, names, banned constructs."""

import ast
from collections.abc import Iterator
import functools
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = ('meta_cot', 'data_pipelines')
FOLDERS = (*LIBRARY, 'configs', 'benchmarks', 'examples', 'tests')

# Imports point to lower layers, without exceptions.
LAYERS = (
    {'masked', 'problem', 'settings', 'types', 'version'},
    {'sharding'},
    {'program', 'runtime'},
    {'model', 'objectives', 'search', 'verifiers'},
    {'decode', 'traces'},
    {'reasoning', 'tasks'},
    {'data_pipelines'},
    {'rollouts', 'training'},
    {'solvers'},
    {'evaluation', 'rl'},
    {'stages'},
    {'view'},
    {'checkpoint', 'compile', 'convert', 'main', 'solve'},
)
MESH_AXES = ('data', 'fsdp', 'model')
MAX_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_SETTINGS = 20  # of a group


def _files(*folders: str) -> list[pathlib.Path]:
  """Python files of the folders, relative to the root."""
  return sorted(
      path.relative_to(ROOT) for folder in folders
      for path in (ROOT / folder).rglob('*.py'))


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
  return ast.parse((ROOT / path).read_text(), filename=str(path))


def _is_module(name: str) -> bool:
  path = ROOT / name.replace('.', '/')
  return path.is_dir() or path.with_suffix('.py').is_file()


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
  """Line and dotted name of every import, wherever it stands."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      base = '.' * node.level + (node.module or '')
      for alias in node.names:
        full = f'{base}.{alias.name}'
        yield node.lineno, full if _is_module(full) else base


def _area(module: str) -> str | None:
  """'meta_cot.search.tree' -> 'search'; None for what is not the library."""
  first, *rest = module.split('.')
  if first == 'data_pipelines':
    return first
  return rest[0] if first == 'meta_cot' and rest else None


def _layer(area: str) -> int:
  for i, areas in enumerate(LAYERS):
    if area in areas:
      return i
  raise AssertionError(
      f'{area} has no layer; add it to LAYERS in tests/structure_test.py.')


def _import_error(area: str, module: str) -> str | None:
  """What is wrong with importing `module` from `area`."""
  if module.startswith('.'):
    return 'relative import; write the full name'
  target = _area(module)
  if module.partition('.')[0] in ('configs', 'tests', 'benchmarks'):
    return 'the library does not import it'
  if target is None or target == area:
    return None
  if _layer(target) >= _layer(area):
    return f'{target} is not in a layer below {area}'
  return None


def test_imports_point_down():
  wrong = []
  for path in _files(*LIBRARY):
    area = _area('.'.join(path.with_suffix('').parts))
    if area in (None, '__init__'):
      area = 'types'  # the top package stays empty
    for line, module in _imports(_tree(path)):
      error = _import_error(area, module)
      if error:
        wrong.append(f'{path}:{line}: imports {module}: {error}')
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('area, module, is_right', [
    ('search', 'meta_cot.types', True), ('search', 'meta_cot.model', False),
    ('search', 'meta_cot.decode', False), ('model', 'meta_cot.search', False),
    ('objectives', 'meta_cot.training.step', False),
    ('tasks', 'meta_cot.traces.record', True),
    ('traces', 'meta_cot.tasks.base', False), ('rl', 'configs.base', False),
    ('stages', 'meta_cot.rl.learner', True), ('types', 'jax', True),
    ('rollouts', 'meta_cot.rl.learner', False), ('rl', '.learner', False)])
def test_the_rule_itself(area, module, is_right):
  assert (_import_error(area, module) is None) == is_right


def test_configs_import_settings_only():
  wrong = [
      f'{path}:{line}: imports {module}'
      for path in _files('configs') for line, module in _imports(_tree(path))
      if module.partition('.')[0] not in ('ml_collections', 'configs')
      and module.partition('.')[0] not in sys.stdlib_module_names]
  assert not wrong, '\n'.join(wrong)


def _names_of_mesh_axes(tree: ast.Module) -> Iterator[tuple[int, str]]:
  """Specs and mesh axis names where only sharding.py may have them."""
  for node in ast.walk(tree):
    name = getattr(node, 'id', getattr(node, 'attr', None))
    if isinstance(node, ast.alias):
      name = node.name.rpartition('.')[2]
    if name in ('PartitionSpec', 'NamedSharding', 'make_mesh'):
      if not (isinstance(node, ast.Attribute) and _is_ours(node)):
        yield getattr(node, 'lineno', 0), name
    if isinstance(node, ast.Constant) and node.value == 'fsdp':
      yield node.lineno, "'fsdp'"
    if (isinstance(node, ast.Subscript)
        and getattr(node.value, 'attr', '') == 'shape'
        and getattr(node.slice, 'value', None) in MESH_AXES):
      yield node.lineno, f'mesh.shape[{node.slice.value!r}]'
    if (isinstance(node, ast.keyword)
        and node.arg in ('axis_name', 'axis_names', 'spmd_axis_name')):
      yield node.value.lineno, node.arg


def _is_ours(node: ast.Attribute) -> bool:
  """sharding.make_mesh is our own function, jax.make_mesh is not."""
  return (node.attr == 'make_mesh'
          and getattr(node.value, 'id', '') in ('sharding', 'sharding_lib'))


def test_only_sharding_names_mesh_axes():
  wrong = [
      f'{path}:{line}: {what} belongs in meta_cot/sharding.py'
      for path in _files(*LIBRARY)
      if path != pathlib.Path('meta_cot/sharding.py')
      for line, what in _names_of_mesh_axes(_tree(path))]
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('source', [
    'from jax.sharding import PartitionSpec', 'sharding.NamedSharding(m, s)',
    "x = mesh.shape['data']", "axes = ('fsdp',)", 'jax.make_mesh((1,), n)',
    "jax.vmap(f, axis_name='i')"])
def test_mesh_axes_are_found(source):
  assert list(_names_of_mesh_axes(ast.parse(source)))


def test_only_sharding_takes_the_number_of_a_process_from_jax():
  """JAX numbers processes by their devices; who writes is the launcher's 0."""
  assert [path for path in _files('meta_cot') if 'jax.process_index(' in (
      ROOT / path).read_text()] == [pathlib.Path('meta_cot/sharding.py')]


def test_sizes():
  wrong = []
  for path in _files(*FOLDERS):
    lines = len((ROOT / path).read_text().splitlines())
    cap = 25 if path.name == '__init__.py' else MAX_LINES
    if lines > cap:
      wrong.append(f'{path}: {lines} lines, at most {cap}')
    if path.parts[0] == 'tests':  # independent references may be long
      continue
    for node in ast.walk(_tree(path)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = node.end_lineno - node.lineno + 1
        doc = ast.get_docstring(node, clean=False)
        lines -= len(doc.splitlines()) if doc else 0
        if lines > MAX_FUNCTION_LINES:
          wrong.append(
              f'{path}:{node.lineno}: {node.name} has {lines} lines without '
              f'its docstring, at most {MAX_FUNCTION_LINES}')
  assert not wrong, '\n'.join(wrong)


def test_names_say_what_is_inside():
  vague = {'utils', 'util', 'helpers', 'helper', 'common', 'misc', 'lib'}
  wrong = [
      str(path) for path in _files(*FOLDERS)
      if vague & set(path.with_suffix('').parts)
      or re.search(r'_(lib|utils?|helpers?|v\d+)$', path.stem)]
  assert not wrong, wrong


def _banned(node: ast.AST) -> str | None:
  """Constructs that hide errors, settings or run foreign text."""
  if isinstance(node, ast.ExceptHandler):
    caught = ast.unparse(node.type) if node.type else 'everything'
    if caught in ('everything', 'Exception', 'BaseException'):
      return f'catches {caught}'
  if isinstance(node, ast.Call):
    called = ast.unparse(node.func)
    if called in ('eval', 'exec', 'sympify', 'sympy.sympify', 'os.system'):
      return f'calls {called}'
    if re.search(r'(^|[._])config\.get$', called):
      return 'config.get hides a default'
    if any(k.arg == 'shell' and ast.unparse(k.value) == 'True'
           for k in node.keywords):
      return 'runs a shell'
  if isinstance(node, ast.Import | ast.ImportFrom):
    names = {getattr(node, 'module', None), *(a.name for a in node.names)}
    if names & {'pickle', 'cloudpickle', 'dill'}:
      return 'imports pickle'
  return None


def test_nothing_hides_errors_or_runs_text():
  wrong = [
      f'{path}:{node.lineno}: {_banned(node)}'
      for path in _files(*LIBRARY, 'configs', 'benchmarks')
      for node in ast.walk(_tree(path)) if _banned(node)]
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('source', [
    'try:\n  f()\nexcept:\n  pass', 'try:\n  f()\nexcept Exception:\n  pass',
    'eval(x)', "config.get('b2', 0.9)", 'import pickle',
    'subprocess.run(x, shell=True)'])
def test_bans_are_found(source):
  assert any(map(_banned, ast.walk(ast.parse(source))))


def _settings(tree: ast.AST) -> Iterator[tuple[int, str, int]]:
  """Line, name and number of fields of every group of settings."""
  for node in ast.walk(tree):
    if isinstance(node, ast.ClassDef):
      fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
      if any(isinstance(x.value, ast.Call)
             and re.search(r'(^|[._])setting$', ast.unparse(x.value.func))
             for x in fields):
        yield node.lineno, node.name, len(fields)


def test_groups_of_settings_are_small():
  groups = [
      (path, *group) for path in _files(*LIBRARY)
      for group in _settings(_tree(path))]
  assert len(groups) > 10
  wrong = [
      f'{path}:{line}: {name} has {size} settings, at most {MAX_SETTINGS}'
      for path, line, name, size in groups if size > MAX_SETTINGS]
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('call', [
    'setting(low=1)', '_setting()', 'config_lib.setting()'])
def test_settings_are_counted(call):
  source = f'class A:\n  """..."""\n  a: int = {call}\n  b: B\n  c = 1'
  assert list(_settings(ast.parse(source))) == [(1, 'A', 2)]
  assert not list(_settings(ast.parse('class A:\n  a: int = field()')))


# A task and a style by their names: nothing else knows one.
_NAMED = re.compile(
    r"countdown|['\"`]compact['\"`]|style compact|compact style")
_NAMERS = ('meta_cot/tasks/countdown.py', 'meta_cot/traces/arithmetic/')
_TASK_KINDS = 'meta_cot/tasks/factory.py'  # the one dict of task modules


def test_only_their_own_folders_name_a_task_and_a_style():
  wrong = [
      f'{path}:{i}: {line.strip()}' for path in _files(*LIBRARY)
      if not path.as_posix().startswith(_NAMERS)
      and path.as_posix() != _TASK_KINDS
      for i, line in enumerate((ROOT / path).read_text().splitlines(), 1)
      if _NAMED.search(line)]
  assert not wrong, '\n'.join(wrong)
  assert (ROOT / _TASK_KINDS).read_text().count('countdown') == 2  # one entry


# Folders and files of a workdir.
_PLACES = re.compile(
    r"/ '(traces|problems|tokenizer|sft|rl|evaluate|search|done|begun|eval)'")


def test_below_the_stages_nothing_names_a_path_of_a_workdir():
  wrong = [
      f'{path}:{i}: {line.strip()}' for path in _files(*LIBRARY)
      if path.parts[1] not in ('stages', 'main.py')
      for i, line in enumerate((ROOT / path).read_text().splitlines(), 1)
      if _PLACES.search(line) and 'directory / ' not in line]
  assert not wrong, '\n'.join(wrong)
