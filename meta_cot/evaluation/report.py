# SPDX-License-Identifier: Apache-2.0
"""The readable end of a bench: report.md and its plots, made from rows."""

from collections.abc import Mapping, Sequence

from etils import epath

from meta_cot.evaluation import episodes_report
from meta_cot.evaluation import plots
from meta_cot.evaluation import tables
from meta_cot.evaluation import trees
from meta_cot.runtime import files


def write(
    directory: epath.Path, title: str, summary: Mapping, *, note: str = '',
    training: Mapping[str, Mapping] | None = None,
    drawn: Sequence[trees.Tree] = (),
    texts: Mapping[str, str] | None = None,
) -> None:
  """Writes summary.json, `report.md` and its PNG plots.

  Args:
    directory: local or in a bucket; made if missing.
    title: of the report.
    summary: of `summary.of_rows`.
    note: under the title.
    training: what training left of every policy: summary.json, and `losses`,
      points (tokens, loss) on validation data.
    drawn: searches to draw as trees.
    texts: searches to show as text, by what made them.
  """
  training = training or {}
  files.write_json(directory / 'summary.json', dict(
      summary, training={k: dict(v) for k, v in training.items()}))
  parts = [
      f'# {title}\n', _headline(summary), note and f'{note}\n',
      _success(summary), _curve(directory, summary),
      _samples(directory, summary), _equal_tokens(summary), _errors(summary),
      _episodes(directory, summary), _drawn(directory, drawn),
      _texts(texts or {}), _training(directory, training)]
  files.write_atomic(
      directory / 'report.md', '\n'.join(filter(None, parts)))


def _headline(summary) -> str:
  """The reference beside the other policies, with its solver, on one split."""
  if summary['reference'] is None:
    return ''
  policy, solver = summary['reference']
  entries = [e for e in summary['success'] if e['solver'] == solver]
  mine = next((e for e in entries if e['policy'] == policy), None)
  others = [
      e for e in entries if mine and e['split'] == mine['split'] and e['minus']]
  if not others:
    return ''
  lines = [
      f'- `{e["policy"]}` {tables.percent(e)}%: a difference of '
      f'{tables.difference(_turned(e["minus"]))} points.\n' for e in others]
  return (
      f'`{policy}`, {solver}, solves {tables.percent(mine)}% of '
      f'{mine["num_problems"]} problems of {mine["split"]}. Beside it:\n\n'
      + ''.join(lines) + '\nBrackets are 95% intervals.\n')


def _turned(gap: Mapping) -> dict[str, float]:
  """The difference seen from the other side."""
  return dict(  # never -0.0
      estimate=0.0 - gap['estimate'], low=0.0 - gap['high'],
      high=0.0 - gap['low'])


def _success(summary) -> str:
  entries = summary['success']
  names = list(dict.fromkeys(k for e in entries for k in e['means']))
  rows = []
  for e in entries:
    gap = e['minus']
    rows.append([
        e['policy'], e['solver'], e['split'], str(e['num_problems']),
        tables.percent(e), '-' if gap is None else tables.difference(gap),
        tables.number(e['mean_tokens']), f'{100 * e["occupancy"]:.0f}',
        *(tables.number(e['means'].get(name)) for name in names),
        f'{e["seconds"]:.2f}'])
  header = [
      'policy', 'solver', 'split', 'problems', 'solved %', 'minus reference',
      'tokens', 'occupancy %', *(n.replace('_', ' ') for n in names),
      'seconds']
  return (
      '## Success and cost\n\nTokens are generated tokens of an attempt, end '
      'of sequence and all children of a search counted. Seconds are of all '
      'attempts. Occupancy is the share of rows and steps that worked on an '
      'unfinished attempt. Brackets are 95% intervals (Wilson; normal over '
      'problems with several attempts each; for the difference, paired). '
      '`symbolic` is the search that wrote the traces.\n\n'
      + tables.table(header, rows))


def _curve(directory, summary) -> str:
  lines = {}
  for e in summary['curve']:
    lines.setdefault(e['policy'], []).append(
        (e['tokens'], e['success'], *e['ci95']))
  if not lines:
    return ''
  plots.success_curves(directory / 'learning_curve.png', lines)
  width = max(map(len, lines.values()))
  rows = [
      [policy, *(f'{p[0] / 1e6:.2f}M: {100 * p[1]:.1f}' for p in points),
       *[''] * (width - len(points))]
      for policy, points in lines.items()]
  return (
      '## Learning curves\n\nSolved % of the first validation problems at '
      'every checkpoint, by tokens trained.\n\n'
      + tables.table(['policy', *map(str, range(1, width + 1))], rows)
      + '\n![learning curve](learning_curve.png)\n')


def _samples(directory, summary) -> str:
  entries = summary['samples']
  if not entries:
    return ''
  choosers = [k for k in entries[0] if isinstance(entries[0][k], dict)]
  lines = {}
  for e in entries:
    lines.setdefault(f'{e["policy"]}, best of N', []).append(
        (e['tokens'], e['oracle']['success'], *e['oracle']['ci95']))
  plots.success_against_tokens(
      directory / 'success_against_tokens.png', lines, reference={
          f'{e["policy"]}, {e["solver"]}': (
              e['mean_tokens'], e['success'], *e['ci95'])
          for e in summary['success'] if e['split'] == entries[0]['split']
          and e['num_attempts'] == 1 and e['policy'] != 'symbolic'})
  rows = [
      [e['policy'], e['split'], str(e['num_problems']), str(e['n']),
       f'{e["tokens"]:.0f}', *(tables.percent(e[name]) for name in choosers)]
      for e in entries]
  return (
      '## Samples\n\nThe fair rival of a long trace or a search is many '
      'samples. `oracle` is best of N by the exact verifier (unbiased pass@N); '
      '`majority` takes the most frequent answer, `value` that of the sample '
      'with the highest value, `weighted` that with the highest sum.\n\n'
      + tables.table(
          ['policy', 'split', 'problems', 'N', 'tokens',
           *(f'{name} %' for name in choosers)], rows)
      + '\n![success against tokens](success_against_tokens.png)\n')


def _equal_tokens(summary) -> str:
  entries = summary['equal_tokens']
  if not entries:
    return ''
  choosers = [k for k in entries[0] if isinstance(entries[0][k], dict)
              and k != 'catch_up']
  rows = []
  for e in entries:
    reached = e['catch_up']
    rows.append([
        ', '.join(e['beside']), e['split'], f'{e["beside_tokens"]:.1f}',
        f'{100 * e["beside_success"]:.1f}', e['policy'], str(e['n']),
        f'{e["tokens"]:.1f}',
        *(tables.percent(e[name]) for name in choosers),
        f'more than {e["num_samples"]}' if reached is None else
        f'{reached["n"]} ({reached["tokens"]:.0f} tokens)'])
  return (
      '## At equal tokens\n\nWhat N samples reach with the tokens of a '
      'procedure, N as large as fits (at most all that were drawn), and how '
      'many the oracle needs to catch up with it.\n\n'
      + tables.table(
          ['beside', 'split', 'its tokens', 'its %', 'samples of', 'N',
           'tokens', *(f'{name} %' for name in choosers), 'catches up at N'],
          rows))


def _errors(summary) -> str:
  entries = [e for e in summary['success'] if e['errors']]
  kinds = sorted({kind for e in entries for kind in e['errors']})
  if not kinds:
    return ''
  return (
      '## Why problems were not solved\n\nFirst thing that went wrong in each '
      'unsolved completion.\n\n' + tables.table(
          ['policy', 'solver', 'split', *kinds],
          [[e['policy'], e['solver'], e['split'],
            *(str(e['errors'].get(kind, 0)) for kind in kinds)]
           for e in entries]))


def _episodes(directory, summary) -> str:
  if summary['episodes'] is None:
    return ''
  return episodes_report.write(directory, summary['episodes'])


def _drawn(directory, drawn: Sequence[trees.Tree]) -> str:
  for i, tree in enumerate(drawn, 1):
    plots.search_tree(directory / f'search_{i}.png', tree.nodes, tree.title)
  images = (
      f'![search {i}](search_{i}.png)\n' for i, _ in enumerate(drawn, 1))
  return drawn and '## Searches as trees\n\n' + '\n'.join(images)


def _texts(texts: Mapping[str, str]) -> str:
  shown = (f'`{name}`:\n\n    {text}\n' for name, text in texts.items())
  return texts and '## Searches as text\n\n' + '\n'.join(shown)


def _training(directory, training) -> str:
  if not training:
    return ''
  plots.loss_curves(directory / 'loss.png', {
      policy: tuple(zip(*values['losses']))
      for policy, values in training.items()})
  rows = [
      [policy, f'{t["num_parameters"]:,}', str(t['num_steps']),
       f'{t["tokens"] / 1e6:.2f}M', f'{t["loss"]:.4f}',
       f'{t["eval_loss"]:.4f}', f'{t["seconds"]["total"]:.0f}',
       f'{100 * t["seconds"]["goodput"]:.0f}']
      for policy, t in training.items()]
  header = [
      'policy', 'parameters', 'steps', 'tokens', 'loss', 'validation loss',
      'seconds', 'goodput %']
  return (
      '## Training\n\n' + tables.table(header, rows)
      + '\n![loss](loss.png)\n')
