# SPDX-License-Identifier: Apache-2.0
"""A training state of two arrays on 8 devices, and a data iterator."""

import functools
import logging
import os
import pathlib
import shutil
import signal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines import pipelines
from meta_cot import sharding
from meta_cot.training import checkpoint
from meta_cot.training import integrity
from meta_cot.training import state as state_lib

CONFIG = {'model': {'embed_dim': 16}}
TOKENIZER = '00c0ffee' * 8
UPDATE = optax.adam(0.1)
EMBED_DIM = 16


def mesh():
  """8 devices: 2 x 2 x 2."""
  return sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, model=2))


def _shapes(embed_dim, dtype):
  params = {
      'embed': jax.ShapeDtypeStruct((8, embed_dim), dtype),
      'mlp': {'w': jax.ShapeDtypeStruct((embed_dim, 32), dtype)}}
  return state_lib.TrainState(
      step=jax.ShapeDtypeStruct((), jnp.int32), params=params,
      opt_state=jax.eval_shape(UPDATE.init, params),
      rng=jax.eval_shape(lambda: jax.random.key(0)))


def abstract(embed_dim=EMBED_DIM, dtype=jnp.float32) -> state_lib.TrainState:
  """Shapes and shardings."""
  split = sharding.named(mesh(), 'embed', 'mlp')
  whole = sharding.replicated(mesh())
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=split if len(x.shape) == 2 else whole),
      _shapes(embed_dim, dtype))


@functools.cache
def _host_arrays(step: int) -> list[np.ndarray]:
  rng = np.random.default_rng(step)
  leaves = jax.tree.leaves(_shapes(EMBED_DIM, jnp.float32).params)
  return [rng.normal(size=x.shape).astype(np.float32) for x in leaves]


def state(step: int) -> state_lib.TrainState:
  """The state after `step` updates: arrays of random numbers."""
  shapes = abstract()
  values = iter(_host_arrays(step) * 3)  # parameters and two moments

  def one(x):
    if x.ndim == 2:
      value = next(values)
    elif jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.device_put(jax.random.key(step), x.sharding)
    else:
      value = np.asarray(step, x.dtype)
    return jax.device_put(value, x.sharding)

  return jax.tree.map(one, shapes)


def iterator() -> pipelines.Streams:
  """0, 1, 2, ... in batches of one."""
  return pipelines.Streams(
      {0: iter(grain.MapDataset.range(1000).to_iter_dataset())})


def open_checkpoints(directory, max_to_keep=None) -> checkpoint.Checkpoints:
  """Checkpoints of every step."""
  return checkpoint.Checkpoints(directory, max_to_keep)


def save(checkpoints, step: int) -> None:
  """Saves `state(step)` and an iterator that has given `step` elements."""
  places = iterator()
  for _ in range(step):
    next(places)
  checkpoints.save(
      state(step), places, step=step, config=CONFIG, tokenizer=TOKENIZER)


def restore(checkpoints, **changes) -> int | None:
  """Restores; returns the step after checking every bit of it."""
  places = iterator()
  restored = checkpoints.restore(
      abstract(), places, **dict(
          dict(config=CONFIG, tokenizer=TOKENIZER), **changes))
  if restored is None:
    return None
  step = int(restored.step)
  jax.tree.map(_assert_same_bits, restored, state(step))
  assert next(places) == step
  return step


def _assert_same_bits(a, b) -> None:
  assert a.sharding == b.sharding and a.dtype == b.dtype
  if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
    a, b = jax.random.key_data(a), jax.random.key_data(b)
  a, b = np.asarray(a), np.asarray(b)
  assert a.shape == b.shape and a.tobytes() == b.tobytes()


def save_until_killed(directory: str, point: str, at_step: int) -> None:
  """Continues in `directory`, keeping two steps, and dies at `at_step`.

  Args:
    directory: of the checkpoints.
    point: what dies, a key of `_calls`, after 'before ' or 'after '; '' never.
    at_step: the step that is being saved then.
  """
  jax.config.update('jax_num_cpu_devices', 8)
  logging.basicConfig(level=logging.WARNING)
  checkpoints = open_checkpoints(directory, max_to_keep=2)
  done = restore(checkpoints) or 0
  print('continues', done, flush=True)
  for step in range(done + 1, at_step + 1):
    checkpoints.wait()
    if step == at_step and point:
      _die_at(point, pathlib.Path(directory), step)
    save(checkpoints, step)
    print('saving', step, flush=True)
  checkpoints.close()
  print('ended', flush=True)


def _die_at(point: str, directory: pathlib.Path, step: int) -> None:
  """Replaces a function by one that kills the process around its call."""
  when, name = point.split()
  deleting = directory / integrity.DELETING
  calls = {  # where the function is, and which of its calls is meant
      'seal': (integrity, 'seal', lambda *_: True),
      'commit': (os, 'rename', lambda _, to: to == str(directory / str(step))),
      'retire': (os, 'replace', lambda _, to: to.startswith(str(deleting))),
      'delete': (shutil, 'rmtree', lambda path: deleting.exists()),
  }
  owner, attribute, is_meant = calls[name]
  real = getattr(owner, attribute)

  def dying(*args, **kwargs):
    is_last = is_meant(*map(str, args[:2]))
    if is_last and when == 'before':
      os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **kwargs)
    if is_last:
      os.kill(os.getpid(), signal.SIGKILL)
    return result

  setattr(owner, attribute, dying)
