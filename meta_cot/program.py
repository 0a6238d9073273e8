# SPDX-License-Identifier: Apache-2.0
"""What a program is, and the shapes that many programs are called with."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax

from meta_cot import sharding


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function, what it is called with, and its useful work."""

  name: str
  jitted: Callable
  arguments: tuple  # trees of ShapeDtypeStruct with shardings
  keywords: dict[str, Any]
  model_flops: float  # useful, of one call on all devices
  tokens: int  # that one call reads or writes, on all devices; 0: none

  def lower(self) -> jax.stages.Lowered:
    """Traces and lowers it, for the devices of its arguments' shardings."""
    return self.jitted.lower(*self.arguments, **self.keywords)


def placed(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shapes of arrays that every device holds whole."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding.replicated(mesh)), tree)


def split(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shapes of arrays split by rows; scalars are everywhere."""
  return jax.tree.map(
      lambda x: rows(x.shape, x.dtype, mesh) if x.ndim else placed(x, mesh),
      tree)


def rows(
    shape: tuple[int, ...], dtype: Any, mesh: jax.sharding.Mesh
) -> jax.ShapeDtypeStruct:
  """The shape of an array split by rows."""
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch(mesh))
