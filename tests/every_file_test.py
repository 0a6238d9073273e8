# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a file of a run: the same result, or one line."""

import json
import subprocess
import sys

import pytest

from tests import every_file
from tests import small_run


@pytest.mark.slow
def test_a_damaged_file_is_made_again_or_named(tmp_path):
  whole = tmp_path / 'whole'
  settings = dict(
      cwd=small_run.ROOT, env=small_run.environment(), check=True, text=True,
      capture_output=True)
  subprocess.run(every_file.command(whole), **settings)
  done = subprocess.run(
      [sys.executable, '-m', 'tests.every_file', whole], **settings)
  cases = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(cases) == len(every_file.kinds(whole)) * (
      len(every_file.DAMAGES) + len(every_file.PLACES))
  for case in cases:
    print(case['file'], case['damage'], case['code'])
    errors = [line for line in case['printed'].splitlines()
              if line.startswith('error: ')]
    assert 'Traceback' not in case['printed'], case
    assert (case['code'], len(errors)) in ((0, 0), (2, 1)), case
    # Rows have no hash: a digit that was changed is another result.
    assert not case['is_changed'] or case['damage'] == 'bit', case
