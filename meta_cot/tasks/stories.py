# SPDX-License-Identifier: Apache-2.0
"""Stories around numbers: what word problems are written with.

A story has one quantity that begins with a number and changes. Sentences say
{name}, {friend}, {b}; {a} only the first one. A story belongs to one kind of
splits for ever, so that none of its sentences is met in another one.
"""

from collections.abc import Mapping
import dataclasses

NAMES = (
    'Amir', 'Bea', 'Chen', 'Dana', 'Elif', 'Femi', 'Grace', 'Hugo', 'Ines',
    'Jonas', 'Kira', 'Luca', 'Mina', 'Noah', 'Olga', 'Priya', 'Quinn', 'Rosa',
    'Sami', 'Tove', 'Uma', 'Viktor', 'Wanda', 'Yusuf')

# Of a step that is explained; {c} is the result.
EXPLANATIONS = (
    'That makes {a} {sign} {b} = {c} {things}.',
    'Now there are {a} {sign} {b} = {c} {things}.',
    '{a} {sign} {b} = {c} {things}.')


@dataclasses.dataclass(frozen=True)
class Story:
  """Sentences of one story; every operation can be told in some ways."""

  things: str
  begins: tuple[str, ...]
  tells: Mapping[str, tuple[str, ...]]  # + - * /
  asks: tuple[str, ...]


def _story(things, begins, more, fewer, times, shared, asks) -> Story:
  return Story(
      things, begins, {'+': more, '-': fewer, '*': times, '/': shared}, asks)


TRAIN = (
    _story('apples', (
        '{name} picks {a} apples.', 'There are {a} apples in the basket of '
        '{name}.'), (
        '{friend} puts {b} more into the basket.', '{name} picks another {b}.'),
        ('{b} of them are rotten and thrown away.', '{name} eats {b} of them.'),
        ('Then a harvest makes the apples {b} times as many.',),
        ('{name} packs them into {b} equal bags and keeps one bag.',),
        ('How many apples does {name} have now?',
         'How many apples are left with {name}?')),
    _story('marbles', (
        '{name} owns {a} marbles.', '{name} starts a game with {a} marbles.'),
        ('{name} wins {b} marbles from {friend}.', '{friend} gives {name} {b} '
         'marbles.'), ('{name} loses {b} marbles.',
                       '{b} marbles roll under the sofa.'),
        ('A lucky round leaves {name} with {b} times as many.',),
        ('{name} splits them evenly among {b} children, and is one of them.',),
        ('How many marbles does {name} have at the end?',)),
    _story('pages', (
        '{name} reads {a} pages on Monday.', 'By noon {name} has read {a} '
        'pages.'), ('In the evening {name} reads {b} more pages.',
                    'Another {b} pages follow.'),
        ('{name} notices that {b} of these pages were read twice, and does not '
         'count them.',),
        ('In the end the count is {b} times as high.',),
        ('{name} counts only one page in {b}.',),
        ('How many pages does {name} count?',)),
    _story('dollars', (
        '{name} saves {a} dollars.', 'The purse of {name} holds {a} dollars.'),
        ('{name} earns {b} dollars by washing cars.',
         '{friend} pays back {b} dollars.'),
        ('{name} spends {b} dollars on a gift.', 'A ticket costs {name} {b} '
         'dollars.'), ('A bank makes the money {b} times as much.',),
        ('{name} shares the money equally with others, {b} people in all.',),
        ('How many dollars does {name} have?',
         'How much money, in dollars, is left for {name}?')),
    _story('chairs', (
        'A hall has {a} chairs.', '{name} sets up {a} chairs.'),
        ('{friend} brings {b} more chairs.', '{b} chairs are added.'),
        ('{b} chairs break.', '{name} carries {b} chairs away.'),
        ('The hall is made larger and gets {b} times as many chairs.',),
        ('The chairs are put into {b} equal rows, and one row is looked at.',),
        ('How many chairs are there?',)),
    _story('stamps', (
        '{name} collects {a} stamps.', 'An album of {name} has {a} stamps.'),
        ('A letter brings {b} more stamps.', '{name} buys {b} stamps.'),
        ('{name} trades {b} stamps away.', '{friend} gets {b} of the stamps.'),
        ('After a year the collection is {b} times as large.',),
        ('{name} sorts the stamps into {b} equal piles and keeps one pile.',),
        ('How many stamps does {name} keep?',)),
    _story('litres', (
        'A tank holds {a} litres of water.', '{name} pours {a} litres into a '
        'barrel.'), ('Rain adds {b} litres.', '{name} pours in {b} litres '
                     'more.'),
        ('{b} litres leak out.', 'The plants get {b} litres of it.'),
        ('A pump brings it to {b} times the amount.',),
        ('The water is spread over {b} equal cans, of which one is kept.',),
        ('How many litres are there now?',)),
    _story('cookies', (
        '{name} bakes {a} cookies.', '{a} cookies lie on the plate of {name}.'),
        ('{friend} adds {b} cookies.', '{b} more come out of the oven.'),
        ('The dog eats {b} of them.', '{name} gives {b} cookies to {friend}.'),
        ('For the feast {name} makes it {b} times as many.',),
        ('{b} guests share them equally; {name} is one of the guests.',),
        ('How many cookies does {name} get?',)))
VALIDATION = (
    _story('seeds', (
        '{name} sows {a} seeds.',),
        ('{name} finds {b} further seeds.',),
        ('Birds pick up {b} seeds.',),
        ('Next spring the seeds are {b} times as many.',),
        ('{name} divides the seeds over {b} pots and looks at one pot.',),
        ('How many seeds does {name} see?',)),
    _story('songs', (
        'A list of {name} has {a} songs.',),
        ('{friend} suggests {b} new songs, which are put on it.',),
        ('{b} songs are dropped.',),
        ('By summer the list is {b} times as long.',),
        ('{name} cuts the list into {b} equal parts and plays one part.',),
        ('How many songs is that?',)))
TEST = (
    _story('kites', (
        'A shop of {name} has {a} kites in stock.',),
        ('A delivery of {b} kites arrives.', '{friend} returns {b} kites.'),
        ('{b} kites are sold.', 'The wind carries {b} kites off.'),
        ('The shop orders until it has {b} times that number.',),
        ('The stock is moved to {b} shops in equal shares, {name} keeps one '
         'share.',),
        ('How many kites are in the shop of {name}?',)),
    _story('shells', (
        'On the beach {name} gathers {a} shells.',
        '{name} comes home with {a} shells.'),
        ('Low tide uncovers {b} more, and {name} takes them.',),
        ('{b} shells crack.', '{name} throws {b} shells back.'),
        ('By the end of the week there are {b} times as many.',),
        ('{name} lays them in {b} equal rings and counts one ring.',),
        ('How many shells does {name} count?',)),
    _story('metres', (
        '{name} swims {a} metres.',),
        ('After a rest {name} adds {b} metres.',),
        ('{b} metres were wrongly counted and are taken off.',),
        ('Over the month the distance grows to {b} times that.',),
        ('A team of {b} had shared the distance equally; only the share of '
         '{name} counts.',),
        ('How many metres count for {name}?',)))
