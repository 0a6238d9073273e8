# SPDX-License-Identifier: Apache-2.0
"""What surrounds the code: licences, scripts, packaging and BUILD files."""

import ast
from collections.abc import Iterator
import graphlib
import os
import pathlib
import re
import subprocess

from packaging import requirements
from packaging import version as version_lib
import pytest

from meta_cot import version

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = (
    'meta_cot', 'data_pipelines', 'configs', 'tests', 'benchmarks', 'launch',
    'docs', '.ci')
SUFFIXES = {
    '.py', '.sh', '.toml', '.txt', '.md', '.cfg', '.yaml', '.json', '.bzl', ''}
SCRIPTS = ('test.sh', 'launch/quickstart.sh', '.ci/run', '.ci/bazel')
# In pieces, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    r'(?<![\w.])/(' + '|'.join(
        ('wo' + 'rk', 'ro' + 'ot', 'ho' + 'me', 'tm' + 'p', 'Us' + 'ers'))
    + r')/\w|\.\./sh' + 'ared')
SOFT_SPOTS = re.compile('|'.join((
    'TO' + 'DO', 'FIX' + 'ME', r'# no' + 'qa', 'type: ' + 'ignore',
    r'pytest\.mark\.(skip|xf' + 'ail)', r'pytest\.sk' + r'ip\(',
    'importor' + 'skip')))


def _texts() -> Iterator[tuple[pathlib.Path, str]]:
  """Text files of the project, without what tools leave behind."""
  paths = [p for p in ROOT.iterdir() if p.is_file()]
  for folder in FOLDERS:
    paths += (p for p in (ROOT / folder).rglob('*') if p.is_file())
  for path in sorted(paths):
    relative = path.relative_to(ROOT)
    if path.suffix in SUFFIXES and '__pycache__' not in relative.parts:
      yield relative, path.read_text()


def test_code_starts_with_its_licence():
  wrong = []
  for path, text in _texts():
    is_code = path.suffix in (
        '.py', '.sh', '.toml', '.txt', '.bzl') or path.name in (
            'BUILD', 'WORKSPACE', '.bazelrc', 'bazel', 'run')
    lines = text.splitlines()
    if lines and lines[0].startswith('#!'):
      lines.pop(0)
    is_code = is_code and 'golden' not in path.parts
    if is_code and (not lines or lines[0] != (
        '# SPDX-License-Identifier: Apache-2.0')):
      wrong.append(str(path))
  assert not wrong, f'first line must name the licence: {wrong}'
  assert 'Apache License' in (ROOT / 'LICENSE').read_text()


def test_no_paths_of_one_machine():
  wrong = [
      f'{path}:{i}: {line.strip()}' for path, text in _texts()
      for i, line in enumerate(text.splitlines(), 1)
      if MACHINE_PATHS.search(line)]
  assert not wrong, '\n'.join(wrong)


def test_no_soft_spots():
  wrong = [
      f'{path}:{i}: {line.strip()}' for path, text in _texts()
      if path.suffix in ('.py', '.sh', '')
      for i, line in enumerate(text.splitlines(), 1)
      if SOFT_SPOTS.search(line)]
  assert not wrong, '\n'.join(wrong)


def test_readme_is_read_in_one_sitting():
  lines = (ROOT / 'README.md').read_text().splitlines()
  assert 10 <= len(lines) <= 150


@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_run(script):
  assert os.access(ROOT / script, os.X_OK), f'{script} needs its run bit'
  subprocess.run(['bash', '-n', script], cwd=ROOT, check=True)
  assert 'set -euo pipefail' in (ROOT / script).read_text()


def test_environment_needs_a_recent_python():
  run = lambda names: subprocess.run(
      ['bash', '-c', 'set -eu; source launch/environment.sh; find_python'],
      cwd=ROOT, env={**os.environ, 'META_COT_PYTHON': names},
      capture_output=True, text=True, check=False)
  wrong = run('no-such-python')
  assert wrong.returncode == 1
  assert wrong.stderr.count('\n') == 1
  assert wrong.stderr.startswith('error: no Python >= 3.11 found')
  assert 'no-such-python' in wrong.stderr
  assert run('no-such-python python3').stdout == 'python3\n'


def _setup_names() -> dict[str, requirements.Requirement]:
  """Requirements that setup.py writes down, by name."""
  tree = ast.parse((ROOT / 'setup.py').read_text())
  found = {}
  for node in tree.body:
    if isinstance(node, ast.Assign) and node.targets[0].id in (
        'INSTALL_REQUIRES', 'EXTRAS_REQUIRE'):
      for leaf in ast.walk(node.value):
        if isinstance(leaf, ast.Constant) and '>=' in leaf.value:
          requirement = requirements.Requirement(leaf.value)
          found[requirement.name.lower()] = requirement
  return found


def test_constraints_are_exact_explained_and_allowed_by_setup():
  required = _setup_names()
  assert {'jax', 'flax', 'pytest', 'torch'} <= set(required)
  pins = 0
  for line in (ROOT / 'constraints.txt').read_text().splitlines():
    if not line or line.startswith('#'):
      continue
    match = re.fullmatch(r'([\w-]+)==(\S+)  # \w.+', line)
    assert match, f'constraints.txt: write NAME==VERSION  # reason: {line}'
    name, pinned = match.groups()
    if name.lower() in required:
      assert version_lib.Version(pinned) in required[name.lower()].specifier
    pins += 1
  assert pins >= 10


def test_version_is_a_version():
  assert str(version_lib.Version(version.__version__)) == version.__version__


def _targets() -> dict[str, tuple[set[str], list[str]]]:
  """Label -> (files from the root, dependencies) of all BUILD files."""
  targets = {}
  for build in sorted(ROOT.glob('*/BUILD')):
    folder = build.parent.name
    tree = ast.parse(build.read_text())
    for call in (n.value for n in tree.body if isinstance(n, ast.Expr)):
      if not isinstance(call, ast.Call):
        continue
      keywords = {
          k.arg: ast.literal_eval(k.value) for k in call.keywords
          if k.arg in ('name', 'srcs', 'deps')}
      deps = [d if d.startswith('//') else f'//{folder}{d}'
              for d in keywords.get('deps', ())]
      if 'name' in keywords:
        files = {f'{folder}/{s}' for s in keywords.get('srcs', ())}
        targets[f'//{folder}:{keywords["name"]}'] = (files, deps)
  return targets


def test_build_files_list_every_file():
  listed = set().union(*(files for files, _ in _targets().values()))
  there = {
      p.relative_to(ROOT).as_posix() for folder in FOLDERS[:5]
      for p in (ROOT / folder).rglob('*.py')}
  assert not there - listed, f'no BUILD lists {sorted(there - listed)}'
  assert not listed - there, f'BUILD lists {sorted(listed - there)}'


def test_build_dependencies_exist_and_have_no_cycle():
  targets = _targets()
  for label, (_, deps) in targets.items():
    assert set(deps) <= set(targets), f'{label}: unknown dependency'
  order = graphlib.TopologicalSorter({k: v[1] for k, v in targets.items()})
  assert len(list(order.static_order())) == len(targets)


def test_build_dependencies_cover_the_imports():
  targets = _targets()
  owner = {file: label for label, (files, _) in targets.items()
           for file in files}

  def reach(label):
    found, pending = set(), [label]
    while pending:
      label = pending.pop()
      if label not in found:
        found.add(label)
        pending.extend(targets[label][1])
    return found

  wrong = []
  for file, label in owner.items():
    reached = reach(label)
    for target in _imported_files(file):
      if target in owner and owner[target] not in reached:
        wrong.append(f'{label} needs {owner[target]}: {file} imports {target}')
  assert not wrong, '\n'.join(sorted(wrong))


def _imported_files(file: str) -> Iterator[str]:
  for node in ast.walk(ast.parse((ROOT / file).read_text())):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module, *(f'{node.module}.{a.name}' for a in node.names)]
    for name in names:
      path = name.replace('.', '/')
      yield from (f'{path}.py', f'{path}/__init__.py')
