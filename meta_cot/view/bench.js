// SPDX-License-Identifier: Apache-2.0
// Success against what it cost; how well values are calibrated.
'use strict';
const BUDGETS = {
  tokens: 'drawn tokens', forwarded_tokens: 'forwarded tokens',
  flops: 'FLOPs', seconds: 'seconds', sequential_tokens: 'sequential tokens'};
const MEANING = {
  tokens: 'tokens that were drawn for a problem, all attempts and all children ' +
      'of a search counted',
  forwarded_tokens: 'tokens that models read, the question once for all ' +
      'attempts that share it',
  flops: 'of all forward passes: for a token two per weight of every matrix ' +
      'product, and 4 x layers x width x the tokens it attends to',
  seconds: 'a share of those of all attempts and judges',
  sequential_tokens: 'the longest chain of decode steps that wait for each ' +
      'other; N samples are written at the same time'};
const CHOOSERS = {oracle: 'exact verifier', first: 'the first one'};
const TABLE = ['policy', 'solver', 'chooser', 'n', 'split', 'num_problems',
               'success', 'low', 'high', ...Object.keys(BUDGETS)];

PAGES.evaluate = ([name, axis = 'tokens', split]) => {
  const s = stage(name);
  if (!s || !s.evaluation || !Object.hasOwn(BUDGETS, axis)) {
    return nothing('There is no such report.');
  }
  const splits = [...new Set(s.evaluation.map(r => r.split))];
  const mine = split || splits[0];
  const rows = s.evaluation.filter(r => r.split === mine);
  const axes = Object.keys(BUDGETS);
  neighbours(['evaluate', name], axes, axis);
  const point = r => ({
    x: r[axis], y: r.success, low: r.low, high: r.high,
    title: `${r.policy}, ${r.solver} ${r.chooser}${r.n > 1 ? ' of ' + r.n : ''}` +
        `: ${percent(r.success)}% at ${number(r[axis])} ${BUDGETS[axis]}`});
  const series = new Map();
  for (const r of rows) {
    const isBest = r.solver === 'samples';
    const key = isBest ? `best of N, ${CHOOSERS[r.chooser] || r.chooser}: ` +
        r.policy :
        `${r.solver}: ${r.policy}`;
    if (!series.has(key)) {
      series.set(key, {name: key, points: [], isAlone: !isBest});
    }
    series.get(key).points.push(point(r));
  }
  for (const one of series.values()) one.points.sort((a, b) => a.x - b.x);
  return [
    el('h1', {}, `Success against budget: ${name}`),
    el('div', {class: 'row', role: 'group', 'aria-label': 'Budget'}, axes.map(
        a => el('a', {href: address('evaluate', name, a, mine),
                      'aria-current': a === axis && 'true'}, BUDGETS[a]))),
    splits.length > 1 && el('div', {class: 'row'}, splits.map(
        x => el('a', {href: address('evaluate', name, axis, x),
                      'aria-current': x === mine && 'true'}, x))),
    plot([...series.values()], {
      title: `success on ${mine}`, x: `${BUDGETS[axis]} of a problem`,
      width: 820, height: 420, isLog: true}),
    el('p', {class: 'soft'}, `${BUDGETS[axis]}: ${MEANING[axis]}. Bars are 95% ` +
       'intervals. Circles are procedures, lines best of N samples.'),
    el('div', {class: 'row'}, el('h2', {}, 'The table behind it'),
       csv(`${name}-${mine}`, TABLE, rows)),
    table([
      ['policy', r => r.policy], ['solver', r => r.solver],
      ['chooser', r => r.chooser], ['N', r => r.n, true],
      ['problems', r => r.num_problems, true],
      ['solved %', r => percent(r.success), true],
      ['95%', r => r.low === null ? '-' :
          `[${percent(r.low)}, ${percent(r.high)}]`, true],
      ...axes.map(a => [BUDGETS[a], r => number(r[a]), true])], rows)];
};

PAGES.values = ([name]) => {
  const s = stage(name);
  if (!s || !s.quality) return nothing('There is no such report.');
  const q = s.quality, sources = Object.entries(q.sources);
  const columns = ['source', 'value', 'target', 'num_states'];
  const flat = sources.flatMap(([source, x]) => (x.calibration || []).map(
      bin => ({source, ...bin})));
  const interval = x => x ? `${number(x.estimate)} [${number(x.low)}, ` +
      `${number(x.high)}]` : '-';
  return [
    el('h1', {}, `Values: ${name}`),
    el('p', {class: 'soft'}, `${q.num_states} states of ${q.num_problems} ` +
       'problems. A point is a tenth of the states: what the source says of ' +
       'them on average, and what came of them. On the dashed line it is right.'),
    el('div', {class: 'grid'}, sources.map(([source, x]) => plot(
        [{name: source, points: (x.calibration || []).map(bin => ({
          x: bin.value, y: bin.target, title:
              `says ${exact(bin.value)}, is ${exact(bin.target)} of ` +
              `${bin.num_states} states`}))},
         {name: '', points: [], isAlone: true}],
        {title: source, x: 'value', y: 'target', range: [0, 1],
         isJoined: false, isLine: true}))),
    table([
      ['source', ([n]) => n],
      ['Brier', ([, x]) => interval(x.brier), true],
      ['mean error', ([, x]) => interval(x.mae), true],
      ['AUC of verdicts', ([, x]) => interval(x.auc && x.auc.verdict), true],
    ], sources),
    el('div', {class: 'row'}, el('h2', {}, 'Calibration'),
       csv(`${name}-calibration`, columns, flat)),
    table(columns.map(c => [c, r => exact(r[c]), c !== 'source']), flat)];
};
