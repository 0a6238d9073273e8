# SPDX-License-Identifier: Apache-2.0
"""Figure 5: Game of 24, accuracy against the nodes that are visited.

  python -m meta_cot.main --config=configs/paper/figure5.py:tiny \
      --workdir=runs/figure5

Searches of three sizes, guided by likelihood and ended by the exact verifier,
beside best of N by that verifier.

Variants:
  tiny  policies of 0.8M tokens, three seeds.
"""

import ml_collections

from configs import game24
from configs import kinds
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = game24.get_config('tiny')
  c.sft.update(dict(
      arms=(puzzles.ARM,), seeds=puzzles.SEEDS, num_tokens=800_000))
  stages = []
  for size in (4, 16, 64):
    stages.append(f'size{size}nodes')
    c[stages[-1]] = e = kinds.evaluate(
        policies=('sft',), num_curve_problems=0, num_problems=100, solvers=(
            'samples', 'breadth_first', 'best_first', 'mcts'))
    e.samples.update(dict(num_samples=64, max_new_tokens=40, temperature=1.5))
    e.search.update(dict(
        branching=8, num_expansions=size, num_simulations=size,
        beam_width=size // 4, step_length=8, temperature=1.5))
  c.figure = kinds.figure(
      figure='nodes', stages=tuple(stages),
      title='Game of 24: accuracy against nodes')
  c.stages = (
      'problems', 'traces', 'tokenizer', 'sft', *stages, 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
