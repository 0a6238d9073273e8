# SPDX-License-Identifier: Apache-2.0
"""Problems in words from files: what is read, what is named as broken."""

import json
import logging
import re
import sys
import types

from array_record.python import array_record_module
import pyarrow
from pyarrow import parquet
import pytest

from configs import tasks as tasks_config
from meta_cot import tasks
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.tasks import gsm8k
from meta_cot.tasks import math
from meta_cot.tasks.texts import rows
from meta_cot.tasks.texts import task as task_lib
from tests import small_texts

ROW = '{"question": "What is 1 + 1?", "answer": "1 + 1 = 2\\n#### 2"}'


def _make(kind, train, **changes):
  values = {**getattr(tasks_config, kind)(), 'train': train, **changes}
  values.pop('kind')
  return tasks.make(kind, config_lib.parse(task_lib.Settings, values), 0)


def _all(task):
  return {split: [*task.problems(split, 0, task.size(split))]
          for split in task.splits}


@pytest.mark.parametrize('data, places', [
    (b'{"a": 1}\n{"a": 2}\n', [1, 2]), (b'{"a": 1}', [1]),
    (b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n', [1, 2]),
    (b'\n\n{"a": 1}\n \n{"a": 2}\n\n', [3, 5]),
    ('{"a": "x\u2028y\u0085z"}\n'.encode(), [1]), (b'', [])])
def test_lines_that_are_read(tmp_path, data, places):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(data)
  found = [*rows.read(str(path))]
  assert [row.place for row in found] == [f'{path}, line {i}' for i in places]
  assert all('a' in row.values and not row.fault for row in found)


@pytest.mark.parametrize('line, fault', [
    (b'{"a": 1', 'no JSON: .* at column 8'), (b'[1]', 'no object of JSON'),
    (b'\xff\xfe', 'no UTF-8 at byte 0'), (b'null', 'no object of JSON'),
    (b'[' * 100_000, 'no JSON: too deep'),
    (b'"' + b'x' * 2**20 + b'"', '1048578 bytes; at most 1048576')])
def test_lines_that_are_named(tmp_path, line, fault):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
  first, wrong, last = rows.read(str(path))
  assert first.values == {'a': 1} and last.values == {'a': 2}
  assert wrong.values is None and wrong.place == f'{path}, line 2'
  assert re.fullmatch(fault, wrong.fault)


def test_every_source_has_the_same_rows(tmp_path, monkeypatch):
  some = small_texts.rows('gsm8k')[:7]
  lines = [json.dumps(row) for row in some]
  (tmp_path / 'a1.jsonl').write_text('\n'.join(lines[:3]))
  (tmp_path / 'a2.jsonl').write_text('\n'.join(lines[3:]))
  writer = array_record_module.ArrayRecordWriter(
      str(tmp_path / 'a.array_record'), 'group_size:1')
  for line in lines:
    writer.write(line.encode())
  writer.close()
  asked = []
  monkeypatch.setitem(sys.modules, 'datasets', types.SimpleNamespace(
      load_dataset=lambda *args, split: asked.append((args, split)) or some))
  for source in (
      str(tmp_path / 'a?.jsonl'), str(tmp_path / 'a.array_record'),
      'hf:openai/gsm8k:main:test'):
    assert [row.values for row in rows.read(source)] == [*some], source
  assert asked == [(('openai/gsm8k', 'main'), 'test')]


def test_parquet(tmp_path):
  some = [*small_texts.rows('math')[:5]]
  path = tmp_path / 'x.parquet'
  parquet.write_table(pyarrow.Table.from_pylist(some), path)
  assert [row.values for row in rows.read(str(path))] == some
  path.write_bytes(b'PAR1')
  with pytest.raises(config_lib.UserError, match='x.parquet: no Parquet'):
    list(rows.read(str(path)))


@pytest.mark.parametrize('source, message', [
    ('/no/such.jsonl', '/no/such.jsonl: cannot be read'),
    ('/no/*.jsonl', 'there are no such files'), ('x.csv', 'must end with one'),
    ('s3://b/x.jsonl', 'must be a local path'),
    ('hf:a', 'must be hf:NAME:SPLIT'), ('tfds:', 'must be tfds:NAME:SPLIT'),
    ('hf:a:train', 'needs the package datasets; pip install'),
    ('tfds:a:train', 'needs the package tensorflow_datasets; pip install')])
def test_sources_that_are_not_there(source, message, monkeypatch):
  for name in ('datasets', 'tensorflow_datasets'):
    monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(config_lib.UserError, match=message) as error:
    list(rows.read(source))
  assert '\n' not in str(error.value)


def test_rows_of_gsm8k():
  solved = gsm8k.read_row(dict(
      question=' How  many?\n', answer='a = <<1+1=2>>2\n\nb\n#### 1,002'))
  assert solved == task_lib.Solved(
      'How many?', '1,002', ('a = 2', 'b', 'The answer is 1,002.'), {})
  for wrong in (
      {}, dict(question='q'), dict(question='q', answer='2'),
      dict(question='q', answer='#### '), dict(question=1, answer='x'),
      dict(question=' ', answer='#### 1')):
    with pytest.raises(ValueError, match="^'(question|answer)' "):
      gsm8k.read_row(wrong)


def test_rows_of_math():
  row = dict(problem='p', level='Level 5', type='Algebra')
  text = r'First $x=1$. Then $\frac{1}{2}$ holds. So \boxed{\frac{1}{2}}.'
  solved = math.read_row({**row, 'solution': text})
  assert solved.answer == r'\frac{1}{2}'
  assert solved.steps == (
      'First $x=1$.', r'Then $\frac{1}{2}$ holds.', r'So \boxed{\frac{1}{2}}.')
  assert solved.details == dict(
      level='Level 5', type='Algebra', difficulty=5)
  solved = math.read_row({**row, 'solution': 'a\nb', 'answer': '7'})
  assert solved.steps == ('a', 'b', r'The answer is \boxed{7}.')
  with pytest.raises(ValueError, match='has no .boxed'):
    math.read_row({**row, 'solution': 'no answer'})


@pytest.mark.parametrize('level, difficulty', [
    ('Level 4', 4), (3, 3), ('Level ?', 2), (None, 2)])
def test_difficulty_is_the_level_or_the_steps(tmp_path, level, difficulty):
  path = tmp_path / 'x.jsonl'
  path.write_text(json.dumps(dict(
      problem='1 + 1?', solution='1 + 1 = 2.\nSo \\boxed{2}.', level=level)))
  task = _make('math', (str(path),))
  (problem,) = (p for some in _all(task).values() for p in some)
  assert base.difficulty(task, problem) == difficulty


@pytest.mark.parametrize('kind', small_texts.ROWS)
def test_splits_share_no_question_and_all_solutions_are_right(kind):
  task = _make(kind, small_texts.config(kind)['train'])
  found = _all(task)
  questions = [p.question for some in found.values() for p in some]
  assert len(questions) == len(set(questions)) == small_texts.NUM_ROWS
  for some in found.values():
    for problem in some[:50]:
      record = task.teacher.search(problem, 'solution', 0)
      text = '\n'.join(node.step for node in record.nodes[1:])
      assert task.verify(problem, text).is_correct
      assert not task.verify(problem, text.replace(
          problem.answer, f'{problem.answer}9')).is_correct
      assert task.states.max_steps(problem) == len(record.nodes) - 1


def test_a_test_file_is_the_test_split(tmp_path):
  lines = [json.dumps(row) for row in small_texts.rows('gsm8k')]
  (tmp_path / 'train.jsonl').write_text('\n'.join(lines[:900] + lines[:5]))
  (tmp_path / 'test.jsonl').write_text('\n'.join(lines[895:1_000]))
  found = _all(_make(
      'gsm8k', (str(tmp_path / 'train.jsonl'),),
      test=(str(tmp_path / 'test.jsonl'),), num_heldout=50))
  # Five stand in both files: they are for the test alone.
  assert len(found['test']) == 50 and len(found['validation']) > 20
  assert len(found['train']) + len(found['validation']) == 895
  assert not {p.question for p in found['train']} & {
      json.loads(line)['question'] for line in lines[895:1_000]}


def test_broken_rows_are_told_and_counted(tmp_path, caplog):
  path = tmp_path / 'x.jsonl'
  path.write_text('\n'.join(
      [ROW.replace('1 + 1', f'{i} + 1') for i in range(98)]
      + ['{"question": 3}', 'oops']))
  with caplog.at_level(logging.WARNING):
    found = _all(_make('gsm8k', (str(path),), max_bad_fraction=0.02))
  assert sum(map(len, found.values())) == 98
  assert f"{path}, line 99: 'question' is 3; must be a text" in caplog.text
  assert f'{path}, line 100: no JSON' in caplog.text
  assert '2 of 100 rows are broken' in caplog.text
  task = _make('gsm8k', (str(path),), max_bad_fraction=0.01)
  with pytest.raises(config_lib.UserError, match=(
      'task gsm8k: 2 of 100 rows of .* are broken, more than '
      r'task.max_bad_fraction \(0.01\) allows; the first one is .*line 99')):
    task.size('train')


def test_no_rows_are_one_line(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_text('\n')
  with pytest.raises(config_lib.UserError, match='0 of 0 rows'):
    _make('gsm8k', (str(path),)).size('train')
  with pytest.raises(config_lib.ConfigError, match='train'):
    _make('gsm8k', ())
