# SPDX-License-Identifier: Apache-2.0
"""Parts memory and occupancy of benchmarks/search.py."""

import argparse
from collections.abc import Iterator
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import models
from benchmarks import search_workloads as workloads
from meta_cot import decode
from meta_cot import reasoning
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.search import base
from meta_cot.search import batching
from meta_cot.search import engine


def memory(
    model: model_config.ModelConfig, size: workloads.Searching,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """Bytes of a node, against those of the whole cache of its text."""
  for depth in arguments.depths:
    yield dict(part='memory', **node_bytes(
        model, dataclasses.replace(size, max_depth=depth)))
  for name in arguments.strategies:
    step, rule, *arrays = workloads.search_arguments(model, size, name)
    compiled = workloads.search.lower(step, rule, *arrays).compile()
    used = compiled.memory_analysis()
    num_nodes = size.problems * rule.num_nodes
    whole = used.temp_size_in_bytes + used.output_size_in_bytes
    yield dict(
        part='memory', strategy=name, problems=size.problems,
        nodes=num_nodes, temporary_bytes=used.temp_size_in_bytes,
        output_bytes=used.output_size_in_bytes,
        argument_bytes=used.argument_size_in_bytes,
        program_bytes_per_node=whole / num_nodes)


def node_bytes(
    model: model_config.ModelConfig, size: workloads.Searching
) -> dict:
  """Bytes of one node by the shapes of its arrays; padding counts.

  `page`: keys and values of its own step; `other`: its tokens, the trunk's
  output, the numbers of the search. `whole_cache`: keys and values of a text
  that is as long as texts may become, which is what a node has to hold without
  pages. `prompt` is there once a problem.
  """
  step, rule, *arrays = workloads.search_arguments(model, size, 'best_first')

  def begin(params, prompts_BxP, lengths_B):
    (_, rows), root = reasoning.start(
        model, params, prompts_BxP, lengths_B, step_length=step.step_length)
    return rows, engine.start(rule, root).tree

  rows, tree = jax.eval_shape(begin, *arrays[:3])
  num_nodes = tree.shape[0] * tree.shape[1]
  node = tree.embeddings
  page = _bytes((node.page.keys, node.page.values)) / num_nodes
  tree_bytes = _bytes(tree) / num_nodes
  whole = jax.eval_shape(
      lambda: cache_lib.create(model, 1, size.prompt + size.text))
  whole_cache = _bytes((whole.keys, whole.values))
  return dict(
      max_depth=size.max_depth, prompt=size.prompt,
      step_length=size.step_length, page_bytes_per_node=page,
      other_bytes_per_node=tree_bytes - page,
      whole_cache_bytes_per_node=whole_cache,
      prompt_bytes_per_problem=_bytes(rows) / size.problems,
      ratio=(whole_cache + tree_bytes - page) / tree_bytes)


def _bytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@dataclasses.dataclass(eq=False)
class Writing:
  """How well the calls of a step function were used."""

  tokens: int = 0  # written for children that had not ended
  slots: int = 0  # rows of a call times the tokens of its longest child
  calls: int = 0

  def count(self, num_tokens_RxA: np.ndarray) -> None:
    """One call."""
    self.tokens += int(num_tokens_RxA.sum())
    self.slots += int(num_tokens_RxA.max()) * num_tokens_RxA.size
    self.calls += 1


@dataclasses.dataclass(frozen=True)
class Counted:
  """A step function whose calls are counted on the host."""

  step_fn: base.StepFn
  writing: Writing

  def __call__(self, params, rng, path: base.Path) -> base.Expansion:
    """See `search.base.StepFn`."""
    expansion = self.step_fn(params, rng, path)
    jax.debug.callback(self.writing.count, expansion.num_tokens)
    return expansion


def occupancy(
    model: model_config.ModelConfig, size: workloads.Searching,
    arguments: argparse.Namespace,
) -> Iterator[dict]:
  """Slots refilled as problems finish, and batches that wait for their last.

  A twelfth of the vocabulary ends a step, and one token ends a text, so that
  steps have 1 to T tokens. A best-first search is over when a text has ended,
  or after all its expansions: so problems are of very different length.
  """
  for is_refilled in (True, False):
    writing, usage = Writing(), batching.Usage()
    made = _slots(model, size, arguments.chunk_steps, writing)
    queue = _problems(model, size, arguments.slot_problems)
    params, rng = workloads.params(model), jax.random.key(1)
    made.warm_up(params, rng, queue[0])
    jax.effects_barrier()
    writing.tokens = writing.slots = writing.calls = 0
    batches = [queue] if is_refilled else [
        queue[i:i + size.problems]
        for i in range(0, len(queue), size.problems)]
    start = time.perf_counter()
    finished = [
        f for batch in batches
        for f in made.run_all(params, rng, batch, usage=usage)]
    jax.effects_barrier()
    seconds = time.perf_counter() - start
    steps = [f.num_steps for f in finished]
    yield dict(
        part='occupancy', is_refilled=is_refilled, slots=size.problems,
        problems=len(finished), chunk_steps=arguments.chunk_steps,
        branching=size.branching, step_length=size.step_length,
        occupancy=usage.occupancy,
        token_occupancy=writing.tokens / writing.slots,
        calls=writing.calls, tokens=writing.tokens, seconds=seconds,
        tokens_per_second=writing.tokens / seconds,
        steps=dict(
            mean=float(np.mean(steps)), min=min(steps), max=max(steps)))


def _slots(model, size, chunk_steps, writing) -> batching.Slots:
  ends = range(1, 1 + model.vocab_size // 12)
  step = reasoning.LanguageStep(
      model, branching=size.branching, step_length=size.step_length,
      delimiter_ids=tuple(ends), eos_ids=(0,), pad_id=0,
      sampling=decode.Sampling(temperature=1.0))

  def start(params, prompt_BxP):
    lengths_B = jnp.full(prompt_BxP.shape[0], prompt_BxP.shape[1], jnp.int32)
    (_, rows), root = reasoning.start(
        model, params, prompt_BxP, lengths_B, step_length=size.step_length)
    return rows, root

  return batching.Slots(
      workloads.strategy('best_first', size), Counted(step, writing), start,
      num_slots=size.problems, chunk_steps=chunk_steps,
      select=reasoning.select_rows, axes=reasoning.axes)


def _problems(model, size, number) -> list[batching.Problem]:
  prompts_NxP = models.prompts(model, models.Decoding(number, size.prompt))
  return [batching.Problem(i, row) for i, row in enumerate(prompts_NxP)]
