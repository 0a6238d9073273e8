// SPDX-License-Identifier: Apache-2.0
// Kept rollouts: iteration, question, group of samples, tokens.
'use strict';

// Samples of a run, each with its rows (several where attempts are windowed).
function samples(run) {
  if (run.samples) return run.samples;
  const found = new Map();
  for (const row of run.rows) {
    const key = [row.step, row.question, row.sample].join();
    if (!found.has(key)) found.set(key, {...row, rows: []});
    found.get(key).rows.push(row);
  }
  run.samples = [...found.values()].map(describe);
  const groups = new Map();
  for (const s of run.samples) {
    s.group = s.step + ',' + s.question;
    groups.set(s.group, (groups.get(s.group) ?? true) && s.isFlat);
  }
  for (const s of run.samples) s.isGroupFlat = groups.get(s.group);
  return run.samples;
}

function describe(s) {
  const each = (r, f) => r.tokens.map((_, t) => t).filter(
      t => r.is_trained[t]).map(t => f(r, t));
  const all = f => s.rows.flatMap(r => each(r, f));
  const gaps = all((r, t) => Math.abs(r.trainer[t] - r.behaviour[t]));
  s.gap = Math.max(0, ...gaps);
  s.isFlat = all((r, t) => r.advantages[t]).every(a => a === 0);
  s.solved = s.rewards.findIndex(r => r > 0) + 1;
  s.reward = s.rewards.at(-1);
  s.total = s.rewards.reduce((a, b) => a + b, 0);
  s.drawn = s.num_tokens.reduce((a, b) => a + b, 0);
  s.isTruncated = s.num_tokens.some((n, e) => n > 0 && !s.is_finished[e]);
  s.advantage = mean(all((r, t) => r.advantages[t]));
  return s;
}

PAGES.rl = ([name, ...rest]) => {
  const s = stage(name);
  if (!s || !s.rl) return nothing('There is no such stage with rollouts.');
  const level = rest.findIndex(w => /^it\d+$/.test(w));
  const path = (level < 0 ? rest : rest.slice(0, level)).join('/');
  const run = s.rl.find(r => r.run === path) ||
      (s.rl.length === 1 && !path ? s.rl[0] : null);
  if (!run) {
    return [el('h1', {}, `Rollouts of ${name}`), el('ul', {}, s.rl.map(
        r => el('li', {}, link(['rl', name, r.run], r.run),
                ` ${r.num_rows} rows kept`)))];
  }
  const numbers = (level < 0 ? [] : rest.slice(level)).map(
      w => Number(w.replace(/^\D+/, '')));
  return [runPage, iterationPage, questionPage, samplePage][
      Math.min(numbers.length, 3)](s, run, ...numbers);
};

const base = (s, run) => ['rl', s.name, run.run];
const verdict = r => el('span', {class: r > 0 ? 'good' : 'bad'},
                        r > 0 ? '✓' : '✗');
const marks = x => x.rewards.map(
    (r, e) => x.num_tokens[e] ? verdict(r) : el('span', {class: 'soft'}, '·'));

function sampleTable(s, run, rows) {
  const to = x => [...base(s, run), 'it' + x.step, 'q' + x.question,
                   's' + x.sample];
  return table([
    ['sample', x => link(to(x), `it${x.step} q${x.question} s${x.sample}`)],
    ['question', x => x.text.slice(0, 120)],
    ['attempts', marks], ['solved at', x => x.solved || '-', true],
    ['advantage', x => number(x.advantage), true],
    ['tokens', x => number(x.drawn), true],
    ['gap', x => number(x.gap), true],
    ['', x => [x.isTruncated && 'truncated ', x.isGroupFlat && 'no gradient']],
  ], rows);
}

const FILTERS = [
  ['all', () => true],
  ['not solved', x => !x.solved],
  ['groups without gradient', x => x.isGroupFlat],
  ['truncated', x => x.isTruncated]];

function runPage(s, run) {
  const all = samples(run), most = Math.max(...all.map(x => x.rewards.length));
  const filters = [...FILTERS];
  for (let e = 1; e <= most; e++) {
    filters.push([`first solved at episode ${e}`, x => x.solved === e]);
  }
  filters.push(['largest gap', () => true]);
  const list = el('div', {id: 'samples'}), bars = el('div');
  let chosen = 0, bar = null, bin = null;
  const buttons = filters.map(([title], i) => el('button', {
    type: 'button', onclick: () => { chosen = i; draw(); }}, title));
  const draw = () => {
    buttons.forEach((b, i) => b.setAttribute('aria-pressed', i === chosen));
    let some = all.filter(filters[chosen][1]);
    if (bar !== null) some = some.filter(x => bin(x.total) === bar);
    if (filters[chosen][0] === 'largest gap') {
      some = [...some].sort((a, b) => b.gap - a.gap);
    }
    list.replaceChildren(
        el('p', {id: 'count'}, `${some.length} of ${all.length} samples` +
           (some.length > 200 ? '; the first 200' : '')),
        sampleTable(s, run, some.slice(0, 200)));
    bars.replaceChildren(histogram(all.map(x => x.total), {
      title: 'rewards of all attempts together', chosen: bar,
      choose: (i, f) => { bar = bar === i ? null : i; bin = f; draw(); }}));
  };
  draw();
  const curves = s.curves.filter(c => c.run === run.run);
  KEYS.ArrowUp = address('rl', s.name);
  KEYS.ArrowDown = address(...base(s, run), 'it' + all[0].step);
  return [
    el('h1', {}, `${s.name}: ${run.run}`),
    el('p', {class: 'soft'}, `${run.rows.length} of ${run.num_rows} kept rows ` +
       'are in this page. A point leads to its iteration.'),
    el('div', {class: 'grid'}, curve(s, curves, 'success'),
       curve(s, curves, 'tokens_per_trajectory'), bars),
    el('div', {class: 'row', role: 'group', 'aria-label': 'Filters'}, buttons),
    list];
}

function iterationPage(s, run, step) {
  const mine = samples(run).filter(x => x.step === step);
  if (!mine.length) return nothing('Nothing of this iteration is kept here.');
  const steps = [...new Set(samples(run).map(x => x.step))];
  neighbours(base(s, run), steps.map(x => 'it' + x), 'it' + step,
             'q' + mine[0].question);
  const groups = [...new Set(mine.map(x => x.question))].map(
      q => mine.filter(x => x.question === q));
  const row = (s.curves.find(c => c.run === run.run) || {rows: []}).rows.find(
      r => r.step === step);
  const shown = ['success', 'solved_in_any', 'groups_without_gradient', 'kl_k3',
                 'entropy', 'gap_max', 'truncated', 'loss'];
  return [
    el('h1', {}, `Iteration ${step} of ${run.run}`),
    row && el('dl', {}, shown.filter(c => c in row).flatMap(
        c => [el('dt', {}, c), el('dd', {}, exact(row[c]))])),
    el('h2', {}, 'Questions that are kept'),
    table([
      ['question', g => link([...base(s, run), 'it' + step,
                              'q' + g[0].question], g[0].text.slice(0, 200))],
      ['samples', g => g.map(x => [marks(x), ' '])],
      ['last attempt right', g => percent(mean(g.map(x => x.reward))) + '%',
       true],
      ['', g => g[0].isGroupFlat && 'no gradient']], groups),
    el('h2', {}, 'Samples'), sampleTable(s, run, mine)];
}

function questionPage(s, run, step, question) {
  const group = samples(run).filter(
      x => x.step === step && x.question === question);
  if (!group.length) return nothing('Nothing of this question is kept here.');
  const before = [...base(s, run), 'it' + step];
  const others = [...new Set(samples(run).filter(x => x.step === step).map(
      x => 'q' + x.question))];
  neighbours(before, others, 'q' + question, 's' + group[0].sample);
  const first = group[0].rows[0].tokens;
  let common = 0;
  while (common < first.length - 1 && group.every(
      x => x.rows[0].tokens[common] === first[common])) common++;
  return [
    el('h1', {}, group[0].text),
    el('p', {class: 'soft'}, `iteration ${step}, question ${question}, ` +
       `${group.length} samples; mean of the last attempt ` +
       `${number(mean(group.map(x => x.reward)))}` +
       (group[0].isGroupFlat ? '; no gradient' : '')),
    el('details', {class: 'card'}, el('summary', {},
        `the first ${common} tokens, which all have`),
        el('div', {class: 'text'}, tokens(run, group[0].rows[0], 0, common))),
    el('div', {class: 'grid'}, group.map(x => el('section', {class: 'card'},
        el('div', {class: 'row'},
           link([...before, 'q' + question, 's' + x.sample],
                `sample ${x.sample}`),
           el('span', {}, marks(x)), el('span', {}, `${x.drawn} tokens`),
           el('span', {}, `advantage ${number(x.advantage)}`)),
        x.rows.map((r, i) => el('div', {class: 'text'},
            tokens(run, r, i ? 0 : common, r.tokens.length, 'advantage'))))))];
}
