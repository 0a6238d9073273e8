# SPDX-License-Identifier: Apache-2.0
"""Another kind of tokenizer, with two tokens that end a text, everywhere."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs import countdown as countdown_config
from configs import kinds as stage_kinds
from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import sampling as sampling_lib
from meta_cot.solvers import searching
from meta_cot.solvers import strategies
from meta_cot.solvers import trees
from meta_cot.stages import data as data_stages
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import countdown
from tests import character_tokenizer
from tests import small_rl

_TEXT = '0123456789>:S+-=,'
_PROBLEMS = (
    countdown.make_problem([2, 3], 5), countdown.make_problem([2, 4], 8))
_SAMPLING = decode.Sampling(temperature=1.0)


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
  """One more line in the table of kinds, before settings are declared."""
  monkeypatch.setitem(tokenizers.KINDS, 'character', character_tokenizer)
  field, = (f for f in dataclasses.fields(data_stages.TokenizerSettings)
            if f.name == 'vocabulary')
  monkeypatch.setitem(
      field.metadata['kinds'], 'character', character_tokenizer.Settings)


def _experiment(vocabulary=None):
  config = countdown_config.pipeline()
  config.tokenizer.vocabulary = vocabulary or dict(
      kind='character', vocab_size=None)
  config.model.update(
      vocab_size=24, num_layers=1, embed_dim=16, num_heads=2, num_kv_heads=2,
      head_dim=8, mlp_dim=16, max_length=64)
  config.sft.data.sequence_length = 64
  return experiment_lib.parse(config)


@functools.cache
def _model():
  model = _experiment().shared.model
  return model, small_rl.parameters(model)


def _mesh():
  return sharding.make_mesh(sharding.MeshConfig(-1, 1, 1), jax.devices()[:1])


def _tokenizer():
  return _experiment().groups['tokenizer'].settings.vocabulary.make([_TEXT])


def _of_length(lengths_B, tokens_BxT):
  return [row[:n].tolist() for row, n in zip(tokens_BxT, lengths_B)]


def test_a_folder_is_told_by_its_files(tmp_path):
  made = _tokenizer()
  assert not tokenizers.is_whole(tmp_path)
  made.save(tmp_path)
  assert tokenizers.is_whole(tmp_path) and tokenizers.load(tmp_path) == made
  small_rl.tokenizer().save(tmp_path)
  with pytest.raises(config_lib.UserError, match=(
      f'{tmp_path}: tokenizer.model and characters.json here; must be one of')):
    tokenizers.load(tmp_path)
  (tmp_path / 'characters.json').unlink()
  assert tokenizers.load(tmp_path).fingerprint == (
      small_rl.tokenizer().fingerprint)


@pytest.mark.parametrize('group, message', [
    (dict(kind='charakter'), "kind: got 'charakter'; "),
    (dict(kind=3), 'kind: got 3; must be one of '),
    (dict(vocab_size=9), 'kind: missing; must be one of '),
    (dict(kind='character', vocab_size=None, path=None), 'path: no such key')])
def test_the_kind_says_what_else_is_set(group, message):
  with pytest.raises(config_lib.ConfigError, match=(
      f'config.tokenizer.vocabulary.{message}')):
    _experiment(group)


def test_a_decoder_ends_texts_at_either_token():
  """A text is that of a run without ends, up to the first of them."""
  (model, params), tokenizer = _model(), _tokenizer()
  prompts = ['2,3>5:', '24', '9'] * 8
  texts, done = sampling_lib.Sampler(
      sampling_lib.Settings(
          batch_size=24, max_new_tokens=12, num_samples=1, temperature=1.0,
          top_k=None, top_p=None, judges=(), judge_reading='last',
          num_verdicts=1),
      tasks.make('countdown'), _mesh()).complete(
              base.Policy('', model, params, tokenizer, 'compact'), prompts,
              jax.random.key(0))
  endless = sampling_lib.jit_generate(
      model, _mesh(), max_new_tokens=12, sampling=_SAMPLING, eos_ids=(),
      pad_id=0)
  encoded = [tokenizer.encode(p) for p in prompts]
  prompts_BxP = np.array([ids + [0] * (8 - len(ids)) for ids in encoded])
  whole = endless(
      params, prompts_BxP, np.array([len(ids) for ids in encoded]),
      jax.random.key(0), row_ids_B=np.arange(24))
  assert not whole.is_finished.any()
  last = []
  for i, (prompt, tokens) in enumerate(
      zip(prompts, whole.tokens.tolist(), strict=True)):
    ends = [i for i, t in enumerate(tokens) if t in tokenizer.eos_ids]
    assert done.is_finished[i] == bool(ends)
    assert done.lengths[i] == (ends[0] + 1 if ends else 12)
    assert texts[i] == prompt + tokenizer.decode(
        tokens[:ends[0]] if ends else tokens)
    last += [tokens[ends[0]]] if ends else ['none']
  assert {*last} == {*tokenizer.eos_ids, 'none'}


def test_a_search_ends_texts_at_either_token():
  """And its steps at the delimiter that the tokenizer finds."""
  (model, params), tokenizer = _model(), _tokenizer()
  task = tasks.make('countdown')
  settings = config_lib.parse(
      strategies.Settings, stage_kinds.search(search=dict(
          num_slots=2, branching=3, step_length=4, num_expansions=8,
          max_depth=3)).search)
  run, _, _ = searching.Searcher('best_first', settings, task, _mesh()).run(
      base.Policy('', model, params, tokenizer, 'compact'), _PROBLEMS,
      jax.random.key(0))
  judge = judge_lib.Judge(task, tokenizer, 'compact')
  (comma,) = tokenizer.encode(',')
  last = []
  for problem, finished in zip(_PROBLEMS, run, strict=True):
    found = finished.result
    tree = found.output.tree
    texts = _of_length(found.lengths, found.tokens)
    for slot in np.flatnonzero(tree.is_valid)[1:]:
      assert not {*texts[slot][:-1]} & {*tokenizer.eos_ids, comma}
      assert tree.is_terminal[slot] == (texts[slot][-1] in tokenizer.eos_ids)
      assert texts[slot][-1] in (*tokenizer.eos_ids, comma) or (
          len(texts[slot]) == 4)
      last.append(texts[slot][-1])
    record, _ = trees.read(
        judge, settings.step, problem, tree, found.tokens, found.lengths,
        int(found.output.solution_index), strategy='best_first', arguments={},
        seed=0, model='')
    for node in record.nodes[1:]:
      text = tokenizer.decode(node.tokens)
      assert node.step in (text.removesuffix(','), text)
      assert '<' not in node.step
  assert {*tokenizer.eos_ids, comma} < {*last}


def test_episodes_end_at_either_token():
  (model, params), tokenizer = _model(), _tokenizer()
  rules = episodes.Episodes(
      num_episodes=3, episode_length=8, sampling=_SAMPLING,
      stop_ids=tokenizer.eos_ids)
  with sharding.use_mesh(_mesh()):
    player = player_lib.Player(
        model, tokenizer, _mesh(), rules=rules, style='compact', width=8,
        num_questions=2, num_samples=8, num_slots=8)
    played = player.fetch(player(
        params, player.ask(_PROBLEMS, (0, 1)), jax.random.key(0)))
  last = []
  for n, e in np.argwhere(played.is_taken):
    tokens = played.tokens[n, played.starts[n, e]:played.ends[n, e]].tolist()
    assert not {*tokens[:-1]} & {*tokenizer.eos_ids}
    assert played.is_finished[n, e] == (tokens[-1] in tokenizer.eos_ids)
    assert played.is_finished[n, e] or len(tokens) == 8
    last.append(tokens[-1])
  assert {*tokenizer.eos_ids} < {*last}


def test_an_answer_is_the_same_before_either_token():
  tokenizer = _tokenizer()
  text = tokenizer.encode('S2+3=5')
  tokens_RxC = np.array([[*text, end] for end in tokenizer.eos_ids])
  starts, ends = np.zeros((2, 1), int), np.full((2, 1), len(text) + 1)
  done = np.ones((2, 1), bool)
  judged = judge_lib.Judge(tasks.make('countdown'), tokenizer, 'compact')(
      _PROBLEMS[:1], episodes.Rollouts(
          tokens=tokens_RxC, log_probs=None, is_sampled=None, episode=None,
          lengths=None, starts=starts, ends=ends, is_finished=done,
          has_given_up=~done, num_steps=0, num_live=0))
  assert judged.rewards.tolist() == [[1.0], [1.0]]
  assert judged.answers.tolist() == [['2+3=5'], ['2+3=5']]
