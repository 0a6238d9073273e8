# SPDX-License-Identifier: Apache-2.0
"""How a text reasons: regret, going back, checking, repeating itself.

Pure functions of English text (`STYLES`); they raise on none, and take time in
proportion to its length. Expressions are looked for word for word, so that the
counts compare texts with each other: they do not say what a text means.
"""

from collections.abc import Hashable, Iterable
import dataclasses
import re

STYLES = ('free_text', 'prose')  # are English, all of them or in part
_NGRAM = 4  # words

# What stands in front of an exclamation such as "Wait, ...".
_BEGINS = (
    r'(?:^|[.!?:;,\u2026\u2014*(] ?|\b(?:but|oh|hmm|hm|so|and|ah|ok|okay|no) )')
_REGRET = re.compile(
    r"\b(?:i(?: have|'ve)? (?:made|make) (?:a|an|another|some|the)"
    r'(?: \w{1,20})? (?:mistakes?|errors?|slips?)|my (?:mistake|bad|error)'
    r"|(?:there is|there's|that is|that's|this is|was) (?:a|an|my) "
    r'(?:mistake|error)|i was (?:wrong|mistaken)|i misread'
    r'|i misunderstood|i miscalculated|i miscounted|i overlooked|i forgot'
    r'|i should have|i shouldn\'t have|i should not have'
    r"|(?:that|this)(?:'s| is| was| looks| seems) (?:wrong|incorrect"
    r"|not right|not correct)|(?:that|this) (?:isn't|is not|doesn't seem"
    r"|does not seem|can't be|cannot be) (?:right|correct)"
    r'|(?:let me|let us|let\'s|i need to|i should|i must|i have to) (?:'
    r'reconsider|correct|rethink|fix)|sorry|apologies|apologi[sz]e|oops)\b')
_BACKTRACKING = re.compile(
    rf'{_BEGINS}wait(?= ?[,.!?:;\u2026\u2014-]|$| (?:no|a (?:minute|second'
    r'|moment)|actually|but|that|this|what|if|i|let|maybe|is)\b)'
    r'|\balternatively\b|\bon second thought\b|\bscratch that\b'
    r'|\b(?:start|starting|begin|beginning) (?:over|again|afresh|from scratch)'
    r'\b|\b(?:go|going|went|return|returning|step|stepping|stepped) back to\b'
    r"|\b(?:let me|let's|let us|i will|i'll|i can|we can|we could|i could) "
    r'(?:try|use|take) (?:a different|another|a new|something|it another|it '
    r'differently)|\b(?:another|a different) (?:way|approach|route|idea)\b'
    r"|\b(?:does not|doesn't|did not|didn't|will not|won't) (?:work|help|lead)"
    r'\b|\bdead end\b', re.MULTILINE)
_VERIFICATION = re.compile(
    r'\b(?:double|cross|re|sanity)[- ]?check(?:s|ed|ing)?\b'
    r"|\b(?:let me|let us|let's|i will|i'll|we will|we'll|i need to|we need to"
    r'|i should|we should|i can|we can|to|now|must) (?:now |also |quickly '
    r'|just )?(?:check|verify|confirm|test|validate|re-?read|re-?examine'
    r'|re-?calculate|re-?compute)\b|\bchecking\b|\bverifying\b'
    r'|\bverification\b|\bcheck:|\bsubstitut(?:e|ing) back\b'
    r'|\bplug(?:ging)? (?:it |this |that |them |these )?back\b')
_NUMBER = r'[0-9]{1,12}(?:\.[0-9]{1,12})?'
_EQUATION = re.compile(
    rf'(?<![0-9.])({_NUMBER}) ?([-+*/x\u00d7\u00f7\u2212]) ?({_NUMBER}) ?= ?'
    rf'({_NUMBER})(?![0-9])')
_WORD = re.compile(r'\w+|[^\w\s]')


@dataclasses.dataclass(frozen=True)
class Behaviours:
  """Counts over one text, and two shares."""

  regret: int  # says that something was wrong: "I made a mistake"
  backtracking: int  # leaves a line of thought: "Wait,", "Alternatively"
  verification: int  # announces a check: "let me check"
  recomputations: int  # equations that stood there before
  # Of the lines that are not empty, those that stood there before, in [0, 1].
  repeated_lines: float
  repeated_ngrams: float  # the same of four words in a row


NAMES = tuple(field.name for field in dataclasses.fields(Behaviours))


def of_text(text: str) -> Behaviours:
  """Counts what a model wrote, without what it was asked."""
  lines = [*filter(None, (
      ' '.join(line.split()) for line in text.lower().splitlines()))]
  plain = '\n'.join(lines).replace('\u2019', "'")
  joined = plain.replace('\n', ' ')  # expressions may go on in the next line
  equations = [match.groups() for match in _EQUATION.finditer(plain)]
  words = _WORD.findall(plain)
  ngrams = [*zip(*(words[i:] for i in range(_NGRAM)))]
  return Behaviours(
      regret=_count(_REGRET, joined),
      backtracking=_count(_BACKTRACKING, plain),
      verification=_count(_VERIFICATION, joined),
      recomputations=_num_repeated(equations),
      repeated_lines=_num_repeated(lines) / max(len(lines), 1),
      repeated_ngrams=_num_repeated(ngrams) / max(len(ngrams), 1))


def _count(pattern: re.Pattern, text: str) -> int:
  return sum(1 for _ in pattern.finditer(text))


def _num_repeated(values: Iterable[Hashable]) -> int:
  values = [*values]
  return len(values) - len({*values})
