# SPDX-License-Identifier: Apache-2.0
"""The loop in docs/loops.md is one."""

import pathlib
import re

from meta_cot.settings import config_file
from meta_cot.stages import experiment

_PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'loops.md'


def test_the_loop_of_ones_own_is_checked(tmp_path):
  (text,) = re.findall(r'```python\n(.*?)```', _PAGE.read_text(), re.DOTALL)
  path = tmp_path / 'own.py'
  path.write_text(text)
  parsed = experiment.parse(config_file.load(str(path), ()))
  assert parsed.stages[4:] == (
      'search1', 'sft1', 'search2', 'sft2', 'search3', 'sft3', 'table')
  assert parsed.groups['sft3'].settings.start == 'sft2/solution_only'
