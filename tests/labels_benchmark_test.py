# SPDX-License-Identifier: Apache-2.0
"""The benchmark of labels: same work on both sides, JSON lines.

Nothing here asserts a speed.
"""

import json

import numpy as np

from benchmarks import labels
from benchmarks import models
from benchmarks import table

_FLAGS = (
    '--model=toy', '--repeats=1', '--states=2', '--rollouts=3',
    '--new-tokens=4', '--prefixes=1,2')


def test_both_draw_as_many_tokens():
  model = models.get('toy', 'float32')
  params, size = models.init(model, 0), labels.Labelling(2, 3, 4)
  for make in (labels.shared, labels.copied):
    np.testing.assert_array_equal(make(model, params, size, 6)(), [12, 12])


def test_prints_json(capsys):
  labels.main(_FLAGS)
  text = capsys.readouterr().out.splitlines()
  lines = [json.loads(x) for x in text]
  assert [(x['workload'], x.get('contestant', x.get('ratio_to')))
          for x in lines] == [
              (f'label {n}x', name) for n in (1, 2)
              for name in ('ours', 'plain', 'plain')]
  assert [x['prefix'] for x in lines] == [4] * 3 + [8] * 3
  assert len(table.make(text).splitlines()) == 2 + 2
