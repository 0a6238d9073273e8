# SPDX-License-Identifier: Apache-2.0
"""The page of a run in a browser: drawn, clicked, typed at, and attacked."""

import copy
import csv
import io
import json
import math
import pathlib

from etils import epath
import pytest

from meta_cot.view import page as page_lib
from meta_cot.view import run
from tests import browser
from tests import small_view

RL = f'#rl/rl/{small_view.RUN}'
PLACES = (
    '', '#overview', '#curves', '#rl', '#curves/sft', '#curves/rl',
    '#curves/sft/traces/at3',
    '#rl/rl', RL, f'{RL}/it2', f'{RL}/it2/q20', f'{RL}/it2/q20/s1',
    '#search', '#search/traces', '#search/traces/p1',
    '#search/search', '#search/search/p1', '#search/search/p1/t1',
    '#evaluate/search', '#evaluate/search/flops/heldout', '#values/quality',
    '#rl/rl/no/such/it9', '#search/search/p99', '#nothing', '#%E0%A4%A')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(values of a workdir, its page)."""
  folder = tmp_path_factory.mktemp('view')
  values = run.read(
      epath.Path(small_view.make(folder / 'w')), max_rollouts=1000,
      max_problems=40)
  path = folder / 'run.html'
  path.write_text(page_lib.render(values))
  return values, path


@pytest.fixture(scope='module')
def page():
  with browser.opened() as one:
    yield one


def _stage(values, name):
  (found,) = (s for s in values['stages'] if s['name'] == name)
  return found


def _check_quiet(page, path):
  assert page.complaints() == []
  assert {x.partition('#')[0] for x in page.requests()} <= {path.as_uri()}


@pytest.mark.parametrize('where', PLACES)
def test_every_page_opens_and_has_names(made, page, where):
  page.open(made[1], where)
  _check_quiet(page, made[1])
  controls = page.controls()
  assert len(controls) > 5
  assert [role for role, name in controls if not name.strip()] == []


def test_a_point_leads_to_its_rollout(made, page):
  page.open(made[1], '#curves/rl')
  page.click('svg[aria-label=success] a', 1)
  assert page.where == f'{RL}/it2'
  page.click('main table a')
  assert page.where == f'{RL}/it2/q20'
  page.click('main section a', 2)
  assert page.where == f'{RL}/it2/q20/s2'
  row = next(r for r in _stage(made[0], 'rl')['rl'][0]['rows']
             if (r['question'], r['sample']) == (20, 2))
  assert len(page.texts('main .text .tok')) == len(row['tokens'])
  _check_quiet(page, made[1])


def test_arrows_go_from_neighbour_to_neighbour(made, page):
  page.open(made[1], f'{RL}/it2/q20/s1')
  for key, where in (
      ('ArrowRight', '/it2/q20/s2'), ('ArrowRight', '/it2/q20/s2'),
      ('ArrowLeft', '/it2/q20/s1'), ('ArrowUp', '/it2/q20'),
      ('ArrowRight', '/it2/q21'), ('ArrowUp', '/it2'), ('ArrowLeft', '/it1'),
      ('ArrowDown', '/it1/q10'), ('ArrowDown', '/it1/q10/s0')):
    page.press(key)
    assert page.where == RL + where
  page.press('/')
  assert page.run('document.activeElement.id') == 'find'


def test_the_search_box_finds_questions(made, page):
  page.open(made[1])
  page.click('#find')
  for key in '17,5':
    page.press(key)
  found = page.texts('#found a')
  assert found and all('17,5' in words for words in found)
  page.click('#found a')
  assert '17,5' in ''.join(page.texts('h1'))


def _number(row, by, t):
  if by == 'ratio':
    return math.exp(row['trainer'][t] - row['behaviour'][t])
  name = {'advantage': 'advantages', 'KL': 'kl', 'entropy': 'entropy',
          'log-probability': 'behaviour'}[by]
  return row[name][t]


def test_colours_and_numbers_are_those_of_the_rows(made, page):
  """Every sample of the page, every switch."""
  for row in _stage(made[0], 'rl')['rl'][0]['rows'][::2]:
    page.open(made[1], f'{RL}/it{row["step"]}/q{row["question"]}'
              f'/s{row["sample"]}')
    kinds = page.run(
        "[...document.querySelectorAll('main .text .tok')]"
        '.map(e => [e.dataset.kind, e.classList.contains("trained")])')
    first = next(t for t, e in enumerate(row['episode']) if e >= 0)
    assert kinds == [
        ['trained', True] if row['is_trained'][t] else
        ['drawn', False] if row['episode'][t] >= 0 else
        ['prompt' if t < first else 'forced', False]
        for t in range(len(row['tokens']))]
    switches = page.texts('[aria-label="Colour by"] button')
    assert switches == [
        'kind', 'advantage', 'ratio', 'KL', 'entropy', 'log-probability']
    for i, by in enumerate(switches[1:], 1):
      page.click('[aria-label="Colour by"] button', i)
      _check_colours(page, row, by)


def _check_colours(page, row, by):
  shown = page.run(
      "[...document.querySelectorAll('main .text .tok')].map(e => "
      '[e.dataset.value ?? null, e.style.backgroundColor])')
  middle = 1.0 if by == 'ratio' else 0.0
  drawn = [t for t, e in enumerate(row['episode']) if e >= 0]
  most = max(1e-12, *(abs(_number(row, by, t) - middle) for t in drawn))
  for t, (value, colour) in enumerate(shown):
    if row['episode'][t] < 0:
      assert value is None and not colour
      continue
    number = _number(row, by, t)
    assert float(value) == pytest.approx(number, rel=1e-15)
    alpha = round(0.75 * abs(number - middle) / most, 3)
    got = colour[colour.index('(') + 1:-1].split(', ')
    assert float(got[3]) == pytest.approx(alpha, abs=5e-3)  # of 255
    if number != middle:
      assert (got[0] == '204') == (number < middle)


def test_filters_filter(made, page):
  rows = _stage(made[0], 'rl')['rl'][0]['rows']
  page.open(made[1], RL)
  first = [next((e for e, r in enumerate(row['rewards'], 1) if r), 0)
           for row in rows]
  expected = {
      'all': len(rows), 'not solved': first.count(0),
      'groups without gradient': sum(
          row['question'] % 10 == small_view.NUM_QUESTIONS - 1
          or row['step'] == 2 for row in rows),
      'truncated': sum(not all(row['is_finished']) for row in rows),
      'first solved at episode 1': first.count(1),
      'first solved at episode 2': first.count(2),
      'first solved at episode 3': first.count(3), 'largest gap': len(rows)}
  assert page.texts('[aria-label=Filters] button') == list(expected)
  for i, number in enumerate(expected.values()):
    page.click('[aria-label=Filters] button', i)
    assert page.texts('#count') == [f'{number} of {len(rows)} samples']
  gaps = [float(x) for x in page.texts('#samples td:nth-child(7)')]
  assert gaps == sorted(gaps, reverse=True)
  page.click('[aria-label=Filters] button')
  page.click('svg [role=button]', 9)  # all rewards are 1
  assert page.texts('#count') == [f'{len(rows)} of {len(rows)} samples']
  page.click('svg [role=button]')
  assert page.texts('#count') == [f'0 of {len(rows)} samples']


def test_the_slider_steps_through_a_search(made, page):
  problem = _stage(made[0], 'search')['searches'][1]
  beam = next(s for s in problem['searches'] if s['solver'] == 'beam')
  page.open(made[1], '#search/search/p1/t0')
  card = 'section[data-solver=beam]'
  last = max(beam['order']) + 1
  assert last >= 2
  for time in range(last + 1):
    born = [i for i, p in enumerate(beam['parent'])
            if p < 0 or 0 <= beam['order'][p] < time]
    nodes = page.run(
        f"[...document.querySelectorAll('{card} .node:not(.unborn)')]"
        '.map(e => Number(e.dataset.node)).sort((a, b) => a - b)')
    assert nodes == born
    told = max([0, *(beam['told'][i] for i in born)])
    if time == last:
      told = len(beam['text'])
    assert page.texts(f'{card} .untold') == [beam['text'][told:]]
    assert page.where.endswith(f'/t{time}')
    page.press(']')
  page.press('[')
  assert page.where.endswith(f'/t{last - 1}')
  page.click(f'{card} [data-node="1"] circle')
  about = page.texts(f'{card} dd')
  assert about[1] == beam['step'][1] and about[2] == beam['state'][1]
  right = beam['is_correct'].index(True)
  assert page.run(
      f"document.querySelector('{card} [data-node=\"{right}\"] circle')"
      '.getAttribute("fill")') == 'var(--green)'
  _check_quiet(page, made[1])


def test_searches_of_a_problem_stand_side_by_side(made, page):
  page.open(made[1], '#search/search/p1')
  page.call('Emulation.setDeviceMetricsOverride', dict(
      width=1500, height=900, deviceScaleFactor=1, mobile=False))
  found = _stage(made[0], 'search')['searches'][1]['searches']
  places = lambda: page.run(
      "[...document.querySelectorAll('main section.card')].map(e => {"
      'const r = e.getBoundingClientRect(); return [r.left, r.top, r.width]})')
  shown = places()
  assert len(shown) == len(found) == 3
  assert len({top for _, top, _ in shown}) == 1  # in one row
  assert sorted({left for left, _, _ in shown}) == [x for x, _, _ in shown]
  assert all(width > 300 for _, _, width in shown)
  names = page.texts('[aria-label=Searches] button')
  assert names == [f'{x["solver"]} of {x["policy"]}' for x in found]
  page.click('[aria-label=Searches] button', 1)
  assert [width > 0 for _, _, width in places()] == [True, False, True]
  page.click('[aria-label=Searches] button', 1)
  assert places() == shown
  _check_quiet(page, made[1])
  page.call('Emulation.clearDeviceMetricsOverride', {})


def test_a_prior_is_a_share_of_the_siblings(made, page, tmp_path):
  values = copy.deepcopy(made[0])
  search = _stage(values, 'search')['searches'][1]['searches'][0]
  search['log_prob'] = [-0.5 * i for i in range(len(search['parent']))]
  path = tmp_path / 'run.html'
  path.write_text(page_lib.render(values))
  page.open(path, '#search/search/p1')
  card = f'section[data-solver={search["solver"]}]'
  for i, parent in enumerate(search['parent'][1:6], 1):
    page.click(f'{card} [data-node="{i}"] circle')
    there = dict(zip(
        page.texts(f'{card} dt'), page.texts(f'{card} dd'), strict=True))
    total = sum(
        math.exp(x) for x, p in zip(search['log_prob'], search['parent'])
        if p == parent)
    assert float(there['prior']) == pytest.approx(
        math.exp(search['log_prob'][i]) / total)
  page.open(made[1], '#search/traces/p1')  # the teacher has no probabilities
  page.click('main [data-node="1"] circle')
  assert page.texts('main dd')[-2] == ''


def test_the_overview_says_on_what_a_stage_ran(made, page):
  page.open(made[1], '#overview')
  assert '8 x TPU v5 lite (tpu), 2 hosts, jax 1' in page.texts('main td')
  _check_quiet(page, made[1])


def test_the_csv_is_the_table(made, page):
  page.open(made[1], '#evaluate/search')
  page.run('(() => {const make = URL.createObjectURL; URL.createObjectURL = '
           'b => {b.text().then(t => window.saved = t); return make(b);}})()')
  page.click('button.csv')
  page.wait('window.saved !== undefined')
  there = list(csv.DictReader(io.StringIO(page.run('window.saved'))))
  rows = _stage(made[0], 'search')['evaluation']
  assert len(there) == len(rows) == len(page.texts('main tbody tr'))
  for mine, row in zip(there, rows, strict=True):
    for key, value in mine.items():
      if isinstance(row[key], float):
        assert float(value) == row[key]
      else:
        assert value == ('' if row[key] is None else str(row[key]))


def test_metrics_are_those_of_the_file(made, page):
  for row in _stage(made[0], 'sft')['curves'][0]['rows'][::5]:
    page.open(made[1], f'#curves/sft/traces/at{row["step"]}')
    cells = page.texts('main td')
    assert dict(zip(cells[::2], map(float, cells[1::2]))) == row


# What a model, or who feeds it, might write.
HOSTILE = (
    '</script><script>window.hacked = 1</script>',
    '<img src=x onerror="window.hacked = 1">', '<svg onload=window.hacked=1>',
    '"><iframe src="javascript:window.hacked=1">', "' onclick='hacked=1",
    '<!--', '-->', '<![CDATA[', ']]>', '</style><style>*{display:none}',
    '<base href="http://example.com/">', '<meta http-equiv=refresh content=0>',
    '<link rel=stylesheet href=http://example.com/x.css>', '&lt;b&gt;',
    '{{ 7 * 7 }}', '{% raw %}', '${window.hacked = 1}', '`', '\\u003cscript>',
    '\u202eright to left', '\u2066isolated\u2069', 'a\0b', '\ud800 alone',
    'alone \udfff', '\u2028\u2029', '\ufeff\u200b', '\x1b[31mred\x07',
    '=HYPERLINK("http://example.com")', '__proto__', 'x' * 1_000_000)
_TEXTS = {  # keys of values whose texts a model or a task writes
    'text', 'problem', 'question', 'answer', 'answers', 'step', 'state',
    'pieces', 'head', 'policy'}


def _changed(values, words, seen, is_text=False):
  """The values, every text of a model replaced by the next of the words."""
  if isinstance(values, dict):
    return {k: _changed(v, words, seen, is_text or k in _TEXTS)
            for k, v in values.items()}
  if isinstance(values, list):
    return [_changed(v, words, seen, is_text) for v in values]
  if isinstance(values, str) and is_text and values:
    seen.append(values)
    return words[len(seen) % len(words)]
  return values


def test_hostile_texts_change_nothing(made, page, tmp_path):
  assert len(HOSTILE) == 30
  skeletons = []
  for name, words in (('plain', ('plain',)), ('hostile', HOSTILE)):
    seen = []
    values = _changed(copy.deepcopy(made[0]), words, seen)
    assert len(seen) > 300
    path = tmp_path / f'{name}.html'
    path.write_text(page_lib.render(values))
    assert path.stat().st_size < 5_000_000
    skeletons.append([])
    for where in PLACES:
      page.open(path, where)
      _check_quiet(page, path)
      assert page.run('window.hacked') is None
      skeletons[-1].append(page.run(
          "[...document.querySelectorAll('*')].filter("
          "e => e.tagName !== 'tspan').map(e => e.tagName).join()"))
  plain, hostile = skeletons
  for where, one, other in zip(PLACES, plain, hostile, strict=True):
    # One policy in the plain page, several in the other: only more of the same.
    if not where.startswith('#evaluate') and where not in (
        '#search/search', '#search/traces'):
      assert one == other, where
    assert set(other.split(',')) <= set(','.join(plain).split(','))


def test_what_is_shown_of_letters_that_are_not_seen(made, page):
  page.open(made[1])
  shown = json.loads(page.run(
      'JSON.stringify(["\\u202e", "a\\u0000b", "\\ud800", "\\ud83d\\ude00", '
      '"\\n", "é"].map(show))'))
  assert shown == ['⟨202e⟩', 'a⟨0000⟩b', '⟨d800⟩', '😀', '\n', 'é']


def test_dark_light_and_print(made, page, tmp_path):
  page.open(made[1])
  ink = lambda: page.run('getComputedStyle(document.body).backgroundColor')
  before = ink()
  page.click('#theme')
  assert ink() != before
  page.call('Emulation.setEmulatedMedia', dict(media='print'))
  assert page.run("getComputedStyle(document.querySelector('header')).display"
                  ) == 'none'
  page.call('Emulation.setEmulatedMedia', dict(media=''))
  page.screenshot(tmp_path / 'a.png')
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')


def test_a_thousand_rollouts_are_small_and_open_soon(made, page, tmp_path):
  values = copy.deepcopy(made[0])
  (rl,) = _stage(values, 'rl')['rl']
  long = []  # each of some 90 tokens, with numbers of all digits
  for n in range(1000):
    row = copy.deepcopy(rl['rows'][n % len(rl['rows'])])
    for key, column in row.items():
      if isinstance(column, list) and len(column) == len(row['tokens']):
        row[key] = column * 2
    row['tokens'] = row['tokens'] * 2
    long.append(dict(row, step=1 + n // 8, sample=n % 8))
  rl['rows'] = long
  path = tmp_path / 'run.html'
  path.write_text(page_lib.render(values))
  pathlib.Path(path).stat()
  assert path.stat().st_size < 5_000_000
  page.open(path, RL)
  seconds = page.run(
      'performance.getEntriesByType("navigation")[0].duration / 1000')
  print(f'{path.stat().st_size / 1e6:.1f} MB, opens in {seconds:.2f} s')
  assert seconds < 2
