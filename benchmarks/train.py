# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of one AdamW update, against the same model by hand.

  source launch/environment.sh
  python -m benchmarks.train --model=S
  python -m benchmarks.train --model=M --against=plain,torch,tunix \\
      --tunix-python=ENVIRONMENT/bin/python
  python -m benchmarks.train --model=1B --dtype=bfloat16 --against=none
  python -m benchmarks.train --model=135M --part=lora --against=none

Prints JSON lines: one a contestant, then one a ratio (above 1: ours is faster).
docs/benchmarks.md says what is measured and how to read it.
"""

from collections.abc import Callable
import functools

import jax

from benchmarks import contest
from benchmarks import models
from benchmarks import plain
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import sft
from meta_cot.training import optimizer
from meta_cot.training import part as part_lib
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib

_NUM_STEPS = 1000  # of the schedule; the learning rate is constant


def ours(
    model: model_config.ModelConfig, size: models.Training,
    part: part_lib.Part = part_lib.ALL,
) -> Callable[[], float]:
  """The library's update as stages/train jits it; a call returns the loss."""
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices()[:1])
  config = models.adamw()
  update = optimizer.make(config, _NUM_STEPS)
  init = functools.partial(part.init, model)

  def loss(trained, batch, base):
    output = transformer.forward(
        model, part.whole(base, trained), batch.tokens,
        positions_BxL=batch.positions, segment_ids_BxL=batch.segment_ids)
    return sft.loss_sums(output.logits, batch)

  with sharding.use_mesh(mesh):
    _, placed = state_lib.shardings(init, update, mesh)
    step = jax.jit(
        step_lib.make_train_step(
            loss, update, optimizer.schedule(config, _NUM_STEPS), 1),
        in_shardings=(
            placed, sharding.batch(mesh), sharding.replicated(mesh)),
        out_shardings=(placed, sharding.replicated(mesh)),
        donate_argnames=('state',))
    batch = types.Batch(**sharding.put_batch(
        models.training_batch(model, size), mesh))
    state = state_lib.jit_create(init, update, mesh)(jax.random.key(0))
    base = {} if not part.has_base else jax.device_put(
        part.base(models.init(model, 1)), sharding.replicated(mesh))

  def call():
    nonlocal state
    with sharding.use_mesh(mesh):
      state, metrics = step(state, batch, base)
    return float(jax.block_until_ready(metrics)['loss'])

  return call


def by_hand(
    model: model_config.ModelConfig, size: models.Training
) -> Callable[[], float]:
  """The update of benchmarks/plain.py; a call returns the loss."""
  step = jax.jit(
      functools.partial(plain.train_step, model, models.adamw()),
      donate_argnums=0)
  batch = models.training_batch(model, size)
  tokens_BxL, targets_BxL = jax.device_put((batch['tokens'], batch['targets']))
  weights = plain.from_params(model, models.init(model, 0))
  state = weights, plain.adamw_init(weights)

  def call():
    nonlocal state
    state, loss = step(state, tokens_BxL, targets_BxL)
    return float(jax.block_until_ready(loss))

  return call


def main(argv: list[str] | None = None) -> None:
  """Runs the contest and prints its lines."""
  parser = contest.parser(__doc__)
  parser.add_argument('--rows', type=int, default=models.Training.rows)
  parser.add_argument('--length', type=int, default=models.Training.length)
  parser.add_argument(
      '--part', choices=part_lib.PARTS, default='all',
      help='what is trained; adapters have rank 8')
  arguments = parser.parse_args(argv)
  if arguments.part != 'all' and arguments.against:
    parser.error(
        f'--part={arguments.part}: no rival trains a part; use '
        '--against=none.')
  part = part_lib.Part(arguments.part, 8, 16.0)
  model = contest.model(arguments)
  size = models.Training(arguments.rows, arguments.length)
  contest.run(
      'train', arguments, model, size,
      ours=functools.partial(ours, part=part), by_hand=by_hand,
      flops_per_token=part.num_passes * model.flops_per_token(size.length / 2))


if __name__ == '__main__':
  main()
