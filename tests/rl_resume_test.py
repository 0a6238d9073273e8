# SPDX-License-Identifier: Apache-2.0
"""A run that dies or is stopped anywhere ends with the bits of a whole one.

What dies here dies at an exact place, inside the process; tests/kills_test.py
has the signals.
"""

import dataclasses
import json
import logging
import pathlib
import re
import shutil

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest

from meta_cot import sharding
from meta_cot.rl import programs
from meta_cot.rl import setup as setup_lib
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.stages import rl
from meta_cot.training import checkpoint
from meta_cot.training import compilation
from meta_cot.training import optimizer
from tests import run_comparison
from tests import small_rl

# Two updates an iteration; evaluated and saved every second one.
_CHANGES = dict(
    num_iterations=6, num_epochs=2, rest=1, kl_target=0.02, kl_horizon=16)
_AXES = (2, 1, 1)


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  """Every run makes the same programs: the first one for all."""
  before = jax.config.jax_compilation_cache_dir
  compilation_cache.reset_cache()
  compilation.use_cache(str(tmp_path_factory.mktemp('programs')))
  yield
  jax.config.update('jax_compilation_cache_dir', before)
  compilation_cache.reset_cache()


class _Death(RuntimeError):
  """Of the process, in effect."""


def _train(directory: pathlib.Path, **changes) -> None:
  experiment = small_rl.experiment(**_CHANGES | changes)
  setup = small_rl.setup(experiment, _AXES)
  with sharding.use_mesh(setup.programs.mesh):
    rl.train(
        small_rl.of(experiment), setup, 'erl2', 3,
        checkpoint.files.path(directory))


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory) -> pathlib.Path:
  directory = tmp_path_factory.mktemp('unbroken') / 'run'
  _train(directory)
  return directory


def _rows(directory):
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _steps(directory):
  return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def test_what_a_run_leaves(unbroken):
  rows = _rows(unbroken)
  assert [row['step'] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert [
      i for i, row in enumerate(rows, 1) if 'validation/success' in row] == [
          2, 4, 6]
  assert _steps(unbroken / 'checkpoints') == [4, 8, 12]  # updates
  summary = json.loads((unbroken / 'summary.json').read_text())
  assert summary['objective'] == 'erl2' and summary['seed'] == 3
  assert summary['num_iterations'] == 6
  assert summary['tokens'] == sum(row['tokens'] for row in rows)
  best = max(
      (row for row in rows if 'validation/success' in row),
      key=lambda row: (row['validation/success'], -row['step']))
  assert summary['best'] == dict(
      iteration=best['step'], success=best['validation/success'])
  assert _steps(unbroken / 'best') == [best['step']]
  assert summary['last']['validation/success'] == rows[-1]['validation/success']
  assert list(unbroken.glob('tensorboard/*tfevents*'))
  assert all(np.isfinite(v) for row in rows for v in row.values())
  assert any(row['questions_resting'] > 0 for row in rows)
  assert len({row['kl_coefficient'] for row in rows}) == 6


def test_one_program_for_all_iterations(unbroken):
  compiled = [row['programs_compiled'] for row in _rows(unbroken)]
  # The second one evaluates for the first time, and saves.
  assert compiled[0] < compiled[1] == compiled[2] == compiled[-1]


def _dying(owner, name, at, monkeypatch, *, after=False):
  """Makes `owner.name` die at its call number `at`, counted from 1."""
  real, calls = getattr(owner, name), []

  def call(*args, **kwargs):
    calls.append(name)
    if len(calls) == at and not after:
      raise _Death
    result = real(*args, **kwargs)
    if len(calls) == at:
      raise _Death
    return result

  monkeypatch.setattr(owner, name, call)


def _wrapped_update(at, monkeypatch):
  """Between two updates: the program is made by `Programs.update`."""
  real = programs.Programs.update

  def update(self):
    program = type('Program', (), {'call': staticmethod(real(self))})
    _dying(program, 'call', at, monkeypatch)
    return lambda *xs: program.call(*xs)

  monkeypatch.setattr(programs.Programs, 'update', update)


_DEATHS = {
    'after a rollout': lambda m: _dying(
        small_rl.Parity, '__call__', 4, m),
    'between updates': lambda m: _wrapped_update(6, m),
    'after the first save of the best': lambda m: _dying(
        rl, '_keep_best', 1, m, after=True),
    'after a save of the best': lambda m: _dying(
        rl, '_keep_best', 2, m, after=True),
    'as a save begins': lambda m: _dying(
        checkpoint.Checkpoints, 'save', 3, m),
    'in an evaluation': lambda m: _dying(
        setup_lib.Evaluation, '__call__', 3, m),
    'before the summary': lambda m: _dying(rl, '_finish', 1, m),
}


def _open_checkpoints(monkeypatch) -> list:
  """What will have been opened."""
  real, opened = checkpoint.Checkpoints._open, []

  def open_(self):
    opened.append(real(self))
    return opened[-1]

  monkeypatch.setattr(checkpoint.Checkpoints, '_open', open_)
  return opened


_FEW = 'after a save of the best', 'as a save begins'


@pytest.mark.parametrize('name', [
    *_FEW, *(pytest.param(name, marks=pytest.mark.slow)
             for name in sorted(_DEATHS.keys() - set(_FEW)))])
def test_dead_it_goes_on_to_the_same_bits(unbroken, tmp_path, name):
  with pytest.MonkeyPatch.context() as patch:
    opened = _open_checkpoints(patch)
    _DEATHS[name](patch)
    with pytest.raises(_Death):
      _train(tmp_path / 'run')
    # A dead process writes no more; here its threads live on.
    for manager in opened:
      manager.close()
  assert not (tmp_path / 'run' / 'summary.json').exists()
  _train(tmp_path / 'run')
  assert run_comparison.differences(unbroken, tmp_path / 'run') == []
  assert run_comparison.litter(tmp_path / 'run') == []


@pytest.fixture(scope='module')
def continued(unbroken, tmp_path_factory) -> pathlib.Path:
  """The ended run, with two more iterations."""
  directory = tmp_path_factory.mktemp('continued') / 'run'
  shutil.copytree(unbroken, directory)
  _train(directory, num_iterations=8)
  return directory


def test_an_ended_run_goes_on_with_the_schedule_of_the_longer_one(
    unbroken, continued, caplog, tmp_path):
  before, rows = _rows(unbroken), _rows(continued)
  assert rows[:6] == before and len(rows) == 8
  assert _steps(continued / 'checkpoints') == [4, 8, 12, 16]
  summary = json.loads((continued / 'summary.json').read_text())
  assert summary['num_iterations'] == 8
  rate = optimizer.schedule(small_rl.settings(**_CHANGES).optimizer, 16)
  assert rows[6]['learning_rate'] == pytest.approx(float(rate(13)), rel=1e-5)
  caplog.set_level(logging.INFO)
  shutil.copytree(unbroken, tmp_path / 'run')
  with pytest.raises(_Death), pytest.MonkeyPatch.context() as patch:
    opened = _open_checkpoints(patch)
    _dying(small_rl.Parity, '__call__', 1, patch)
    _train(tmp_path / 'run', num_iterations=8)
  for manager in opened:
    manager.close()
  assert re.search(
      r'continues after iteration 6 of 8; learning rate \S+ in the next step, '
      r'\S+ at the end', caplog.text)
  # Neither a run of six nor one of eight iterations is over now.
  assert not (tmp_path / 'run' / 'summary.json').exists()
  _train(tmp_path / 'run', num_iterations=8)
  assert run_comparison.differences(continued, tmp_path / 'run') == []
  assert run_comparison.litter(tmp_path / 'run') == []


def test_a_run_does_not_shrink(continued):
  settings = small_rl.settings(**_CHANGES)
  with pytest.raises(config_lib.UserError, match='8 iterations; num_iterations,'
                     ' 6, may grow but not shrink'):
    _train(continued)
  part = continued.parent / 'erl2' / 'seed0'
  part.mkdir(parents=True)
  shutil.copy(continued / 'summary.json', part)
  with pytest.raises(config_lib.UserError, match='not shrink'):
    rl.STAGE.check_folder(settings, continued.parent)


@pytest.mark.parametrize('iteration', [
    1, pytest.param(2, marks=pytest.mark.slow),  # saved anyway after 2
    pytest.param(3, marks=pytest.mark.slow)])
def test_stopped_it_goes_on_to_the_same_bits(unbroken, tmp_path, iteration):
  asked = []

  def is_agreed(stop):
    asked.append(stop)
    return len(asked) == iteration

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(interruption.Stop, 'is_agreed', is_agreed)
    with pytest.raises(interruption.Interrupted):
      _train(tmp_path / 'run')
  extra = tmp_path / 'run' / 'interrupted'
  assert (_steps(extra) if extra.exists() else []) == (
      [2 * iteration] if iteration % 2 else [])
  _train(tmp_path / 'run')
  assert run_comparison.differences(unbroken, tmp_path / 'run') == []
  assert run_comparison.litter(tmp_path / 'run') == []


def test_of_two_best_policies_the_newer_one_stays(unbroken, tmp_path):
  """A kill may come between a save and the removal of the one before."""
  best = tmp_path / 'best'
  saved = _steps(unbroken / 'best')[0]
  for step in (saved, saved - 1):
    source = unbroken / 'best' / str(saved)
    for path in source.rglob('*'):
      if path.is_file():
        target = best / str(step) / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
  rl._open_best(checkpoint.files.path(best)).close()
  assert _steps(best) == [saved]


def test_nothing_is_saved_of_what_is_not_finite(tmp_path):
  """The model overflows with the first update: the second tells."""
  optimizer = dataclasses.asdict(small_rl.settings().optimizer)
  with pytest.raises(
      FloatingPointError, match=r'erl2, seed 3: (loss|grad_norm) is (nan|inf)'):
    _train(tmp_path / 'run', save_every=1, optimizer=optimizer | dict(
        learning_rate=1e18))
  assert not (tmp_path / 'run' / 'summary.json').exists()
  steps = tmp_path / 'run' / 'checkpoints'
  assert not steps.exists() or _steps(steps) == []


def test_other_settings_do_not_continue_a_run(tmp_path):
  free = dict(
      seeds=(0, 1), num_slots=16, eval_every=3, save_every=1,
      num_accumulation=2, num_iterations=7)
  there, same = (
      config_lib.bound(small_rl.settings(**_CHANGES | changes))
      for changes in ({}, free))
  assert there == same
  run = tmp_path / 'run'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(interruption.Stop, 'is_agreed', lambda stop: True)
    with pytest.raises(interruption.Interrupted):
      _train(run)
  with pytest.raises(config_lib.UserError, match=re.escape(
      'config.loss.clip_high: 0.2 in checkpoint step 2, 0.3 now')) as error:
    _train(run, clip_high=0.3)
  assert '\n' not in str(error.value)
