// SPDX-License-Identifier: Apache-2.0
// Plots as SVG. A series is {name, points: [{x, y, low, high, to, title}]}.
'use strict';
const COLORS = ['blue', 'red', 'green', 'amber', 'violet', 'teal', 'pink', 'soft'];
const color = i => `var(--${COLORS[i % COLORS.length]})`;

// Some four to seven round numbers of an interval.
function ticks(low, high) {
  const rough = (high - low) / 6 || 1, ten = 10 ** Math.floor(Math.log10(rough));
  const size = ten * [1, 2, 5, 10].find(m => m * ten >= rough * .999);
  const made = [];
  for (let k = Math.ceil(low / size); k * size <= high + size * 1e-9; k++) {
    made.push(k * size);
  }
  return made;
}

const brief = new Intl.NumberFormat('en', {
  notation: 'compact', maximumSignificantDigits: 3});
const tick = x => Math.abs(x) >= 1e4 ? brief.format(x) : number(x, 3);

function scale(values, from, to, isLog) {
  const f = isLog ? Math.log10 : x => x;
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) {
    [low, high] = isLog ? [low / 2, high * 2] :
        [low - Math.abs(low) * .1 - 1e-9, high + Math.abs(high) * .1 + 1e-9];
  }
  const place = x => from + (f(x) - f(low)) / (f(high) - f(low)) * (to - from);
  place.ticks = ticks(low, high);
  if (isLog) {
    place.ticks = [];
    for (let p = Math.floor(f(low)); p <= Math.ceil(f(high)); p++) {
      for (const m of high / low > 50 ? [1] : [1, 2, 5]) {
        const x = m * 10 ** p;
        if (x >= low * .999 && x <= high * 1.001) place.ticks.push(x);
      }
    }
  }
  return place;
}

function plot(series, {title, x, y, width = 430, height = 230, isLog = false,
                       range = null, isJoined = true, isLine = false} = {}) {
  const usable = p => p.x !== null && p.y !== null && (!isLog || p.x > 0);
  const shown = series.map(s => ({...s, points: s.points.filter(usable)}))
      .filter(s => s.points.length);
  if (!shown.length) return el('p', {class: 'soft'}, `${title}: nothing yet`);
  const all = shown.flatMap(s => s.points);
  const left = 52, right = width - 20, top = 24, bottom = height - 34;
  const X = scale(isLine ? range : all.map(p => p.x), left, right, isLog);
  const Y = scale(range || all.flatMap(p => [p.y, p.low ?? p.y, p.high ?? p.y]),
                  bottom, top);
  const parts = [
    svg('text', {x: left, y: 13, 'font-weight': 600}, title),
    ...Y.ticks.map(t => [
      svg('line', {class: 'axis', x1: left, x2: right, y1: Y(t), y2: Y(t)}),
      svg('text', {class: 'tick', x: left - 5, y: Y(t) + 4,
                   'text-anchor': 'end'}, tick(t))]).flat(),
    ...X.ticks.map(t => svg('text', {
      class: 'tick', x: X(t), y: bottom + 15, 'text-anchor': 'middle'},
      tick(t))),
    svg('text', {class: 'tick', x: right, y: height - 4,
                 'text-anchor': 'end'}, x || ''),
    y && svg('text', {class: 'tick', x: right, y: 13, 'text-anchor': 'end'}, y)];
  const names = [];  // where they stand
  if (isLine) {
    parts.push(svg('line', {x1: X(0), y1: Y(0), x2: X(1), y2: Y(1),
                            stroke: 'var(--soft)', 'stroke-dasharray': '3 3'}));
  }
  shown.forEach(s => {
    const i = series.findIndex(t => t.name === s.name), c = color(i);
    if (isJoined && s.points.length > 1 && !s.isAlone) {
      parts.push(svg('polyline', {
        fill: 'none', stroke: c, 'stroke-width': 1.5,
        points: s.points.map(p => `${X(p.x)},${Y(p.y)}`).join(' ')}));
    }
    for (const p of s.points) {
      if (p.low !== null && p.low !== undefined) {
        parts.push(svg('line', {x1: X(p.x), x2: X(p.x), y1: Y(p.low),
                                y2: Y(p.high), stroke: c, opacity: .5}));
      }
      const label = p.title || `${s.name}: ${number(p.x)}, ${number(p.y)}`;
      const dot = svg('circle', {
        class: 'point', cx: X(p.x), cy: Y(p.y), fill: c,
        r: s.isAlone ? 5 : s.points.length > 60 ? 2 : 3},
        svg('title', {}, label));
      if (s.isAlone) {
        const name = s.name.split(':')[0], x = X(p.x) + 8;
        let y = Y(p.y) + 4;
        while (names.some(n => Math.abs(n.y - y) < 12 && n.x < x + 70 &&
                          x < n.x + 70)) y += 4;
        names.push({x, y});
        parts.push(svg('text', {x, y, 'font-weight': 600}, name));
      }
      parts.push(p.to ? svg('a', {href: address(...p.to), 'aria-label': label,
                                  tabindex: s.points.length > 60 ? -1 : 0},
                            dot) : dot);
    }
  });
  return el('figure', {class: 'card'},
      svg('svg', {viewBox: `0 0 ${width} ${height}`, width, height,
                  role: 'group', 'aria-label': title}, ...parts),
      shown.length > 1 || shown[0].isAlone ? el('figcaption', {class: 'row dots'},
          shown.map(s => el('span', {},
              swatch(series.findIndex(t => t.name === s.name)), s.name))) : null);
}

const swatch = i => svg('svg', {
  width: 10, height: 10, viewBox: '0 0 10 10', 'aria-hidden': 'true',
  class: 'swatch'}, svg('circle', {cx: 5, cy: 5, r: 4, fill: color(i)}));

// Bars that can be chosen: counts of values, by bin.
function histogram(values, {title, bins = 10, choose, chosen = null}) {
  const low = Math.min(...values, 0), high = Math.max(...values, 1);
  const size = (high - low) / bins, counts = Array(bins).fill(0);
  const bin = v => Math.min(bins - 1, Math.floor((v - low) / size));
  values.forEach(v => counts[bin(v)]++);
  const width = 430, height = 150, most = Math.max(...counts, 1);
  const bars = counts.map((count, i) => {
    const tall = 84 * count / most, from = low + i * size;
    const label = `${number(from, 3)} to ${number(from + size, 3)}: ${count}`;
    return svg('g', {role: 'button', tabindex: 0, 'aria-label': label,
                     'aria-pressed': String(chosen === i),
                     onclick: () => choose(i, bin),
                     onkeydown: e => e.key === 'Enter' && choose(i, bin)},
        svg('rect', {class: 'bar', x: 10 + i * 41, width: 37, y: 120 - tall,
                     height: Math.max(tall, 1),
                     fill: chosen === i ? 'var(--amber)' : 'var(--blue)'},
            svg('title', {}, label)),
        svg('text', {class: 'tick', x: 28 + i * 41, y: 134,
                     'text-anchor': 'middle'}, number(from, 2)),
        count ? svg('text', {class: 'tick', x: 28 + i * 41, y: 116 - tall,
                             'text-anchor': 'middle'}, count) : null);
  });
  return el('figure', {class: 'card'},
      svg('svg', {viewBox: `0 0 ${width} ${height}`, width, height,
                  role: 'group', 'aria-label': title},
          svg('text', {x: 10, y: 12, 'font-weight': 600}, title), ...bars));
}
