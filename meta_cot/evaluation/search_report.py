# SPDX-License-Identifier: Apache-2.0
"""The readable end of the stage `search`: report.md."""

from collections.abc import Mapping

from etils import epath

from meta_cot.runtime import files


def write(
    directory: epath.Path, summary: dict, examples: Mapping[str, str | None],
) -> None:
  """Writes `report.md`.

  Args:
    directory: of the stage, local or in a bucket; made if missing.
    summary: as written to summary.json.
    examples: a solved search of every strategy as text; None without one.
  """
  parts = [_headline(summary), _table(summary), _equal(summary),
           _costs(summary), _examples(examples)]
  files.write_atomic(directory / 'report.md', '\n'.join(parts))


def _headline(summary: dict) -> str:
  settings = summary['settings']
  ends = {
      'verifier': 'A finished step counts as right or wrong by the exact '
                  'verifier, so that a search knows when it has succeeded',
      'value': 'The verifier is not asked before a search has chosen its answer'
  }[settings['outcome']]
  guide = {
      'likelihood': "the likelihood of a path under the model",
      'head': "the model's value head"}[settings['value']]
  return (
      '# Searching over the steps of solutions\n\n'
      f'`{summary["arm"]}` after {summary["step"]} steps of training, on '
      f'{summary["num_problems"]} problems of `{summary["split"]}`. Searches '
      f'are guided by {guide}. {ends}.\n')


def _percent(success: float, low: float, high: float) -> str:
  return f'{100 * success:.1f} [{100 * low:.1f}, {100 * high:.1f}]'


def _rows(header: list[str], rows: list[list[str]]) -> str:
  lines = [header, ['---'] * len(header), *rows]
  return ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)


def _table(summary: dict) -> str:
  greedy = summary['greedy']
  rows = [[
      'greedy', _percent(greedy['success'], *greedy['ci95']), '-',
      f'{greedy["mean_tokens"]:.1f}', f'{greedy["seconds"]:.2f}',
      f'{100 * greedy["occupancy"]:.0f}']]
  for name, v in summary['strategies'].items():
    gap = v['minus_greedy']
    rows.append([
        name, _percent(v['success'], *v['ci95']),
        f'{100 * gap["estimate"]:+.1f} '
        f'[{100 * gap["low"]:+.1f}, {100 * gap["high"]:+.1f}]',
        f'{v["mean_tokens"]:.1f}', f'{v["seconds"]:.2f}',
        f'{100 * v["occupancy"]:.0f}'])
  header = ['', 'solved %', 'minus greedy', 'tokens', 'seconds', 'occupancy %']
  return (
      '## Success and cost\n\nTokens are generated tokens per problem, all '
      'children of a search counted. Seconds are of all problems, compiling '
      'not counted. Occupancy is the share of rows and steps that worked on an '
      'unfinished problem. Brackets are 95% intervals (Wilson; for the '
      'difference, paired).\n\n' + _rows(header, rows))


def _equal(summary: dict) -> str:
  rows = []
  for name, v in summary['strategies'].items():
    equal = v['equal_tokens']
    rows.append([
        name, f'{v["mean_tokens"]:.1f}', _percent(v['success'], *v['ci95']),
        f'{100 * v["found"]:.1f}', str(equal['k']), f'{equal["tokens"]:.1f}',
        _percent(equal['success'], equal['low'], equal['high']),
        f'{100 * equal["majority"]:.1f}', f'{equal["seconds"]:.2f}'])
  header = [
      '', 'tokens', 'solved %', 'found %', 'N', 'tokens of N',
      'best of N %', 'majority of N %', 'seconds of N']
  limit = summary['best_of_n']['num_samples']
  return (
      '## Beside whole samples of as many tokens\n\nThe fair rival of a search '
      'is many samples: best of N by the exact verifier (unbiased pass@N) and '
      'their majority, with the largest N that fits the tokens of the search '
      f'(at most the {limit} drawn). `found`: some finished child was right, '
      'chosen or not.\n\n' + _rows(header, rows))


def _costs(summary: dict) -> str:
  rows = [
      [name, f'{v["mean_expansions"]:.1f}', f'{v["mean_nodes"]:.1f}',
       f'{100 * v["share_told"]:.1f}']
      for name, v in summary['strategies'].items()]
  return (
      '## Trees\n\n`told`: the share of nodes that the text of a search can '
      'say; what is no operation on the numbers left has no words.\n\n'
      + _rows(['', 'expansions', 'nodes', 'told %'], rows))


def _examples(examples: Mapping[str, str | None]) -> str:
  shown = [
      f'`{name}`:\n\n    {text}\n' for name, text in examples.items()
      if text is not None]
  return '## One search of each, as text\n\n' + '\n'.join(shown)
