# SPDX-License-Identifier: Apache-2.0
"""Verdicts on episodes, against the text judge of the evaluation."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from meta_cot import tasks
from meta_cot import traces
from meta_cot.problem import Problem, Verdict
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.tasks import base
from tests import small_rl

_STYLE, _LENGTH, _G = 'compact', 12, 2
_PROBLEMS = small_rl.PROBLEMS[:3]
_TEXTS = (
    'S2+3=5', 'S3+2=5', 'S5=5', '2+3=5', 'S9+9=18', '', 'S2+4=6', '@', 'x')
_ENDS = ('stop', 'give_up', 'limit')
_TOKENIZER = small_rl.tokenizer()
_SEARCHES = ('-1x*6x+5!S2+3=5', '-1xS2+4=6', '+5!S2+3=5')
_ENCODED = {
    text: tuple(_TOKENIZER.encode(text)) for text in (*_TEXTS, *_SEARCHES)}
_LAST = dict(
    stop=(_TOKENIZER.eos_id,), give_up=tuple(_TOKENIZER.encode('!')), limit=())
_EPISODE = st.tuples(st.sampled_from(_TEXTS), st.sampled_from(_ENDS))
# Of six trajectories: up to three episodes each.
_PLAYED = st.lists(
    st.lists(_EPISODE, min_size=1, max_size=3), min_size=6, max_size=6)


def _rollouts(played, is_windowed=False, longest=3) -> episodes.Rollouts:
  """These episodes, a forced token before each but the first."""
  num, per_row = len(played), longest if is_windowed else 1
  shape = (num * per_row, longest * _LENGTH)
  tokens = np.zeros(shape, np.int32)
  starts, ends = np.zeros((2, num, longest), np.int32)
  is_finished, has_given_up = np.zeros((2, num, longest), bool)
  for n, trajectory in enumerate(played):
    at = 0
    for e, (text, end) in enumerate(trajectory):
      drawn = (*_ENCODED[text], *_LAST[end])
      if not drawn:  # an episode has a token
        drawn = (_ENCODED['@'][0],)
      at = (2 if is_windowed else at) + 1
      row = n * per_row + (e if is_windowed else 0)
      tokens[row, at:at + len(drawn)] = drawn
      starts[n, e], ends[n, e] = at, at + len(drawn)
      is_finished[n, e], has_given_up[n, e] = end == 'stop', end == 'give_up'
      at += len(drawn)
  empty = np.zeros(shape, np.float32)
  return episodes.Rollouts(
      tokens=tokens, log_probs=empty, is_sampled=empty > 0,
      episode=np.full(shape, -1), lengths=np.zeros(len(tokens), np.int32),
      starts=starts, ends=ends, is_finished=is_finished,
      has_given_up=has_given_up, num_steps=1, num_live=1)


def _judge(task=None) -> judge_lib.Judge:
  return judge_lib.Judge(task or tasks.make('countdown'), _TOKENIZER, _STYLE)


def _drawn(text, end):
  return len(_ENCODED[text]) + len(_LAST[end]) or 1


@pytest.mark.parametrize('is_windowed', [False, True])
@hypothesis.given(_PLAYED)
def test_verdicts_are_those_on_the_texts(is_windowed, played):
  judged = _judge()(_PROBLEMS, _rollouts(played, is_windowed))
  for n, trajectory in enumerate(played):
    problem = _PROBLEMS[n // _G]
    for e, (text, end) in enumerate(trajectory):
      _, verdict = judge_lib.of_text(
          tasks.make('countdown'), problem,
          traces.prompt(problem, style=_STYLE) + text, _STYLE,
          is_finished=end == 'stop')
      assert judged.rewards[n, e] == verdict.is_correct
      assert judged.num_tokens[n, e] == _drawn(text, end)
      assert judged.is_finished[n, e] == (end == 'stop')
      assert judged.has_given_up[n, e] == (end == 'give_up')
    number = len(trajectory)
    assert judged.is_taken[n].tolist() == [e < number for e in range(3)]
    assert not judged.rewards[n, number:].any()
    assert not judged.num_tokens[n, number:].any()
    total = [sum(_drawn(*x) for x in trajectory[:e]) for e in range(3)]
    assert judged.tokens_before[n].tolist() == total
  assert not judged.is_undecided.any()
  assert judged.rewards.dtype == np.float32


@hypothesis.given(_PLAYED)
def test_repetitions_and_answers(played):
  judged = _judge()(_PROBLEMS, _rollouts(played))
  for n, trajectory in enumerate(played):
    for e, (text, end) in enumerate(trajectory):
      drawn = lambda x: (_ENCODED[x[0]] or _ENCODED['@'][:1] * (
          x[1] == 'limit'), _LAST[x[1]])
      assert judged.is_repeated[n, e] == any(
          drawn(x) == drawn((text, end)) for x in trajectory[:e])
      problem = _PROBLEMS[n // _G]
      answer = traces.extract_answer(
          traces.prompt(problem, style=_STYLE) + text, _STYLE)
      assert judged.answers[n, e] == (answer if end == 'stop' else None)
    assert judged.answers[n, len(trajectory):].tolist() == (
        [None] * (3 - len(trajectory)))


def test_right_answers_are_among_the_texts():
  played = [[('S2+3=5', 'stop'), ('S3+2=5', 'stop'), ('S5=5', 'stop')]] * 6
  judged = _judge()(_PROBLEMS, _rollouts(played))
  assert _PROBLEMS[0].question == '2,3>5'
  assert judged.rewards[0].tolist() == [1, 1, 0]
  assert not judged.rewards[2:].any()  # other questions
  # Without an end nothing is claimed.
  played = [[('S2+3=5', 'limit'), ('S2+3=5', 'give_up')]] * 6
  assert not _judge()(_PROBLEMS, _rollouts(played)).rewards.any()


def test_what_was_thought_ends_at_the_mark_of_the_answer():
  played = [[
      ('S2+3=5', 'stop'), ('-1x*6x+5!S2+3=5', 'stop'), ('-1xS2+4=6', 'stop'),
      ('+5!S2+3=5', 'limit')]] * 6
  judged = _judge()(_PROBLEMS, _rollouts(played, longest=4))
  assert judged.num_searched[0].tolist() == [0, 9, 3, 0]
  assert judged.tokens_before[0].tolist() == [0, 7, 23, 33]
  assert judged.tokens_thought[0].tolist() == [0, 16, 26, 33]


def test_the_mark_may_be_inside_of_a_token():
  class Pieces:
    """Token i is piece i."""
    texts = ('1+', '2;', '', 'xS3', 'Sol', '+4')

    def decode(self, tokens):
      return ''.join(self.texts[i] for i in tokens)

  judge = judge_lib.Judge(None, Pieces(), _STYLE)
  assert judge.searched([0, 1, 2, 3, 5]) == 3
  assert judge.searched([3, 0, 2, 4, 1]) == 3  # the last one counts
  assert judge.searched([4, 1]) == judge.searched([0, 1]) == 0
  assert judge.searched([]) == 0
  free = judge_lib.Judge(None, Pieces(), 'free_text')
  assert free.searched([0, 3, 4]) == 0  # has no mark


@dataclasses.dataclass(frozen=True)
class Hesitant:
  """Countdown, but answers with a 9 take too long."""

  task: base.Task

  def verify(self, problem: Problem, answer: str) -> Verdict:
    if '9' in answer:
      return Verdict(False, 'timeout', is_decided=False)
    return self.task.verify(problem, answer)


def test_what_the_verifier_could_not_decide_is_counted_not_wrong():
  played = [[('S9+9=18', 'stop'), ('S2+3=5', 'stop')],
            [('S9+9=18', 'limit'), ('S9+9=18', 'stop')]] * 3
  judged = _judge(Hesitant(tasks.make('countdown')))(
      _PROBLEMS, _rollouts(played))
  assert judged.is_undecided[0].tolist() == [True, False, False]
  assert judged.is_undecided[1].tolist() == [False, True, False]
  assert judged.is_undecided.sum() == 6
  assert judged.rewards.sum() == 1
