// SPDX-License-Identifier: Apache-2.0
// One sample, token by token.
'use strict';

// Colour by -> number of a token; null where it has none.
const VALUES = {
  'advantage': (r, t) => r.advantages[t],
  'ratio': (r, t) => Math.exp(r.trainer[t] - r.behaviour[t]),
  'KL': (r, t) => r.kl === null ? null : r.kl[t],
  'entropy': (r, t) => r.entropy[t],
  'log-probability': (r, t) => r.behaviour[t],
  'value': (r, t) => r.values === null ? null : r.values[t]};
const MIDDLE = {'ratio': 1};  // where a colour turns

const drawn = (r, t) => r.episode[t] >= 0;

function kind(r, t) {
  if (drawn(r, t)) return r.is_trained[t] ? 'trained' : 'drawn';
  return t < r.episode.findIndex(e => e >= 0) ? 'prompt' : 'forced';
}

// Largest distance from the middle, over the drawn tokens of a row.
function reach(r, by) {
  const values = r.tokens.map((_, t) => t).filter(t => drawn(r, t)).map(
      t => VALUES[by](r, t)).filter(x => x !== null);
  return Math.max(1e-12, ...values.map(x => Math.abs(x - (MIDDLE[by] || 0))));
}

function shade(r, t, by, most) {
  if (!by || !drawn(r, t)) return null;
  const value = VALUES[by](r, t);
  if (value === null) return null;
  const x = (value - (MIDDLE[by] || 0)) / most;
  const hue = x < 0 ? '204, 62, 50' : '42, 140, 84';
  return `rgba(${hue}, ${(.75 * Math.abs(x)).toFixed(3)})`;
}

function tokens(run, r, from, to, by = null, onclick = null) {
  const made = [], most = by && reach(r, by);
  for (let t = from; t < to; t++) {
    const piece = run.pieces[r.tokens[t]] ?? '';
    made.push(el('span', {
      class: 'tok ' + kind(r, t), 'data-t': t, 'data-kind': kind(r, t),
      color: shade(r, t, by, most),
      'data-value': by && drawn(r, t) ? exact(VALUES[by](r, t)) : null,
      title: `${t}: ${kind(r, t)}` + (by && drawn(r, t) ?
          `, ${by} ${exact(VALUES[by](r, t))}` : ''),
      onclick: onclick && (() => onclick(r, t))}, piece));
  }
  return made;
}

function samplePage(s, run, step, question, sample) {
  const group = samples(run).filter(
      x => x.step === step && x.question === question);
  const mine = group.find(x => x.sample === sample);
  if (!mine) return nothing('This sample is not kept here.');
  const before = [...base(s, run), 'it' + step, 'q' + question];
  neighbours(before, group.map(x => 's' + x.sample), 's' + sample);
  const text = el('div'), about = el('dl', {id: 'token'});
  const tell = (r, t) => about.replaceChildren(...[
    ['token', t], ['id', r.tokens[t]],
    ['text', JSON.stringify(run.pieces[r.tokens[t]] ?? '')],
    ['is', kind(r, t)], ['episode', r.episode[t] + 1],
    ...Object.entries(VALUES).map(
        ([name, f]) => [name, drawn(r, t) ? exact(f(r, t)) : '']),
    ['by the trainer', drawn(r, t) ? exact(r.trainer[t]) : '']]
      .flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
  const names = ['kind', ...Object.keys(VALUES).filter(
      by => mine.rows.some(r => r.tokens.some(
          (_, t) => drawn(r, t) && VALUES[by](r, t) !== null)))];
  const buttons = names.map(name => el('button', {
    type: 'button', onclick: () => draw(name)}, name));
  const draw = name => {
    buttons.forEach((b, i) => b.setAttribute('aria-pressed',
                                             names[i] === name));
    const by = name === 'kind' ? null : name;
    text.replaceChildren(...mine.rows.map(r => el('div', {class: 'text card'},
        tokens(run, r, 0, r.tokens.length, by, tell))));
    legend.replaceChildren(by ? `red below ${MIDDLE[by] || 0}, green above; ` +
        `full colour at ${number(reach(mine.rows[0], by))} from it` :
        'underlined: trained; grey: prompt; grey and slanted: forced');
  };
  const legend = el('span', {class: 'soft'});
  draw('kind');
  tell(mine.rows[0], mine.rows[0].episode.findIndex(e => e >= 0));
  return [
    el('h1', {}, mine.text),
    el('p', {}, `iteration ${step}, question ${question}, sample ${sample}: `,
       marks(mine), ` ${mine.drawn} tokens drawn`,
       mine.isTruncated ? ', truncated' : '',
       mine.isGroupFlat ? '; its group has no gradient' : ''),
    el('div', {class: 'row', role: 'group', 'aria-label': 'Colour by'},
       buttons, legend),
    el('div', {class: 'split'}, text, el('section', {class: 'card'},
        el('strong', {}, 'a token (click one)'), about)),
    el('h2', {}, 'Attempts'),
    table([
      ['attempt', r => r.e + 1, true], ['right', r => marks(r.x)[r.e]],
      ['tokens', r => number(r.x.num_tokens[r.e]), true],
      ['ended', r => r.x.is_finished[r.e] ? 'by itself' : 'cut or given up'],
      ['answer', r => el('span', {class: 'text'}, r.x.answers[r.e] ?? '-')],
    ], mine.rewards.map((_, e) => ({x: mine, e})))];
}
