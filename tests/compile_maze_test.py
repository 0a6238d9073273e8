# SPDX-License-Identifier: Apache-2.0
"""What mazes have in compiled programs, for TPUs that are not here."""

import jax
import jax.numpy as jnp
import libtpu
import pytest

from meta_cot import sharding
from meta_cot.compile import hlo
from meta_cot.compile import roofline
from meta_cot.compile import topology as topology_lib
from meta_cot.tasks import maze_arrays
from meta_cot.tasks import maze_steps

assert libtpu  # the compiler; without it nothing here can be tested
TOPOLOGIES = ('v5e:2x2', 'v5p:2x2x1', 'v6e:2x2')
WORDS = ('start', *(f' {word}' for word in (
    'goal', 'wall', 'create', 'close', 'plan', *range(10),
    *(f'c{i}' for i in range(100)))))


def _cost(function, topology, folder, *shapes):
  """Compiles with rows over all devices; what the program costs."""
  devices = list(topology_lib.find(topology).devices)
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1), devices)
  arguments = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding.batch(mesh)), shapes)
  jax.jit(function).lower(*arguments).compile(compiler_options={
      'xla_dump_to': str(folder), 'xla_dump_hlo_as_text': True})
  text = max(folder.glob('*.after_optimizations.txt')).read_text()
  return roofline.cost(hlo.parse(text), len(devices))


def _mazes(number, size):
  shape = lambda dtype, *axes: jax.ShapeDtypeStruct((number, *axes), dtype)
  return dict(
      start=shape(jnp.int32, 2), goal=shape(jnp.int32, 2),
      is_wall=shape(bool, size, size))


@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_the_judge(topology, tmp_path):
  cost = _cost(
      jax.vmap(maze_arrays.InGraph(10).outcome(WORDS)), topology, tmp_path,
      _mazes(256, 10), jax.ShapeDtypeStruct((256, 192), jnp.int32),
      jax.ShapeDtypeStruct((256,), jnp.int32))
  assert not cost.collectives and not cost.unknown_loops


@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_a_star(topology, tmp_path):
  cost = _cost(maze_steps.a_star, topology, tmp_path, _mazes(256, 10))
  # Nothing of a tree goes anywhere: all learn whether all are done.
  assert set(cost.collectives) == {'all-reduce'}
  assert cost.collectives['all-reduce'].num_bytes < 1024
