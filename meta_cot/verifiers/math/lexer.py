# SPDX-License-Identifier: Apache-2.0
"""LaTeX or plain notation -> tokens.

Takes time in proportion to the text. Whatever is said of a number's look
(dollars, bold letters, spaces, sizes of brackets) is left out.
"""

from collections.abc import Iterator
from fractions import Fraction
import re
from typing import Any, NamedTuple

from meta_cot.verifiers.math import tree

MAX_DIGITS = 1_000  # of a number

FUNCTIONS = frozenset((
    'sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp '
    'sqrt floor ceil gcd lcm max min').split())
_GREEK = frozenset((
    'alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi '
    'rho sigma tau upsilon phi chi psi omega pi').split())
# Of two letters: longer words are no products of unknowns anyway.
_UNITS = frozenset('cm mm km kg mg lb oz ft in hr min sec ml am pm'.split())
_SEPARATORS = frozenset(('or', 'and'))

_UNICODE = str.maketrans({
    '−': '-', '–': '-', '×': r'\times ', '·': r'\cdot ', '÷': r'\div ',
    '≤': r'\le ', '≥': r'\ge ', '≠': r'\ne ', '∈': r'\in ', '∪': r'\cup ',
    '±': r'\pm ', 'π': r'\pi ', '∞': r'\infty ', '√': r'\sqrt ',
    '°': r'\degree ', 'θ': r'\theta ', '²': '^2', '³': '^3',
    '½': r'\frac12', '¼': r'\frac14', '¾': r'\frac34',
    '’': "'", '\u00a0': ' ', '$': ' ', '€': ' ', '£': ' ',
    '¥': ' ', '~': ' '})
# Commas between groups of three digits, as LaTeX writes them.
_GROUPING = re.compile(
    r'(?<=\d)(?:\{,\}|,\\!|\\!,|\\,|\\!)\s*(?=\d{3}(?!\d))')

_SIGNS = {  # commands -> operators
    'cdot': '*', 'times': '*', 'ast': '*', 'div': '/', 'le': '<=', 'leq': '<=',
    'leqslant': '<=', 'ge': '>=', 'geq': '>=', 'geqslant': '>=', 'ne': '!=',
    'neq': '!=', 'lt': '<', 'gt': '>', 'in': 'in', 'cup': 'cup', 'pm': 'pm',
    'approx': '=', 'equiv': '=', '%': '%', 'lfloor': 'lfloor',
    'rfloor': 'rfloor', 'lceil': 'lceil', 'rceil': 'rceil', '{': 'set',
    '}': 'end set', 'lbrace': 'set', 'rbrace': 'end set', '|': '|', 'vert': '|',
    'lvert': '|', 'rvert': '|', '\\': 'row', 'degree': 'degree',
    'circ': 'degree', 'frac': 'frac', 'dfrac': 'frac', 'tfrac': 'frac',
    'cfrac': 'frac', 'binom': 'binom', 'dbinom': 'binom', 'tbinom': 'binom',
    'begin': 'begin', 'end': 'end', 'langle': '(', 'rangle': ')'}
_SILENT = frozenset((
    'left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr displaystyle '
    'textstyle limits quad qquad $ ( ) [ ] , ; : ! mathstrut').split()) | {' '}
_FONTS = frozenset((
    'mathbf boldsymbol bm mathit mathbb mathcal mathsf bold boxed').split())
_TEXTS = frozenset((
    'text textnormal textbf textit textrm textsf texttt mathrm mbox hbox '
    'operatorname mathop emph').split())

_TOKEN = re.compile(r'''
    (?P<blank>\s+)
  | (?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\d.]))?)
  | \\(?P<command>[A-Za-z]+|.)
  | (?P<word>[A-Za-z]+(?:'[A-Za-z]+)?)
  | (?P<sign>\*\*|<=|>=|!=|==|[-+*/^_(){}\[\],;|!=<>:&%])
''', re.VERBOSE | re.DOTALL | re.ASCII)
_THOUSANDS = re.compile(r'\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?', re.ASCII)
_SAME = {'**': '^', '==': '=', ':': '/'}


class Token(NamedTuple):
  """What is read at once."""

  kind: str  # number | name | words | sign | end
  value: Any
  is_apart: bool = False  # a blank stands before it


def tokens(text: str) -> list[Token]:
  """Reads all tokens of a text.

  Raises:
    ReadingError: a sign that is not known here, or a number that is too long.
  """
  return list(_merged(_tokens(_GROUPING.sub('', text.translate(_UNICODE)))))


def _tokens(text: str) -> Iterator[Token]:
  place, depth, is_apart = 0, 0, False
  while place < len(text):
    match = not depth and _THOUSANDS.match(text, place)
    if match:
      yield Token('number', number(match[0].replace(',', '')), is_apart)
      place, is_apart = match.end(), False
      continue
    match = _TOKEN.match(text, place)
    if match is None:
      raise tree.ReadingError(f'{text[place]!r} at {place}')
    place = match.end()
    kind, value = match.lastgroup, match[match.lastgroup]
    if kind == 'blank' or (kind == 'command' and value in _SILENT):
      is_apart = is_apart or value != '!'
      continue
    if kind == 'command' and value in _TEXTS:
      said, place = _braced(text, place)
      yield from _said(said, is_apart)
    elif kind == 'number':
      yield Token('number', number(value), is_apart)
    else:
      for token in (_command if kind == 'command' else _plain)(value, is_apart):
        depth += (token.value in ('(', '[', 'set')) - (
            token.value in (')', ']', 'end set')) if token.kind == 'sign' else 0
        yield token
    is_apart = False


def number(text: str) -> tree.Number:
  """Reads digits with a point or an exponent.

  Raises:
    ReadingError: too many digits.
  """
  if len(text) > MAX_DIGITS:
    raise tree.ReadingError(f'a number of {len(text)} digits')
  places = len(text.partition('.')[2]) or None if (
      'e' not in text and 'E' not in text) else None
  return tree.Number(Fraction(text), places)


def _command(name: str, is_apart: bool) -> Iterator[Token]:
  """Tokens of a command of LaTeX."""
  if name in _SIGNS:
    yield Token('sign', _SIGNS[name], is_apart)
  elif name == 'infty':
    yield Token('name', 'oo', is_apart)
  elif name in FUNCTIONS or name in _GREEK:
    yield Token('name', name, is_apart)
  elif name.startswith('var') and name[3:] in _GREEK:
    yield Token('name', name[3:], is_apart)
  elif name not in _FONTS:
    raise tree.ReadingError(f'\\{name}')


def _plain(text: str, is_apart: bool) -> Iterator[Token]:
  """Tokens of a sign or of letters."""
  if not text[0].isalpha():
    yield Token('sign', _SAME.get(text, text), is_apart)
  elif text in FUNCTIONS or text in _GREEK or len(text) == 1:
    yield Token('name', text, is_apart)
  elif text.lower() in ('inf', 'infinity', 'oo'):
    yield Token('name', 'oo', is_apart)
  elif text.lower() in _SEPARATORS:
    yield Token('sign', 'or', is_apart)
  elif len(text) == 2 and text.lower() not in _UNITS:
    yield from (Token('name', letter, is_apart) for letter in text)
  else:
    yield Token('words', text.lower(), is_apart)


def _said(text: str, is_apart: bool) -> Iterator[Token]:
  """Tokens of what stands in a box of text."""
  text = ' '.join(text.split())
  if text.lower() in _SEPARATORS:
    yield Token('sign', 'or', is_apart)
  elif text in FUNCTIONS:
    yield Token('name', text, is_apart)
  elif re.search('[A-Za-z]', text):
    yield Token('words', text.lower().rstrip('.'), is_apart)
  elif text:
    inner = tokens(text)
    yield inner[0]._replace(is_apart=is_apart)
    yield from inner[1:]


def _braced(text: str, place: int) -> tuple[str, int]:
  """What stands in the braces from a place, without those in it, and its end.

  Raises:
    ReadingError: no braces, or they are not closed.
  """
  start = len(text) - len(text[place:].lstrip()) if (
      text[place:place + 1].isspace()) else place
  if text[start:start + 1] != '{':
    raise tree.ReadingError('text without braces')
  depth = 0
  for end in range(start, len(text)):
    depth += (text[end] == '{') - (text[end] == '}')
    if not depth:
      return text[start + 1:end].replace('{', '').replace('}', ''), end + 1
  raise tree.ReadingError('braces that are not closed')


def _merged(found: Iterator[Token]) -> Iterator[Token]:
  """Joins words that follow each other; ends with the end."""
  words = None
  for token in found:
    if token.kind == 'words':
      words = token if words is None else words._replace(
          value=f'{words.value} {token.value}')
      continue
    if words is not None:
      yield words
      words = None
    yield token
  if words is not None:
    yield words
  yield Token('end', '')
