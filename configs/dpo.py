# SPDX-License-Identifier: Apache-2.0
"""Step-level DPO: of two next steps of one state, the better one.

  python -m meta_cot.main --config=configs/dpo.py:tiny --workdir=runs/dpo

The first policy of `configs/loops.py` answers training problems, 8 samples
each. Stage `on_policy` prefers, of two steps that go on from the same text,
the one of whose samples more are right; stage `off_policy` does so with the
searches of the teacher, where the task itself says which step still leads to a
solution; stage `sft1` learns the right samples (STaR). Stage `table` compares.

Variants:
  tiny  three-number Countdown, numbers up to 60, 0.2M parameters.
"""

import ml_collections

from configs import base
from configs import kinds
from configs import loops


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  return base.choose(VARIANTS, variant)()


def _tiny() -> ml_collections.ConfigDict:
  c = loops.first_policy()
  c.search1 = kinds.search(
      policy=loops.FIRST, solver='samples', num_train=2_000,
      num_validation=200)
  c.search1.samples.num_samples = 8
  loops.learn(c, 1, start=loops.FIRST)
  for name, records, source in (
      ('on_policy', 'search1', 'outcome'), ('off_policy', 'traces', 'oracle')):
    c[f'{name}_labels'] = kinds.label(
        policy=loops.FIRST, records=records, source=source, num_train=2_000,
        num_validation=200)
    c[name] = kinds.train(
        objective='dpo', records=f'{name}_labels', start=loops.FIRST,
        arms=('solution_only',), num_tokens=120_000, eval_every_steps=100,
        save_every_steps=400)
    c[name].data.sequence_length = 64
    # With beta .1 and 3e-4 far fewer answers are right (docs/values.md).
    c[name].data.pairs.beta = 1.0
    c[name].optimizer.learning_rate = 5e-5
    c.stages += (f'{name}_labels', name)
  c.table = kinds.evaluate(
      policies=('sft', 'sft1', 'on_policy', 'off_policy'),
      reference='on_policy/solution_only', solvers=('greedy', 'samples'),
      num_problems=500, num_curve_problems=0)
  c.table.samples.update(dict(num_samples=8, max_new_tokens=32))
  c.stages += ('table',)
  return c


VARIANTS = {'tiny': _tiny}
