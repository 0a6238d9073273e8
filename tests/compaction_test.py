# SPDX-License-Identifier: Apache-2.0
"""Rows that wait for others are left out, and change nothing."""

import dataclasses
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import reasoning
from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.search import base
from meta_cot.search import engine
from meta_cot.search.frontier import BestFirst
from tests import language_search

BATCH, LENGTH = 8, 8


def _run(is_compacted, variant='llama', loop='unroll', **changes):
  config, params = language_search.make_model(variant, loop)
  step = language_search.make_step(
      config, step_length=LENGTH, is_compacted=is_compacted, **changes)
  return language_search.run(
      step, language_search.BEST_FIRST, params,
      *language_search.make_prompts(BATCH), jnp.arange(BATCH))


@pytest.mark.parametrize('variant, loop', [
    ('llama', 'unroll'),
    pytest.param('gemma', 'scan', marks=pytest.mark.slow)])
def test_trees_are_the_same(variant, loop):
  plain = _run(False, variant, loop)
  lengths = plain.tree.embeddings.page.length
  assert len(np.unique(lengths[plain.tree.is_valid])) > 3
  language_search.same_trees(
      plain.tree, _run(True, variant, loop).tree)


@dataclasses.dataclass(frozen=True)
class _Watched:
  """A step function whose calls are kept."""

  step: reasoning.LanguageStep
  calls: list = dataclasses.field(default_factory=list, hash=False)

  def __call__(self, params, rng, path: base.Path) -> base.Expansion:
    expansion = self.step(params, rng, path)
    jax.debug.callback(
        lambda *x: self.calls.append(x), expansion.num_tokens,
        expansion.num_passes)
    return expansion


def _num_passes(lengths_C, is_compacted) -> int:
  """Row-passes for children of these lengths, in plain Python."""
  number = len(lengths_C)
  half = -(-number // 2) if is_compacted else 0
  return sum(
      number if sum(n > done for n in lengths_C) > half else half
      for done in range(max(lengths_C)))


@pytest.mark.parametrize('is_compacted', [
    pytest.param(False, marks=pytest.mark.slow), True])
def test_passes_are_those_of_the_rows_that_go_on(is_compacted):
  config, params = language_search.make_model()
  watched = _Watched(language_search.make_step(
      config, step_length=LENGTH, is_compacted=is_compacted))
  rule = BestFirst(branching=3, num_expansions=6, max_depth=4)

  @jax.jit
  def run(params, prompts_BxP, lengths_B):
    given, root = reasoning.start(
        config, params, prompts_BxP, lengths_B, step_length=LENGTH)
    return engine.advance(
        rule, given, jax.random.key(7), engine.start(rule, root), watched,
        num_steps=rule.max_steps)

  state = run(params, *language_search.make_prompts(BATCH))
  jax.effects_barrier()
  num_live = num_passes = 0
  for tokens_RxA, passes_RxA in watched.calls:
    assert passes_RxA.sum() == _num_passes(
        tokens_RxA.reshape(-1).tolist(), is_compacted)
    assert (passes_RxA >= tokens_RxA).all()
    num_live += tokens_RxA.sum()
    num_passes += passes_RxA.sum()
  assert state.work.sum(axis=0).tolist() == [num_live, num_passes]
  assert num_live == state.tree.num_tokens.sum()
  waiting = 1 - num_live / num_passes
  assert waiting < 0.45 if is_compacted else waiting > 0.5


def test_rows_stay_on_their_devices():
  config, params = language_search.make_model()
  step = language_search.make_step(
      config, step_length=LENGTH, is_compacted=True)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=1, model=1),
                            jax.devices()[:4])
  boxed = jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0))
  with sharding.use_mesh(mesh):
    params = jax.device_put(params, sharding.of_params(mesh, boxed))
    arrays = jax.device_put(
        (*language_search.make_prompts(BATCH), jnp.arange(BATCH)),
        sharding.batch(mesh))
    compiled = language_search.run.lower(
        step, language_search.BEST_FIRST, params, *arrays).compile()
    found = compiled(params, *arrays)
  language_search.same_trees(found.tree, _run(False).tree)
  assert not re.findall(
      r'all-gather|all-to-all|collective-permute', compiled.as_text())


def test_compilers_compute_no_pages(tmp_path):
  """No pass of the compiler makes a constant as large as a tree's pages."""
  config, params = language_search.make_model(loop='scan')
  rule = BestFirst(branching=3, num_expansions=6, max_depth=4)

  def begin(params, prompts_BxP, lengths_B):
    _, root = reasoning.start(
        config, params, prompts_BxP, lengths_B, step_length=LENGTH)
    return engine.start(rule, root).tree.embeddings

  given = params, *language_search.make_prompts(BATCH)
  jax.jit(begin).lower(*given).compile(compiler_options=dict(
      xla_dump_to=str(tmp_path), xla_dump_hlo_pass_re='constant_folding'))
  sizes = [
      int(np.prod([int(n) for n in shape.split(',') if n], initial=1))
      for name in os.listdir(tmp_path) if name.endswith('.txt')
      for shape in re.findall(
          r'\w+\[([\d,]*)\]\S* constant\(', (tmp_path / name).read_text())]
  of_tree = jax.eval_shape(begin, *given).page.keys.size
  assert len(sizes) > 10 and max(sizes) < of_tree // 4
