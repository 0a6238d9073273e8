# SPDX-License-Identifier: Apache-2.0
"""A* on mazes in one compiled program, against A* in plain Python."""

import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import mazes as mazes_benchmark
from meta_cot import sharding
from meta_cot.tasks import maze_arrays
from meta_cot.tasks import maze_steps
from tests import plain_astar
from tests import random_mazes

NUM_MAZES, SIZE = 512, 8


def _stacked(problems, size=SIZE):
  inputs = map(maze_arrays.InGraph(size).inputs, problems)
  return jax.tree.map(lambda *x: np.stack(x), *inputs)


@pytest.fixture(scope='module')
def mazes():
  rng = random.Random(0)
  return [random_mazes.draw(rng, rng.randint(2, SIZE))
          for _ in range(NUM_MAZES)]


def _cells(tree, b, nodes):
  return [tuple(cell) for cell in tree.embeddings[b, nodes].tolist()]


def _stream(tree, b, goal):
  """Searchformer's words of create and close."""
  def words(verb, node):
    cell, cost = tree.embeddings[b, node], int(tree.costs[b, node])
    rest = abs(cell - tree.embeddings[b, goal]).sum()
    return [verb, *map(str, cell), f'c{cost}', f'c{rest}']

  written = words('create', 0)
  for node in [*_order(tree, b), goal]:
    written += words('close', node)
    for child in np.flatnonzero(tree.is_valid[b]):
      if tree.parents[b, child] == node:
        written += words('create', child)
  return written


def _order(tree, b):
  """Nodes as they are expanded."""
  when_N = tree.expansion_order[b]
  return sorted(np.flatnonzero(when_N >= 0), key=lambda node: when_N[node])


def test_equals_plain_python_on_500_mazes(mazes):
  output = maze_steps.a_star(_stacked(mazes))
  paths_BxD = np.asarray(output.path(output.solution_index))
  output = jax.tree.map(np.asarray, output)
  tree, num_unsolved = output.tree, 0
  assert output.is_done.all()
  for b, problem in enumerate(mazes):
    created, closed, cost = mazes_benchmark.a_star(problem.data)
    assert _cells(tree, b, np.flatnonzero(tree.is_valid[b])) == created
    order, goal = _order(tree, b), output.solution_index[b]
    way = random_mazes.shortest(problem)
    if cost is None:
      assert goal == -1 and way is None
      assert _cells(tree, b, order) == closed
      num_unsolved += 1
    else:
      assert _cells(tree, b, [*order, goal]) == closed
      assert tree.costs[b, goal] == cost == len(way) - 1
      found = _cells(tree, b, [i for i in paths_BxD[b] if i >= 0])
      assert len(found) == len(way) and found[-1] == way[-1]
      assert found[0] == way[0] and set(found) <= random_mazes.free(problem)
      stream = plain_astar.stream(problem)
      assert _stream(tree, b, goal) == stream[:stream.index('plan')]
  assert 50 < num_unsolved < 250


def test_devices_and_calls(mazes):
  """On eight devices it is the same, and no call compiles a second time."""
  inputs = _stacked(mazes)
  once = maze_steps.a_star(inputs)
  num_programs = maze_steps.a_star._cache_size()
  again = maze_steps.a_star(_stacked(mazes[::-1]))
  assert maze_steps.a_star._cache_size() == num_programs
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  assert len(mesh.devices.flat) == 8
  spread = maze_steps.a_star(sharding.split_batch(inputs, mesh))
  assert len(spread.tree.costs.sharding.device_set) == 8
  for a, b, c in zip(*map(jax.tree.leaves, (once, spread, again)), strict=True):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c[::-1])


def test_a_start_that_is_the_goal():
  problem = random_mazes.draw(random.Random(1), 3)
  problem.data['goal'] = problem.data['start']
  output = maze_steps.a_star(_stacked([problem], 3))
  assert output.solution_index.tolist() == [0]
  assert output.tree.num_expansions.tolist() == [0]


def test_the_contest(capsys):
  mazes_benchmark.main(['--size=4', '--mazes=3', '--repeats=2'])
  lines = [*map(json.loads, capsys.readouterr().out.splitlines())]
  assert [x.get('contestant') for x in lines] == ['compiled', 'plain', None]
  assert all(x['mazes_per_second'] > 0 for x in lines[:2])
  assert lines[2]['ratio']['median'] > 0 and lines[2]['mazes'] == 3


def test_mazes_that_are_too_large():
  maze = dict(start=jnp.zeros((1, 2), int), goal=jnp.ones((1, 2), int),
              is_wall=jnp.zeros((1, 65, 65), bool))
  with pytest.raises(ValueError, match='mazes: got size 65; must be at most'):
    maze_steps.a_star(maze)
