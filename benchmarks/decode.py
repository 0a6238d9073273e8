# SPDX-License-Identifier: Apache-2.0
"""New tokens per second of batched sampling, against the same model by hand.

  source launch/environment.sh
  python -m benchmarks.decode --model=S
  python -m benchmarks.decode --model=M --against=plain,torch,tunix \\
      --tunix-python=ENVIRONMENT/bin/python
  python -m benchmarks.decode --model=1B --dtype=bfloat16 --against=none

Prints JSON lines: one a contestant, then one a ratio (above 1: ours is faster).
docs/benchmarks.md says what is measured and how to read it.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contest
from benchmarks import models
from benchmarks import plain
from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import config as model_config


def ours(
    model: model_config.ModelConfig,
    size: models.Decoding,
    temperature: float = 1.0,
) -> Callable[[], np.ndarray]:
  """The library's sampler; a call returns the new tokens [B, T]."""
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices()[:1])
  generate = jax.jit(functools.partial(
      decode.generate, model, max_new_tokens=size.new_tokens,
      sampling=decode.Sampling(temperature=temperature),
      eos_ids=()))  # every row runs to the limit
  with sharding.use_mesh(mesh):
    params = jax.device_put(
        models.init(model, 0), sharding.replicated(mesh))
    prompts_RxP = models.prompts(model, size)[::size.samples]
    placed = sharding.put_batch(dict(
        prompts=prompts_RxP,
        lengths=np.full(len(prompts_RxP), size.prompt, np.int32),
        ids=np.arange(size.rows, dtype=np.int32)), mesh)

  def call():
    with sharding.use_mesh(mesh):
      generation = generate(
          params, placed['prompts'], placed['lengths'], jax.random.key(1),
          row_ids_B=placed['ids'])
    return np.asarray(generation.tokens)

  return call


def by_hand(
    model: model_config.ModelConfig,
    size: models.Decoding,
    temperature: float = 1.0,
) -> Callable[[], np.ndarray]:
  """The sampler of benchmarks/plain.py; a call returns the new tokens."""
  generate = jax.jit(functools.partial(
      plain.generate, model, new_tokens=size.new_tokens,
      temperature=temperature))
  weights = plain.from_params(model, models.init(model, 0))
  prompts_BxP = jnp.asarray(models.prompts(model, size))
  return lambda: np.asarray(generate(weights, prompts_BxP, jax.random.key(1)))


def main(argv: list[str] | None = None) -> None:
  """Runs the contest and prints its lines."""
  parser = contest.parser(__doc__)
  parser.add_argument('--rows', type=int, default=models.Decoding.rows)
  parser.add_argument('--prompt', type=int, default=models.Decoding.prompt)
  parser.add_argument(
      '--new-tokens', type=int, default=models.Decoding.new_tokens)
  parser.add_argument(
      '--samples', type=int, default=models.Decoding.samples,
      help='rows that share a prompt, which ours reads once')
  arguments = parser.parse_args(argv)
  if arguments.samples < 1 or arguments.rows % arguments.samples:
    parser.error(
        f'--samples: got {arguments.samples}; must divide --rows, '
        f'{arguments.rows}.')
  model = contest.model(arguments)
  size = models.Decoding(
      arguments.rows, arguments.prompt, arguments.new_tokens,
      arguments.samples)
  contest.run(
      'decode', arguments, model, size, ours=ours, by_hand=by_hand,
      flops_per_token=model.flops_per_token(
          size.prompt + size.new_tokens / 2))


if __name__ == '__main__':
  main()
