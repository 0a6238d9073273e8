# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: training curves and what attempts buy, as image files.

Every function writes one image; the suffix of `path` names the format (png,
svg, pdf). Lines differ in colour and in markers.
"""

from collections.abc import Mapping, Sequence

from matplotlib import axes as axes_lib
from matplotlib import ticker

from meta_cot.evaluation import canvas
from meta_cot.evaluation import tree_plot

MARKERS = 'osD^vPX'

Path = canvas.Path
Point = tuple[float, float, float, float]  # x, success, low, high

search_tree = tree_plot.search_tree


def loss_curves(
    path: Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *, xlabel: str = 'training tokens', ylabel: str = 'loss (nats per token)',
    title: str = '',
) -> None:
  """Draws one line per arm.

  Args:
    path: image to write.
    curves: arm -> (tokens seen, loss at each of them).
    xlabel: what x counts.
    ylabel: what y is.
    title: above the figure.

  Raises:
    ValueError: no arms, or an arm with more tokens than losses or fewer.
  """
  _check_arms(path, curves)
  figure, axes = _new(title, xlabel, ylabel)
  for i, (arm, (tokens, losses)) in enumerate(curves.items()):
    if len(tokens) != len(losses):
      raise ValueError(
          f'{path}: arm {arm!r} has {len(tokens)} token counts and '
          f'{len(losses)} losses; give one loss per count.')
    # A marker where a line would be too short to see.
    marker = MARKERS[i % len(MARKERS)] if len(tokens) < 3 else None
    axes.plot(tokens, losses, color=_color(i), marker=marker, label=arm)
  axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  _legend(axes)
  canvas.save(figure, path)


def success_curves(
    path: Path, curves: Mapping[str, Sequence[Point]], *,
    xlabel: str = 'training tokens', title: str = '',
) -> None:
  """Draws the success rate of each arm as it trains, with its interval.

  Args:
    path: image to write.
    curves: arm -> points (x, success, low, high); rates in [0, 1].
    xlabel: what x counts.
    title: above the figure.

  Raises:
    ValueError: no arms, or a rate outside its interval.
  """
  _check_arms(path, curves)
  figure, axes = _new(title, xlabel, 'problems solved')
  for i, (arm, points) in enumerate(curves.items()):
    x, success, low, high = _columns(path, arm, points)
    axes.fill_between(x, low, high, color=_color(i), alpha=0.15, linewidth=0)
    axes.plot(
        x, success, color=_color(i), marker=MARKERS[i % len(MARKERS)],
        markersize=5, label=arm)
  axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  _rate_axis(axes)
  _legend(axes)
  canvas.save(figure, path)


def success_against_tokens(
    path: Path, curves: Mapping[str, Sequence[Point]], *,
    reference: Mapping[str, Point] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    xlabel: str = 'generated tokens per problem', title: str = '',
) -> None:
  """Draws success against the tokens spent, such as best-of-N over N.

  Args:
    path: image to write.
    curves: method -> points (tokens > 0, success, low, high), joined by a
      line; x is logarithmic.
    reference: method -> its one point, such as one greedy trace; a dashed line
      carries its success across the figure.
    labels: method -> a short text for each of its points, such as 'N=4'.
    xlabel: what x counts.
    title: above the figure.

  Raises:
    ValueError: no methods, x not positive, a rate outside its interval, or
      labels that do not match the points.
  """
  reference, labels = reference or {}, labels or {}
  _check_arms(path, {**curves, **reference})
  figure, axes = _new(title, xlabel, 'problems solved')
  everything = [*curves.items(), *((k, [p]) for k, p in reference.items())]
  for i, (method, points) in enumerate(everything):
    x, success, low, high = _columns(path, method, points)
    if min(x, default=1) <= 0:
      raise ValueError(
          f'{path}: method {method!r} has x={min(x)}; must be positive, '
          'the axis is logarithmic.')
    below = [y_i - low_i for y_i, low_i in zip(success, low)]
    above = [high_i - y_i for y_i, high_i in zip(success, high)]
    is_reference = method in reference
    axes.errorbar(
        x, success, yerr=[below, above], color=_color(i), capsize=3,
        marker='*' if is_reference else MARKERS[i % len(MARKERS)],
        markersize=12 if is_reference else 5, label=method, zorder=3,
        linestyle='none' if is_reference else '-')
    if is_reference:
      axes.axhline(success[0], color=_color(i), linestyle='--', linewidth=1)
    texts = labels.get(method, ())
    if method in labels and len(texts) != len(x):
      raise ValueError(
          f'{path}: method {method!r} has {len(x)} points and {len(texts)} '
          'labels; give one label per point.')
    for text, x_i, y_i in zip(texts, x, success):
      axes.annotate(
          text, (x_i, y_i), xytext=(5, -11), textcoords='offset points',
          fontsize=8, color=_color(i))
  axes.set_xscale('log')
  axes.margins(x=0.08)
  axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  _rate_axis(axes)
  _legend(axes)
  canvas.save(figure, path)


def _new(title: str, xlabel: str, ylabel: str):
  figure, axes = canvas.new_figure(6.4, 4.0)
  axes.set_title(title, fontsize=11, loc='left')
  axes.set_xlabel(xlabel)
  axes.set_ylabel(ylabel)
  axes.grid(color='#dddddd', linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)
  return figure, axes


def _color(i: int) -> str:
  return canvas.COLORS[i % len(canvas.COLORS)]


def _legend(axes: axes_lib.Axes) -> None:
  axes.legend(frameon=True, framealpha=0.9, edgecolor='none', fontsize=9)


def _rate_axis(axes: axes_lib.Axes) -> None:
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(xmax=1, decimals=0))
  low, high = axes.get_ylim()
  axes.set_ylim(max(low, -0.02), min(high, 1.02))


def _check_arms(path: Path, curves: Mapping) -> None:
  """Something must be there to draw."""
  if not curves:
    raise ValueError(f'{path}: nothing to draw; give at least one curve.')


def _columns(
    path: Path, arm: str, points: Sequence[Point]) -> tuple[list[float], ...]:
  """Points -> x, success, low, high; sorted by x."""
  for x, success, low, high in points:
    if not low <= success <= high:
      raise ValueError(
          f'{path}: {arm!r} at x={x}: success {success} must be within its '
          f'interval [{low}, {high}].')
  columns = tuple(list(column) for column in zip(*sorted(points)))
  return columns or ([], [], [], [])
