# SPDX-License-Identifier: Apache-2.0
"""What Sudoku has in compiled programs, for a TPU that is not here."""

import jax
import jax.numpy as jnp
import libtpu
import pytest

from configs import sudoku4 as sudoku4_config
from meta_cot import sharding
from meta_cot.compile import hlo
from meta_cot.compile import roofline
from meta_cot.compile import topology as topology_lib
from meta_cot.tasks import sudoku4

assert libtpu  # the compiler; without it nothing here can be tested
WORDS = (*sudoku4_config.PIECES, *'1234,:;x!S', '')


@pytest.mark.parametrize('part', ['outcome', 'is_legal', 'state'])
def test_what_reads_texts(tmp_path, part):
  devices = list(topology_lib.find('v5e:2x2').devices)
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1), devices)
  shape = lambda *axes: jax.ShapeDtypeStruct(
      (256, *axes), jnp.int32, sharding=sharding.batch(mesh))
  reader = jax.jit(jax.vmap(getattr(sudoku4.InGraph(), part)(WORDS)))
  reader.lower(dict(givens=shape(16)), shape(48), shape()).compile(
      compiler_options={
          'xla_dump_to': str(tmp_path), 'xla_dump_hlo_as_text': True})
  text = max(tmp_path.glob('*.after_optimizations.txt')).read_text()
  cost = roofline.cost(hlo.parse(text), len(devices))
  assert not cost.collectives and not cost.unknown_loops
