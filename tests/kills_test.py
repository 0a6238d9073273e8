# SPDX-License-Identifier: Apache-2.0
"""The pipeline under SIGKILL and SIGTERM: the same command, the same bits.

  pytest -s -m slow tests/kills_test.py

kills at every moment that tests/kills.py names and prints what was hit.
"""

import collections
import pathlib
import random
import re
import shutil
import signal

import pytest

from tests import kills
from tests import run_comparison
from tests import small_run

ARMS = ('traces', 'solution_only')
MOMENTS = kills.moments(ARMS, num_rows=12)
# One kind of place each: a shard, a checkpoint that is written, sizes of a
# budget, between the saves of reinforcement learning.
FEW = ('problem shard', 'traces: in a save', 'sizes', 'iteration')
NUM_WORKDIRS = 5
NUM_MORE = 3  # kills in every workdir, besides its share of the moments


def _run(workdir: pathlib.Path) -> kills.Run:
  return kills.Run(
      small_run.command(
          workdir, *small_run.SEARCH, *small_run.RL, *small_run.EPISODES,
          config='tests/every_stage.py'), workdir,
      cwd=small_run.ROOT, environment=small_run.environment())


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('unbroken') / 'w'
  _run(workdir).finish()
  assert not run_comparison.litter(workdir)
  return workdir


def _kill_all(
    unbroken: pathlib.Path, workdir: pathlib.Path, planned: list[kills.Kill]
) -> list[kills.Hit]:
  """Kills, continues to the end and compares with the unbroken run."""
  run = _run(workdir)
  hits = [hit for hit in map(run.kill, planned) if hit]
  print('\n' + kills.table(hits))
  run.finish()
  assert not run_comparison.differences(unbroken, workdir)
  assert not run_comparison.litter(workdir)
  in_saves = sum(hit.is_in_save for hit in hits)
  assert len(run_comparison.quarantined(workdir)) <= in_saves
  return hits


def test_the_same_bits_after_a_few_kills(unbroken, tmp_path):
  chosen = [m for m in MOMENTS if m.name in FEW]
  assert len(chosen) == len(FEW)
  hits = _kill_all(unbroken, tmp_path / 'w', kills.plan(chosen, seed=7))
  assert len(hits) == len(FEW)
  assert len({hit.stage for hit in hits}) >= 3


@pytest.mark.slow
def test_the_same_bits_after_kills_at_every_moment(unbroken, tmp_path):
  rng, hits = random.Random(1), []
  for i in range(NUM_WORKDIRS):
    share = set(range(i, len(MOMENTS), NUM_WORKDIRS))
    share |= set(rng.sample(sorted(set(range(len(MOMENTS))) - share), NUM_MORE))
    planned = kills.plan([MOMENTS[j] for j in sorted(share)], seed=i)
    workdir = tmp_path / str(i)
    hits += _kill_all(unbroken, workdir, planned)
    shutil.rmtree(workdir)
  print('\n' + kills.table(hits))
  assert len(hits) >= 30
  stages = collections.Counter(hit.stage for hit in hits)
  assert set(kills.STAGES) <= set(stages), stages
  assert sum(hit.is_in_save for hit in hits) >= 5
  assert {h.kill.signals[0] for h in hits} == {signal.SIGKILL, signal.SIGTERM}


def test_the_comparison_sees_what_it_should(unbroken, tmp_path):
  copy, whole = tmp_path / 'w', tmp_path / 'whole'
  shutil.copytree(unbroken, whole, ignore=shutil.ignore_patterns(
      'compilation_cache', 'solution_only', 'rl'))

  def changed(edit):
    shutil.copytree(whole, copy)
    edit()
    found = run_comparison.differences(whole, copy)
    shutil.rmtree(copy)
    return found

  run = copy / 'sft' / 'traces'
  metrics = run / 'metrics.jsonl'
  lines = (unbroken / 'sft/traces/metrics.jsonl').read_text().splitlines(True)
  assert changed(lambda: None) == []
  for text in (lines[1:], lines + lines[-1:], lines[:3] + lines[4:]):
    assert changed(lambda: metrics.write_text(''.join(text))) != []
  assert changed(lambda: (copy / 'tokenizer/extra').write_text('')) == [
      'tokenizer/extra: unexpected']
  assert changed(lambda: (copy / 'evaluate/report.md').unlink()) == [
      'evaluate/report.md: missing']
  report = copy / 'search' / 'report.md'
  assert changed(lambda: report.write_text(
      re.sub(r'(solved % [^\n]*\n[^\n]*\n\| [\w/]+ \| greedy \| )\w', r'\g<1>x',
             report.read_text()))) == ['search/report.md: content differs']
  assert any('scalars' in x or 'scalar' in x for x in changed(
      lambda: next(run.glob('tensorboard/events*')).unlink()))
  assert any('steps' in x for x in changed(
      lambda: shutil.rmtree(run / 'checkpoints' / '10')))
  assert changed(lambda: _swap(run / 'checkpoints', '10', '20')) != []


def _swap(directory: pathlib.Path, one: str, other: str) -> None:
  (directory / one).rename(directory / 'x')
  (directory / other).rename(directory / one)
  (directory / 'x').rename(directory / other)
