"use strict";
// The panel, the steps and the keys.

function choose(key, quiet) {
  state.chosen = key;
  showPanel();
  if (!quiet) mark();
}

function goTo(step) {
  state.step = Math.max(0, Math.min(data.steps.length, step));
  const at = data.steps[state.step - 1];
  state.chosen = at ? "n" + at.node : null;
  document.getElementById("step").textContent = `step ${state.step} of ${data.steps.length}`;
  for (const [id, off] of [["first", 0], ["back", 0], ["next", data.steps.length], ["last", data.steps.length]])
    document.getElementById(id).disabled = state.step === off;
  if (state.boxes) {
    mark();
    if (at) bringIntoView(document.getElementById(standIn(at.node)));
  }
  showPanel();
}

// Draws the graph anew, with what is at work, or chosen, in view.
function drawAnew() {
  draw();
  fitReadably();
  const at = data.steps[state.step - 1];
  bringIntoView(document.getElementById(at ? standIn(at.node) : state.chosen));
}

// Scrolls the graph, not the page, which on a telephone would jump.
function bringIntoView(drawn) {
  if (!drawn) return;
  const graph = document.getElementById("graph"), room = graph.getBoundingClientRect(), place = drawn.getBoundingClientRect();
  if (place.top < room.top + 20) graph.scrollTop += place.top - room.top - room.height / 3;
  if (place.bottom > room.bottom - 20) graph.scrollTop += place.bottom - room.bottom + room.height / 3;
  if (place.left < room.left) graph.scrollLeft += place.left - room.left - 40;
  if (place.right > room.right) graph.scrollLeft += place.right - room.right + 40;
}

function showPanel() {
  const key = state.chosen;
  const parts = key === null ? beginning() : key[0] === "m" ? aboutModule(key.slice(1)) : aboutNode(Number(key.slice(1)));
  document.getElementById("panel").replaceChildren(...parts.flat(9).filter((part) => part));
}

const paragraph = (text, kind) => element("p", { class: kind }, text);
const heading = (text) => element("h3", {}, text);
const bytes = (n) => (n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`);

function beginning() {
  const words = "Backward begins at the green node and goes against the arrows, from op to op. Yellow are the leaves, which gradients are wanted for; grey is what needs none; violet are closed modules.";
  const keys = [["→ ←", "a step of backward, and back"], ["Home End", "before the first step, after the last"], ["Tab Enter", "to a node, and choose it; again opens a module"], ["e c", "open all modules, close all"], ["+ − 0", "larger, smaller, fit the width"]];
  return [
    element("h2", {}, data.title),
    paragraph(data.about + (data.result ? `, result ${data.result}` : ""), "muted"),
    paragraph(words),
    element("h3", { class: "keys" }, "Keys"),
    element("table", { class: "keys" }, ...keys.map(([key, does]) => element("tr", {}, element("td", {}, element("code", {}, key)), element("td", {}, does)))),
    data.recorded ? null : paragraph("Some ops were not computed inside mg.inspect.record(): their values, checks, modules and forward kernels are not known.", "muted small"),
    data.limits ? [heading("Limits"), paragraph(`${(data.limits.operations / 1e9).toFixed(0)} GFLOP/s in a large product, ${(data.limits.bytes / 1e9).toFixed(1)} GB/s in a large copy. A share of the limit is the time that a kernel's operations or bytes would take at these rates, over the time it took; on arrays that stay in caches it can be more than the whole.`, "small muted")] : null,
    slowest(),
  ];
}

function callsOf(i) {
  return [...(nodes[i].forward || []), ...(nodes[i].backward || [])];
}

function slowest() {
  const timed = nodes.map((node, i) => [i, callsOf(i).reduce((sum, call) => sum + (call.microseconds || 0), 0)]).filter(([, time]) => time);
  if (!timed.length) return null;
  const total = timed.reduce((sum, [, time]) => sum + time, 0);
  const longest = timed.sort((a, b) => b[1] - a[1]).slice(0, 8);
  return [heading("Where the time goes"), element("table", {}, ...longest.map(([i, time]) => element("tr", {},
    element("td", {}, linkTo(i)), element("td", { class: "number" }, microseconds(time)), element("td", { class: "number" }, `${(100 * time / total).toFixed(1)} %`))))];
}

function aboutModule(name) {
  const ops = opsOf.get(name), about = data.modules[name];
  const time = ops.flatMap(callsOf).reduce((sum, call) => sum + (call.microseconds || 0), 0);
  const closed = state.closed.has(name);
  const toggle = () => (closed ? open(name) : (state.closed.add(name), draw(), showPanel()));
  return [
    element("h2", {}, `${name} ${about.class}`),
    paragraph(`${ops.length} ops, ${about.parameters.toLocaleString("en")} parameters` + (time ? `, ${microseconds(time)} in the plan` : ""), "muted"),
    element("button", { onclick: toggle }, closed ? "open" : "close"),
    heading("Ops"),
    element("div", { class: "links" }, ...ops.map(linkTo)),
  ];
}

function aboutNode(i) {
  const node = nodes[i];
  const arrived = node.gradient ?? [];
  return [
    element("h2", {}, (node.number ? `#${node.number} ` : "") + node.title),
    paragraph(`${node.kind === "constant" ? "needs no gradient, " : ""}${node.kind === "leaf" ? "leaf, " : ""}${node.shapes.map(shape).join(", ")} ${node.dtype}` + (node.kept !== undefined ? `, keeps ${bytes(node.kept)} for backward` : ""), "muted"),
    node.formula ? [heading("Formula"), ...node.formula.split(";").map((part) => element("span", { class: "formula" }, part.trim()))] : null,
    node.line ? [heading("Line"), paragraph(node.line, "small muted"), element("code", {}, node.code)] : null,
    node.path.length ? [heading("Module"), element("div", { class: "links" }, ...node.path.map(moduleLink))] : null,
    node.sources.length ? [heading("Reads"), element("div", { class: "links" }, ...node.sources.map(linkTo))] : null,
    readersOf(i),
    heading("Value"), node.value.length ? node.value.map(picture) : paragraph(node.number ? "not recorded: compute the loss inside mg.inspect.record()" : "unknown", "muted small"),
    arrived.length ? [heading(node.number ? `Gradient that arrives, step ${node.step}` : "Gradient"), ...arrived.map(picture)] : null,
    passes(node),
    kernels(node),
    codeOf(node),
  ];
}

function readersOf(i) {
  const found = nodes.map((_, k) => k).filter((k) => nodes[k].sources.includes(i));
  return found.length ? [heading("Is read by"), element("div", { class: "links" }, ...found.map(linkTo))] : null;
}

function linkTo(i) {
  const node = nodes[i];
  return element("button", { class: "link", onclick: () => { reveal(i); choose("n" + i); bringIntoView(document.getElementById("n" + i)); } }, (node.number ? `#${node.number} ` : "") + (node.title === "constant" ? node.below : node.title));
}

function moduleLink(name) {
  return element("button", { class: "link", onclick: () => choose("m" + name) }, `${name} ${data.modules[name].class}`);
}

function reveal(i) {
  const closed = nodes[i].path.filter((name) => state.closed.has(name));
  for (const name of closed) state.closed.delete(name);
  if (closed.length) draw();
}

function passes(node) {
  if (!node.step) return null;
  return [heading("Passes on"), ...data.steps[node.step - 1].passed.map((part) => element("div", { class: "box" },
    element("div", { class: "links" }, "to ", linkTo(part.to), part.part > 1 ? `added to ${part.part - 1} before` : ""),
    picture(part.map), part.check ? checked(part.check) : paragraph("not checked: compute the loss inside mg.inspect.record()", "muted small")))];
}

function checked(check) {
  return element("p", { class: "small" }, element("span", { class: check.ok ? "ok" : "differs" }, check.ok ? "✓ checked" : "✗ differs"),
    ` dx·v = ${check.analytic}, finite differences ${check.numeric}, relative error ${check.error} (allowed ${check.tolerance})`);
}

function microseconds(time) {
  return time < 1000 ? `${time.toFixed(1)} µs` : `${(time / 1000).toFixed(2)} ms`;
}

// A dotted name that may be broken after a dot or an underscore, where there is little room.
function breakable(name) {
  return name.split(/(?<=[._])/).flatMap((part) => [part, element("wbr")]);
}

function kernels(node) {
  const calls = [["forward", node.forward || []], ["backward", node.backward || []]].flatMap(([part, list]) => list.map((call) => [part, call]));
  if (!calls.length) return null;
  const row = ([part, call]) => element("tr", {},
    element("td", {}, part), element("td", {}, element("code", {}, ...breakable(call.kernel)), element("div", { class: "small muted" }, call.shapes)),
    element("td", { class: "number" }, bytes(call.bytes)), element("td", { class: "number" }, call.microseconds === null ? "-" : microseconds(call.microseconds)),
    element("td", { class: "number" }, call.share === null ? "-" : `${(100 * call.share).toFixed(0)} %`));
  const head = element("tr", {}, ...["", "kernel", "bytes", "time", "of limit"].map((name, i) => element("th", { class: i > 1 ? "number" : "" }, name)));
  const untimed = calls.some(([, call]) => call.microseconds === null);
  const why = !data.planned ? paragraph("Times come with plan=step.plan.", "small muted")
    : untimed ? paragraph("A dash: the plan does not run this by itself; a normalization, say, does the activation after it, or all branches are normalized in one kernel.", "small muted") : null;
  return [heading("Kernels"), element("div", { class: "scroll" }, element("table", {}, head, ...calls.map(row))), why,
    ...[...new Set(calls.map(([, call]) => call.kernel))].map((kernel) => sources(kernel, data.kernels[kernel] || {}))];
}

function sources(kernel, found) {
  const titles = { reference: "specification, in NumPy", cpu: "CPU, Numba", cuda: "CUDA, numba.cuda" };
  return Object.keys(titles).filter((device) => found[device]).map((device) => code(`${kernel}: ${titles[device]}`, found[device]));
}

function codeOf(node) {
  const source = data.ops[node.class];
  return source ? [heading("Op"), code(`class ${node.class}`, source)] : null;
}

function code(title, source) {
  return element("details", {}, element("summary", {}, title, " ", element("span", { class: "muted small" }, `${source.file}:${source.line}`)), element("pre", { tabindex: 0 }, source.text));
}

// Heat maps: one byte a cell; 0 a gap, 1 not finite, 128 zero.
function picture(number) {
  const map = data.maps[number];
  if (!map.rows || !map.columns) return paragraph("empty", "muted");
  const across = Math.max(3, Math.min(22, Math.floor(300 / Math.max(map.columns, map.rows))));
  const canvas = element("canvas", { width: map.columns, height: map.rows, role: "img", "aria-label": `heat map: ${map.described}`, style: `width: ${map.columns * across}px; height: ${map.rows * across}px` });
  const cells = Uint8Array.from(atob(map.cells), (letter) => letter.charCodeAt(0));
  canvas.cells = cells;
  paint(canvas, cells, map);
  const under = element("div", { class: "small muted under" }, map.about || "");
  canvas.addEventListener("pointermove", (event) => {
    const place = canvas.getBoundingClientRect();
    const column = Math.min(map.columns - 1, Math.floor((event.clientX - place.left) / place.width * map.columns));
    const row = Math.min(map.rows - 1, Math.floor((event.clientY - place.top) / place.height * map.rows));
    under.textContent = told(map, cells[row * map.columns + column], row, column);
  });
  canvas.addEventListener("pointerleave", () => { under.textContent = map.about || ""; });
  const legend = element("div", { class: "legend" }, format(-map.scale), element("span", { class: "ramp" }), format(map.scale));
  const numbers = map.numbers.length ? element("code", {}, map.numbers.join("  ")) : null;
  return element("div", {}, map.rows * map.columns > 1 ? [canvas, legend, under] .reduce((all, part) => (all.append(part), all), element("div", {})) : null,
    paragraph(`${shape(map.shape)}  ${map.described}`, "small muted"), numbers);
}

const format = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());

function told(map, byte, row, column) {
  if (byte === 0) return map.about;
  const value = byte === 1 ? "not finite" : `about ${format((byte - 128) / 126 * map.scale)}`;
  if (map.about) return value;
  const range = (i, cells, length) => {
    const from = Math.floor(i * length / cells), to = Math.floor((i + 1) * length / cells) - 1;
    return from >= to ? `${from}` : `${from} to ${to}`;
  };
  return `row ${range(row, map.rows, map.of[0])}, column ${range(column, map.columns, map.of[1])}: ${value}`;
}

function paint(canvas, cells, map) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => { const hex = style.getPropertyValue(name).trim(); return [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)); };
  const [low, zero, high, nan] = ["--low", "--zero", "--high", "--nan"].map(colour);
  const context = canvas.getContext("2d"), image = context.createImageData(map.columns, map.rows);
  cells.forEach((byte, i) => {
    const part = (byte - 128) / 126, end = part < 0 ? low : high, t = Math.abs(part);
    const rgb = byte === 1 ? nan : zero.map((from, k) => from + t * (end[k] - from));
    image.data.set([...rgb, byte === 0 ? 0 : 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}

const actions = {
  ArrowRight: () => goTo(state.step + 1), ArrowLeft: () => goTo(state.step - 1),
  Home: () => goTo(0), End: () => goTo(data.steps.length),
  e: () => { state.closed.clear(); drawAnew(); }, c: () => { for (const name of groups) state.closed.add(name); drawAnew(); },
  "+": () => { state.zoom *= 1.25; scale(); }, "-": () => { state.zoom /= 1.25; scale(); }, 0: () => fit(),
};
actions["="] = actions["+"];

document.addEventListener("keydown", (event) => {
  const action = actions[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("pre, input, textarea")) return;
  event.preventDefault();
  action();
});
const buttons = { first: "Home", back: "ArrowLeft", next: "ArrowRight", last: "End", open: "e", close: "c", smaller: "-", larger: "+", fit: "0" };
for (const [id, key] of Object.entries(buttons)) document.getElementById(id).addEventListener("click", () => actions[key]());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showPanel);

document.getElementById("title").textContent = data.title;
document.getElementById("about").textContent = data.about + (data.result ? `, result ${data.result}` : "");
if (!groups.length) for (const id of ["open", "close"]) document.getElementById(id).hidden = true;
if (nodes.length > 40) for (const name of groups) state.closed.add(name);
draw();
fitReadably();
goTo(0);
