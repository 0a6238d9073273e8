# SPDX-License-Identifier: Apache-2.0
"""Texts in front of questions: the same prompts as in training."""

import pickle

import jax
import numpy as np
import pytest

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot.rollouts import episodes
from meta_cot.rollouts import player as player_lib
from meta_cot.solvers import opening
from meta_cot.solvers import revising
from tests import small_rl

_PLAIN = small_rl.tokenizer()


def _player(tokenizer) -> player_lib.Player:
  mesh = sharding.make_mesh(
      sharding.MeshConfig(1, 1, 1), jax.devices()[:1])
  return player_lib.Player(
      None, tokenizer, mesh, style='compact', width=12, num_questions=2,
      num_samples=1, num_slots=2, rules=episodes.Episodes(
          num_episodes=1, episode_length=4, stop_ids=_PLAIN.eos_ids,
          sampling=decode.Sampling(temperature=1.0)))


def test_a_question_is_opened_as_a_player_opens_it():
  opened, some = tokenizers.Opened(_PLAIN, '!x'), small_rl.PROBLEMS[:2]
  one = _player(opened).ask(some, [0, 1])
  other = _player(_PLAIN).ask(some, [0, 1], ['!x', '!x'])
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(x, y)
  plain = _player(_PLAIN).ask(some, [0, 1])
  assert (one.lengths == plain.lengths + len(_PLAIN.encode('!x'))).all()


def test_all_else_is_the_tokenizers_own():
  opened = tokenizers.Opened(_PLAIN, '!')
  assert opened.encode('2+3') == _PLAIN.encode('2+3')
  assert opened.eos_ids == _PLAIN.eos_ids
  same = tokenizers.Opened(_PLAIN, '!')
  assert same == opened and hash(same) == hash(opened)
  assert opened != tokenizers.Opened(_PLAIN, 'x') and opened != _PLAIN
  copy = pickle.loads(pickle.dumps(opened))
  assert copy.encode_prompt('2') == opened.encode_prompt('2')


def test_names():
  assert opening.named({}) == {'': ''}
  assert opening.named(dict(discounts=[[0.98, '!']])) == {'': '!'}
  assert opening.named(dict(discounts=[(1.0, 'x'), (0.95, '!')])) == {
      'gamma 1': 'x', 'gamma 0.95': '!'}
  assert opening.named(dict(openings=['8', '16'])) == {'8': '8:', '16': '16:'}


@pytest.mark.parametrize('openings', [('',), ('', '!'), ('!', 'x', '@')])
def test_validation_problems_are_asked_with_all_of_them_by_turns(openings):
  seen = []

  class _Stop(Exception):
    """Before anything is played."""

  class _Asking:
    """A player that notes what stands in front."""
    num_questions = 4

    def ask(self, problems, ids, openings):
      del problems
      seen.append((ids, openings))
      raise _Stop

  with pytest.raises(_Stop):
    revising.play(
        _Asking(), None, {}, small_rl.PROBLEMS[:4], jax.random.key(0),
        first=5, openings=openings)
  (ids, texts), = seen
  assert texts == [openings[i % len(openings)] for i in ids]
  assert ids == [5, 6, 7, 8]
