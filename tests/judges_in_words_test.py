# SPDX-License-Identifier: Apache-2.0
"""Judges in words: their verdicts against probabilities of the model."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from configs import countdown
from configs import kinds
from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib
from meta_cot.solvers import verdicts
from meta_cot.stages import experiment as experiment_lib
from tests import scoring_test

WORDS = dict(ask='@', right='!', wrong='x', chain=None)
NUM = 2_000


def _reader(number, **changes):
  policy = scoring_test._policy()
  return policy, verdicts.Reader(
      policy.model, policy.tokenizer, WORDS, scoring_test._mesh(1), width=16,
      text_width=16, num_verdicts=number, batch_size=2, **changes)


def _tokens(policy):
  encode = policy.tokenizer.encode
  return ([encode(p) for p in scoring_test.PROMPTS],
          [encode(t) for t in scoring_test.TEXTS])


def _probability(policy, tokens) -> jax.Array:
  """That a token follows, and the end behind it, [V]."""
  following = jax.jit(lambda rows: jax.nn.softmax(transformer.forward(
      policy.model, policy.params, rows).logits[:, -1]))
  size = policy.tokenizer.vocab_size
  rows = jnp.array([[*tokens, i] for i in range(size)])
  return following(rows[:1, :-1])[0, :size] * (
      following(rows)[:, policy.tokenizer.eos_id])


def test_verdicts_are_as_often_right_as_the_model_says():
  policy, reader = _reader(NUM)
  # An untrained model finds all tokens much alike; this one often ends.
  policy = dataclasses.replace(policy, params=policy.params | dict(
      embedder=jax.tree.map(
          lambda x: x.at[policy.tokenizer.eos_id].multiply(5),
          policy.params['embedder']), final_norm=jax.tree.map(
              lambda x: 8 * x, policy.params['final_norm'])))
  questions, texts = _tokens(policy)
  texts = [text[:2] for text in texts]
  (ask,) = policy.tokenizer.encode('@')
  wanted = sum(
      _probability(policy, [*question, *text, ask])
      for question, text in zip(questions, texts))
  right = next(
      text for i in jnp.argsort(-wanted).tolist()
      if policy.tokenizer.encode(text := policy.tokenizer.decode([i])) == [i])
  # One token and the end: nothing else is finished in time.
  reader = dataclasses.replace(
      reader, text_width=2, words=WORDS | dict(right=right))
  with sharding.use_mesh(reader.mesh):
    said = reader(policy, questions, texts, jax.random.key(0))
  assert max(said) > 0.02
  for mine, question, text in zip(said, questions, texts, strict=True):
    mean = float(_probability(policy, [*question, *text, ask])[
        policy.tokenizer.encode(right)[0]])
    assert mine == pytest.approx(
        mean, abs=5 * (mean * (1 - mean) / NUM)**0.5 + 1e-3)


def test_equal_texts_have_equal_verdicts():
  policy, reader = _reader(3)
  questions, texts = _tokens(policy)
  with sharding.use_mesh(reader.mesh):
    said = reader(policy, questions * 2, texts * 2, jax.random.key(1))
    alone = reader(policy, questions[1:2], texts[1:2], jax.random.key(1))
  assert said[:3] == said[3:] and alone == said[1:2]
  assert all(value in (0, 1 / 3, 2 / 3, 1) for value in said)


def _experiment(**changes):
  config = countdown.get_config('tiny')
  config.labels = kinds.label(policy='sft/solution_only', records='traces')
  config.judge = kinds.train(
      objective='verdict', start='sft/solution_only', records='labels',
      arms=('solution_only',))
  config.asked = kinds.evaluate(
      policies=('sft/solution_only',), solvers=('samples',))
  config.asked.samples.judges = ('judge/solution_only',)
  config.stages = (*config.stages, 'labels', 'judge', 'asked')
  config.update_from_flattened_dict(changes)
  return experiment_lib.parse(config)


def test_a_stage_lists_what_a_judge_in_words_compiles():
  experiment = _experiment(**{'asked.samples.num_verdicts': 4})
  mesh = scoring_test._mesh(1)
  program = experiment_lib.programs(
      experiment, mesh)['asked/judge/judge/solution_only']()
  settings = experiment.groups['asked'].settings.samples
  assert program.tokens == 4 * settings.batch_size * settings.max_new_tokens


def test_no_value_head_is_needed():
  _experiment(**{'model.value_head': 'none'})
  with pytest.raises(config_lib.ConfigError, match=(
      'samples.judges: got .*no value head')):
    _experiment(**{
        'model.value_head': 'none',
        'asked.samples.judges': ('sft/solution_only',)})
