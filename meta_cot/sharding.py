# SPDX-License-Identifier: Apache-2.0
"""Where arrays live: the mesh, the logical axis rules, and what follows.

This is the only module that names mesh axes or builds PartitionSpecs. Model
code names *logical* axes; RULES says which mesh axes split them.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from meta_cot.settings import config as config_lib

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


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh in use, else of the default backend.

  The two differ where a program is compiled for hardware that is not here.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def num_parts(logical_axis: str) -> int:
  """Number of parts the mesh in use splits an axis into; 1 without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = RULES[logical_axis] or ()
  axes = (axes,) if isinstance(axes, str) else axes
  return 1 if mesh.empty else math.prod(mesh.shape[a] for a in axes)


def map_shards(
    function: Callable[..., jax.Array],
    in_axes: tuple[tuple[str | None, ...], ...],
    out_axes: tuple[str | None, ...],
) -> Callable[..., jax.Array]:
  """`function`, run by every device on its own part of the arguments.

  For kernels that the compiler cannot split by itself. Without a mesh it is
  `function` itself. Split axes must divide (see `num_parts`).

  Args:
    function: of arrays to one array; it sees the parts only.
    in_axes: logical axes of each argument.
    out_axes: logical axes of the result.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return function
  # Kernels do not say over which mesh axes their results vary: no check.
  return jax.shard_map(
      function, in_specs=tuple(_spec(axes) for axes in in_axes),
      out_specs=_spec(out_axes), check_vma=False)


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


def up_to_parts(number: int, mesh: Mesh) -> int:
  """The next multiple of the parts that a batch is split into."""
  parts = data_parallelism(mesh)
  return -(-number // parts) * parts


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
      raise config_lib.ConfigError(
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


def host_share(mesh: Mesh, process_index: int | None = None) -> tuple[int, int]:
  """Which share of a batch's rows a process holds, and how many there are.

  Usually its number and the number of processes; but processes whose devices
  split a model between them hold the same rows.

  Args:
    mesh: over all processes.
    process_index: this process by default.

  Raises:
    ConfigError: the shares of two processes overlap in part.
  """
  if process_index is None:
    process_index = jax.process_index()
  num_parts = data_parallelism(mesh)
  parts = {}
  for device, (part,) in batch(mesh).devices_indices_map((num_parts,)).items():
    parts.setdefault(device.process_index, set()).update(
        range(*part.indices(num_parts)))
  shares = sorted({tuple(sorted(s)) for s in parts.values()})
  if len(shares) * len(shares[0]) != num_parts or (
      sum(map(len, shares)) != num_parts):
    raise config_lib.ConfigError(
        f'config.mesh: data x fsdp = {num_parts} parts of a batch do not '
        f'divide over the {len(parts)} processes; data x fsdp or model must be '
        'a multiple of the devices of a process.')
  return shares.index(tuple(sorted(parts[process_index]))), len(shares)


def put_batch(tree: Any, mesh: Mesh) -> Any:
  """Rows of this process (see `host_share`) -> global arrays, split by rows."""
  sharding = batch(mesh)
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          sharding, np.asarray(x)), tree)


def split_batch(tree: Any, mesh: Mesh) -> Any:
  """Rows that all processes have in full -> global arrays, split by rows."""
  sharding = batch(mesh)
  return jax.tree.map(
      lambda x: jax.make_array_from_callback(
          x.shape, sharding, lambda index: x[index]), tree)


def put_flag(value: bool, mesh: Mesh) -> jax.Array:
  """This process's value on each of its devices: [devices] int32."""
  sharding = NamedSharding(mesh, PartitionSpec(MESH_AXES))
  own = np.full(len(mesh.local_devices), value, np.int32)
  return jax.make_array_from_process_local_data(sharding, own)
