# SPDX-License-Identifier: Apache-2.0
"""What surrounds the code: licences, scripts, packaging and BUILD files."""

import ast
from collections.abc import Iterator
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
    'docs', 'examples', '.ci', '.github')
SUFFIXES = {
    '.py', '.sh', '.toml', '.txt', '.md', '.cfg', '.yaml', '.yml', '.json',
    '.bzl', ''}
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


def _sources(build: pathlib.Path) -> set[str]:
  """Python files that the globs and lists of a BUILD file name."""
  found = set()
  for call in ast.walk(ast.parse(build.read_text())):
    if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'glob':
      patterns = ast.literal_eval(call.args[0])
      for pattern in patterns:
        found |= {
            p.relative_to(ROOT).as_posix()
            for p in build.parent.glob(pattern) if p.suffix == '.py'}
  return found


def test_build_files_list_every_file():
  for folder in FOLDERS[:5]:
    there = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob('*.py')}
    assert _sources(ROOT / folder / 'BUILD') == there, folder


def test_build_files_name_targets_that_exist():
  for build in ROOT.glob('*/BUILD'):
    for label in re.findall(r'"//((?!visibility)[\w:]+)"', build.read_text()):
      folder, _, name = label.partition(':')
      target = (ROOT / folder / 'BUILD') if folder else ROOT / 'BUILD'
      assert f'name = "{name or folder}"' in target.read_text(), label
