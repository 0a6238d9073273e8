# SPDX-License-Identifier: Apache-2.0
"""Pouring water: a task of one's own and its experiment, in one file.

  python -m meta_cot.main --config=examples/pouring.py --workdir=runs/pouring

Jugs A, B and C hold some water. A step pours one into another until that is
full or the first is empty. In the end one of them is to hold a wanted amount.
Two minutes on two CPU cores; docs/tasks.md builds the file piece by piece.
"""

import dataclasses
import functools
import itertools
import random

import ml_collections

from configs import base
from configs import kinds
from meta_cot import tasks
from meta_cot import traces
from meta_cot.settings import config
from meta_cot.traces import prose

NAMES = 'ABC'
STEPS = tuple(f'{a} into {b}' for a, b in itertools.permutations(NAMES, 2))


def pour(jugs, water, step):
  """Returns the water in all jugs after one of STEPS."""
  a, b = NAMES.index(step[0]), NAMES.index(step[-1])
  amount = min(water[a], jugs[b] - water[b])
  after = list(water)
  after[a] -= amount
  after[b] += amount
  return tuple(after)


def to_text(water):
  """Writes a state, such as '4,7,1'."""
  return ','.join(map(str, water))


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which problems there are."""

  jugs: tuple[int, ...] = config.setting(low=1, high=9, min_items=3)
  min_steps: int = config.setting(low=1)  # of the shortest solution
  max_steps: int = config.setting(low=1)  # of a solution
  num_heldout: int = config.setting(low=1)  # in validation and in test


def shortest(jugs, water, wanted):
  """Returns the length of the shortest solution, None where there is none."""
  length, queue = {water: 0}, [water]
  for here in queue:
    if wanted in here:
      return length[here]
    for step in STEPS:
      new = pour(jugs, here, step)
      if new not in length:
        length[new] = length[here] + 1
        queue.append(new)
  return None


@functools.cache
def all_problems(settings, seed):
  """Returns the problems of every split, in a random order."""
  problems = []
  for water in itertools.product(*(range(size + 1) for size in settings.jugs)):
    for wanted in range(1, max(settings.jugs) + 1):
      length = shortest(settings.jugs, water, wanted)
      if length and settings.min_steps <= length <= settings.max_steps:
        problems.append(tasks.Problem(
            id=f'pour-{"-".join(map(str, water))}-{wanted}',
            question=f'{to_text(water)} to {wanted}', answer=str(wanted),
            data=dict(jugs=list(settings.jugs), water=list(water),
                      wanted=wanted, shortest=length)))
  random.Random(seed).shuffle(problems)
  n = settings.num_heldout
  return dict(
      train=problems[2 * n:], validation=problems[:n], test=problems[n:2 * n])


class Pouring:
  """The task."""

  splits = ('train', 'validation', 'test')
  in_graph = None  # compiled searches ask `verify`
  feedback = None

  def __init__(self, settings, seed):
    self.settings, self.seed = settings, seed
    self.teacher, self.states = Teacher(settings), States(settings)

  def size(self, split):
    return len(all_problems(self.settings, self.seed)[split])

  def problems(self, split, start, stop):
    yield from all_problems(self.settings, self.seed)[split][start:stop]

  def verify(self, problem, answer):
    """Judges any text; right are steps, one per line, that reach the goal."""
    water = tuple(problem.data['water'])
    for step in answer.split('\n'):
      if step not in STEPS:
        return tasks.Verdict(False, f'{step!r} is no step')
      water = pour(problem.data['jugs'], water, step)
    return tasks.Verdict(
        problem.data['wanted'] in water, f'{to_text(water)} in the end')

  def vary(self, problem, rng):
    """Returns the same: other names would ask for another answer."""
    return problem

  def measure(self, problem, text, answer, verdict):
    """Returns whether a right answer is as short as can be."""
    length = len(answer.split('\n')) if answer else 0
    return dict(is_shortest=float(
        verdict.is_correct and length == problem.data['shortest']))


def make(settings, seed):
  """Makes the task."""
  return Pouring(settings, seed)


class Teacher:
  """Depth-first search, as deep as solutions may be long."""

  strategies = ('depth_first',)

  def __init__(self, settings):
    self.settings = settings

  def search(self, problem, strategy, seed):
    """Tries the steps in turn; the same water again only with fewer steps."""
    start, wanted = tuple(problem.data['water']), problem.data['wanted']
    nodes, length = [traces.Node(-1, '', to_text(start), order=0)], {start: 0}

    def visit(path, water):
      for step in STEPS:
        new, depth = pour(problem.data['jugs'], water, step), len(path)
        if length.get(new, depth + 1) <= depth:
          continue
        length[new] = depth
        is_goal = wanted in new
        is_last = is_goal or depth == self.settings.max_steps
        nodes.append(traces.Node(
            parent=path[-1], step=step, state=to_text(new),
            order=-1 if is_last else len(nodes), is_terminal=is_last,
            is_correct=is_goal))
        here = (*path, len(nodes) - 1)
        found = here if is_goal else not is_last and visit(here, new)
        if found:
          return found
      return ()

    return traces.TraceRecord(
        problem=problem, strategy=strategy, arguments={}, seed=seed,
        model='symbolic', solution=visit((0,), start), nodes=tuple(nodes),
        traversal='depth_first')


class States:
  """A state is the water in all jugs."""

  def __init__(self, settings):
    self.settings = settings

  def first(self, problem):
    return to_text(problem.data['water'])

  def after(self, problem, state, step):
    """Takes any text as a step; returns None for what is none."""
    if step not in STEPS:
      return None
    water = tuple(map(int, state.split(',')))
    return to_text(pour(problem.data['jugs'], water, step))

  def max_steps(self, problem):
    return self.settings.max_steps


def get_config():
  """Makes the experiment."""
  c = base.get_config()
  c.style = 'prose'
  c.model.update(dict(num_layers=3, embed_dim=64, head_dim=16, mlp_dim=172))
  c.task = ml_collections.ConfigDict(dict(
      kind=__file__, jugs=(9, 8, 7), min_steps=1, max_steps=2,
      num_heldout=200))
  c.problems = kinds.problems()
  c.traces = kinds.traces(strategies='depth_first', num_processes=1)
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.pieces = (*prose.PIECES, *STEPS)
  c.sft = kinds.train(
      arms=('traces', 'solution_only'), num_tokens=600_000, batch_size=4,
      save_every_steps=1_000)
  c.sft.data.sequence_length = 256
  c.evaluate = kinds.evaluate(
      reference='sft/traces', teacher='depth_first', num_problems=200,
      num_curve_problems=0)
  c.evaluate.samples.update(dict(num_samples=4, max_new_tokens=256))
  c.search = kinds.evaluate(
      policies=('sft/solution_only',), reference='sft/solution_only',
      solvers=('greedy', 'samples', 'beam'), num_problems=200,
      num_curve_problems=0)
  c.search.samples.num_samples = 8
  c.search.search.step_length = 8
  c.rl = kinds.rl(
      start='sft/solution_only', objectives=('single',), num_iterations=4,
      eval_every=2, save_every=4, num_eval_problems=64)
  c.rl.episodes.num_episodes = 1
  c.stages = (
      'problems', 'traces', 'tokenizer', 'sft', 'evaluate', 'search', 'rl')
  return c
