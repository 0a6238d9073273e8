# SPDX-License-Identifier: Apache-2.0
"""Texts of searches: against a printing reference, and back again."""

import dataclasses
import heapq
import pathlib
import random

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.tasks import countdown
from meta_cot.traces import arithmetic
from meta_cot.traces import record as record_lib
from meta_cot.traces.arithmetic import teacher

GOLDEN = pathlib.Path(__file__).parent / 'golden'
STRATEGIES = {
    name: strategy
    for name, (strategy, _) in teacher.STREAM_OF_SEARCH.items()}
TINY = dataclasses.replace(teacher.COMPACT, max_value=60)


def _problem(numbers, target):
  return countdown.make_problem(numbers, target)


def _random_problem(rng, sizes=(2, 3, 3, 4)):
  numbers = [rng.randint(1, 25) for _ in range(rng.choice(sizes))]
  return _problem(numbers, rng.randint(10, 60))


def _events(problem, strategy, seed=0):
  return traces.linearize(teacher.search(problem, strategy, seed))


def _without(events, kind):
  return tuple(event for event in events if not isinstance(event, kind))


class _Printer:
  """Searches and prints at once, so that no tree and no events are involved."""

  def __init__(self, problem, strategy, seed):
    self.out = []
    self.target = problem.data['target']
    self.strategy = strategy
    self.rng = random.Random(seed)
    start = (tuple(problem.data['numbers']), (), '0')
    if strategy.algorithm == 'dfs':
      self.show(start)
      self.deep(start)
    else:
      self.wide(start)

  def cost(self, numbers):
    if self.strategy.heuristic == 'sum':
      return sum(abs(n - self.target) for n in numbers) / len(numbers)
    factors = [f for f in range(2, self.target + 1) if not self.target % f]
    return sum(min(abs(n - f) for f in factors) for n in numbers)

  def successors(self, node):
    numbers, done, name = node
    found = []
    for i in range(len(numbers)):
      for j in range(i + 1, len(numbers)):
        a, b = numbers[i], numbers[j]
        high, low = (b, a) if a <= b else (a, b)
        results = [(f'{a}+{b}', a + b), (f'{a}*{b}', a * b),
                   (f'{high}-{low}', high - low)]
        if low and not high % low:
          results.append((f'{high}/{low}', high // low))
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        for text, value in results:
          found.append((tuple(rest + [value]), (*done, f'{text}={value}')))
    found.sort(key=lambda child: self.cost(child[0]))
    return found

  def show(self, node):
    self.out.append(f'Current State: {self.target}:{list(node[0])}, '
                    f'Operations: {list(node[1])}\n')

  def try_out(self, child):
    """Prints a child; 'hit', 'miss' or 'open'."""
    numbers, done, name = child
    self.out.append(f'Exploring Operation: {done[-1]}, '
                    f'Resulting Numbers: {list(numbers)}\n')
    if len(numbers) > 1:
      self.out.append(f'Generated Node #{name}: {self.target}:{list(numbers)} '
                      f'Operation: {done[-1]}\n')
      return 'open'
    is_hit = numbers[0] == self.target
    self.out.append(
        f'{numbers[0]},{self.target} '
        + ('equal: Goal Reached\n' if is_hit else 'unequal: No Solution\n'))
    return 'hit' if is_hit else 'miss'

  def enter(self, node):
    self.out.append(f'Moving to Node #{node[2]}\n')
    self.show(node)

  def deep(self, node):
    children = [c for c in self.successors(node)
                if self.cost(c[0]) <= self.target]
    for k, (numbers, done) in enumerate(children):
      child = numbers, done, f'{node[2]},{k}'
      verdict = self.try_out(child)
      if verdict == 'hit':
        return True
      if verdict == 'open':
        self.enter(child)
        if self.deep(child):
          return True
      if k + 1 < len(children):
        self.enter(node)
    return False

  def wide(self, start):
    queue = [_Entry(self.cost(start[0]), start)]
    first = True
    while queue:
      rounds = [heapq.heappop(queue)
                for _ in range(min(self.strategy.beam_width, len(queue)))]
      for entry in rounds:
        (self.show if first else self.enter)(entry.node)
        first = False
        kept = self.successors(entry.node)[:self.strategy.beam_width]
        self.rng.shuffle(kept)
        fresh, k = [], 0
        for numbers, done in kept:
          child = numbers, done, f'{entry.node[2]},{k}'
          verdict = self.try_out(child)
          if verdict == 'hit':
            return
          k += verdict == 'open'
          fresh.append(_Entry(self.cost(numbers), child))
        fresh.sort()
        for child in fresh:
          heapq.heappush(queue, child)
    self.out.append('No solution found.')


@dataclasses.dataclass
class _Entry:
  cost: float
  node: tuple

  def __lt__(self, other):
    return self.cost < other.cost


@pytest.mark.parametrize('name', STRATEGIES)
def test_sentences_match_a_printing_search_byte_for_byte(name):
  rng = random.Random(name)
  for seed in range(60):
    problem = _random_problem(rng)
    printed = ''.join(_Printer(problem, STRATEGIES[name], seed).out)
    events = _events(problem, STRATEGIES[name], seed)
    assert traces.render(events, 'stream_of_search') == printed
    assert traces.parse(printed, 'stream_of_search') == events


@pytest.mark.parametrize('file, numbers, target, name, seed', [
    ('stream_of_search_dfs.txt', [4, 9, 3], 24, 'dfs_mult', 4),
    ('stream_of_search_bfs.txt', [4, 9, 3], 24, 'bfs_sum_2', 1)])
def test_golden_searches(file, numbers, target, name, seed):
  events = _events(_problem(numbers, target), STRATEGIES[name], seed)
  text = (GOLDEN / file).read_text()
  assert traces.render(events, 'stream_of_search') == text
  assert traces.parse(text, 'stream_of_search') == events


def test_golden_solution_keeps_equal_numbers():
  events = (
      traces.Start('4,4,9,3>20'), traces.Answer('9+3=12\n4+12=16\n4+16=20'))
  text = (GOLDEN / 'stream_of_search_solution.txt').read_text()
  assert traces.render(events, 'stream_of_search') == text
  assert traces.parse(text, 'stream_of_search') == events


def test_golden_compact():
  for line in (GOLDEN / 'compact.txt').read_text().splitlines():
    numbers, target = line.partition(':')[0].split('>')
    problem = _problem([int(n) for n in numbers.split(',')], int(target))
    events = _events(problem, TINY)
    assert traces.render(events, 'compact') == line
    assert traces.parse(line, 'compact') == events


problems = st.builds(
    _problem, st.lists(st.integers(0, 30), min_size=2, max_size=4),
    st.integers(2, 60))
any_strategy = st.builds(
    lambda s, cap: dataclasses.replace(s, operands='descending', max_value=cap),
    st.sampled_from([*STRATEGIES.values(), TINY]),
    st.sampled_from([None, 60]))


@hypothesis.given(problems, any_strategy, st.integers(0, 99))
def test_compact_round_trip(problem, strategy, seed):
  events = _events(problem, strategy, seed)
  text = traces.render(events, 'compact')
  expected = _without(events, traces.Exhausted)
  assert traces.parse(text, 'compact') == expected
  assert text.startswith(traces.prompt(problem, 'compact'))
  assert traces.prompt(events, 'compact') == traces.prompt(problem, 'compact')


@hypothesis.given(problems, st.sampled_from([*STRATEGIES.values(), TINY]))
def test_sentences_round_trip(problem, strategy):
  events = _events(problem, strategy)
  text = traces.render(events, 'stream_of_search')
  assert traces.parse(text, 'stream_of_search') == events
  assert text.startswith(traces.prompt(problem, 'stream_of_search'))


@hypothesis.given(problems)
def test_tiny_searches_need_no_jump_for_three_numbers(problem):
  hypothesis.assume(len(problem.data['numbers']) < 4)
  hypothesis.assume(max(problem.data['numbers']) > 0)
  text = traces.render(_events(problem, TINY), 'compact')
  # With two zeros left nothing but '/' is illegal, so no state is childless.
  assert '@' not in text


@pytest.mark.parametrize('style', arithmetic.STYLES)
def test_solution_only_round_trip(style):
  events = (traces.Start('20,1,9>28'), traces.Answer('9-1=8\n20+8=28'))
  text = traces.render(events, style)
  assert traces.parse(text, style) == events
  assert traces.trained_ranges(events, style, 'procedure_cloning') == (
      text, [(len(traces.prompt(events, style)), len(text))])


@pytest.mark.parametrize('style, text, message', [
    ('compact', '4,9>36',
     r"position 0 \(line 1\): '4,9>36' is not numbers>target:\."),
    ('compact', '4,9>36:+13',
     r"position 10 \(line 1\): '' is not a further value, x or"),
    ('compact', '4,9>36:+13x-5x', r'position 10 \(line 1\)'),
    ('compact', '1,2,3>6:+13x', 'a state of 2 numbers'),
    ('compact', '4,9>36:+13-5*36!+', 'S or the end of the text'),
    ('compact', '4,9>36:@7;+13x', 'position 7 .* a node below 1'),
    ('compact', '1,2,3>6:2+1=3,3;@0;@1;+6!S', 'S and the solution'),
    ('compact', '1,2,3>6:2+1=3,3;@1;+6!', r'position 16 \(line 1\)'),
    ('compact', '1,2,3>6:2+1=3,3;x', 'a step, @, S'),
    ('compact', '1,2,3>6:2+1=3,3 ;+6!', 'the numbers left'),
    ('compact', "4,9>36:+13-5*3'6'!", 'a further value'),
    ('stream_of_search', 'x', "line 1.: 'x' is not Current State"),
    ('stream_of_search',
     'Current State: 24:[4, 6], Operations: []\nExploring', 'line 2'),
    ('stream_of_search',
     'Current State: 24:[4, 6], Operations: []\n'
     'Exploring Operation: 4*6=24, Resulting Numbers: [24]\n'
     '24,24 equal: Goal Reached\n\n', 'line 4'),
    ('stream_of_search',
     'Current State: 24:[4,6], Operations: []\n', 'position 21'),
    ('stream_of_search',
     'Current State: 24:[4, 6], Operations: []\nMoving to Node #0,3\n'
     'Current State: 24:[4, 6], Operations: []\n',
     r"position 57 \(line 2\): '0,3"),
    ('verse', '', "style 'verse' is unknown; the styles are cells, ")])
def test_parse_refuses(style, text, message):
  with pytest.raises(ValueError, match=message) as error:
    traces.parse(text, style)
  assert '\n' not in str(error.value)


def test_render_says_what_compact_cannot_express():
  events = _events(_problem([4, 9, 3], 24), STRATEGIES['dfs_mult'])
  with pytest.raises(ValueError, match="operands='descending'"):
    traces.render(events, 'compact')
  with pytest.raises(ValueError, match='non-negative integers'):
    traces.render(
        (traces.Start('8,3>2'), traces.Step(1, 0, '8/3=8/3', '8/3', '')),
        'compact')
  for style in arithmetic.STYLES:
    with pytest.raises(ValueError, match="outcome ''"):
      traces.render(
          (traces.Start('4,6>24'), traces.Step(1, 0, '6*4=24', '24', '')),
          style)
  for style in (*arithmetic.STYLES, 'prose'):
    with pytest.raises(ValueError, match='stands'):
      traces.render(
          (traces.Start('4,6>24'), traces.Step(1, 7, '6*4=24', '24', 'goal')),
          style)
    with pytest.raises(ValueError, match='no step has made yet'):
      traces.render((traces.Start('4,6>24'), traces.Jump(3),
                     traces.Step(1, 3, '6*4=24', '24', 'goal')), style)
  with pytest.raises(ValueError, match='goes on'):
    traces.render(
        (*_events(_problem([4, 6], 24), TINY)[:-1], traces.Jump(0)), 'compact')
  with pytest.raises(ValueError, match='not with the target 24'):
    traces.render(
        (traces.Start('4,9>24'), traces.Answer('4+9=13')), 'stream_of_search')
  with pytest.raises(ValueError, match='the first event'):
    traces.render((), 'compact')


def test_number_puzzles_have_no_words_for_values():
  events = _events(_problem([20, 1, 9], 28), TINY)
  valued = (*events[:2], traces.Value(1, 0.5), *events[2:])
  for style in arithmetic.STYLES:
    assert traces.render(valued, style) == traces.render(events, style)


def test_linearize_tells_events_in_order():
  nodes = (
      traces.Node(-1, '', '2,3,4', order=0),
      traces.Node(0, '2+3=5', '4,5', order=2),
      traces.Node(0, '2*3=6', '4,6', order=1),
      traces.Node(2, '4+6=10', '10', is_terminal=True),
      traces.Node(1, '4*5=20', '20', is_terminal=True, is_correct=True))
  record = traces.TraceRecord(
      problem=Problem('p', '2,3,4>20', '20', {}), strategy='bfs_sum_2',
      arguments={}, seed=0, model='symbolic', nodes=nodes, solution=(0, 1, 4),
      traversal='expansion')
  step, jump = traces.Step, traces.Jump
  assert traces.linearize(record) == (
      traces.Start('2,3,4>20'),
      step(1, 0, '2+3=5', '4,5', ''), step(2, 0, '2*3=6', '4,6', ''),
      jump(2), step(3, 2, '4+6=10', '10', 'dead_end'),
      jump(1), step(4, 1, '4*5=20', '20', 'goal'),
      traces.Answer('2+3=5\n4*5=20'))
  broken = dataclasses.replace(
      record, nodes=(*nodes[:3], dataclasses.replace(nodes[3], parent=4)))
  with pytest.raises(ValueError, match='node 3 has parent 4'):
    traces.linearize(broken)


@pytest.mark.parametrize('style', arithmetic.STYLES)
def test_marks_of_a_solution(style):
  module = arithmetic.STYLES[style]
  start = traces.Start('20,1,9,2>56')
  text = traces.render(
      (start, traces.Answer('9-1=8\n20+8=28\n28*2=56')), style)
  solution = text.removeprefix(traces.prompt((start,), style))
  assert solution.startswith(module.OPENING)
  *steps, last = solution.removeprefix(module.OPENING).split(module.STEP_END)
  assert len(steps) == 2
  for piece, step in zip((*steps, last), ('9-1', '20+8', '28*2'), strict=True):
    assert step in piece


def test_only_the_notation_of_number_puzzles_names_a_style_or_a_task():
  folder = pathlib.Path(traces.__file__).parent
  for path in folder.glob('*.py'):
    text = path.read_text().lower()
    for word in ('compact', 'countdown', 'stream_of_search'):
      assert word not in text, f'{path.name}: {word}'


def test_how_a_record_is_told_is_a_field():
  record = teacher.search(_problem([4, 9, 3], 24), STRATEGIES['dfs_mult'], 4)
  events = traces.linearize(record)
  renamed = dataclasses.replace(record, strategy='anything')
  assert traces.linearize(renamed) == events
  told = dataclasses.replace(record, traversal='expansion')
  assert traces.linearize(told) != events
  with pytest.raises(ValueError, match="'dfs' must be one of depth_first, exp"):
    dataclasses.replace(record, traversal='dfs')
  old = record_lib.to_json(record).replace('"schema":2', '"schema":1')
  with pytest.raises(ValueError, match='schema 1, this version reads 2'):
    record_lib.from_json(old)


def test_a_search_without_a_step_is_written():
  events = (traces.Start('4,6>24'), traces.Jump(0), traces.Exhausted())
  text = traces.render(events, 'stream_of_search')
  assert text.endswith('No solution found.')
  assert traces.parse(text, 'stream_of_search') == events
