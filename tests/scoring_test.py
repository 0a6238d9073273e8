# SPDX-License-Identifier: Apache-2.0
"""Values and probabilities of whole texts, in batches."""

import dataclasses
import functools
import math

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import models
from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import sampling
from meta_cot.solvers import scoring
from tests import small_labels

PROMPTS = ('4,9,3>24:', '4,9>5:', '4,9,3>24:')
# Two steps and an end; an opening and one step; not finished.
TEXTS = ('S9-3=6,4*6=24', 'S9-4=5', 'S9-3=6,4')
WIDTH = 16 + 16


@functools.cache
def _policy(seed=0) -> base.Policy:
  model = config_lib.parse(model_config.ModelConfig, models.get('tiny') | dict(
      vocab_size=40, num_layers=1, embed_dim=16, num_heads=2, num_kv_heads=2,
      head_dim=8, mlp_dim=16, max_length=64))
  params = meta.unbox(jax.jit(functools.partial(transformer.init, model))(
      jax.random.key(seed)))
  # An untrained head says 1/2 of everything.
  params['value_head'] = jax.tree.map(
      lambda x: jax.random.normal(jax.random.key(seed), x.shape),
      params['value_head'])
  return scoring.Judge(
      f'p{seed}', model, params, small_labels.reader().tokenizer,
      small_labels.STYLE)


def _mesh(num_devices):
  return sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:num_devices])


def _tokens():
  """Questions, and what was written behind them."""
  tokenizer = _policy().tokenizer
  written = [tokenizer.encode(text) for text in TEXTS]
  for text in written[:2]:
    text.append(tokenizer.eos_id)
  return [tokenizer.encode(prompt) for prompt in PROMPTS], written


@functools.cache
def _alone() -> tuple[list[list[float]], list[list[float]]]:
  """Values and log-probabilities behind every token, of every beginning alone.
  """
  policy, values, log_probs = _policy(), [], []
  forward = jax.jit(functools.partial(transformer.forward, policy.model))
  for question, text in zip(*_tokens()):
    tokens = question + text
    rows = np.full((len(tokens), WIDTH), policy.tokenizer.pad_id)
    for i in range(len(tokens)):
      rows[i, :i + 1] = tokens[:i + 1]
    output = forward(policy.params, jnp.pad(
        jnp.array(rows), ((0, 40 - len(rows)), (0, 0))))
    values.append([float(output.values[i, i]) for i in range(len(tokens))])
    given = jax.nn.log_softmax(output.logits)
    log_probs.append([0.0, *(
        float(given[i - 1, i - 1, tokens[i]]) for i in range(1, len(tokens)))])
  return values, log_probs


@pytest.mark.parametrize('batch_size, num_devices', [(5, 1), (2, 2)])
def test_texts_are_read_as_alone(batch_size, num_devices):
  mesh = _mesh(num_devices)
  texts = [question + text for question, text in zip(*_tokens())]
  for of, wanted in zip((scoring.values, scoring.log_probs), _alone()):
    with sharding.use_mesh(mesh):
      found = scoring.read(
          of, _policy(), texts, mesh, width=WIDTH, batch_size=batch_size)
    assert [len(x) for x in found] == [len(text) for text in texts]
    for mine, theirs in zip(found, wanted):
      np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize('reading', scoring.READINGS)
def test_judges_read_finished_texts_at_the_ends_of_steps(reading):
  policy, (_, written) = _policy(), _tokens()
  settings = sampling.Settings(
      batch_size=4, max_new_tokens=16, num_samples=1, temperature=1.0,
      top_k=None, top_p=None, judges=('p0',), judge_reading=reading,
      num_verdicts=1)
  mesh = _mesh(1)
  done = decode.Generation(
      tokens=np.stack([
          np.pad(text, (0, 16 - len(text))) for text in written]),
      log_probs=np.zeros((3, 16)),
      lengths=np.array([len(text) for text in written]),
      is_finished=np.array([True, True, False]))
  with sharding.use_mesh(mesh):
    found = sampling.Sampler(
        settings, small_labels.TASK, mesh, [policy])._judged(
            policy, PROMPTS, done, jax.random.key(0))
  assert list(found) == ['p0'] and found['p0'][2] is None
  cut = {'S9-3=6,4*6=24': ('S9-3=6,', '4*6=24'), 'S9-4=5': ('S9-4=5',)}
  for i, text in enumerate(TEXTS[:2]):
    end, ends = len(policy.tokenizer.encode(PROMPTS[i])) - 1, []
    for step in cut[text]:
      end += len(policy.tokenizer.encode(step))
      ends.append(end)
    ends[-1] += 1  # the end of the text
    said = [_alone()[0][i][end] for end in ends]
    wanted = dict(last=said[-1], min=min(said), product=math.prod(said))
    assert found['p0'][i] == pytest.approx(wanted[reading], abs=1e-5)


def test_what_cannot_read_is_named():
  policy, mesh = _policy(), _mesh(1)
  with pytest.raises(config_lib.UserError, match='p0: texts of 65 tokens'):
    scoring.read(scoring.values, policy, [[1]], mesh, width=65, batch_size=1)
  blind = dataclasses.replace(policy, model=dataclasses.replace(
      policy.model, value_head='none'))
  for there, style, width, words in (
      (blind, policy.style, 9, 'no value head'),
      (policy, 'x', 9, f"style '{policy.style}'; must have 'x'"),
      (policy, policy.style, 65, 'at most its model.max_length, 64')):
    with pytest.raises(config_lib.ConfigError, match=words):
      scoring.check(there, style, width)
