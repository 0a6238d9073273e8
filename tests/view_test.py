# SPDX-License-Identifier: Apache-2.0
"""What a page is made of; tests/view_browser_test.py looks at it drawn."""

import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from etils import epath
import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import traces
from meta_cot.evaluation import rows as rows_lib
from meta_cot.rl import kept
from meta_cot.settings import config as config_lib
from meta_cot.view import page
from meta_cot.view import rollouts
from meta_cot.view import run
from meta_cot.view import searches
from tests import small_view

_LIMITS = dict(max_rollouts=1000, max_problems=40)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> pathlib.Path:
  return small_view.make(tmp_path_factory.mktemp('view') / 'w')


def _read(workdir, **limits):
  return run.read(epath.Path(workdir), **_LIMITS | limits)


def _stage(values, name):
  (found,) = (s for s in values['stages'] if s['name'] == name)
  return found


def test_it_has_the_rows_that_are_there(workdir):
  values = _read(workdir)
  there = small_view.rows_of(workdir / 'rl' / small_view.RUN / kept.NAME)
  (made,) = _stage(values, 'rl')['rl']
  assert made['rows'] == there and made['num_rows'] == len(there) == 18
  for stage, name in (('sft', 'traces'), ('rl', small_view.RUN)):
    (curve,) = _stage(values, stage)['curves']
    assert curve['run'] == name
    assert curve['rows'] == small_view.rows_of(
        workdir / stage / name / 'metrics.jsonl')
  states = {s['name']: s['state'] for s in values['stages']}
  assert states['rl'] == 'done' and states['quality'] == 'begun'
  changed = [row for row in _stage(values, 'sft')['settings']
             if row[0] == 'num_tokens']
  assert changed == [['num_tokens', '1234', '4000000']]
  assert _stage(values, 'search')['head'] == 'It solves what it solves.'
  decoded = ''.join(
      made['pieces'][str(t)] for t in there[0]['tokens'])
  assert there[0]['text'] in decoded


def test_the_table_of_a_report_is_its_summary(workdir):
  values = _read(workdir)
  summary = json.loads((workdir / 'search' / 'summary.json').read_text())
  rows = _stage(values, 'search')['evaluation']
  for entry in summary['success']:
    if entry['solver'] == 'samples':
      continue
    (row,) = (r for r in rows if r['solver'] == entry['solver'])
    assert row['success'] == entry['success']
    assert [row['low'], row['high']] == entry['ci95']
  for entry in summary['samples']:
    (row,) = (r for r in rows if r['n'] == entry['n']
              and r['chooser'] == 'oracle' and r['solver'] == 'samples')
    assert row['success'] == entry['oracle']['success']
    (cost,) = (c for c in summary['costs']
               if c['solver'] == 'samples' and c['n'] == entry['n'])
    assert {k: row[k] for k in ('tokens', 'flops', 'seconds')} == {
        k: cost[k] for k in ('tokens', 'flops', 'seconds')}


def test_searches_stand_side_by_side(workdir):
  problems = _stage(_read(workdir), 'search')['searches']
  assert [p['question'] for p in problems] == [
      p.question for p in small_view.PROBLEMS]
  for problem, record in zip(problems, small_view.records(), strict=True):
    by_solver = {s['solver']: s for s in problem['searches']}
    is_taught = record in small_view.records()[:small_view.NUM_TAUGHT]
    assert by_solver.keys() == {'beam', 'greedy'} | (
        {record.strategy} if is_taught else set())
    beam = by_solver['beam']
    assert beam['parent'] == [n.parent for n in record.nodes]
    assert beam['step'] == [n.step for n in record.nodes]
    assert beam['is_correct'] == [n.is_correct for n in record.nodes]
    assert beam['is_solved'] is record.is_solved
    assert beam['solution'] == list(record.solution)
    # The text that greedy decoding wrote tells the same search.
    assert by_solver['greedy']['step'] == beam['step']
    assert by_solver['greedy']['told'] == beam['told']
  assert len(_stage(_read(workdir, max_problems=2), 'search')['searches']) == 2


def test_the_teacher_stands_beside(workdir):
  values = _read(workdir)
  taught = _stage(values, 'traces')['searches']
  assert [p['split'] for p in taught] == ['train'] * small_view.NUM_TAUGHT
  beside = _stage(values, 'search')['searches']
  for i, (mine, record) in enumerate(zip(taught, small_view.records())):
    assert mine['problem'] == record.problem.id
    (made,) = mine['searches']
    assert made['step'] == [n.step for n in record.nodes]
    assert made['policy'] == 'teacher' and made['is_solved'] is record.is_solved
    assert made['text'] == traces.render(
        traces.linearize(record), style='compact_digits')  # the run's
    assert beside[i]['searches'][-1] == made
  assert len(_stage(_read(workdir, max_problems=1), 'traces')['searches']) == 1


def test_records_of_a_bench_have_the_teacher(workdir, tmp_path):
  copy = tmp_path / 'w'
  shutil.copytree(workdir, copy)
  shutil.rmtree(copy / 'traces')
  folder = epath.Path(copy) / 'search' / 'rows' / 'symbolic'
  folder.mkdir()
  rows_lib.write_records(folder / 'all.jsonl', small_view.records()[2:])
  problems = _stage(_read(copy), 'search')['searches']
  assert [p['searches'][-1]['policy'] == 'teacher' for p in problems] == [
      False, False, True, True]


def test_it_says_on_what_a_stage_ran(workdir):
  values = _read(workdir)
  assert _stage(values, 'sft')['machines'] == [small_view.MACHINE]
  assert _stage(values, 'rl')['machines'] == []


def test_a_text_has_told_a_step_where_it_can_be_read():
  for record in small_view.records():
    text = traces.render(traces.linearize(record), style=small_view.STYLE)
    where = searches.told(record.nodes, text)
    assert where[0] == -1 and len(record.nodes) >= 3
    steps = lambda t: [
        e for e in searches.format_lib.read(t, small_view.STYLE).events
        if isinstance(e, traces.Step)]
    whole = steps(text)
    for node, end in enumerate(where[1:], 1):
      before, now = steps(text[:end - 1]), steps(text[:end])
      assert now == whole[:node] != before
      assert now[-1].text == record.nodes[node].step
    assert sorted(where[1:]) == where[1:]  # depth first: as they were made


def test_fewer_rollouts_are_of_whole_iterations(workdir):
  limited = _read(workdir, max_rollouts=12)
  (made,) = _stage(limited, 'rl')['rl']
  assert [r['step'] for r in made['rows']] == [1] * 6 + [3] * 6
  assert made['num_rows'] == 18
  assert not _stage(_read(workdir, max_rollouts=0), 'rl')['rl'][0]['rows']


def test_rollouts_of_all_policies_are_bounded_together(workdir, tmp_path):
  copy = tmp_path / 'w'
  shutil.copytree(workdir, copy)
  shutil.copytree(copy / 'rl/erl2/seed0', copy / 'rl/erl2/seed1')
  found = _stage(_read(copy, max_rollouts=12), 'rl')['rl']
  assert [made['run'] for made in found] == ['erl2/seed0', 'erl2/seed1']
  assert [len(made['rows']) for made in found] == [6, 6]


def test_a_run_that_goes_on_can_be_looked_at(workdir, tmp_path):
  config = json.loads((workdir / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(config))
  assert [s['state'] for s in _read(tmp_path)['stages']] == ['planned'] * 6
  page.render(_read(tmp_path))
  path = tmp_path / 'rl' / small_view.RUN
  path.mkdir(parents=True)
  (path / 'metrics.jsonl').write_text('{"step": 1, "success": 0.5}\n{"st')
  assert _stage(_read(tmp_path), 'rl')['curves'][0]['rows'] == [
      dict(step=1, success=0.5)]


def test_wrong_usage_is_one_line(workdir, tmp_path):
  def answer(*argv):
    done = subprocess.run(
        [sys.executable, '-m', 'meta_cot.view', *argv], text=True,
        capture_output=True, cwd=pathlib.Path(__file__).parents[1],
        env=os.environ, check=False)
    return done.returncode, done.stderr

  code, words = answer(f'--workdir={tmp_path}')
  assert code == 2 and words.count('\n') == 1 and 'config.json' in words
  code, words = answer(f'--workdir={workdir}', '--max_rollouts=many')
  assert code == 2 and words.count('\n') == 1 and '--max_rollouts' in words
  code, words = answer(
      f'--workdir={workdir}', f'--output={tmp_path}/run.html',
      f'--atif={tmp_path}/atif')
  assert code == 0, words
  assert (tmp_path / 'run.html').stat().st_size > 10_000
  (one, *rest) = sorted(tmp_path.glob('atif/rl/erl2/seed0/*.json'))
  assert len(rest) == 17 and one.name == 'it1-q10-s0.json'
  assert json.loads(one.read_text())['schema_version'] == 'ATIF-v1.7'


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats()
    | st.text(st.characters(codec=None), max_size=40),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(
        st.text(max_size=5), x, max_size=4), max_leaves=20)


@hypothesis.given(_ANY)
def test_embedded_values_come_back(value):
  text = page.embedded(value)
  assert text.isascii() and not re.search('[<>&\0-\x1f]', text)
  assert json.loads(text) == page._plain(value)


def test_nothing_else_may_run():
  values = dict(name='</title><script>x', shared=[], stages=[])
  text = page.render(values)
  policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
  policy = policy.replace('&#39;', "'")
  assert policy.startswith("default-src 'none'; ")
  for tag in ('script', 'style'):
    body = re.search(f'<{tag}>(.*?)</{tag}>', text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in policy
  assert text.count('<script') == 2 and '<script>x' not in text
  assert not re.search(r'https?://(?!www\.w3\.org/2000/svg)', text)
  assert not re.search(
      r'innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(', text)


def test_a_text_without_an_end_is_cut():
  text = page.embedded({'a': 'x' * 1_000_000})
  assert len(text) < 21_000 and '980,000 letters more' in text


def test_what_is_damaged_is_named(workdir, tmp_path):
  path = tmp_path / kept.NAME
  path.write_text('{"step": "x"}\n')
  with pytest.raises(config_lib.UserError, match=f'{kept.NAME}:1: not a row'):
    rollouts.read(epath.Path(tmp_path), 'erl2/seed0', 10)
