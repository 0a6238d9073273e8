# SPDX-License-Identifier: Apache-2.0
"""What the chips can do: vendor data, one table for the whole project.

TPU numbers are those of the pages "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x"
of the Cloud TPU documentation; GPU numbers those of NVIDIA's data sheets
(dense, no sparsity). A device is what JAX shows: one chip, also on v5p
("megacore"), but half a chip of TPU7x, whose links and network two share.
"""

import dataclasses
import importlib.util
import os

import jax

from meta_cot.settings import config as config_lib

GIB = 2 ** 30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device. `hbm_bytes` is what XLA lets a program take."""

  name: str
  peak_flops: float  # dense bfloat16, per second
  hbm_bytes: int
  hbm_bandwidth: float  # bytes per second
  link_bandwidth: float  # bytes per second, one interconnect link, one way
  wrap: int  # a topology axis closes to a ring in multiples of it; 0: never
  dcn_bandwidth: float = 0.0  # bytes per second between slices; 0: no slices


# Of 16, 96 and 32 GiB on the chip the runtime keeps a part for itself.
V5E = Chip('TPU v5e', 197e12, int(15.75 * GIB), 819e9, 50e9, 16, 25e9 / 8)
V5P = Chip('TPU v5p', 459e12, int(95.73 * GIB), 2765e9, 100e9, 4, 50e9 / 8)
V6E = Chip(
    'TPU v6e', 918e12, int(31.24 * GIB), 1640e9, 100e9, 16, 100e9 / 8)
TPU7X = Chip(
    'TPU7x', 2307e12 / 2, int(94.74 * GIB), 7380e9 / 2, 100e9 / 2, 4,
    100e9 / 8 / 2)
V4 = Chip('TPU v4', 275e12, int(31.75 * GIB), 1228e9, 50e9, 4)
A100 = Chip('NVIDIA A100', 312e12, 80 * 10**9, 2039e9, 300e9, 0)
H100 = Chip('NVIDIA H100', 989e12, 80 * 10**9, 3350e9, 450e9, 0)
H200 = Chip('NVIDIA H200', 989e12, 141 * 10**9, 4800e9, 450e9, 0)

CHIPS = {  # `device_kind` of JAX -> chip
    'TPU v4': V4,
    'TPU v5 lite': V5E,
    'TPU v5e': V5E,
    'TPU v5': V5P,
    'TPU v5p': V5P,
    'TPU v6 lite': V6E,
    'TPU v6e': V6E,
    'TPU7x': TPU7X,
    'NVIDIA A100-SXM4-80GB': A100,
    'NVIDIA H100 80GB HBM3': H100,
    'NVIDIA H200': H200,
}


def links_per_chip(chip: Chip, shape: tuple[int, ...]) -> float:
  """Mean number of links by which a chip of a slice can send at once.

  `shape` has the chips along each axis of the topology, such as (2, 2, 4). An
  axis that closes to a ring gives two links; a line of d chips, whose ends have
  one neighbour, 2 (d - 1) / d. A slice of three axes closes them only where all
  are multiples of `chip.wrap`; on the others each axis on its own.
  """
  closed = [chip.wrap > 0 and d % chip.wrap == 0 for d in shape]
  if chip in (V5P, V4, TPU7X):
    closed = [all(closed)] * len(shape)
  return sum(
      2.0 if is_ring else 2.0 * (d - 1) / d
      for d, is_ring in zip(shape, closed))


def describe() -> dict[str, str | int]:
  """Says what this run works on; JSON values."""
  return dict(
      platform=jax.default_backend(), device=jax.devices()[0].device_kind,
      num_devices=jax.device_count(), num_hosts=jax.process_count(),
      jax=jax.__version__)


def check_platform() -> None:
  """Starts the devices that JAX_PLATFORMS asks for.

  Raises:
    UserError: there are none, or what JAX needs for them is not installed.
  """
  try:
    jax.devices()
  except (AssertionError, RuntimeError) as e:
    has = lambda name: importlib.util.find_spec(name) is not None
    there = ['cpu'] + ['tpu'] * has('libtpu') + ['cuda'] * (
        has('jax_plugins') and any(
            has(f'jax_plugins.xla_cuda{n}') for n in (12, 13)))
    words = ' '.join(str(e).split()).rstrip('.')
    raise config_lib.UserError(
        f'JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}: no such devices '
        f'here{f" ({words})" if words else ""}; installed: {", ".join(there)}; '
        "pip install 'meta-cot[gpu]' brings cuda, 'meta-cot[tpu]' brings tpu."
    ) from e
