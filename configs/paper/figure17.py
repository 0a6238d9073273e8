# SPDX-License-Identifier: Apache-2.0
"""Figure 17: best of N and beams with values of different quality.

  python -m meta_cot.main --config=configs/paper/figure17.py:tiny \
      --workdir=runs/figure17

A policy that stays as it is, values that learned from few or many questions,
and the oracle that says which states lead to a solution.

Variants:
  tiny  24 out of four numbers, one policy of 1M tokens, values of 500 and 16000
        questions, three seeds of each.
"""

import ml_collections

from configs import kinds
from configs.paper import puzzles

_BEAMS = {
    'small': dict(branching=(6, 3, 1), beam_width=4),
    'large': dict(branching=(12, 4, 1), beam_width=8)}


def _tiny() -> ml_collections.ConfigDict:
  c = puzzles.policy(4, num_tokens=1_000_000)
  puzzles.labels(c, num_questions=16_000)
  stages = {}  # -> label
  for number in (500, 16_000):
    trained = f'value_of_{number}_questions'
    c[trained] = v = puzzles.judge('value', num_tokens=600_000)
    v.data.num_records = number
    c.stages += (trained,)
    for size, beam in _BEAMS.items():
      for seed in puzzles.SEEDS:
        name = f'{size}_{number}_questions_{seed}'
        c[name] = e = _beside(beam)
        judge = f'{trained}/{puzzles.ARM}/seed{seed}'
        e.samples.judges = (judge,)
        e.search.update(dict(value='mixture', outcome='value'))
        e.search.valuing.update(dict(
            model=judge, sources=('model', 'likelihood'), weights=(1.0, 5.0)))
        stages[name] = f'{number} questions'
  for size, beam in _BEAMS.items():
    name = f'{size}_oracle'
    c[name] = _beside(beam)
    c[name].search.value = 'oracle'
    stages[name] = 'oracle'
  c.figure = kinds.figure(
      figure='values', stages=tuple(stages), labels=tuple(stages.values()),
      title='Searches and best of N by values')
  c.stages += (*stages, 'figure')
  return c


def _beside(beam: dict) -> ml_collections.ConfigDict:
  e = puzzles.asked(
      solvers=('samples', 'beam'), num_problems=200, num_choice_problems=200)
  e.samples.num_samples = 16
  e.search.update(beam)
  return e


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
