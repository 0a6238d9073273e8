# SPDX-License-Identifier: Apache-2.0
"""The readable end of a run: report.md and its plots."""

from etils import epath

from meta_cot.evaluation import plots
from meta_cot.evaluation import trees
from meta_cot.runtime import files

_ADDED = '\n# '  # before the title of a section that is added


def write(
    directory: epath.Path, summary: dict,
    examples: list[trees.Tree],
) -> None:
  """Writes `report.md` and the PNG plots it shows; keeps added sections.

  Args:
    directory: of the evaluation, local or in a bucket; made if missing.
    summary: as written to summary.json.
    examples: searches to draw as trees.
  """
  arms = {a: v for a, v in summary.items() if a != 'symbolic'}
  _plot(directory, arms, examples)
  parts = [
      '# What the models learned\n', _headline(arms), _success_table(summary),
      _curves(arms), _best_of_n(arms), _errors(arms), _strategies(summary),
      _examples(examples), _training(arms)]
  path = directory / 'report.md'
  added = path.read_text().partition(_ADDED)[1:] if path.exists() else ()
  files.write_atomic(path, '\n'.join(filter(None, parts)) + ''.join(added))


def add_section(path: epath.Path, title: str, text: str) -> None:
  """Puts a section behind a report, in the place of an older one.

  Args:
    path: of the report; nothing is done without one.
    title: of the section, which is the last one of the report.
    text: its Markdown.
  """
  if path.exists():
    before = path.read_text().partition(f'{_ADDED}{title}\n')[0]
    files.write_atomic(path, f'{before}{_ADDED}{title}\n\n{text}')


def _plot(directory, arms, examples) -> None:
  plots.loss_curves(directory / 'loss.png', {
      arm: tuple(zip(*values['losses']['validation']))
      for arm, values in arms.items()})
  plots.success_curves(directory / 'learning_curve.png', {
      arm: [(p['tokens'], p['success'], *p['ci95']) for p in values['curve']]
      for arm, values in arms.items()})
  plots.success_against_tokens(
      directory / 'success_against_tokens.png',
      {f'{arm}, best of N': [
          (p['tokens'], p['success'], p['low'], p['high'])
          for p in values['best_of_n']['curve']]
       for arm, values in arms.items()},
      reference={
          f'{arm}, greedy': (v['mean_tokens'], v['success'], *v['ci95'])
          for arm, v in arms.items()})
  for i, tree in enumerate(examples, 1):
    plots.search_tree(directory / f'search_{i}.png', tree.nodes, tree.title)


def _percent(values: dict) -> str:
  low, high = values['ci95']
  return f'{100 * values["success"]:.1f} [{100 * low:.1f}, {100 * high:.1f}]'


def _tokens(value: float | None) -> str:
  return '-' if value is None else f'{value:.1f}'


def _table(header: list[str], rows: list[list[str]]) -> str:
  lines = [header, ['---'] * len(header), *rows]
  return ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)


def _headline(arms: dict) -> str:
  if not {'traces', 'solution_only'} <= arms.keys():
    return ''
  traces, solution = arms['traces'], arms['solution_only']
  gap = solution['traces_minus_this']
  return (
      f'Trained on searches, the model solves {_percent(traces)}% of '
      f'{traces["num_problems"]} test problems greedily; trained on '
      'solutions only, with the same number of tokens, '
      f'{_percent(solution)}%: a difference of {100 * gap["estimate"]:+.1f} '
      f'[{100 * gap["low"]:+.1f}, {100 * gap["high"]:+.1f}] points. Brackets '
      'are 95% intervals (Wilson; for the difference, paired).\n')


def _success_table(summary: dict) -> str:
  rows = []
  for arm, values in summary.items():
    for split, v in values['splits'].items():
      rows.append([
          arm, split, str(v['num_problems']), _percent(v),
          _tokens(v['mean_tokens']), f'{v["mean_nodes"]:.1f}',
          f'{v["mean_backtracks"]:.1f}' if 'mean_backtracks' in v else '-'])
  header = [
      'arm', 'split', 'problems', 'solved %', 'tokens', 'nodes', 'backtracks']
  return (
      '## Success\n\nGreedy decoding; `symbolic` is the search that wrote the '
      'traces. Tokens are generated tokens, end of sequence included.\n\n'
      + _table(header, rows))


def _curves(arms: dict) -> str:
  rows = [
      [arm] + [f'{p["tokens"] / 1e6:.2f}M: {100 * p["success"]:.1f}'
               for p in values['curve']]
      for arm, values in arms.items()]
  width = max(len(row) for row in rows)
  rows = [row + [''] * (width - len(row)) for row in rows]
  header = ['arm'] + [f'{i}' for i in range(1, width)]
  return (
      '## Learning curves\n\nSolved % of the first validation problems at '
      'every checkpoint, by tokens trained.\n\n' + _table(header, rows)
      + '\n![learning curve](learning_curve.png)\n\n![loss](loss.png)\n')


def _best_of_n(arms: dict) -> str:
  rows = [
      [arm, str(values['best_of_n']['num_problems']), str(p['k']),
       f'{p["tokens"]:.0f}',
       f'{100 * p["success"]:.1f} '
       f'[{100 * p["low"]:.1f}, {100 * p["high"]:.1f}]']
      for arm, values in arms.items() for p in values['best_of_n']['curve']]
  return (
      '## Best of N by the exact verifier\n\nThe fair rival of a long trace is '
      'many short samples (unbiased pass@N).\n\n'
      + _table(['arm', 'problems', 'N', 'tokens', 'solved %'], rows)
      + '\n' + '\n'.join(_fair_lines(arms))
      + '\n\n![success against tokens](success_against_tokens.png)\n')


def _fair_lines(arms: dict) -> list[str]:
  if 'traces' not in arms:
    return []
  reference, lines = arms['traces'], []
  for arm, values in arms.items():
    if arm == 'traces':
      continue
    equal = values['best_of_n']['equal_tokens']
    catch_up = values['best_of_n']['catch_up']
    line = (
        f'- At the {reference["mean_tokens"]:.0f} tokens of the greedy trace '
        f'model, `{arm}` reaches {100 * equal["success"]:.1f}% '
        f'(N={equal["k"]}); ')
    if catch_up:
      line += (
          f'it catches up with {100 * reference["success"]:.1f}% at '
          f'N={catch_up["k"]}, {catch_up["tokens"]:.0f} tokens.')
    else:
      line += (
          f'it does not catch up within N='
          f'{values["best_of_n"]["num_samples"]}.')
    lines.append(line)
  return lines


def _errors(arms: dict) -> str:
  kinds = sorted({
      kind for values in arms.values()
      for split in values['splits'].values() for kind in split['errors']})
  if not kinds:
    return ''
  rows = [
      [arm, split] + [str(v['errors'].get(kind, 0)) for kind in kinds]
      for arm, values in arms.items() for split, v in values['splits'].items()]
  return (
      '## Why problems were not solved\n\nFirst thing that went wrong in each '
      'unsolved completion.\n\n' + _table(['arm', 'split', *kinds], rows))


def _strategies(summary: dict) -> str:
  if 'symbolic' not in summary:
    return ''
  rows = [
      [name, _percent(v), f'{v["mean_nodes"]:.1f}', _tokens(v['mean_tokens'])]
      for name, v in summary['symbolic']['strategies'].items()]
  return (
      '## The symbolic strategies on the same problems\n\n'
      + _table(['strategy', 'solved %', 'nodes', 'tokens'], rows))


def _examples(examples: list[trees.Tree]) -> str:
  images = [
      f'![search {i}](search_{i}.png)\n' for i, _ in enumerate(examples, 1)]
  return '## Two searches as trees\n\n' + '\n'.join(images)


def _training(arms: dict) -> str:
  rows = [
      [arm, f'{t["num_parameters"]:,}', str(t['num_steps']),
       f'{t["tokens"] / 1e6:.2f}M', f'{t["loss"]:.4f}',
       f'{t["eval_loss"]:.4f}', f'{t["seconds"]["total"]:.0f}',
       f'{100 * t["seconds"]["goodput"]:.0f}']
      for arm, t in ((a, v['training']) for a, v in arms.items())]
  header = [
      'arm', 'parameters', 'steps', 'tokens', 'loss', 'validation loss',
      'seconds', 'goodput %']
  return '## Training\n\n' + _table(header, rows)
