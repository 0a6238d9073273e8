# SPDX-License-Identifier: Apache-2.0
"""The arm of several attempts through all stages, as a user runs it."""

import json
import subprocess

from tests import small_run


def test_revisions_are_trained_and_evaluated(tmp_path):
  done = subprocess.run(
      small_run.command(
          tmp_path / 'w', '--config.sft.arms=revisions',
          '--config.evaluate.reference=sft/revisions',
          '--config.sft.num_tokens=6000'),
      cwd=small_run.ROOT, env=small_run.environment(), text=True,
      capture_output=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  summary = json.loads((tmp_path / 'w/evaluate/summary.json').read_text())
  values = small_run.find(
      summary['success'], policy='sft/revisions', solver='greedy',
      split='heldout_numbers')
  assert values['num_problems'] == 16
  policy = json.loads((tmp_path / 'w/sft/revisions/policy.json').read_text())
  assert 0 < values['mean_tokens'] <= 2 * policy['about']['longest']
  assert 0 < summary['training']['sft/revisions']['loss'] < 5
  assert '| sft/revisions |' in (tmp_path / 'w/evaluate/report.md').read_text()
