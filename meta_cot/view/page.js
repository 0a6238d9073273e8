// SPDX-License-Identifier: Apache-2.0
// Elements, addresses, keys. All text of a run goes through `show` and into
// text nodes; nothing is ever read as markup.
'use strict';
const DATA = JSON.parse(document.getElementById('data').textContent);
const PAGES = {};  // first word of an address -> (rest of it) -> elements
const SVG = 'http://www.w3.org/2000/svg';

// Letters that would not be seen, or would move others, by their numbers.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

function show(text) {
  return String(text).replace(
      UNSEEN, c => '⟨' + c.charCodeAt(0).toString(16).padStart(4, '0') + '⟩');
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'color') element.style.backgroundColor = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : show(child));
  }
  return element;
}

const el = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

// An address is words between slashes; a word may hold anything.
const address = (...words) =>
    '#' + words.flatMap(w => String(w).split('/')).map(encodeURIComponent)
        .join('/');
const link = (words, ...children) =>
    el('a', {href: address(...words)}, ...children);

function number(x, digits = 4) {
  if (x === null || x === undefined) return '-';
  if (Number.isInteger(x)) return x.toLocaleString('en');
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-3) return x.toExponential(digits - 1);
  return String(Number(x.toPrecision(size >= 1000 ? 6 : digits)));
}
const percent = x => x === null || x === undefined ? '-' :
    (100 * x).toFixed(1);
const mean = xs => xs.length ? xs.reduce((a, b) => a + b, 0) / xs.length : 0;
const exact = x => x === null || x === undefined ? '' : String(x);

// Columns are [title, row -> cell, is a number].
function table(columns, rows) {
  return el('div', {class: 'wide'}, el('table', {},
      el('thead', {}, el('tr', {}, columns.map(
          c => el('th', {scope: 'col', class: c[2] && 'n'}, c[0])))),
      el('tbody', {}, rows.map(row => el('tr', {}, columns.map(
          c => el('td', {class: c[2] && 'n'}, c[1](row))))))));
}

function csv(name, columns, rows) {
  const cell = x => {
    const text = exact(x);
    // A cell that begins so would be run by some programs.
    const safe = /^[=+\-@\t\r]/.test(text) && isNaN(text) ? "'" + text : text;
    return /[",\r\n]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe;
  };
  const lines = [columns, ...rows.map(row => columns.map(c => row[c]))];
  const text = lines.map(line => line.map(cell).join(',')).join('\r\n') + '\r\n';
  const save = () => {
    const url = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
    const a = el('a', {href: url, download: name + '.csv'});
    a.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };
  return el('button', {type: 'button', class: 'csv', onclick: save}, 'CSV');
}

function toggle(name, isOn, change) {
  const button = el('button', {
    type: 'button', 'aria-pressed': String(isOn), onclick: () => {
      const now = button.getAttribute('aria-pressed') !== 'true';
      button.setAttribute('aria-pressed', String(now));
      change(now);
    }}, name);
  return button;
}

const words = () => location.hash.slice(1).split('/').filter(Boolean).map(
    word => { try { return decodeURIComponent(word); } catch { return word; } });
const stage = name => DATA.stages.find(s => s.name === name);

// What a stage must have left for a page of it.
const FIELDS = {rl: 'rl', search: 'searches', evaluate: 'evaluation',
                values: 'quality', curves: 'curves'};
const has = (s, page) => s[FIELDS[page]] && s[FIELDS[page]].length !== 0;
const having = page => DATA.stages.filter(s => has(s, page)).map(
    s => [page, s.name]);

// The stages that have a page, where an address names none.
const stagesOf = page => [
  el('h1', {}, page), el('ul', {}, having(page).map(
      to => el('li', {}, link(to, to[1]))))];

let KEYS = {};  // of the page that is shown: key -> address or function

function go() {
  const [first, ...rest] = words();
  const page = Object.hasOwn(PAGES, first || '') ? first : 'overview';
  KEYS = {};
  const main = document.getElementById('main');
  const made = page !== 'overview' && !rest.length ? stagesOf(page) :
      PAGES[page](rest);
  main.replaceChildren(...[made].flat(2).filter(Boolean));
  document.getElementById('crumbs').replaceChildren(
      ...words().flatMap((word, i, all) => [
        i ? ' / ' : '', link(all.slice(0, i + 1), word)]));
  for (const a of document.querySelectorAll('#nav a')) {
    const mine = a.getAttribute('href').slice(1).split('/');
    const isHere = mine[0] === page;
    if (isHere) a.setAttribute('aria-current', 'page');
    else a.removeAttribute('aria-current');
  }
  document.title = (words().join('/') || 'overview') + ' - ' + show(DATA.name);
  scrollTo(0, 0);
}

const nothing = text => [el('p', {class: 'soft'}, text)];

function keys(event) {
  const at = event.target;
  const isTyping = at.matches && at.matches('input, select, textarea');
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape' && isTyping) at.blur();
  if (isTyping) return;
  if (event.key === '/') {
    event.preventDefault();
    document.getElementById('find').focus();
    return;
  }
  const action = KEYS[event.key];
  if (action === undefined) return;
  event.preventDefault();
  if (typeof action === 'function') action();
  else location.hash = action;
}

// Arrow keys among neighbours: items are the last words of addresses.
function neighbours(before, items, here, into) {
  const i = items.indexOf(here);
  if (i > 0) KEYS.ArrowLeft = address(...before, items[i - 1]);
  if (i < items.length - 1) KEYS.ArrowRight = address(...before, items[i + 1]);
  KEYS.ArrowUp = address(...before);
  if (into) KEYS.ArrowDown = address(...before, here, into);
}

function find(event) {
  const wanted = event.target.value.trim().toLowerCase();
  const found = wanted.length < 2 ? [] : questions().filter(
      q => q.words.toLowerCase().includes(wanted)).slice(0, 30);
  document.getElementById('found').replaceChildren(
      ...found.map(q => link(q.to, q.title)),
      ...(wanted.length >= 2 && !found.length ? ['nothing found'] : []));
}

// Every question that some page shows, with what it is found by.
function questions() {
  const found = [];
  for (const s of DATA.stages) {
    for (const run of s.rl || []) for (const r of run.rows) {
      found.push({
        words: [r.text, r.problem, ...r.answers].join(' '),
        to: ['rl', s.name, run.run, 'it' + r.step, 'q' + r.question,
             's' + r.sample],
        title: `${r.text} - ${s.name}, ${run.run}, iteration ${r.step}, ` +
            `sample ${r.sample}`});
    }
    (s.searches || []).forEach((p, i) => found.push({
      words: p.question + ' ' + p.problem, to: ['search', s.name, 'p' + i],
      title: `${p.question} - ${s.name}, searches`}));
  }
  return found;
}

function start() {
  const nav = Object.keys(FIELDS).filter(page => having(page).length).map(
      page => link(having(page).length > 1 ? [page] : having(page)[0], page));
  document.getElementById('nav').replaceChildren(
      link(['overview'], 'overview'), ...nav);
  document.getElementById('find').addEventListener('input', find);
  document.getElementById('theme').addEventListener('click', () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === 'dark' :
        matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = isDark ? 'light' : 'dark';
  });
  addEventListener('hashchange', () => {
    document.getElementById('found').replaceChildren();
    go();
  });
  addEventListener('keydown', keys);
  go();
}
document.addEventListener('DOMContentLoaded', start);
