# SPDX-License-Identifier: Apache-2.0
"""Where steps end: on the host, in searches, in episodes; with any tokens."""

import functools

from flax.linen import meta
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as reference

from configs import kinds
from configs import models
from data_pipelines.tokenizers import huggingface
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rollouts import continuations
from meta_cot.rollouts import rows as rows_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import searching
from meta_cot.solvers import states
from meta_cot.solvers import strategies
from meta_cot.solvers import vocabulary
from meta_cot.tasks import countdown
from meta_cot.tasks import number_puzzle
from meta_cot.traces import record as record_lib
from tests import language_search

BATCH = 16
BLANKS = (5, 9)  # 5 is a delimiter too
ALL_BLANK = '\n\n', '\n  ', ' \n'
_ADDED = *ALL_BLANK, '.\n', '\n5', '!  ', '...', '3.', '.5', '5'


@functools.cache
def tokenizer():
  """Bytes and tokens in which line feeds stand anywhere."""
  made = reference.Tokenizer(reference.models.BPE())
  made.pre_tokenizer = reference.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  made.decoder = reference.decoders.ByteLevel()
  made.train_from_iterator([], reference.trainers.BpeTrainer(
      special_tokens=['<|end|>'], show_progress=False,
      initial_alphabet=reference.pre_tokenizers.ByteLevel.alphabet()))
  made.add_tokens(list(_ADDED))
  return huggingface.Tokenizer(made.to_str().encode(), 0, (0,))


@functools.cache
def words(kind):
  return vocabulary.of(
      tokenizer(), tokenizer().vocab_size + 3, 'prose', kind)


@pytest.mark.parametrize('kind, ends', [
    ('solution', {'\n', *ALL_BLANK, '.\n', '\n5'}),
    ('event', {'\n', *ALL_BLANK, '.\n', '\n5'}),
    ('sentence', {'\n', *ALL_BLANK, '.\n', '\n5', '.', '!', '?', '!  ', '...',
                  '3.'}),
    ('episode', set())])
def test_tokens_that_have_the_delimiter_in_them_end_steps(kind, ends):
  made = words(kind)
  assert {made.texts[i] for i in made.delimiter_ids} == ends
  blank = {made.texts[i] for i in made.blank_ids}
  assert {'', ' ', '\n', '\t', *ALL_BLANK} <= blank
  assert not any(text.strip() for text in blank)


@pytest.mark.parametrize('kind, text, steps', [
    ('solution', '\n\na\n\n\nb.\n\n  c', ['\n\na\n\n', '\nb.\n', '\n  c']),
    ('solution', '.\n\n\n', ['.\n', '\n\n']),
    ('solution', '3.5 a. b', ['3.5 a. b']),
    ('sentence', 'a. b!  c? 3.5\n', ['a.', ' b!  ', 'c?', ' 3.', '5\n']),
    ('sentence', '\n\n a ... b', ['\n\n a ...', ' b'])])
def test_a_step_is_never_blank_but_at_the_end(kind, text, steps):
  pieces = words(kind).cut(tokenizer().encode(text))
  assert [tokenizer().decode(piece) for piece in pieces] == steps


_ids = st.lists(st.integers(0, 7), min_size=1, max_size=12)


@hypothesis.given(_ids)
def test_pieces_are_the_tokens_and_have_one_end_each(tokens):
  made = vocabulary.Vocabulary(0, (0,), (1, 2, 3), (), blank_ids=(2, 4, 5))
  pieces = made.cut(tokens)
  assert [i for piece in pieces for i in piece] == tokens
  for piece in pieces:
    # Behind the last blank of its beginning, only its last token is an end.
    told = next((k for k, i in enumerate(piece) if i not in made.blank_ids),
                len(piece) - 1)
    assert not set(piece[told:-1]) & set(made.delimiter_ids)
  for piece in pieces[:-1]:
    assert piece[-1] in made.delimiter_ids
    assert set(piece) - set(made.blank_ids)


@pytest.mark.parametrize('siblings', [
    pytest.param('independent', marks=pytest.mark.slow),
    'without_replacement'])
@pytest.mark.parametrize('has_opening', [
    pytest.param(False, marks=pytest.mark.slow), True])
def test_searches_end_steps_as_the_host_does(has_opening, siblings):
  config, params = language_search.make_model()
  step = language_search.make_step(
      config, has_opening=has_opening, blank_ids=BLANKS, siblings=siblings)
  output = language_search.run(
      step, language_search.BEST_FIRST, params,
      *language_search.make_prompts(BATCH), jnp.arange(BATCH))
  tree = jax.device_get(output.tree)
  made = vocabulary.Vocabulary(
      0, step.eos_ids, step.delimiter_ids, (), has_opening, BLANKS)
  num_blank, num_cut = 0, 0
  for b, n in zip(*np.nonzero(tree.is_valid)):
    steps = []
    while n > 0:
      length = tree.embeddings.page.length[b, n]
      steps.insert(0, tuple(tree.embeddings.tokens[b, n, :length].tolist()))
      n = tree.parents[b, n]
    is_whole = all(len(each) < step.step_length for each in steps[:-1])
    if is_whole and steps:  # others were cut by their length
      assert made.cut([i for each in steps for i in each]) == steps
      num_cut += len(steps) > 1
      num_blank += steps[-1][:1] == (5,) and len(steps[-1]) > 1
  assert num_cut > BATCH and num_blank > 3


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(_ids, min_size=1, max_size=3), st.data())
def test_episodes_are_cut_as_the_host_does(episodes, data):
  steps = continuations.Steps((1, 2, 3), 12, (2, 4, 5))
  made = vocabulary.Vocabulary(
      0, (), steps.end_ids, (), blank_ids=steps.blank_ids)
  targets, sampled, numbers, wanted = [], [], [], []
  for e, tokens in enumerate(episodes):
    forced = data.draw(st.lists(st.integers(0, 7), max_size=2))
    targets += [*forced, *tokens]
    sampled += [False] * len(forced) + [True] * len(tokens)
    numbers += [-1] * len(forced) + [e] * len(tokens)
    wanted += [-1] * len(forced) + [
        e * 12 + j for j, piece in enumerate(made.cut(tokens)) for _ in piece]
  pad = lambda row, fill: jnp.array([row + [fill] * (45 - len(row))])
  rows = rows_lib.Rows(
      tokens=None, targets=pad(targets, 1), is_sampled=pad(sampled, False),
      behaviour=None, episode=pad(numbers, -1), trajectory=None)
  found = _of_tokens(steps, rows)
  assert found.tolist() == pad(wanted, -1).tolist()


@functools.partial(jax.jit, static_argnums=0)
def _of_tokens(steps, rows):
  return steps.of_tokens(rows, 3)


class _Stateless(number_puzzle.NumberPuzzles):
  states = None


@pytest.mark.parametrize('kind, has_states', [
    pytest.param('solution', True, marks=pytest.mark.slow),
    ('sentence', True), ('sentence', False)])
def test_ids_of_a_search_are_kept(kind, has_states):
  """What a model drew is seldom what its text would be encoded as."""
  config = config_lib.parse(model_config.ModelConfig, models.get('tiny') | dict(
      vocab_size=tokenizer().vocab_size, num_layers=1, embed_dim=16,
      num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=16, max_length=128))
  policy = base.Policy(
      'random', config, meta.unbox(transformer.init(config, jax.random.key(0))),
      tokenizer(), 'prose')
  settings = config_lib.parse(
      strategies.Settings, kinds.evaluate().search.to_dict() | dict(
          step=kind, max_depth=3, step_length=16, num_slots=2))
  task = tasks.make('countdown')
  if not has_states:
    task = _Stateless(task.name, task.splits, task.source, task.teacher)
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:1])
  problems = [countdown.make_problem([5, 17, 1], 23)] * 4
  with sharding.use_mesh(mesh):
    outcomes = searching.Searcher('best_first', settings, task, mesh)(
        policy, problems, jax.random.key(0))
  reader, num_other = states.Reader(tokenizer(), 'prose', words(kind)), 0
  for record in outcomes.records[:, 0]:
    again = record_lib.from_json(record_lib.to_json(record))
    assert [n.tokens for n in again.nodes] == [n.tokens for n in record.nodes]
    merged = reader.merged(again)
    assert set(states.written(merged)) == set(states.written(record))
    for tokens in states.written(record):
      num_other += tokenizer().encode(tokenizer().decode(tokens)) != [*tokens]
    assert bool(record.nodes[0].state) == has_states
    assert not any(n.state for n in record.nodes[1:])  # it writes junk
  assert num_other > 20
  share = outcomes.details['live_passes']
  assert 0 < share[0, 0] <= 1 and (share == share[0, 0]).all()
  for left_out in outcomes.details['nodes_left_out'][:, 0]:
    assert (left_out is not None) == has_states  # a search that is told
