// SPDX-License-Identifier: Apache-2.0
// Searches of one problem side by side, with a slider over their expansions.
'use strict';
const COLUMN = 24, ROW = 22, LETTER = 6.3;  // pixels

PAGES.search = ([name, place, time]) => {
  const s = stage(name);
  if (!s || !s.searches) return nothing('There is no such stage with searches.');
  if (place === undefined) return searchList(s);
  const index = Number(place.slice(1)), problem = s.searches[index];
  if (!problem) return nothing('There is no such problem.');
  neighbours(['search', name], s.searches.map((_, i) => 'p' + i), 'p' + index);
  const found = problem.searches;
  const last = Math.max(...found.map(x => Math.max(...x.order) + 1));
  const views = found.map(searchView);
  const clock = el('output', {for: 'time'});
  const slider = el('input', {
    type: 'range', id: 'time', min: 0, max: last, step: 1,
    'aria-label': 'Expansions'});
  const move = (t, isShown = true) => {
    slider.value = t;
    clock.replaceChildren(`${slider.value} of ${last} expansions`);
    views.forEach(v => v.at(Number(slider.value)));
    if (isShown) {
      history.replaceState(null, '', address(
          'search', name, 'p' + index, 't' + slider.value));
    }
  };
  slider.addEventListener('input', () => move(slider.value));
  KEYS['['] = () => move(Math.max(0, Number(slider.value) - 1));
  KEYS[']'] = () => move(Math.min(last, Number(slider.value) + 1));
  const asked = /^t(\d+)$/.exec(time || '');
  move(asked ? Number(asked[1]) : last, false);
  return [
    el('h1', {}, problem.question),
    el('p', {class: 'soft'}, `problem ${problem.problem} of ${problem.split}; ` +
       'numbers in nodes: when they were expanded'),
    el('div', {class: 'row'},
       el('button', {type: 'button', onclick: KEYS['['],
                     'aria-label': 'One expansion back'}, '◀'),
       slider,
       el('button', {type: 'button', onclick: KEYS[']'],
                     'aria-label': 'One expansion on'}, '▶'), clock),
    found.length > 1 && el(
        'div', {class: 'row', role: 'group', 'aria-label': 'Searches'},
        found.map((x, i) => toggle(`${x.solver} of ${x.policy}`, true, isOn => {
          views[i].element.hidden = !isOn;
        }))),
    el('div', {class: found.length > 1 && 'beside'},
       views.map(v => v.element))];
};

function searchList(s) {
  const named = x => `${x.solver} of ${x.policy}`;
  const names = [...new Set(s.searches.flatMap(p => p.searches.map(named)))];
  KEYS.ArrowDown = address('search', s.name, 'p0');
  return [el('h1', {}, `Searches of ${s.name}`), table([
    ['problem', p => link(['search', s.name, 'p' + s.searches.indexOf(p)],
                          p.question.slice(0, 160))],
    ...names.map(n => [n, p => {
      const x = p.searches.find(x => named(x) === n);
      return x ? [verdict(x.is_solved ? 1 : 0), ' ', number(x.num_tokens),
                  ' tokens'] : '-';
    }])], s.searches)];
}

// Born at 0: the root. A node is there once its parent has been expanded.
const birth = (x, i) => x.parent[i] < 0 ? 0 : x.order[x.parent[i]] + 1;

function searchView(x) {
  const about = el('dl'), counter = el('span', {class: 'soft'});
  const told = el('span'), rest = el('span', {class: 'untold'});
  const tell = i => about.replaceChildren(...[
    ['node', i], ['step', x.step[i] || '(the question)'],
    ['state', x.state[i]], ['verdict', verdictOf(x, i)],
    ['expanded', x.order[i] < 0 ? 'never' : `as number ${x.order[i] + 1}`],
    ['visits', exact(x.visits[i])], ['value', exact(x.value[i])],
    ['log-probability', exact(x.log_prob[i])],
    ['prior', exact(prior(x, i))],
    ['tokens', x.tokens[i]]].flatMap(
        ([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
  const {element, nodes} = drawTree(x, tell);
  tell(0);
  const at = t => {
    let cursor = 0, tokens = 0, there = 0;
    nodes.forEach((node, i) => {
      const isBorn = birth(x, i) <= t;
      node.classList.toggle('unborn', !isBorn);
      if (!isBorn) return;
      there++;
      tokens += x.tokens[i];
      cursor = Math.max(cursor, x.told[i]);
    });
    const done = x.order.filter(o => o >= 0 && o < t).length;
    const isOver = done === x.order.filter(o => o >= 0).length;
    const end = isOver ? x.text.length : cursor;
    told.replaceChildren(show(x.text.slice(0, end)));
    rest.replaceChildren(show(x.text.slice(end)));
    counter.replaceChildren(`${done} expansions, ${there - 1} nodes` +
        (tokens ? ` of ${tokens} tokens` : ''));
  };
  return {at, element: el('section', {class: 'card', 'data-solver': x.solver},
      el('div', {class: 'row'}, el('strong', {}, `${x.solver} of ${x.policy}`),
         verdict(x.is_solved ? 1 : 0),
         x.num_tokens !== null && `${number(x.num_tokens)} tokens drawn`,
         counter),
      el('div', {class: 'split'}, el('div', {class: 'wide'}, element), about),
      el('div', {class: 'text', 'aria-label': 'The search as text'}, told,
         rest))};
}

// What a node's log-probability is among its siblings, as rules of MCTS see it.
function prior(x, i) {
  if (!i || x.log_prob[i] === null) return null;
  const most = Math.max(...siblings(x, i).map(j => x.log_prob[j]));
  const share = j => Math.exp(x.log_prob[j] - most);
  return share(i) / siblings(x, i).reduce((sum, j) => sum + share(j), 0);
}

const siblings = (x, i) => x.parent.map((p, j) => j).filter(
    j => x.parent[j] === x.parent[i]);

function verdictOf(x, i) {
  if (x.is_correct[i]) return 'right';
  if (x.is_terminal[i]) return 'dead end or wrong';
  return x.order[i] < 0 ? 'open' : 'expanded';
}

const label = (x, i) => {
  const state = x.state[i] && !x.is_terminal[i] && x.state[i].length < 15 ?
      ` {${x.state[i]}}` : '';
  const text = show((x.step[i] + state).replace(/\s+/g, ' ').trim());
  return text.length > 44 ? text.slice(0, 43) + '…' : text;
};

// The root on the left; leaves take a row each, parents the middle.
function layout(x) {
  const depth = [], children = x.parent.map(() => []), row = [];
  x.parent.forEach((p, i) => {
    depth[i] = p < 0 ? 0 : depth[p] + 1;
    if (p >= 0) children[p].push(i);
  });
  let next = 0;
  const pending = [0], order = [];
  while (pending.length) {
    const i = pending.pop();
    order.push(i);
    if (!children[i].length) row[i] = next++;
    pending.push(...[...children[i]].reverse());
  }
  for (const i of order.reverse()) {
    const mine = children[i];
    if (mine.length) row[i] = (row[mine[0]] + row[mine.at(-1)]) / 2;
  }
  const wide = [];
  depth.forEach((d, i) => {
    wide[d] = Math.max(wide[d] || 0, label(x, i).length * LETTER + 20);
  });
  const left = wide.map((_, d) => 14 + wide.slice(0, d).reduce(
      (a, w) => a + w + COLUMN, 0));
  return {
    at: i => [left[depth[i]], 14 + row[i] * ROW], wide: d => wide[d], depth,
    width: left.at(-1) + wide.at(-1) + 10, height: 20 + next * ROW};
}

function drawTree(x, tell) {
  const place = layout(x), solution = new Set(x.solution);
  const nodes = x.parent.map((p, i) => {
    const [cx, cy] = place.at(i), isOn = solution.has(i);
    const c = x.is_correct[i] ? 'var(--green)' :
        x.is_terminal[i] ? 'var(--red)' : 'var(--blue)';
    const parts = [];
    if (p >= 0) {
      const [px, py] = place.at(p), turn = px + place.wide(place.depth[p]) + 4;
      const from = px + 14 + label(x, p).length * LETTER;
      parts.push(svg('polyline', {
        fill: 'none', stroke: isOn ? 'var(--green)' : 'var(--line)',
        'stroke-width': isOn ? 2.5 : 1,
        points: `${Math.min(from, turn)},${py} ${turn},${py} ${turn},${cy} ` +
            `${cx - 7},${cy}`}));
    }
    parts.push(svg('circle', {
      cx, cy, r: x.order[i] < 0 ? 4 : 8, stroke: c, 'stroke-width': 1.5,
      fill: x.is_correct[i] ? c : 'var(--paper)'}));
    if (x.order[i] >= 0) {
      parts.push(svg('text', {x: cx, y: cy + 3, 'text-anchor': 'middle',
                              'font-size': 8}, x.order[i] + 1));
    }
    parts.push(svg('text', {
      x: cx + 12, y: cy + 4, 'font-family': 'monospace', 'font-size': 10.5,
      'font-weight': isOn ? 700 : 400}, label(x, i)));
    const name = `node ${i}: ${label(x, i) || 'root'}, ${verdictOf(x, i)}`;
    return svg('g', {
      class: 'node', 'data-node': i, role: 'button', tabindex: 0,
      'aria-label': name,
      onclick: () => tell(i), onfocus: () => tell(i)},
      svg('title', {}, name), ...parts);
  });
  return {nodes, element: svg('svg', {
    viewBox: `0 0 ${place.width} ${place.height}`, width: place.width,
    height: place.height, class: 'tree', role: 'group',
    'aria-label': 'Search tree'},
    // What is drawn last lies above.
    ...nodes.filter((_, i) => !solution.has(i)),
    ...nodes.filter((_, i) => solution.has(i)))};
}
