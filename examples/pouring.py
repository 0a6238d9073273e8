# SPDX-License-Identifier: Apache-2.0
"""Pouring water: a task of one's own and its experiment, in one file.

  python -m meta_cot.main --config=examples/pouring.py --workdir=runs/pouring

Two jugs, A and B, hold some water. A step fills a jug, empties it, or pours it
into the other one until that is full. In the end one of them holds a wanted
amount. docs/tasks.md builds this file piece by piece.

Variants:
  tiny  jugs of up to 7; two minutes on two CPU cores.
"""

import dataclasses
import functools
import random

import ml_collections

from configs import base
from configs import kinds
from meta_cot import tasks
from meta_cot import traces
from meta_cot.settings import config as config_lib

STEPS = ('pour A', 'pour B', 'fill A', 'fill B', 'empty A', 'empty B')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which problems there are."""

  largest_jug: int = config_lib.setting(low=2, high=9)
  max_steps: int = config_lib.setting(low=2)  # of a solution
  num_heldout: int = config_lib.setting(low=1)  # in validation and in test


def after(jugs, water, step):
  """Returns the water in both jugs after a step, None if there is no such."""
  (a, b), (x, y) = jugs, water
  to_b, to_a = min(x, b - y), min(y, a - x)
  return {
      'fill A': (a, y), 'fill B': (x, b), 'empty A': (0, y), 'empty B': (x, 0),
      'pour A': (x - to_b, y + to_b), 'pour B': (x + to_a, y - to_a),
  }.get(step)


def shortest(jugs, water, wanted):
  """Returns the number of steps of the shortest solution, None without one."""
  length, queue = {water: 0}, [water]
  for here in queue:
    if wanted in here:
      return length[here]
    for step in STEPS:
      new = after(jugs, here, step)
      if new not in length:
        length[new] = length[here] + 1
        queue.append(new)
  return None


def to_text(jugs, water):
  """Writes a state, such as '3/4 5/7': 3 in the jug of 4, 5 in that of 7."""
  return f'{water[0]}/{jugs[0]} {water[1]}/{jugs[1]}'


def from_text(state):
  """Reads a state: jugs and water."""
  (x, a), (y, b) = (map(int, jug.split('/')) for jug in state.split(' '))
  return (a, b), (x, y)


@functools.cache
def all_problems(settings, seed):
  """Returns the problems of every split, in a random order."""
  sizes, problems = range(1, settings.largest_jug + 1), []
  for jugs in ((a, b) for a in sizes for b in sizes):
    for water in ((x, y) for x in range(jugs[0] + 1) for y in range(jugs[1] + 1)):
      for wanted in range(1, max(jugs) + 1):
        length = shortest(jugs, water, wanted)
        if length and 2 <= length <= settings.max_steps:
          question = f'{to_text(jugs, water)} to {wanted}'
          problems.append(tasks.Problem(
              id=question.replace(' ', '-').replace('/', '.'),
              question=question, answer=str(wanted), data=dict(
                  jugs=list(jugs), water=list(water), wanted=wanted,
                  shortest=length)))
  random.Random(seed).shuffle(problems)
  n = settings.num_heldout
  return dict(
      train=problems[2 * n:], validation=problems[:n], test=problems[n:2 * n])


class Teacher:
  """Depth-first search, as deep as solutions may be long."""

  strategies = ('depth_first',)

  def __init__(self, max_steps):
    """Limits the depth."""
    self.max_steps = max_steps

  def search(self, problem, strategy, seed):
    """Tries the steps in turn; the same water again only with fewer steps."""
    jugs, wanted = problem.data['jugs'], problem.data['wanted']
    water = tuple(problem.data['water'])
    nodes, length = [traces.Node(-1, '', to_text(jugs, water), 0)], {water: 0}

    def visit(path, water):
      for step in STEPS:
        new, depth = after(jugs, water, step), len(path)
        if length.get(new, depth + 1) <= depth:
          continue
        length[new] = depth
        is_last = wanted in new or depth == self.max_steps
        nodes.append(traces.Node(
            parent=path[-1], step=step, state=to_text(jugs, new),
            order=-1 if is_last else len(nodes), is_terminal=is_last,
            is_correct=wanted in new))
        here = (*path, len(nodes) - 1)
        found = (here if wanted in new else ()) if is_last else visit(here, new)
        if found:
          return found
      return ()

    return traces.TraceRecord(
        problem=problem, strategy=strategy, arguments={}, seed=seed,
        model='symbolic', solution=visit((0,), water), nodes=tuple(nodes),
        traversal='depth_first')


class States:
  """A state is the water in both jugs and how much they hold."""

  def __init__(self, max_steps):
    """Limits the length of solutions."""
    self.max_steps_of_all = max_steps

  def first(self, problem):
    """Returns the state that the question shows."""
    return to_text(problem.data['jugs'], problem.data['water'])

  def after(self, state, step):
    """Returns the state after any text; None if it is no step."""
    jugs, water = from_text(state)
    new = after(jugs, water, step)
    return new and to_text(jugs, new)

  def max_steps(self, problem):
    """Returns how many steps a solution has at most."""
    return self.max_steps_of_all


class Pouring:
  """The task."""

  splits = ('train', 'validation', 'test')
  in_graph = None  # verify judges in compiled searches too
  feedback = None

  def __init__(self, settings, seed):
    """Makes the task; without settings it judges and has no problems."""
    self.problems_of = all_problems(settings, seed) if settings else {}
    max_steps = settings.max_steps if settings else 1
    self.teacher, self.states = Teacher(max_steps), States(max_steps)

  def size(self, split):
    """Returns the number of problems of a split."""
    return len(self.problems_of[split])

  def problems(self, split, start, stop):
    """Yields problems by index."""
    yield from self.problems_of[split][start:stop]

  def verify(self, problem, answer):
    """Judges an answer: one step per line."""
    jugs, water = problem.data['jugs'], tuple(problem.data['water'])
    for step in answer.split('\n'):
      water = after(jugs, water, step)
      if water is None:
        return tasks.Verdict(False, f'{step!r} is no step')
    return tasks.Verdict(
        problem.data['wanted'] in water, f'{to_text(jugs, water)} in the end')

  def vary(self, problem, rng):
    """Returns the question as it is: other names would need another answer."""
    return problem

  def measure(self, problem, text, answer, verdict):
    """Returns whether a right answer is as short as can be."""
    length = len(answer.split('\n')) if answer else 0
    return dict(is_shortest=float(
        verdict.is_correct and length == problem.data['shortest']))


def make(settings, seed):
  """Makes the task."""
  return Pouring(settings, seed)


VARIANTS = ('tiny',)


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment."""
  c = base.get_config()
  c.style = 'prose'
  c.model.update(dict(
      num_layers=3, embed_dim=64, num_heads=4, num_kv_heads=4, head_dim=16,
      mlp_dim=172))
  c.task = ml_collections.ConfigDict(dict(
      kind=__file__, largest_jug=7, max_steps=4, num_heldout=200))
  c.problems = kinds.problems()
  c.traces = kinds.traces(strategies='depth_first', num_processes=1)
  c.tokenizer = kinds.tokenizer()
  c.sft = kinds.train(
      arms=('traces', 'solution_only', 'revisions'), num_tokens=200_000,
      batch_size=4, eval_every_steps=200, save_every_steps=1_000)
  c.sft.data.update(dict(sequence_length=512, max_attempts=2))
  c.evaluate = kinds.evaluate(
      reference='sft/traces', teacher='depth_first', num_problems=200,
      num_curve_problems=0)
  c.evaluate.samples.update(dict(num_samples=4, max_new_tokens=384))
  c.search = kinds.evaluate(
      policies=('sft/solution_only',), solvers=('greedy', 'beam'),
      num_problems=64, num_curve_problems=0)
  c.search.search.step_length = 6
  c.rl = kinds.rl(
      start='sft/revisions', objectives=('erl2',), num_iterations=2,
      eval_every=2, save_every=2, num_eval_problems=32)
  c.rl.episodes.update(dict(num_episodes=2, episode_length=24))
  c.rl.questions.update(dict(num_questions=16, num_samples=4, num_slots=64))
  c.stages = (
      'problems', 'traces', 'tokenizer', 'sft', 'evaluate', 'search', 'rl')
  return c
