# SPDX-License-Identifier: Apache-2.0
"""The part of a report about what samples buy, and its plots."""

from collections.abc import Mapping, Sequence

from etils import epath

from meta_cot.evaluation import costs
from meta_cot.evaluation import plots
from meta_cot.evaluation import tables
from meta_cot.solvers import scoring

_JUDGED = (
    ' `by` a judge: by what its value head says of finished samples; `x p^` '
    'times that power of the probability of the whole text. The power, and the '
    'best form for the comparison below, are chosen on validation problems.')


def write(directory: epath.Path, summary: Mapping) -> str:
  """Writes the plots of a summary of `summary.of_rows`; returns the text."""
  return '\n'.join(filter(None, (
      _samples(directory, summary), _choices(summary), _equal_tokens(summary),
      _rivals(summary), _discounted(directory, summary), _costs(summary))))


def _samples(directory, summary) -> str:
  entries = summary['samples']
  if not entries:
    return ''
  choosers = _choosers(entries)
  plots.success_against_tokens(
      directory / 'success_against_tokens.png', _curves(summary), reference={
          f'{e["policy"]}, {e["solver"]}': tables.point(e['mean_tokens'], e)
          for e in summary['success'] if e['split'] == entries[0]['split']
          and e['num_attempts'] == 1 and e['policy'] != 'symbolic'})
  return (
      '## Samples\n\nThe fair rival of a long trace or a search is many '
      'samples. `oracle` is best of N by the exact verifier (unbiased pass@N); '
      '`majority` takes the most frequent answer, `value` that of the sample '
      'with the highest value, `weighted` that with the highest sum.'
      + _JUDGED * any(' by ' in name for name in choosers) + '\n\n'
      + tables.table(
          'policy | split | problems | N | tokens' + _headers(choosers), [
              [e['policy'], e['split'], e['num_problems'], e['n'],
               f'{e["tokens"]:.0f}', *(e.get(name) for name in choosers)]
              for e in entries])
      + '\n![success against tokens](success_against_tokens.png)\n')


def _curves(summary) -> dict[str, list[plots.Point]]:
  """Best of N by the verifier, and by every judge in its best form."""
  lines = {}
  for e in summary['samples']:
    names = {'best of N': 'oracle'} | {
        f'best of N by {judge}': choice['best']
        for judge, choice in summary['choices'].get(e['policy'], {}).items()}
    for title, name in names.items():
      lines.setdefault(f'{e["policy"]}, {title}', []).append(
          tables.point(e['tokens'], e[name]))
  return lines


def _choosers(entries: Sequence[Mapping]) -> list[str]:
  """All names of choosers, of which an entry may lack some."""
  return list(dict.fromkeys(
      k for e in entries for k, v in e.items()
      if isinstance(v, dict) and k != 'catch_up'))


def _headers(choosers: Sequence[str]) -> str:
  return ''.join(f' | {name} %' for name in choosers)


def _choices(summary) -> str:
  rows = [
      [policy, judge, choice['num_problems'], choice['power'],
       choice['best'], *(
           f'{name}: {100 * rate:.1f}'
           for name, rate in choice['success'].items())]
      for policy, chosen in summary['choices'].items()
      for judge, choice in chosen.items()]
  if not rows:
    return ''
  width = max(map(len, rows))
  header = 'policy | judge | problems | power | best' + ' | ' * (width - 5)
  return (
      '### Chosen on validation\n\nHow best of N goes best by every judge; the '
      'rest of a row is solved %, a mean over N = 2, 4, ...\n\n'
      + tables.table(header, [
          [*row, *[''] * (width - len(row))] for row in rows]))


def _equal_tokens(summary) -> str:
  entries = summary['equal_tokens']
  if not entries:
    return ''
  choosers = _choosers(entries)
  rows = []
  for e in entries:
    reached = e['catch_up']
    rows.append([
        ', '.join(e['beside']), e['split'], e['beside_tokens'],
        100 * e['beside_success'], e['policy'], e['n'], e['tokens'],
        *(e.get(name) for name in choosers),
        f'more than {e["num_samples"]}' if reached is None else
        f'{reached["n"]} ({reached["tokens"]:.0f} tokens)'])
  return (
      '## At equal tokens\n\nWhat N samples reach with the tokens of a '
      'procedure, N as large as fits (at most all that were drawn), and how '
      'many the oracle needs to catch up with it.\n\n'
      + tables.table(
          'beside | split | its tokens | its % | samples of | N | tokens'
          f'{_headers(choosers)} | catches up at N', rows))


def _rivals(summary) -> str:
  rows = [
      [', '.join(e['beside']), e['split'], e['cost']['tokens'],
       100 * e['success'], e['policy'],
       r['judge'] + ' (its own)' * (r['judge'] == e['judge']), r['chooser'],
       f'{r["n"]:.2f}', r['cost']['tokens'], 100 * r['success'], r['minus'],
       *r['by_difficulty'], *[None] * (3 - len(r['by_difficulty']))]
      for e in summary['rivals'] for r in e['rivals']]
  if not rows:
    return ''
  return (
      '### Beside best of N by every judge\n\nThe procedure minus best of N of '
      'exactly its tokens (at most all that were drawn), paired by problem, '
      'with bootstrap intervals over problems. '
      f'`{scoring.LIKELIHOOD}` is the mean probability of a token; `verifier` '
      'the exact one; the judge that guides the procedure is `its own`. Easy, '
      'middle and hard are thirds of the problems by what the task says, or by '
      'the samples that fail; those of the hardest third may have had no luck, '
      'which favours the procedure there.\n\n'
      + tables.table(
          'beside | split | its tokens | its % | samples of | judge | chooser '
          '| N | tokens | % | minus | easy | middle | hard', rows))


def _discounted(directory, summary) -> str:
  entries = summary['discounted']
  if not entries:
    return ''
  choosers, lines, labels = _choosers(entries), {}, {}
  for e in entries:
    if e['policy'] != entries[0]['policy'] or e['split'] != entries[0]['split']:
      continue
    best = (c['best'] for c in summary['choices'].get(e['policy'], {}).values())
    for name in dict.fromkeys(('oracle', *best)):
      title = f'{name}, gamma {e["gamma"]:g}'
      lines.setdefault(title, []).append(
          tables.point(_tokens(summary, e), e[name]))
      labels.setdefault(title, []).append(f'{e["n"]}')
  plots.success_against_tokens(
      directory / 'discounted.png', lines, labels=labels,
      title=f'discounted best of N, {entries[0]["policy"]}')
  return (
      '### Discounted\n\nThe mean of success times gamma to the power of the '
      'tokens of all N samples (arXiv 2501.04682, Eq. 21), in percent.\n\n'
      + tables.table(
          'policy | split | gamma | N' + _headers(choosers), [
              [e['policy'], e['split'], f'{e["gamma"]:g}', e['n'],
               *(e.get(name) for name in choosers)] for e in entries])
      + '\n![discounted](discounted.png)\n')


def _tokens(summary, entry) -> float:
  """Those of as many samples."""
  keys = 'policy', 'split', 'n'
  return next(
      e['tokens'] for e in summary['samples']
      if all(e[k] == entry[k] for k in keys))


def _costs(summary) -> str:
  entries = summary['costs']
  if all(e['forwarded_tokens'] is None for e in entries):
    return ''
  number = lambda x, words: None if x is None else format(x, words)
  return (
      '## What it costs\n\nOf a problem, on average. Tokens are drawn ones; '
      'forwarded are those that models read, the question included, each once '
      'by every model; sequential is the longest chain of decode steps that '
      'wait for each other, N samples being written at the same time. Seconds '
      'are a share of those of all attempts and judges.\n\n'
      + tables.table(
          'policy | solver | split | judge | N | tokens | forwarded | MFLOPs | '
          'sequential | seconds', [
              [e['policy'], e['solver'], e['split'], e['judge'], e['n'],
               *(e[name] for name in costs.NAMES[:2]),
               number(e['flops'] and e['flops'] / 1e6, '.4g'),
               e['sequential_tokens'], number(e['seconds'], '.4g')]
              for e in entries]))
