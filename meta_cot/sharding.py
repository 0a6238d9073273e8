# SPDX-License-Identifier: Apache-2.0
"""Where arrays live: the mesh, the logical axis rules, and what follows.

This is the only module that names mesh axes or builds PartitionSpecs. Model
code names *logical* axes; RULES says which mesh axes split them.
"""

import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from meta_cot import config as config_lib

MESH_AXES = ('data', 'fsdp', 'model')

RULES = {  # logical axis -> mesh axes that split it
    # Activations.
    'act_batch': ('data', 'fsdp'),
    'act_length': None,
    'act_embed': None,
    'act_heads': 'model',
    'act_kv_heads': 'model',
    'act_mlp': 'model',
    'act_vocab': 'model',
    # Parameters.
    'layers': None,
    'embed': 'fsdp',
    'heads': 'model',
    'kv_heads': 'model',
    'head_dim': None,
    'mlp': 'model',
    'vocab': 'model',
    'norm': None,
    'value': None,
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; -1 (at most one) takes all that are left."""

  data: int = config_lib.setting(low=-1)
  fsdp: int = config_lib.setting(low=-1)
  model: int = config_lib.setting(low=-1)

  def __post_init__(self):
    sizes = (self.data, self.fsdp, self.model)
    if 0 in sizes or sizes.count(-1) > 1:
      raise config_lib.ConfigError(
          f'data, fsdp, model: got {sizes}; must be positive, '
          'with at most one -1 (all devices left over).')


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
  """The device mesh with axes ('data', 'fsdp', 'model').

  Args:
    config: devices per axis.
    devices: all of them by default.

  Raises:
    ConfigError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [config.data, config.fsdp, config.model]
  if -1 in sizes:
    rest = math.prod(s for s in sizes if s != -1)
    sizes[sizes.index(-1)] = max(len(devices) // rest, 1)
  if math.prod(sizes) != len(devices):
    raise config_lib.ConfigError(
        f'config.mesh: data x fsdp x model = {" x ".join(map(str, sizes))} '
        f'must equal the number of devices, {len(devices)}.')
  return jax.make_mesh(
      tuple(sizes), MESH_AXES, devices=devices,
      axis_types=(AxisType.Auto,) * len(MESH_AXES))


def use_mesh(mesh: Mesh):
  """Context in which `constrain` and jitted programs see `mesh`."""
  return jax.set_mesh(mesh)


def _spec(logical_axes: tuple[str | None, ...]) -> PartitionSpec:
  return PartitionSpec(*(None if a is None else RULES[a] for a in logical_axes))


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
  """Lays `x` out by its logical axes; has no effect without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, _spec(logical_axes))


def named(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
  """The sharding of an array with these logical axes."""
  return NamedSharding(mesh, _spec(logical_axes))


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh) -> NamedSharding:
  """Leading axis split over the data-parallel devices."""
  return named(mesh, 'act_batch')


def data_parallelism(mesh: Mesh) -> int:
  """Number of parts a batch is split into."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def of_params(mesh: Mesh, boxed: Any) -> Any:
  """Shardings of a parameter tree.

  Args:
    mesh: the device mesh.
    boxed: parameters (or their shapes) boxed with logical axis names, as
      `transformer.init` leaves them under `jax.eval_shape`.

  Returns:
    A tree of NamedSharding with the structure of the unboxed parameters.

  Raises:
    ValueError: an axis does not divide; names parameter, shape and axis.
  """
  is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)

  def one(path, leaf):
    if not is_box(leaf):
      return replicated(mesh)
    spec = _spec(leaf.names)
    name = '/'.join(str(getattr(k, 'key', k)) for k in path)
    _check_divides(mesh, name, leaf.value.shape, leaf.names, spec)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=is_box)


def _check_divides(mesh, name, shape, logical_axes, spec):
  for size, logical, axes in zip(shape, logical_axes, spec):
    axes = (axes,) if isinstance(axes, str) else axes or ()
    parts = math.prod(mesh.shape[a] for a in axes)
    if size % parts:
      raise ValueError(
          f'parameter {name} of shape {tuple(shape)}: axis {logical!r} of size '
          f'{size} does not divide over mesh axes {axes} of {parts} devices; '
          'change config.mesh or config.model.')


def like_params(mesh: Mesh, state: Any, params: Any, shardings: Any) -> Any:
  """Shardings of a tree that holds copies of the parameter tree inside.

  Optimiser states repeat the parameters' structure (moments) beside scalars:
  every subtree with the structure of `params` gets `shardings`, every other
  leaf is replicated.
  """
  structure = jax.tree.structure(params)
  is_copy = lambda x: jax.tree.structure(x) == structure
  return jax.tree.map(
      lambda x: shardings if is_copy(x) else replicated(mesh),
      state, is_leaf=is_copy)


def put_batch(tree: Any, mesh: Mesh) -> Any:
  """Rows of this process -> global arrays, split along their first axis."""
  sharding = batch(mesh)
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          sharding, np.asarray(x)), tree)
