"use strict";
// The graph: which nodes are visible where some modules are closed, and their drawing.

const HEIGHT = 40, DISTANCE = 36, MARGIN = 32, HULL = 9;
const data = JSON.parse(document.getElementById("data").textContent);
const nodes = data.nodes;
const state = { step: 0, chosen: null, closed: new Set(), zoom: 1 };

// Modules with one op only are not worth a box of their own.
const opsOf = new Map();
nodes.forEach((node, i) => {
  if (node.number) for (const name of node.path) opsOf.set(name, [...(opsOf.get(name) || []), i]);
});
for (const node of nodes)
  node.path = node.path.filter((name, k) => {
    const ops = opsOf.get(name);
    return ops && ops.length > 1 && (k === 0 || opsOf.get(node.path[k - 1]).length !== ops.length);
  });
const groups = [...new Set(nodes.flatMap((node) => node.path))];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  return filled(made, attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function shape(lengths) {
  return "(" + lengths.join(", ") + (lengths.length === 1 ? ",)" : ")");
}

// What stands for a node: itself, or the outermost closed module that it is in.
function standIn(i) {
  const closed = nodes[i].path.find((name) => state.closed.has(name));
  return closed === undefined ? "n" + i : "m" + closed;
}

function visible() {
  const boxes = new Map();
  nodes.forEach((node, i) => {
    const key = standIn(i);
    if (!boxes.has(key)) boxes.set(key, key[0] === "n" ? nodeBox(i, key) : groupBox(key.slice(1), key));
    boxes.get(key).members.push(i);
  });
  for (const box of boxes.values())
    for (const i of box.members)
      for (const source of nodes[i].sources) {
        const from = standIn(source);
        if (from !== box.key) box.reads.add(from);
      }
  return sorted(boxes);
}

function nodeBox(i, key) {
  const node = nodes[i];
  const number = node.number ? "#" + node.number : "";
  return box(key, node.kind, node.title, node.below, number);
}

function groupBox(name, key) {
  const result = nodes[opsOf.get(name)[opsOf.get(name).length - 1]];
  const about = data.modules[name];
  return box(key, "group", name + " " + about.class, `${opsOf.get(name).length} ops  ${result.shapes.map(shape).join(", ")}`, "+");
}

function box(key, kind, title, below, number) {
  const width = Math.max(56, 8.8 * title.length + (number ? 14 * number.length + 10 : 0), 6.8 * below.length) + 18;
  return { key, kind, title, below, number, width, members: [], reads: new Set() };
}

// All sources of a box before it: closed modules may read from nodes that were made later than their first one.
function sorted(boxes) {
  const order = [], seen = new Set();
  for (const start of boxes.keys()) {
    const stack = [[start, false]];
    while (stack.length) {
      const [key, ready] = stack.pop();
      if (ready) { order.push(boxes.get(key)); continue; }
      if (seen.has(key)) continue;
      seen.add(key);
      stack.push([key, true]);
      for (const source of boxes.get(key).reads) if (!seen.has(source)) stack.push([source, false]);
    }
  }
  const place = new Map(order.map((box, i) => [box.key, i]));
  order.forEach((box, i) => { box.sources = [...box.reads].map((key) => place.get(key)).filter((k) => k < i); });
  return order;
}

function top(layer) {
  return MARGIN + layer * (HEIGHT + DISTANCE);
}

function draw() {
  const boxes = visible();
  const layout = layered(boxes);
  boxes.forEach((box, i) => { box.x = layout.items[i].x + MARGIN; box.y = top(layout.items[i].layer); });
  const width = Math.max(...boxes.map((box) => box.x + box.width / 2)) + MARGIN;
  const height = top(layout.layers - 1) + HEIGHT + MARGIN;
  state.size = [width, height];
  const edges = svg("g", { class: "edges" });
  boxes.forEach((box, target) => {
    const ends = box.sources.map((source) => [...layout.bends(source, target)].pop() ?? boxes[source].x - MARGIN);
    const order = ends.map((_, k) => k).sort((a, b) => ends[a] - ends[b]);
    box.sources.forEach((source, k) => {
      const port = (order.indexOf(k) - (order.length - 1) / 2) * Math.min(18, (box.width - 16) / Math.max(order.length, 1));
      const xs = [boxes[source].x, ...layout.bends(source, target).map((x) => x + MARGIN), box.x + port];
      const path = arrow(xs, layout.items[source].layer);
      edges.append(svg("path", { d: path, "marker-end": "url(#arrow)", "data-from": boxes[source].key, "data-to": box.key }));
    });
  });
  const arrowhead = svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse", orient: "auto" },
    svg("path", { d: "M0 0.8 L7.5 4 L0 7.2 z", style: "fill: var(--edge); stroke: none" }));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": data.title },
    svg("defs", {}, arrowhead), ...hulls(boxes), edges, ...boxes.map(drawnBox));
  document.getElementById("graph").replaceChildren(picture);
  state.boxes = boxes;
  scale();
  mark();
}

function arrow(xs, layer) {
  let y = top(layer) + HEIGHT, path = `M${xs[0]} ${y}`;
  for (let i = 0; i + 1 < xs.length; i++) {
    const last = i === xs.length - 2, below = y + DISTANCE - (last ? 1.5 : 0), middle = (y + below) / 2;
    path += ` C${xs[i]} ${middle} ${xs[i + 1]} ${middle} ${xs[i + 1]} ${below}`;
    y = below;
    if (!last) { y += HEIGHT; path += ` V${y}`; }
  }
  return path;
}

function drawnBox(box) {
  const left = box.x - box.width / 2;
  const radius = box.kind === "leaf" || box.kind === "constant" ? 20 : 6;
  const label = `${box.kind} ${box.number.replace("+", "")} ${box.title} ${box.below}`;
  return svg("g", { class: "node " + box.kind, id: box.key, tabindex: 0, role: "button", "aria-label": label, onclick: () => press(box), onkeydown: pressed(() => press(box)) },
    svg("rect", { x: left, y: box.y, width: box.width, height: HEIGHT, rx: radius }),
    box.number ? svg("text", { class: "number", x: left + 7, y: box.y + 15 }, box.number) : null,
    svg("text", { class: "title", x: box.x, y: box.y + 17 }, box.title),
    svg("text", { class: "below", x: box.x, y: box.y + 32 }, box.below));
}

// The frames of open modules, a label on each that closes it.
function hulls(boxes) {
  const found = [];
  for (const name of groups) {
    const inside = boxes.filter((box) => box.members.some((i) => nodes[i].path.includes(name)) && box.key !== "m" + name);
    if (state.closed.has(name) || !inside.length) continue;
    const depth = Math.max(...nodes.map((node) => node.path.length - node.path.indexOf(name)).filter((_, i) => nodes[i].path.includes(name)));
    const room = HULL + 3 * depth;
    const left = Math.min(...inside.map((box) => box.x - box.width / 2)) - room, right = Math.max(...inside.map((box) => box.x + box.width / 2)) + room;
    const upper = Math.min(...inside.map((box) => box.y)) - room, lower = Math.max(...inside.map((box) => box.y)) + HEIGHT + room;
    const text = `− ${name} ${data.modules[name].class}`, width = 7 * text.length + 12, start = depth > 1 ? Math.max(left, right - width) : left;  // inner and outer labels apart
    const close = () => { state.closed.add(name); choose("m" + name); draw(); };
    found.push([depth, svg("g", { class: "hull" },
      svg("rect", { x: left, y: upper, width: right - left, height: lower - upper, rx: 10 }),
      svg("g", { class: "label", tabindex: 0, role: "button", "aria-label": `close ${name}`, "data-module": name, onclick: close, onkeydown: pressed(close) },
        svg("rect", { x: start, y: upper - 9, width, height: 18, rx: 9 }),
        svg("text", { x: start + 7, y: upper + 4 }, text)))]);
  }
  return found.sort((a, b) => b[0] - a[0]).map(([, drawn]) => drawn);
}

function pressed(action) {
  return (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    action();
  };
}

function press(box) {
  if (box.kind === "group" && state.chosen === box.key) open(box.key.slice(1));
  else choose(box.key);
}

function open(name) {
  state.closed.delete(name);
  choose("m" + name);
  draw();
}

function scale() {
  const picture = document.querySelector("#graph svg");
  picture.setAttribute("width", state.size[0] * state.zoom);
  picture.setAttribute("height", state.size[1] * state.zoom);
}

function fit(least = 0.25) {
  const room = document.getElementById("graph").clientWidth - 26;
  state.zoom = Math.max(least, Math.min(1.15, room / state.size[0]));
  scale();
}

// As wide as there is room, but not so small that nobody can read it.
const fitReadably = () => fit(0.75);

// Classes for the step at work, what it passes on, and what is chosen.
function mark() {
  const step = data.steps[state.step - 1];
  const now = step ? standIn(step.node) : null;
  const flows = new Set(step ? step.passed.map((part) => standIn(part.to)) : []);
  const done = new Set(data.steps.slice(0, state.step).map((step) => step.node));
  for (const box of state.boxes) {
    const drawn = document.getElementById(box.key), ops = box.members.filter((i) => nodes[i].number);
    drawn.classList.toggle("now", box.key === now);
    drawn.classList.toggle("chosen", box.key === state.chosen);
    drawn.classList.toggle("waits", state.step > 0 && ops.length > 0 && !ops.some((i) => done.has(i)));
    if (box.key === now) drawn.setAttribute("aria-current", "step"); else drawn.removeAttribute("aria-current");
  }
  for (const path of document.querySelectorAll(".edges path")) {
    path.classList.toggle("flows", path.dataset.to === now && flows.has(path.dataset.from));
    path.classList.toggle("chosen", path.dataset.to === state.chosen || path.dataset.from === state.chosen);
  }
}
