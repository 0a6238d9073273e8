// SPDX-License-Identifier: Apache-2.0
// What ran, and the curves of every stage.
'use strict';
PAGES.overview = () => [
  el('h1', {}, show(DATA.name)),
  table([
    ['stage', s => el('strong', {}, s.name)], ['kind', s => s.kind],
    ['state', s => el('span', {class: s.state === 'done' ? 'good' : 'soft'},
                      s.state)],
    ['time', s => duration(s), true],
    ['on', s => s.machines.map(m => el('div', {}, machine(m)))],
    ['settings that differ', s => changed(s).map(([name, value, usual]) =>
        el('div', {}, name, ' = ', el('span', {class: 'changed'}, value),
           el('span', {class: 'soft'}, ` (${usual ?? 'no default'})`)))],
    ['look at', s => places(s).map(to => [link(to, to[0]), ' '])],
  ], DATA.stages),
  ...DATA.stages.filter(s => s.head).map(s => [
    el('h2', {}, 'Result of ', s.name), el('pre', {class: 'head'}, s.head)]),
  el('h2', {}, 'Settings'),
  settings('shared by all stages', DATA.shared),
  ...DATA.stages.map(s => settings(s.name, s.settings)),
].flat();

const machine = m => `${m.num_devices} x ${m.device} (${m.platform}), ` +
    `${m.num_hosts} host${m.num_hosts === 1 ? '' : 's'}, jax ${m.jax}`;

const changed = s => s.settings.filter(
    ([name, value, usual]) => value !== usual && name !== 'kind' && usual !== null);

const places = s => Object.keys(FIELDS).filter(page => has(s, page)).map(
    page => [page, s.name]);

function duration(s) {
  const seconds = (s.curves || []).map(
      c => c.summary && c.summary.seconds && c.summary.seconds.total)
      .filter(x => x);
  if (!seconds.length) return '';
  const total = seconds.reduce((a, b) => a + b, 0);
  return total < 90 ? `${total.toFixed(0)} s` : `${(total / 60).toFixed(1)} min`;
}

const settings = (name, rows) => el('details', {},
    el('summary', {}, `${name}: ${rows.length} settings`),
    table([
      ['setting', r => r[0]],
      ['value', r => el('span', {
        class: r[2] !== null && r[1] !== r[2] && 'changed'}, r[1])],
      ['default', r => r[2] ?? '']], rows));

// Which columns come first; the others stand below, folded.
const FIRST = [
  'loss', 'eval_loss', 'accuracy', 'eval_accuracy', 'success',
  'validation/success', 'solved_in_any', 'entropy', 'kl_k3',
  'groups_without_gradient', 'truncated', 'tokens_per_trajectory', 'grad_norm',
  'gap_max', 'learning_rate'];

PAGES.curves = ([name, ...rest]) => {
  const s = stage(name);
  if (!s || !s.curves) return nothing('There is no such stage with curves.');
  const at = /^at(\d+)$/.exec(rest.at(-1) || '');
  const run = (at ? rest.slice(0, -1) : rest).join('/');
  const mine = s.curves.filter(c => !run || c.run === run);
  if (at && mine.length) return metrics(s, mine[0], Number(at[1]));
  const columns = [...new Set(mine.flatMap(c => c.rows.flatMap(Object.keys)))]
      .filter(c => c !== 'step');
  const episodes = columns.filter(c => /^episode_\d+\/success$/.test(c));
  const main = [...FIRST.filter(c => columns.includes(c)), ...episodes];
  const others = columns.filter(c => !main.includes(c)).sort();
  const below = el('div', {class: 'grid'});
  return [
    el('h1', {}, `Curves of ${name}`),
    el('div', {class: 'row'}, s.curves.map(
        c => link(['curves', name, c.run], c.run || name))),
    el('div', {class: 'grid'}, main.map(c => curve(s, mine, c))),
    el('details', {ontoggle: e => {
      if (e.target.open && !below.childNodes.length) {
        below.append(...others.map(c => curve(s, mine, c)));
      }
    }}, el('summary', {}, `${others.length} more columns`), below)];
};

function curve(s, runs, column) {
  return plot(runs.map(c => ({
    name: c.run || s.name, points: c.rows.filter(r => column in r).map(r => ({
      x: r.step, y: r[column], to: target(s, c.run, r.step),
      title: `${column} of ${c.run}, ${r.step}: ${exact(r[column])}`}))})),
  {title: column, x: s.kind === 'rl' ? 'iteration' : 'step'});
}

// Where a point leads: to what was kept of it, else to its row.
function target(s, run, step) {
  const there = (s.rl || []).find(r => r.run === run);
  return there && there.rows.some(r => r.step === step) ?
      ['rl', s.name, run, 'it' + step] : ['curves', s.name, run, 'at' + step];
}

function metrics(s, run, step) {
  const row = run.rows.find(r => r.step === step);
  if (!row) return nothing('There is no such row.');
  neighbours(['curves', s.name, run.run], run.rows.map(r => 'at' + r.step),
             'at' + step);
  return [el('h1', {}, `${s.name}, ${run.run}: row of step ${step}`),
          table([['column', r => r[0]], ['value', r => exact(r[1]), true]],
                Object.entries(row))];
}
