# SPDX-License-Identifier: Apache-2.0
"""Labels of states a second, against reading a state for every completion.

  source launch/environment.sh
  python -m benchmarks.labels --model=S --prefixes=1,4

One JSON line a contestant and one a ratio (above 1: ours is faster), for
prefixes of so many times the tokens of a completion. Both sides draw the same
number of completions of the same number of tokens, and judge them:

ours: `rollouts.labels`, a state is read once for all of its completions.
plain: `decode.generate` on as many copies of every state.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contest
from benchmarks import models
from benchmarks import timing
from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.rollouts import labels
from meta_cot.types import Params

_SAMPLING = decode.Sampling(temperature=1.0)


@dataclasses.dataclass(frozen=True)
class Labelling:
  """Size of one call; no completion ends early."""

  states: int = 16
  rollouts: int = 16  # completions of a state
  new_tokens: int = 16

  @property
  def rows(self) -> int:
    return self.states * self.rollouts


def even(problem: object, tokens_M: jax.Array, length: jax.Array) -> jax.Array:
  """The verdict: whether the tokens add up to an even number."""
  del problem
  is_text_M = jnp.arange(len(tokens_M)) < length
  return 1.0 - jnp.sum(jnp.where(is_text_M, tokens_M, 0)) % 2


def states(
    model: model_config.ModelConfig, size: Labelling, prefix: int
) -> labels.States:
  """So many tokens each, the first half of them the question."""
  tokens_QxX = models.prompts(
      model, models.Decoding(rows=size.states, prompt=prefix))
  half = prefix // 2
  lengths = lambda number: np.full(size.states, number, np.int32)
  return labels.States(
      tokens_QxX[:, :half], lengths(half), tokens_QxX[:, half:],
      lengths(prefix - half), np.arange(size.states, dtype=np.int32), ())


def shared(
    model: model_config.ModelConfig, params: Params, size: Labelling,
    prefix: int,
) -> Callable[[], np.ndarray]:
  """Ours; a call returns what was drawn of every state, [Q]."""
  mesh = sharding.make_mesh(
      sharding.MeshConfig(1, 1, 1), jax.devices()[:1])
  complete = labels.jit_complete(
      model, mesh, rules=labels.rules(_SAMPLING, size.new_tokens, ()),
      num_rollouts=size.rollouts, num_slots=size.rows, outcome=even)
  asked = states(model, size, prefix)
  return lambda: jax.device_get(
      complete(params, asked, jax.random.key(1))).num_tokens


def copied(
    model: model_config.ModelConfig, params: Params, size: Labelling,
    prefix: int,
) -> Callable[[], np.ndarray]:
  """The rival; a call returns what was drawn of every state, [Q]."""

  @jax.jit
  def complete(params, texts_QxX, rng):
    each = lambda x: jnp.repeat(x, size.rollouts, axis=0)
    done = decode.generate(
        model, params, each(texts_QxX), jnp.full(size.rows, prefix), rng,
        max_new_tokens=size.new_tokens, sampling=_SAMPLING, eos_ids=())
    texts_NxM = jnp.concatenate(
        [each(texts_QxX)[:, prefix // 2:], done.tokens], axis=1)
    worth_N = jax.vmap(functools.partial(even, None))(
        texts_NxM, done.lengths)
    total = lambda x_N: jnp.sum(x_N.reshape(size.states, -1), axis=1)
    return total(worth_N), total(done.lengths)

  made = states(model, size, prefix)
  texts_QxX = np.concatenate([made.questions, made.steps], axis=1)
  return lambda: jax.device_get(
      complete(params, texts_QxX, jax.random.key(1)))[1]


def run(
    model: model_config.ModelConfig, size: Labelling, times: int, repeats: int
) -> Iterator[dict]:
  """Times both at prefixes of `times` the tokens of a completion."""
  params, prefix = models.init(model, 0), times * size.new_tokens
  contestants = [
      timing.of_function('ours', shared(model, params, size, prefix)),
      timing.of_function('plain', copied(model, params, size, prefix))]
  costs = timing.measure(contestants, repeats)
  for line in timing.report(
      contestants, costs, tokens=size.rows * size.new_tokens,
      facts=dict(workload=f'label {times}x', prefix=prefix)):
    if 'contestant' in line:
      line['labels_per_second'] = size.states / line['seconds']['median']
    yield line


def _parser() -> argparse.ArgumentParser:
  flags = contest.parser(__doc__, ('plain',))
  for field in dataclasses.fields(Labelling):
    flags.add_argument(
        f'--{field.name.replace("_", "-")}', type=field.type,
        default=field.default)
  flags.add_argument(
      '--prefixes', default='1,4',
      help='tokens of a state, in those of a completion')
  return flags


def main(argv: list[str] | None = None) -> None:
  """Runs the workload at all prefixes and prints the lines."""
  arguments = _parser().parse_args(argv)
  model = contest.model(arguments)
  size = Labelling(**{
      field.name: getattr(arguments, field.name)
      for field in dataclasses.fields(Labelling)})
  facts = dict(
      model=arguments.model, parameters=model.num_params(),
      dtype=arguments.dtype, **dataclasses.asdict(size), **timing.machine())
  for times in map(int, arguments.prefixes.split(',')):
    for line in run(model, size, times, arguments.repeats):
      print(json.dumps(facts | line), flush=True)


if __name__ == '__main__':
  main()
