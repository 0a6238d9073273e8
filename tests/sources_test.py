# SPDX-License-Identifier: Apache-2.0
"""Sources of values over a language model, against whole texts read anew."""

import dataclasses
import functools

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import decode
from meta_cot import reasoning
from meta_cot.model import transformer
from meta_cot.reasoning import sources
from meta_cot.search import values
from tests import language_search
from tests import language_search_test

BATCH, ROLLOUTS, LENGTH = 4, 3, 5
ASK, RIGHT = 6, 7  # tokens
IDS = np.array([2, 0, 9, 5])
RNG = functools.partial(jax.random.key, 7)


def is_even(problem, tokens_M, length):
  """Of any text; that of a completion is asked of its end."""
  total = jnp.sum(jnp.where(jnp.arange(len(tokens_M)) < length, tokens_M, 0))
  return ((total + problem) % 2 == 0).astype(jnp.float32)


def share(problem, tokens_M, length):
  return (problem + length) / (problem + length + tokens_M[0] + 1.0)


@functools.cache
def policy():
  return language_search.make_model(loop='scan')


@functools.cache
def judge():
  """Another width, three layers, some with a window."""
  config, _ = language_search.make_model('gemma')
  config = dataclasses.replace(config, num_layers=3, embed_dim=24, head_dim=4)
  params = meta.unbox(transformer.init(config, jax.random.key(3)))
  noise = np.random.default_rng(1)
  return config, jax.tree.map(
      lambda x: x + 0.3 * noise.standard_normal(x.shape).astype(x.dtype),
      params)


STEP = language_search.make_step(policy()[0], outcome=None)
SOURCES = dict(
    likelihood=values.Likelihood(), head=values.Own(),
    model=sources.OfModel(judge()[0], language_search.LENGTH),
    completions=sources.OfCompletions(
        STEP, ROLLOUTS, LENGTH, is_even, is_merged=False),
    verdicts=sources.OfVerdicts(
        dataclasses.replace(
            STEP, config=judge()[0], branching=ROLLOUTS, step_length=LENGTH,
            delimiter_ids=(), sampling=decode.Sampling(1.0),
            value=sources.nothing,
            outcome=reasoning.ends_with(RIGHT)),
        language_search.LENGTH, ASK, is_merged=False),
    texts=sources.OfTexts(share, language_search.PAD))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(source, step, merge_steps, params, own, prompts, lengths, ids):
  """The output of a search; the problem of each is its id."""
  inputs = dict(prompt=prompts, length=lengths, problem=ids)
  given, root = reasoning.start(
      step.config, params, prompts, lengths, step_length=step.step_length,
      problems=ids, problem_ids_B=ids)
  beginning = source.begin(own, inputs, root)
  output = language_search.BEST_FIRST(
      (given, (own, beginning.rows)), RNG(), values.begin(root, beginning),
      values.valued(step, source, is_reward=True), branching=step.branching,
      merge_steps=merge_steps)
  return output.replace(tree=output.tree.replace(
      embeddings=values.inner(output.tree.embeddings)))


@functools.cache
def searched(source, rows=tuple(range(BATCH)), merge_steps=False):
  rows = np.array(rows)
  prompts, lengths = language_search.make_prompts(BATCH)
  return jax.device_get(_run(
      source, STEP, merge_steps, policy()[1], judge()[1], prompts[rows],
      lengths[rows], jnp.asarray(IDS[rows])))


@functools.cache
def _reader(config):
  return jax.jit(functools.partial(transformer.forward, config))


def _read(model, texts):
  """Values and logits at the last token of texts, which are read anew."""
  config, params = model
  rows = np.zeros((-(-len(texts) // 128) * 128, 40), np.int32)
  for row, text in zip(rows, texts, strict=False):
    row[:len(text)] = text
  ends = tuple(np.array([(i, len(t) - 1) for i, t in enumerate(texts)]).T)
  output = _reader(config)(params, rows)
  return np.asarray(output.values)[ends], np.asarray(output.logits)[ends]


def _texts(output):
  """{(problem, node): (prompt, all tokens)}."""
  prompts, lengths = map(np.asarray, language_search.make_prompts(BATCH))
  found = language_search.full_texts(output, prompts, lengths)
  return {
      (b, n): (prompts[b, :lengths[b]], np.concatenate(parts))
      for (b, n), parts in found.items()}


def _check(output, want):
  """`want` [nodes] in the order of `_texts`; rewards are values at the end."""
  at = tuple(np.array(list(_texts(output))).T)
  np.testing.assert_allclose(output.tree.values[at], want, atol=2e-5)
  is_end = output.tree.is_terminal[at]
  np.testing.assert_allclose(
      output.tree.rewards[at], np.where(is_end, want, 0), atol=2e-5)
  assert len(want) > 8 * BATCH and 3 < is_end.sum() < len(want) / 2
  assert np.std(want) > 0.01


def _of_model(output, model=None):
  return _read(model or judge(), [text for _, text in _texts(output).values()]
               )[0]


def test_another_model_judges_as_it_would_whole_texts():
  output = searched(SOURCES['model'])
  _check(output, _of_model(output))
  # The same children as ever: the judge touches no draw.
  head = searched(SOURCES['head'])
  _check(head, _of_model(head, policy()))
  np.testing.assert_array_equal(
      output.tree.log_probs[:, 1:4], head.tree.log_probs[:, 1:4])


def _even(problem, text):
  return (int(sum(text)) + problem) % 2 == 0


def completed(output, is_open, model, sampling, *, asked=(), folded=()):
  """{(b, n): completions} of open nodes, each drawn from whole texts.

  Behind a text stands what is `asked`; keys are `folded` with more numbers.
  """
  tree, rows = output.tree, []
  for (b, n), (_, text) in _texts(output).items():
    if is_open(b, n):
      leaf = int(tree.parents[b, n])
      key = jax.random.fold_in(RNG(), int(IDS[b]))
      for number in (
          leaf, 2**32 - 2, n - int(tree.first_child[b, leaf]), *folded):
        key = jax.random.fold_in(key, number)
      text = [*text, *asked]
      rows += [((b, n), [*text], jax.random.fold_in(key, k), len(text))
               for k in range(ROLLOUTS)]
  keys = jnp.stack([key for _, _, key, _ in rows])
  for t in range(LENGTH):
    _, logits = _read(model, [text for _, text, *_ in rows])
    drawn, _ = decode.sample(
        jnp.asarray(logits), jax.vmap(jax.random.fold_in, (0, None))(keys, t),
        sampling)
    for (_, text, _, start), token in zip(rows, drawn.tolist(), strict=True):
      if len(text) == start or text[-1] != language_search.EOS:
        text.append(token)
  found = {}
  for node, text, _, start in rows:
    found.setdefault(node, []).append(text[start:])
  return found


@pytest.mark.parametrize('merge_steps', [
    pytest.param(False, marks=pytest.mark.slow), True])
def test_completions_are_those_of_whole_texts(merge_steps):
  """Also what they cost, and none of what ended or of equal steps."""
  source = dataclasses.replace(
      SOURCES['completions'], is_merged=merge_steps)
  output = searched(source, merge_steps=merge_steps)
  tree = output.tree
  found = completed(
      output, lambda b, n: n > 0 and not tree.is_terminal[b, n], policy(),
      STEP.sampling)
  want, num_ended = [], 0
  for (b, n), (prompt, text) in _texts(output).items():
    said = text[len(prompt):]
    if n == 0:
      want.append(0.5)
    elif tree.is_terminal[b, n]:
      want.append(_even(IDS[b], said))
    else:
      ended = [
          c for c in found[b, n] if c[-1] == language_search.EOS]
      num_ended += len(ended)
      want.append(sum(
          _even(IDS[b], [*said, *c]) for c in ended) / ROLLOUTS)
  assert num_ended > 20
  _check(output, np.array(want, np.float32))
  spent = np.zeros(BATCH, int)
  for (b, _), texts in found.items():
    spent[b] += sum(map(len, texts))
  # Of every child its own step too, of merged ones as well.
  at_N = np.arange(tree.values.shape[1])[None]
  own = np.where(
      (at_N > 0) & (at_N < tree.num_nodes[:, None]),
      tree.embeddings.page.length, 0).sum(axis=1)
  np.testing.assert_array_equal(tree.num_tokens, own + spent)


@pytest.mark.parametrize('merge_steps', [
    pytest.param(False, marks=pytest.mark.slow), True])
def test_verdicts_are_those_on_whole_texts(merge_steps):
  """Of what has ended too, and what they cost."""
  source = dataclasses.replace(SOURCES['verdicts'], is_merged=merge_steps)
  output = searched(source, merge_steps=merge_steps)
  tree = output.tree
  found = completed(
      output, lambda b, n: n > 0, judge(), decode.Sampling(1.0), asked=(ASK,),
      folded=(2**32 - 2, 0))
  want = [
      0.5 if n == 0 else sum(
          [*v[-2:]] == [RIGHT, language_search.EOS] for v in found[b, n]
      ) / ROLLOUTS for b, n in _texts(output)]
  assert 3 < sum(0 < w < 1 for w in want) and any(
      tree.is_terminal[b, n] for b, n in _texts(output))
  at = tuple(np.array(list(_texts(output))).T)
  np.testing.assert_allclose(tree.values[at], want, atol=2e-5)


@pytest.mark.parametrize('mixing', [
    'product', *(pytest.param(name, marks=pytest.mark.slow)
                 for name in sorted(values.MIXINGS.keys() - {'product'}))])
def test_a_mixture_is_that_of_its_parts(mixing):
  weights = 0.5, 1.0, 2.0
  names = 'likelihood', 'model', 'texts'
  output = searched(values.Mixture(
      tuple(SOURCES[name] for name in names), weights, mixing))
  tree, parts = output.tree, [[], _of_model(output), []]
  for (b, n), (prompt, text) in _texts(output).items():
    said, log_prob, node = text[len(prompt):], 0.0, n
    while node > 0:
      log_prob += tree.log_probs[b, node]
      node = tree.parents[b, node]
    parts[0].append(np.exp(log_prob / max(len(said), 1)))
    first = said[0] if len(said) else 0
    whole = IDS[b] + len(said)
    parts[2].append(whole / (whole + first + 1))
  parts = np.array(parts)
  want = {
      'mean': (np.array(weights) @ parts) / sum(weights),
      'product': np.prod(parts.T ** weights, axis=1)}[mixing]
  _check(output, want)


@pytest.mark.parametrize('name', [
    'model', *(pytest.param(name, marks=pytest.mark.slow) for name in (
        'completions', 'verdicts'))])
def test_a_tree_is_the_same_alone(name):
  whole = searched(SOURCES[name]).tree
  alone = searched(SOURCES[name], (2,)).tree
  row = jax.tree.map(lambda x: x[2:3], whole)
  language_search.same_trees(row, alone)


@pytest.mark.parametrize('name, more', [
    ('model', [((BATCH, language_search.NUM_PROMPT), 0),
               ((2 * BATCH * 3, language_search.LENGTH), 1)]),
    ('completions', [((2 * BATCH * 3 * ROLLOUTS, 1), 2)])])
def test_nothing_is_read_twice(name, more, monkeypatch):
  """Beside the passes of any search there are these, and no other."""
  language_search_test.mark_passes(monkeypatch)
  # Another temperature: nothing that was traced before is used again.
  step = dataclasses.replace(STEP, sampling=decode.Sampling(0.9))
  traced = _run.trace(
      SOURCES[name], step, True, policy()[1], judge()[1],
      *language_search.make_prompts(BATCH), jnp.asarray(IDS))
  assert sorted(language_search_test.passes(traced.jaxpr.jaxpr)) == sorted([
      ((BATCH, language_search.NUM_PROMPT), 0), ((2 * BATCH * 3, 1), 2), *more])


def test_a_model_that_cannot_judge_is_refused():
  config, _ = judge()
  with pytest.raises(ValueError, match='no value head'):
    sources.OfModel(dataclasses.replace(config, value_head='none'), 4)
  short = sources.OfModel(dataclasses.replace(config, max_length=20), 4)
  with pytest.raises(ValueError, match='4 steps of 4 tokens after'):
    searched(short)
