# SPDX-License-Identifier: Apache-2.0
"""Hostile answers: never equal, never late, and the workers stay healthy."""

import concurrent.futures
import itertools
import threading
import time

import pytest

from meta_cot.verifiers import math
from meta_cot.verifiers import pool
from meta_cot.verifiers.math import judge

SECONDS = 0.5  # of a call here
_LATE = 20.0  # no call waits so long, on a busy machine either

_CODE = (
    '__import__("os").system("id")', 'exec("1")', 'eval(input())', 'open("/")',
    '().__class__.__bases__[0]', 'lambda: 0', 'import os', '`id`', '$(id)',
    'globals()', 'os._exit(0)', '{x for x in y}', 'f"{1}"', '1 if 1 else 2',
    'print(5)', 'sympify("5")', 'Integer(5)', 'S(5)', 'N(5)', '5;5',
    'while True: pass', 'raise SystemExit', 'yield', '@5', '#5', '5\n5', "5'5",
    '"5', '<script>5</script>', '&lt;5&gt;', 'https://5', 'C:\\5', r'\input{5}',
    r'\write18{id}', r'\def\x{\x\x}\x', r'\newcommand', r'\loop', r'\the5')
_LARGE = (
    '9**9**9**9', '9^9^9^9', '9^{9^{9^9}}', '(9!)!', '((9!)!)!', '9!!!!',
    '1e999',
    '99999!', '1000000!', '10^{10^{10}}', '2^{2^{2^{2^{2^2}}}}',
    'e^{e^{e^{e^e}}}',
    r'\binom{10000000}{5000000}', '1/(9^9^9)', '-9^9^9', '(-1)^{9^9^9}',
    r'\sqrt{9^{9^9}}', r'\sin(10^{4000})', 'exp(exp(exp(exp(100))))',
    r'\log(9^{9^{9^9}})', 'x^{9^{9^9}}', '(x+1)^{99999}', '(x+y+z+w)^{150}',
    '(1+x)^{100}(1+y)^{100}(1+z)^{100}', 'x^x^x^x^x^x', r'\frac{1}{0}', '0^0^0',
    '1/0', '0/0', r'\frac{x}{0}', '0^{-1}', r'\log 0', r'\tan(\pi/2)',
    r'\infty-\infty', r'\infty/\infty', r'\infty', '-oo', 'nan', 'inf',
    '1e-999',
    'gcd(9^9^9,3)', 'max()', 'max(1', 'lcm(0.5,2)', r'\sqrt[0]{5}',
    r'\sqrt[-1]{5}', r'\sqrt[1/2]{5}', r'\sqrt[99999]{5}', '5_5_5', '5^5^5^5')
_BROKEN = (
    '', ' ', '\0', '5\0', '\ud800', '\u202e5', '\ufeff6', '٥', '５', '五', '5̶',
    '+', '-', '*', '/', '^', '_', '=', '==', '<', '|', '||', '|||||', '!', '%',
    ',', ';', '.', '..', '5.5.5', '5..5', '--', '+-', '5+', '5-', '5*', '5^',
    '5_', '5=', '=5=', '(5', '5)', '[5', '{5', '5}', r'\{5', r'\left(5', ')(',
    '}{',
    r'\frac', r'\frac{5}', r'\frac{5}{', r'\sqrt', r'\sqrt[', r'\sqrt[5',
    r'\binom', r'\begin', r'\begin{', r'\begin{matrix}', r'\end{matrix}',
    r'\begin{array}{', r'\begin{array}{cc}1',
    r'\begin{pmatrix}1&2\\3\end{pmatrix}',
    r'\begin{pmatrix}1\end{bmatrix}', r'\begin{evil}5\end{evil}', r'\text',
    r'\text{', r'\text{5', r'\mathrm', '\\', '\\\\', r'\unknown', r'\lfloor 5',
    r'5\rfloor', 'sin', 'sin()', 'log_', 'log_2', r'\pm', r'\cup', r'5\cup',
    '5 5',
    '5 5/5 5', '1 2 3', '1,234,56', '5 or', 'or 5 or 6', '{,}', '5{,}',
    '1,2,...', r'1,2,\ldots', '#### 5', r'{x | x > 5}', '5 \\mod 6')
_LONG = tuple(
    repeated * (size // len(repeated)) for repeated, size in itertools.product(
        ('5', '{', '(', '[', '|', '-', '+5', '*5', '^5', '!', '%', ',5',
        '5 or ',
         'x', r'\frac', r'\sqrt{', r'\text{', '\\', ' ', '\0', '&', 'sin ',
         '=5',
         r'\pm 5', '5 5/5', '9!', '{{}}', '()', '_5', '.', '1,234,'),
        (40, 300, 2_000, 9_000, 1_000_000)))
HOSTILE = (*_CODE, *_LARGE, *_BROKEN, *_LONG)


def test_there_are_many_of_them():
  assert len(HOSTILE) == len(set(HOSTILE)) >= 323


def _judge(text: str) -> float:
  """Judges a hostile text; how long it took."""
  start = time.monotonic()
  for gold in ('5', 'x^2+1'):
    found = math.verdict(gold, text, timeout_s=SECONDS)
    assert not found.is_correct, (gold, text[:80])
  math.final_answer(text)
  math.final_answer(rf'\boxed{{{text}')
  return time.monotonic() - start


def test_hostile_answers_are_not_equal_and_in_time():
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    seconds = [*threads.map(_judge, HOSTILE)]
  assert max(seconds) < _LATE
  # The workers do as before.
  assert math.equal('sqrt(8)', r'2\sqrt{2}')
  assert not math.equal('sqrt(8)', r'2\sqrt{3}')


def test_what_a_limit_cut_off_is_undecided():
  for text in ('x^x^x^x^x^x', '9^9^9^9', '(9!)!'):
    found = math.verdict('5', text, timeout_s=SECONDS)
    assert not found.is_correct and not found.is_decided, text
    assert found.reason.startswith('undecided: ')


def _make():
  """What workers do in these tests."""

  def work(what, number):
    if what == 'sleep':
      time.sleep(number)
    if what == 'fill':
      return len(bytearray(number))
    if what == 'fail':
      raise KeyError(number)
    return number

  return work


@pytest.fixture(name='workers', scope='module')
def _workers():
  return pool.Pool(_make, seconds=5, num_bytes=2**28, num_processes=2)


def test_limits_of_time_and_memory_and_errors(workers):
  assert workers('echo', 1) == 1
  with pytest.raises(pool.LimitError, match=r'no end within 0\.2 seconds'):
    workers('sleep', 60, seconds=0.2)
  with pytest.raises(pool.LimitError, match=r'more than 0\.25 GiB'):
    workers('fill', 2**30)
  with pytest.raises(pool.CallError, match='KeyError: 7'):
    workers('fail', 7)
  assert workers('echo', 2) == 2


def test_any_thread_may_call(workers):
  seen = []

  def call(number):
    seen.append((number, workers('echo', number)))

  threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(seen) == [(i, i) for i in range(8)]


def test_algebra_runs_in_a_worker_only():
  assert judge._workers() is judge._workers()
