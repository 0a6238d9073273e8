# SPDX-License-Identifier: Apache-2.0
"""Figure 8: searches written out beside solutions alone, as training grows.

  python -m meta_cot.main --config=configs/paper/figure8.py:tiny \
      --workdir=runs/figure8

Three-number Countdown; `curve` has both at every checkpoint, `figure` at the
end, by how hard a problem is: how long the teacher's search for it is. As many
tokens of either, three seeds.

Variants, by the size of the model:
  small  0.16M parameters.
  tiny   0.5M.
  large  1.0M.
"""

import functools

import ml_collections

from configs import kinds
from configs import threads
from configs.paper import puzzles


def _figure(**model: int) -> ml_collections.ConfigDict:
  c = threads.tiny()
  c.model.update(model)
  c.sft.seeds = puzzles.SEEDS
  c.asked = kinds.evaluate(
      policies=('sft',), solvers=('greedy',), num_problems=500,
      num_curve_problems=128, teacher='compact')
  c.asked.samples.max_new_tokens = c.sft.data.sequence_length
  c.curve = kinds.figure(
      figure='training', stages=('asked',), title='Success against training')
  c.figure = kinds.figure(
      figure='difficulty', stages=('asked',), title='Success by difficulty')
  c.stages = (
      'problems', 'traces', 'tokenizer', 'sft', 'asked', 'curve', 'figure')
  return c


VARIANTS = {
    'small': functools.partial(
        _figure, num_layers=3, embed_dim=64, head_dim=16, mlp_dim=172),
    'tiny': _figure,
    'large': functools.partial(
        _figure, embed_dim=144, head_dim=36, mlp_dim=384)}
get_config = puzzles.chooser(VARIANTS)
