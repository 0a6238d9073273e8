# SPDX-License-Identifier: Apache-2.0
"""Questions of a user, answered by a model that nobody trained."""

import io
import json
import pathlib
import re

from etils import epath
import pytest

from configs import countdown as countdown_config
from configs import kinds
from meta_cot import sharding
from meta_cot import solve
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.training import checkpoint
from meta_cot.training import policy
from meta_cot.view import searches
from meta_cot.view import terminal
from tests import small_rl
from tests import small_view

SETTINGS = dict(num_slots=8, branching=3, beam_width=2, step_length=6)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """A policy in a workdir."""
  run = small_rl.Run()
  config = countdown_config.get_config('tiny')
  config.search = kinds.evaluate(
      policies=('sft/traces',), solvers=('greedy', 'samples', 'beam'))
  config.search.search.update(SETTINGS)
  config.search.samples.update(dict(
      batch_size=8, num_samples=3, max_new_tokens=16))
  config.stages = ('problems', 'traces', 'tokenizer', 'sft', 'search')
  experiment_lib.parse(config)
  workdir = epath.Path(tmp_path_factory.mktemp('solve')) / 'w'
  directory = workdir / 'sft' / 'traces'
  files.write_json(workdir / 'config.json', config.to_dict())
  policy.write(directory, run.model, small_rl.tokenizer(), 'compact', {})
  saves = checkpoint.Checkpoints(directory / 'checkpoints', None)
  with sharding.use_mesh(run.devices):
    saves.save_params(
        run.setup.start, tokenizer=small_rl.tokenizer().fingerprint)
  saves.close()
  return pathlib.Path(directory)


def _solve(capsys, *argv) -> str:
  solve.main(list(argv))
  return capsys.readouterr().out


def test_a_question_gives_a_tree(folder, capsys):
  out = _solve(capsys, f'--policy={folder}', '--solver=beam', '4,3>7')
  first, root, *rest = out.rstrip('\n').split('\n')
  assert re.fullmatch(
      r'4,3>7: (right|wrong), beam of sft/traces, num tokens \d+, '
      r'seconds \S+', first)
  assert root.startswith('· {4,3}  #1') and rest[-1].startswith('answer: ')
  assert any(line.startswith(('├─ ', '└─ ')) for line in rest)
  assert '\x1b' not in out  # this is no terminal


def test_questions_are_lines_and_answers_objects(
    folder, capsys, monkeypatch, tmp_path):
  lines = '4,3>7\n\n  5,2>10 \nnonsense\n4,3>\x1b[31m\n'
  monkeypatch.setattr('sys.stdin', io.StringIO(lines))
  with pytest.raises(SystemExit) as ended:
    solve.main([
        f'--workdir={folder.parents[1]}', '--stage=sft/traces', '--json',
        '--solver=samples', f'--html={tmp_path}/solved.html'])
  assert ended.value.code == 2
  printed = capsys.readouterr()
  made = [json.loads(line) for line in printed.out.splitlines()]
  assert [x['question'] for x in made] == ['4,3>7', '5,2>10']
  assert all(x['solver'] == 'samples' and x['num_tokens'] > 0 for x in made)
  assert len(made[0]['parent']) == len(made[0]['step'])
  errors = printed.err.splitlines()
  assert len(errors) == 2 and all(
      e.startswith("error: question: question '") for e in errors)
  assert '\x1b' not in printed.err
  page = (tmp_path / 'solved.html').read_text()
  assert '4,3\\u003e7' in page


@pytest.mark.parametrize('argv, words', [
    (['--policy={}', 'what is this'], 'is not of the form 4,9,3>24'),
    (['--policy={}', '--solver=beem', '4,3>7'], "got 'beem'; did you mean"),
    (['--policy={}/nowhere', '4,3>7'], 'there is no policy.json in it'),
    (['4,3>7'], '--policy: missing'),
    (['--policy={}', '--settings=sft', '4,3>7'], "--settings: got 'sft'"),
    (['--policy={}', '--solver=samples', '4,' * 40 + '3>7'], 'max_length')])
def test_what_is_wrong_is_one_line(folder, argv, words):
  with pytest.raises(config_lib.UserError, match=re.escape(words)):
    solve.main([word.format(folder) for word in argv])


def test_a_tree_in_lines():
  record = small_view.records()[1]
  tree = searches.tree(record.nodes, record.solution, '')
  plain, painted = (
      terminal.draw(tree, has_color=has) for has in (False, True))
  strip = lambda line: re.sub('\x1b\\[[0-9;]*m', '', line)
  assert list(map(strip, painted)) == plain
  assert any(line != strip(line) for line in painted)
  assert len(plain) == len(record.nodes)
  depths = []  # by the place of a step in its line
  for line in plain:
    depths.append(re.match('[│ ├└─]*', line).end() // 3)
  order = []  # depth first
  def visit(i, depth):
    order.append((record.nodes[i].step or '·', depth))
    for child, node in enumerate(record.nodes):
      if node.parent == i:
        visit(child, depth + 1)
  visit(0, 0)
  assert [d for _, d in order] == depths
  for (step, _), line in zip(order, plain, strict=True):
    assert step in line
  assert sum(line.endswith('right') for line in plain) == sum(
      n.is_correct for n in record.nodes)


def test_nothing_moves_the_cursor():
  text = terminal.visible('a\x1b[2J\u202e\ud800\n\u2028é😀')
  assert text == 'a⟨001b⟩[2J⟨202e⟩⟨d800⟩⟨000a⟩⟨2028⟩é😀'
