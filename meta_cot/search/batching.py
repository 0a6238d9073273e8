# SPDX-License-Identifier: Apache-2.0
"""Slots: any number of searches in the rows of one compiled search.

Problems need different numbers of steps. A host loop therefore runs the search
in chunks of a fixed number of steps, takes out the problems that are finished
and puts new ones in their rows. Shapes never change, so nothing is compiled
again; and as a problem's randomness follows from its id alone, its tree does
not depend on the slot, the order or the number of slots.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_cot import sharding
from meta_cot.search import base
from meta_cot.search import engine
from meta_cot.search import tree as tree_lib
from meta_cot.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class Problem:
  """One search to do."""

  id: int  # names the problem; its random draws follow from it
  inputs: Any  # pytree of NumPy arrays, of the same shapes for all problems


@dataclasses.dataclass(frozen=True)
class Finished:
  """One search that is done."""

  problem: Problem
  result: Any  # what `Slots.collect` kept: NumPy arrays without the axis B
  num_steps: int  # of the engine, while it was not done


@dataclasses.dataclass
class Usage:
  """How well the slots were used; counts of all runs it was given to."""

  live_steps: int = 0  # slots that worked on a live problem, over all steps
  slot_steps: int = 0  # slots there were, over all steps
  tokens: int = 0  # drawn in all rows
  passes: int = 0  # of rows over models, token by token

  @property
  def occupancy(self) -> float:
    """Share of slot-steps that worked on a live problem; 1 without steps."""
    return self.live_steps / self.slot_steps if self.slot_steps else 1.0

  @property
  def live_passes(self) -> float:
    """Share of row-passes that drew a token; 1 without passes."""
    return self.tokens / self.passes if self.passes else 1.0


def without_embeddings(state: engine.State) -> engine.SearchOutput:
  """What the searches found; the trees without their embeddings."""
  return engine.output(
      state.replace(tree=state.tree.replace(embeddings=None)))


def problem_axes(tree: Any) -> Any:
  """Logical axes of scalars and of arrays that problems lead, as tuples."""
  return jax.tree.map(
      lambda x: ('act_batch', *[None] * (x.ndim - 1)) if x.ndim else (), tree)


@dataclasses.dataclass(frozen=True)
class Slots:
  """A search and its slots; equal ones share their compiled programs.

  What belongs to the problems beside their trees (a prompt's cache, say) are
  their *rows*, any pytree.
  """

  strategy: engine.Strategy
  # As the engine wants it; its `params` are (params, rows).
  step_fn: base.StepFn
  # (params, inputs stacked to [B, ...]) -> (rows, Root).
  start_fn: Callable[[Any, Any], tuple[Any, base.Root]]
  num_slots: int  # B
  chunk_steps: int  # steps between two looks at what is finished
  # State -> pytree of [B, ...]: what is kept of a finished search.
  collect: Callable[[engine.State], Any] = without_embeddings
  # (is_new [B], new rows, old rows) -> rows.
  select: Callable[[jax.Array, Any, Any], Any] = tree_lib.select_rows
  # Any of rows, roots and states -> how devices split it.
  axes: Callable[[Any], Any] = problem_axes
  # Stacked inputs -> where they are computed on.
  put: Callable[[Any], Any] = lambda inputs: inputs

  def __post_init__(self):
    base.check_positive(
        num_slots=self.num_slots, chunk_steps=self.chunk_steps)

  def run_all(
      self, params: Any, rng: PRNGKey, problems: Iterable[Problem], *,
      usage: Usage | None = None,
  ) -> Iterator[Finished]:
    """Searches all problems, which are read as slots become free.

    Args:
      params: shared by all problems.
      rng: not consumed: with the same key and id a problem gives the same tree.
      problems: may be endless.
      usage: is counted up.

    Yields:
      Every problem once, in the order in which they were found finished.
    """
    queue = iter(problems)
    at = list(itertools.islice(queue, self.num_slots))
    if not at:
      return
    usage = Usage() if usage is None else usage
    filler = at[0]
    at += [None] * (self.num_slots - len(at))
    rows, state = self._begin(params, at, filler)
    placed = _placement((rows, state))
    steps_B, finished = np.zeros(self.num_slots, np.int32), []
    while any(at):
      state, status = _advance(self, params, rows, rng, state)
      state = jax.device_put(state, placed[1])
      yield from finished  # while the device is busy
      is_done_B, new_steps_B, work_Bx2 = jax.device_get(status)
      # Every step of the loop has at least one live problem.
      usage.live_steps += int((new_steps_B - steps_B).sum())
      usage.slot_steps += int((new_steps_B - steps_B).max()) * self.num_slots
      usage.tokens += int(work_Bx2[:, 0].sum())
      usage.passes += int(work_Bx2[:, 1].sum())
      steps_B = np.array(new_steps_B)
      done = [b for b, p in enumerate(at) if p is not None and is_done_B[b]]
      finished = self._take(state, at, done, steps_B)
      for b in done:
        at[b] = next(queue, None)
      new = [b for b in done if at[b] is not None]
      if new:
        rows, state = jax.device_put(
            self._replace(params, rows, state, at, new, filler), placed)
        steps_B[new] = 0
    yield from finished

  def warm_up(self, params: Any, rng: PRNGKey, problem: Problem) -> None:
    """Compiles all programs for problems such as this one; searches nothing."""
    nothing = [None] * self.num_slots
    rows, state = self._begin(params, nothing, problem)
    placed = _placement((rows, state))
    state, _ = _advance(self, params, rows, rng, state)
    state = jax.device_put(state, placed[1])
    jax.block_until_ready(_collect(self, state))
    self._replace(params, rows, state, nothing, [], problem)

  def programs(
      self, params: Any, rng: Any, inputs: Any, mesh: jax.sharding.Mesh
  ) -> dict[str, tuple[Callable, tuple]]:
    """The compiled functions behind `run_all`, with the shapes they are given.

    Args:
      params: shapes, as all others with shardings where they matter.
      rng: shape of the key.
      inputs: shapes, stacked to [B, ...].
      mesh: in use, see `sharding.use_mesh`.
    """
    flags_B = jax.ShapeDtypeStruct((self.num_slots,), bool)
    ids_B = jax.ShapeDtypeStruct((self.num_slots,), jnp.int32)
    start = self, params, inputs, ids_B
    rows, root = jax.eval_shape(functools.partial(_start, self), *start[1:])
    state = jax.eval_shape(functools.partial(_fresh, self), root, flags_B)
    place = lambda tree: jax.tree.map(
        lambda x, axes: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding.named(mesh, *axes)),
        tree, self.axes(tree))
    rows, root, state = place(rows), place(root), place(state)
    return dict(
        start=(_start, start), fresh=(_fresh, (self, root, flags_B)),
        advance=(_advance, (self, params, rows, rng, state)),
        collect=(_collect, (self, state)),
        refill=(_refill, (self, rows, state, rows, root, flags_B)))

  def _take(self, state, at, done, steps_B) -> list[Finished]:
    """The results of slots that are done, on the host."""
    if not done:
      return []
    results = jax.device_get(_collect(self, state))
    return [
        Finished(
            at[b], jax.tree.map(lambda x, b=b: x[b], results), int(steps_B[b]))
        for b in done]

  def _begin(self, params, at, filler):
    rows, root = self._start(params, at, filler)
    is_real_B = np.array([p is not None for p in at])
    searches = rows, _fresh(self, root, is_real_B)
    return jax.device_put(searches, _placement(searches))

  def _replace(self, params, rows, state, at, new, filler):
    new_rows, root = self._start(params, at, filler)
    is_new_B = np.zeros(self.num_slots, bool)
    is_new_B[new] = True
    return _refill(self, rows, state, new_rows, root, is_new_B)

  def _start(self, params, at: Sequence[Problem | None], filler: Problem):
    """Rows and roots of what is in the slots; empty ones get the filler."""
    problems = [p or filler for p in at]
    inputs = jax.tree.map(
        lambda *x: np.stack(x), *(p.inputs for p in problems))
    ids_B = np.array([p.id for p in problems], np.int32)
    return _start(self, params, self.put(inputs), ids_B)


def _placement(tree: Any) -> Any:
  """Where the arrays are.

  Programs describe one and the same placement in several ways, and an array
  with another description would have its program compiled again.
  """
  return jax.tree.map(lambda x: x.sharding, tree)


_jit = functools.partial(jax.jit, static_argnames=('slots',))


@_jit
def _start(slots: Slots, params, inputs, ids_B):
  rows, root = slots.start_fn(params, inputs)
  return _split(slots, rows), _split(slots, root.replace(problem_id=ids_B))


@_jit
def _fresh(slots: Slots, root: base.Root, is_real_B) -> engine.State:
  """Searches that have not begun; those without a problem are done."""
  state = engine.start(slots.strategy, root)
  return _split(slots, state.replace(is_done=state.is_done | ~is_real_B))


@functools.partial(_jit, donate_argnames=('rows', 'state'))
def _refill(slots: Slots, rows, state, new_rows, root: base.Root, is_new_B):
  """Rows and searches, begun anew where `is_new_B`."""
  # Of the embeddings only the roots' are replaced: no path leads to others.
  embeddings = jax.tree.map(
      lambda x, new: x.at[:, 0].set(
          tree_lib.select_rows(is_new_B, new, x[:, 0])),
      state.tree.embeddings, root.embedding)
  fresh = engine.start(slots.strategy, root.replace(embedding=None))
  state = state.replace(tree=state.tree.replace(embeddings=None))
  state = tree_lib.select_rows(is_new_B, fresh, state)
  state = state.replace(tree=state.tree.replace(embeddings=embeddings))
  rows = slots.select(is_new_B, new_rows, rows)
  return _split(slots, rows), _split(slots, state)


@functools.partial(_jit, donate_argnames=('state',))
def _advance(slots: Slots, params, rows, rng, state):
  """One chunk; also (is_done, num_steps, work), which all processes have."""
  state = engine.advance(
      slots.strategy, (params, rows), rng, state, slots.step_fn,
      num_steps=slots.chunk_steps)
  return _split(slots, state), _whole(
      (state.is_done, state.num_steps, state.work))


@_jit
def _collect(slots: Slots, state):
  return _whole(slots.collect(state))


def _split(slots: Slots, tree: Any) -> Any:
  return jax.tree.map(
      lambda x, axes: sharding.constrain(x, *axes), tree, slots.axes(tree))


def _whole(tree: Any) -> Any:
  """Arrays that every device has in full."""
  return jax.tree.map(
      lambda x: sharding.constrain(x, *[None] * x.ndim), tree)
