# SPDX-License-Identifier: Apache-2.0
r"""Answers of mathematics judged per second, against the package math-verify.

  python -m benchmarks.answers --answers=2000

Pairs of a right answer and a model's, as competition problems have them: whole
numbers, fractions, decimals, units, tuples, intervals, roots and polynomials,
in LaTeX or plain; half of them are equal. Every round has new ones, which both
judge; `--cores` processes share them. Prints JSON lines: one a contestant, then
the ratio (above 1: ours is faster); `agreement` is the share of pairs of which
both say the same, `right` that of which a contestant says what is so.
docs/benchmarks.md says what was measured.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
import concurrent.futures
from fractions import Fraction
import functools
import itertools
import json
import logging
import multiprocessing
import os
import pathlib
import random
import time
from typing import Any

from benchmarks import timing
from meta_cot import verifiers
from meta_cot.settings import config as config_lib

Pair = tuple[str, str, bool]  # right, answered, whether they are equal
_SHARES = {  # of kinds of answers, as lists of competition answers have them
    'whole': 50, 'fraction': 17, 'decimal': 8, 'dressed': 10, 'tuple': 5,
    'interval': 3, 'root': 5, 'polynomial': 2}


def draw(rng: random.Random) -> Pair:
  """Draws a right answer and one that is equal to it, or is not."""
  kind = rng.choices([*_SHARES], _SHARES.values())[0]
  is_equal = rng.random() < 0.5
  a, b = rng.randint(2, 999), rng.randint(2, 30)
  other = a if is_equal else a + rng.randint(1, 5)
  pairs = {
      'whole': lambda: (str(a), rng.choice((
          f'{other}', f'{other}.0', rf'{other:,}', rf'\boxed{{{other}}}'))),
      'fraction': lambda: (
          rf'\frac{{{a}}}{{{b}}}', _fraction(rng, Fraction(other, b))),
      'decimal': lambda: (f'{a / 8}', rng.choice((
          f'{other / 8:.4f}', rf'\frac{{{other}}}{{8}}'))),
      'dressed': lambda: (str(a), rng.choice((
          rf'{other}\text{{ cm}}', rf'{other}^\circ', rf'\${other}',
          f'x = {other}'))),
      'tuple': lambda: (f'({a}, -{b})', rf'\left({other},-{b}\right)'),
      'interval': lambda: (
          rf'(-\infty, {a}]', rf'\left(-\infty,{other}\right]'),
      'root': lambda: (rf'{a}\sqrt{{{b}}}', rf'{other} \cdot \sqrt{{{b}}}'),
      'polynomial': lambda: (
          f'x^2 + {a}x + {b}', f'{b} + {other}x + x^2'),
  }
  return *pairs[kind](), is_equal


def _fraction(rng: random.Random, value: Fraction) -> str:
  n, d = value.numerator, value.denominator
  return rng.choice((rf'\dfrac{{{n}}}{{{d}}}', f'{n}/{d}', rf'\frac{{{n}}}{d}')
                    if d < 10 else (rf'\dfrac{{{n}}}{{{d}}}', f'{n}/{d}'))


def ours(pairs: Sequence[Pair]) -> list[bool]:
  """Judges pairs with `verifiers.math_equal`."""
  return [verifiers.math_equal(gold, answer) for gold, answer, _ in pairs]


def math_verify(pairs: Sequence[Pair]) -> list[bool]:
  """Judges pairs with math-verify as its documentation has it."""
  package = _math_verify()
  return [
      package.verify(package.parse(f'${gold}$'), package.parse(f'${answer}$'))
      for gold, answer, _ in pairs]


@functools.cache
def _math_verify() -> Any:
  try:
    import math_verify
  except ImportError as e:
    raise config_lib.UserError(
        'math_verify: not installed; pip install math-verify, or '
        '--against=none.') from e
  # It logs what it cannot read.
  logging.getLogger('math_verify').setLevel(logging.CRITICAL)
  return math_verify


def contestant(
    judge: Callable[[Sequence[Pair]], list[bool]], number: int, cores: int,
    pool: concurrent.futures.Executor, said: list[tuple[bool, bool]],
) -> timing.Contestant:
  """Makes one whose calls judge new pairs each, shared by processes.

  Args:
    judge: of pairs.
    number: of pairs a call; those of a round are the same for all contestants.
    cores: that share them, each with a process of `pool`.
    pool: of processes; CPU seconds are theirs.
    said: of every pair what was found and what is so are added here.
  """
  rounds = itertools.count()

  def call() -> timing.Cost:
    rng = random.Random(next(rounds))
    pairs = [draw(rng) for _ in range(number)]
    parts = [pairs[i::cores] for i in range(cores)]
    start = time.perf_counter()
    found = [*pool.map(functools.partial(_timed, judge), parts)]
    seconds = time.perf_counter() - start
    for part, (verdicts, _) in zip(parts, found):
      said.extend(zip(verdicts, (is_equal for *_, is_equal in part)))
    return timing.Cost(seconds, sum(cpu for _, cpu in found))

  return timing.Contestant(judge.__name__, call, {})


def _timed(judge, pairs) -> tuple[list[bool], float]:
  start = _cpu_seconds()
  return judge(pairs), _cpu_seconds() - start


def _cpu_seconds() -> float:
  """Counts this process and, on Linux, the workers that do its algebra."""
  seconds = time.process_time()
  for listing in pathlib.Path('/proc/self/task').glob('*/children'):
    for child in listing.read_text().split():
      fields = pathlib.Path(f'/proc/{child}/stat').read_text().rpartition(')')
      ticks = sum(map(int, fields[2].split()[11:13]))
      seconds += ticks / os.sysconf('SC_CLK_TCK')
  return seconds


def main(argv: list[str] | None = None) -> None:
  """Runs the contest and prints its lines."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--answers', type=int, default=2000)
  parser.add_argument('--cores', type=int, default=1)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument(
      '--against', choices=('math_verify', 'none'), default='math_verify')
  arguments = parser.parse_args(argv)
  judges = [ours, *([math_verify] if arguments.against != 'none' else [])]
  said = {judge.__name__: [] for judge in judges}
  with concurrent.futures.ProcessPoolExecutor(
      arguments.cores, multiprocessing.get_context('spawn')) as pool:
    contestants = [
        contestant(
            judge, arguments.answers, arguments.cores, pool,
            said[judge.__name__])
        for judge in judges]
    costs = timing.measure(contestants, arguments.repeats)
  facts = dict(
      workload='answers', answers=arguments.answers, cores=arguments.cores,
      **timing.machine())
  for line in timing.report(
      contestants, costs, tokens=arguments.answers, facts=facts):
    if 'tokens_per_second' in line:
      line['answers_per_second'] = line.pop('tokens_per_second')
      line['right'] = _share(a == b for a, b in said[line['contestant']])
    else:
      line['agreement'] = _share(
          a == b for (a, _), (b, _) in zip(*said.values()))
    print(json.dumps(line), flush=True)


def _share(flags: Iterable[bool]) -> float:
  flags = [*flags]
  return sum(flags) / len(flags)


if __name__ == '__main__':
  main()
