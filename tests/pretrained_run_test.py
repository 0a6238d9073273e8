# SPDX-License-Identifier: Apache-2.0
"""`configs/smollm2.py` with a random model: import, tune, judge, search, RL."""

import json
import pathlib

import jax
import numpy as np
import pytest
import torch
import transformers

from configs import smollm2
from meta_cot import convert
from meta_cot.problem import Verdict
from meta_cot.runtime import files
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import word_problems
from meta_cot.training import policy as policy_lib
from tests import huggingface_tokenizer_test as tokenizer_test
from tests import small_training

_TEMPLATE = '{% for m in messages %}<|turn|>{{ m.content }}<|end|>{% endfor %}'


def _import(folder):
  """A small Llama with a byte-level tokenizer and a chat template."""
  tokenizer = tokenizer_test._theirs('byte_level')
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=tokenizer.get_vocab_size(), hidden_size=16,
      intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
      num_key_value_heads=1, max_position_embeddings=2048,
      tie_word_embeddings=True))
  model.save_pretrained(folder / 'in')
  tokenizer.save(str(folder / 'in' / 'tokenizer.json'))
  (folder / 'in' / 'generation_config.json').write_text('{"eos_token_id": 0}')
  (folder / 'in' / 'chat_template.jinja').write_text(_TEMPLATE)
  convert.main([
      'import', f'--source={folder / "in"}', '--prompt=chat',
      f'--output={folder / "models" / "smollm2"}'])


def _even(self, problem, answer):
  """Another opinion of what is right: all of a random model would be wrong."""
  del self, problem
  return Verdict(len(answer) % 2 == 0, '')


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """The context of a finished run of all stages."""
  folder = tmp_path_factory.mktemp('pretrained')
  _import(folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    c = smollm2.get_config('tiny')
  c.task.update(dict(num_train=40, num_validation=24, num_test=8))
  for name in ('before', 'after', 'searched'):
    c[name].num_problems = 4
    c[name].samples.update(dict(
        batch_size=8, num_samples=2, max_new_tokens=12))
  for name in ('tuned', 'value', 'revised'):
    c[name].num_examples = 24
  c.answers.update(dict(num_train=12, num_validation=24))
  c.revised.records = 'traces'  # a random model solves nothing
  c.answers.samples.update(dict(
      batch_size=8, num_samples=2, max_new_tokens=12))
  c.quality.max_tokens = 12
  c.searched.search.update(dict(
      num_slots=4, num_expansions=3, branching=2, step_length=6))
  c.rl.update(dict(
      num_iterations=2, eval_every=2, save_every=2, num_eval_problems=2))
  c.rl.questions.update(dict(num_questions=2, num_samples=2, num_slots=4))
  c.rl.updates.num_accumulation = 1
  c.rl.episodes.episode_length = 6
  c.episodes.num_problems = 2
  c.episodes.episodes.update(dict(num_questions=2, num_slots=2))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(word_problems.WordProblems, 'verify', _even)
    return small_training.run_stages(experiment_lib.parse(c), folder / 'w')


@pytest.mark.parametrize('variant', smollm2.VARIANTS)
def test_variants_are_whole(variant, done, monkeypatch, tmp_path):
  for name in ('smollm2', 'qwen25'):
    (tmp_path / 'models').mkdir(exist_ok=True)
    (tmp_path / 'models' / name).symlink_to(
        done.workdir.parent / 'models' / 'smollm2')
  (tmp_path / 'data' / 'gsm8k').mkdir(parents=True)
  for split in ('train', 'test'):
    (tmp_path / 'data' / 'gsm8k' / f'{split}.jsonl').write_text(''.join(
        json.dumps(dict(question=f'{split} {i}?', answer=f'#### {i}')) + '\n'
        for i in range(40)))
  monkeypatch.chdir(tmp_path)
  experiment = experiment_lib.parse(smollm2.get_config(variant))
  assert set(experiment.stages) <= experiment.groups.keys() | {'problems'}


def _rows(context, stage, solver):
  folder = pathlib.Path(context.workdir / stage / 'rows')
  return [
      json.loads(line) for path in folder.rglob('*.jsonl')
      if f'/{solver}/' in str(path)
      for line in path.read_text().splitlines()]


def test_every_stage_leaves_its_policy_with_the_trunk_as_it_was(done):
  start = policy_lib.read(files.path(done.workdir.parent / 'models/smollm2'))
  tuned, value = (
      done.policy(f'{name}/solution_only') for name in ('tuned', 'value'))
  assert done.policy('revised/revisions_kept').base.folder == (
      '../../tuned/solution_only')
  assert tuned.base.folder == str(start.directory)
  trunks = [p.params(done.mesh) for p in (start, tuned, value)]
  heads = [params.pop('value_head') for params in trunks]
  np.testing.assert_array_equal(
      trunks[0]['embedder']['embedding'], trunks[1]['embedder']['embedding'])
  changed = jax.tree.map(
      lambda a, b: bool(np.any(a != b)), trunks[0]['layers'],
      trunks[1]['layers'])
  assert any(jax.tree.leaves(changed))
  jax.tree.map(np.testing.assert_array_equal, trunks[1], trunks[2])
  assert not np.any(heads[1]['kernel']) and np.any(heads[2]['kernel'])


@pytest.mark.parametrize('stage, solver', [
    ('before', 'greedy'), ('after', 'samples'), ('searched', 'best_first'),
    ('episodes', 'revisions')])
def test_every_solver_answers(done, stage, solver):
  rows = _rows(done, stage, solver)
  assert rows and all(row['num_tokens'] > 0 for row in rows)


def test_what_is_tuned_goes_out_again(done, tmp_path):
  folder = done.policy('tuned/solution_only').directory
  convert.main(['export', f'--policy={folder}', f'--output={tmp_path / "out"}'])
  theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
  params = done.policy('tuned/solution_only').params(done.mesh)
  np.testing.assert_allclose(
      theirs.model.embed_tokens.weight.detach().numpy(),
      params['embedder']['embedding'])
  assert (tmp_path / 'out' / 'chat_template.jinja').read_text() == _TEMPLATE
