# SPDX-License-Identifier: Apache-2.0
"""Marks: which stages go on, which begin anew, when a setting has changed."""

from etils import epath

from meta_cot.settings import command_line
from meta_cot.settings import config_file
from meta_cot.stages import base
from meta_cot.stages import experiment
from meta_cot.stages import workdir as workdir_lib


def _mark(workdir, name, *overrides):
  _, overrides = command_line.split(overrides, ('config',))
  parsed = experiment.parse(
      config_file.load('configs/countdown.py:tiny', overrides))
  context = base.Context(parsed.shared, parsed.groups, None, workdir)
  return workdir_lib.make_mark(context, parsed.groups[name])


def _finish(workdir, name, *overrides) -> list[str]:
  mark = _mark(workdir, name, *overrides)
  (workdir / name).mkdir(parents=True, exist_ok=True)
  reasons = workdir_lib.begin(workdir, name, mark)
  workdir_lib.finish(workdir, name, mark)
  return reasons


def test_what_runs_again_and_what_goes_on(tmp_path):
  workdir = epath.Path(tmp_path)
  is_done = lambda name, *overrides: workdir_lib.is_done(
      workdir, name, _mark(workdir, name, *overrides))
  for name in ('problems', 'traces', 'tokenizer', 'sft', 'evaluate'):
    assert not is_done(name)
    assert _finish(workdir, name) == []
    assert is_done(name)

  # Free: the same mark, and what stands on it.
  assert is_done('sft', '--config.sft.log_every_steps=7')
  # Another arm: the mark of the stage is the same, its report is not.
  arms = '--config.sft.arms=traces,solution_only,revisions'
  assert is_done('sft', arms) and not is_done('evaluate', arms)
  assert _finish(workdir, 'evaluate', arms) == []
  # More tokens: both go on, the report anew.
  tokens = '--config.sft.num_tokens=9_000_000'
  assert _finish(workdir, 'sft', tokens) == []
  assert not (workdir / 'replaced').exists()
  reasons = _finish(workdir, 'evaluate', tokens)
  assert 'sft/traces was made anew' in reasons
  assert (workdir / 'replaced' / 'evaluate').exists()

  # Not free: from here on, and nothing before.
  rate = '--config.sft.optimizer.learning_rate=0.1'
  assert is_done('tokenizer', rate) and not is_done('sft', rate)
  (reason,) = _finish(workdir, 'sft', rate)
  assert 'learning_rate' in reason and '0.1' in reason
  assert (workdir / 'replaced' / 'sft').exists()
