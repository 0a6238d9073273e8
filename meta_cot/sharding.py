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
from jax.experimental import mesh_utils
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
    'lora': None,
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
  """Makes the mesh of `devices`, all by default.

  Of several slices, `data` goes across them, or `fsdp` where it alone can.

  Raises:
    ConfigError: the sizes do not multiply to the number of devices, or do not
      fit the links of a slice or the number of slices.
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
  try:
    return Mesh(_laid_out(sizes, devices), MESH_AXES,
                axis_types=(AxisType.Auto,) * len(MESH_AXES))
  except NotImplementedError as e:  # of slices of TPUs
    raise config_lib.ConfigError(
        f'config.mesh: data x fsdp x model = {" x ".join(map(str, sizes))} '
        'cannot be laid out on this slice; each must be a product of some of '
        "the slice's own sizes, such as 8 on 8x8.") from e


def _laid_out(sizes: list[int], devices: list) -> np.ndarray:
  """Lays devices out as `jax.make_mesh` does, which knows one slice only."""
  number = len({slice_of(device) for device in devices})
  across = [1] * len(sizes)
  axis = next((i for i in (0, 1) if sizes[i] % number == 0), None)
  if axis is None:
    raise config_lib.ConfigError(
        f'config.mesh: data {sizes[0]} and fsdp {sizes[1]}: one must be a '
        f'multiple of {number}, the slices of this job; set '
        f'config.mesh.data={number}.')
  across[axis] = number
  within = [size // a for size, a in zip(sizes, across)]
  options = dict(  # as there: a v5e has no wires that it would lose
      allow_split_physical_axes=devices[0].device_kind in (
          'TPU v5 lite', 'TPU v5e'))
  if number == 1:
    return mesh_utils.create_device_mesh(within, devices, **options)
  return mesh_utils.create_hybrid_device_mesh(
      within, across, devices, **options)


def slice_of(device: Any) -> int:
  """The slice that a device belongs to; 0 where there are none."""
  return getattr(device, 'slice_index', None) or 0


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
  return 1 if mesh.empty else math.prod(
      mesh.shape[a] for a in _mesh_axes(logical_axis))


def _mesh_axes(logical_axis: str | None) -> tuple[str, ...]:
  axes = RULES.get(logical_axis) or ()
  return (axes,) if isinstance(axes, str) else axes


def map_shards(
    function: Callable[..., jax.Array],
    in_axes: tuple[tuple[str | None, ...], ...],
    out_axes: tuple[str | None, ...],
) -> Callable[..., jax.Array]:
  """`function`, run by every device on its own part of the arguments.

  For kernels that the compiler cannot split by itself. Without a mesh it is
  `function` itself. Axes that are split, of each argument and of the result,
  must divide (see `num_parts`).
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
  """Shardings of a parameter tree, with the structure of the unboxed one.

  Args:
    mesh: devices.
    boxed: parameters (or their shapes) boxed with logical axis names, as
      `transformer.init` leaves them under `jax.eval_shape`.

  Raises:
    ConfigError: an axis does not divide; names parameter, shape and axis.
  """
  is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)

  def one(path, leaf):
    if not is_box(leaf):
      return replicated(mesh)
    for size, logical in zip(leaf.value.shape, leaf.names):
      parts = math.prod(mesh.shape[a] for a in _mesh_axes(logical))
      if size % parts:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        raise config_lib.ConfigError(
            f'parameter {name} of shape {tuple(leaf.value.shape)}: axis '
            f'{logical!r} of size {size} does not divide over mesh axes '
            f'{_mesh_axes(logical)} of {parts} devices; change config.mesh or '
            'config.model.')
    return named(mesh, *leaf.names)

  return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=is_box)


def host_share(mesh: Mesh) -> tuple[int, int]:
  """Which share of a batch's rows this process holds, and how many there are.

  Usually its number and the number of processes; but processes whose devices
  split a model between them hold the same rows.

  Raises:
    ConfigError: the shares of two processes overlap in part.
  """
  num_parts = data_parallelism(mesh)
  parts = {}
  for device, (part,) in batch(mesh).devices_indices_map((num_parts,)).items():
    parts.setdefault(device.process_index, set()).update(range(num_parts)[part])
  shares = sorted({tuple(sorted(s)) for s in parts.values()})
  if not len(shares) * len(shares[0]) == sum(map(len, shares)) == num_parts:
    raise config_lib.ConfigError(
        f'config.mesh: data x fsdp = {num_parts} parts of a batch do not '
        f'divide over the {len(parts)} processes; data x fsdp or model must be '
        'a multiple of the devices of a process.')
  return shares.index(tuple(sorted(parts[jax.process_index()]))), len(shares)


def put_batch(tree: Any, mesh: Mesh) -> Any:
  """Rows of this process (see `host_share`) -> global arrays, split by rows."""
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          batch(mesh), np.asarray(x)), tree)


def split_batch(tree: Any, mesh: Mesh) -> Any:
  """Rows that all processes have in full -> global arrays, split by rows."""
  return jax.tree.map(
      lambda x: jax.make_array_from_callback(
          x.shape, batch(mesh), lambda index: x[index]), tree)


def put_flag(value: bool, mesh: Mesh) -> jax.Array:
  """This process's value on each of its devices: [devices] int32."""
  sharding = NamedSharding(mesh, PartitionSpec(MESH_AXES))
  own = np.full(len(mesh.local_devices), value, np.int32)
  return jax.make_array_from_process_local_data(sharding, own)
