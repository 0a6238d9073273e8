# SPDX-License-Identifier: Apache-2.0
"""The state of a training run, created sharded."""

from collections.abc import Callable
import functools

from flax import struct
from flax.linen import meta
import jax
import jax.numpy as jnp
import optax

from meta_cot import sharding
from meta_cot import types


@struct.dataclass
class TrainState:
  """Everything an update reads and writes."""

  step: jax.Array  # [] int32, optimiser updates done
  params: types.Params
  opt_state: optax.OptState
  rng: jax.Array  # key of the stage; fold in `step` before use


def _initial(init_fn, optimizer, rng) -> TrainState:
  init_rng, stage_rng = jax.random.split(rng)
  params = meta.unbox(init_fn(init_rng))
  return TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=optimizer.init(params), rng=stage_rng)


def shardings(
    init_fn: Callable[[types.PRNGKey], types.Params],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, TrainState]:
  """Shapes and shardings of the state, without allocating it.

  Args:
    init_fn: rng -> parameters boxed with logical axis names.
    optimizer: of the run.
    mesh: devices.

  Returns:
    (state of ShapeDtypeStruct with shardings, state of shardings).

  Raises:
    ConfigError: a parameter axis does not divide over its mesh axes.
  """
  rng = jax.eval_shape(lambda: jax.random.key(0))
  boxed = jax.eval_shape(init_fn, rng)
  of_params = sharding.of_params(mesh, boxed)
  shapes = jax.eval_shape(functools.partial(_initial, init_fn, optimizer), rng)
  whole = sharding.replicated(mesh)
  # Optimiser states hold trees like the parameters (moments) beside scalars.
  # optax.tree.map_params would compute, where there may be no device.
  structure = jax.tree.structure(of_params)
  is_copy = lambda x: jax.tree.structure(x) == structure
  placed = TrainState(
      step=whole, params=of_params, opt_state=jax.tree.map(
          lambda x: of_params if is_copy(x) else whole, shapes.opt_state,
          is_leaf=is_copy), rng=whole)
  return jax.tree.map(lambda x, s: x.update(sharding=s), shapes, placed), placed


def jit_create(
    init_fn: Callable[[types.PRNGKey], types.Params],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> Callable[[types.PRNGKey], TrainState]:
  """Makes rng -> new state, every array of which is born on its own devices.

  Args and errors as in `shardings`.
  """
  _, placed = shardings(init_fn, optimizer, mesh)
  make = functools.partial(_initial, init_fn, optimizer)
  return jax.jit(make, out_shardings=placed)
