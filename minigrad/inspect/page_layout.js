"use strict";
// Layered drawing, as in layered.py, short: layers by the longest path, the order within a layer by barycenters, places
// across by pooling neighbours that are out of order. Nodes are {sources: [numbers of earlier nodes], width}.

const GAP = 22, PASSING = 14, SWEEPS = 12, SETTLING = 40;

function layered(nodes) {
  const items = nodes.map((node, i) => ({ width: node.width, layer: 0, leaf: !node.sources.length, above: [], below: [], x: 0, number: i }));
  const readers = nodes.map(() => []);
  nodes.forEach((node, i) => {
    for (const source of new Set(node.sources)) {
      readers[source].push(i);
      items[i].layer = Math.max(items[i].layer, items[source].layer + 1);
    }
  });
  for (let i = nodes.length - 1; i >= 0; i--)  // leaves come down to the first node that reads them
    if (items[i].leaf && readers[i].length) items[i].layer = Math.min(...readers[i].map((r) => items[r].layer)) - 1;
  const lowest = Math.min(...items.map((item) => item.layer));
  for (const item of items) item.layer -= lowest;
  const passing = new Map();  // "source layer": the item where an edge passes through a layer
  nodes.forEach((node, target) => {
    for (const source of new Set(node.sources)) {
      let upper = items[source];
      for (let layer = items[source].layer + 1; layer < items[target].layer; layer++) {
        const key = source + " " + layer;
        if (!passing.has(key)) {
          const item = { width: PASSING, layer, leaf: false, passes: true, above: [], below: [], x: 0 };
          passing.set(key, item);
          items.push(item);
          link(upper, item);
        }
        upper = passing.get(key);
      }
      link(upper, items[target]);
    }
  });
  const rows = ordered(items);
  placeAcross(items, rows);
  const bends = (source, target) => {
    const xs = [];
    for (let layer = items[source].layer + 1; layer < items[target].layer; layer++) xs.push(passing.get(source + " " + layer).x);
    return xs;
  };
  return { items: items.slice(0, nodes.length), bends, layers: rows.length };
}

function link(upper, lower) {
  upper.below.push(lower);
  lower.above.push(upper);
}

function ordered(items) {
  let rows = [];
  for (const item of items) (rows[item.layer] ||= []).push(item);
  rows = Array.from(rows, (row) => row || []);
  for (const row of rows) row.sort((a, b) => a.leaf - b.leaf);
  const number = () => rows.forEach((row) => row.forEach((item, place) => { item.place = place; }));
  number();
  let best = rows.map((row) => row.slice()), fewest = crossings(rows);
  for (let sweep = 0; sweep < SWEEPS && fewest; sweep++) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : rows.slice().reverse()) {
      for (const item of row) {
        const ends = down ? item.above : item.below;
        item.center = ends.length ? ends.reduce((sum, end) => sum + end.place, 0) / ends.length : item.place;
      }
      row.sort((a, b) => a.center - b.center || a.leaf - b.leaf);
      row.forEach((item, place) => { item.place = place; });
    }
    exchange(rows);
    const count = crossings(rows);
    if (count < fewest) { best = rows.map((row) => row.slice()); fewest = count; }
  }
  rows = best;
  number();
  return rows;
}

function exchange(rows) {
  const crossed = (left, right) => {
    let total = 0;
    for (const side of ["above", "below"])
      for (const a of left[side]) for (const b of right[side]) total += a.place > b.place;
    return total;
  };
  for (let again = true, rounds = 0; again && rounds < 8; rounds++) {
    again = false;
    for (const row of rows)
      for (let p = 0; p + 1 < row.length; p++) {
        const [left, right] = [row[p], row[p + 1]];
        if (crossed(right, left) < crossed(left, right)) {
          row[p] = right; row[p + 1] = left;
          left.place = p + 1; right.place = p;
          again = true;
        }
      }
  }
}

function crossings(rows) {
  let total = 0;
  for (const row of rows) {
    const ends = [];
    for (const item of row) {
      const targets = item.below.map((end) => end.place);
      for (const target of targets) total += ends.filter((end) => end > target).length;
      ends.push(...targets);
    }
  }
  return total;
}

function straightness(upper, lower) {
  if (upper.leaf) return 0.001;  // leaves come to the ops, not the ops to the leaves
  return upper.passes && lower.passes ? 20 : upper.below.length <= 2 && lower.above.filter((end) => !end.leaf).length <= 2 ? 10 : 1;
}

function placeAcross(items, rows) {
  for (const row of rows) spread(row, row.map(() => [0, 1]));
  for (let i = 0; i < SETTLING; i++)
    for (const row of [...rows, ...rows.slice().reverse()])
      spread(row, row.map((item) => {
        let total = 0, weight = 0;
        for (const end of item.above) { const w = straightness(end, item); total += w * end.x; weight += w; }
        for (const end of item.below) { const w = straightness(item, end); total += w * end.x; weight += w; }
        return weight ? [total / weight, weight] : [item.x, 1];
      }));
  const left = Math.min(...items.map((item) => item.x - item.width / 2));
  for (const item of items) item.x -= left;
}

function spread(row, wishes) {
  const pools = [];  // [mean, weight, count] of neighbours that would overlap
  const offsets = [];
  row.forEach((item, i) => {
    offsets.push(i ? offsets[i - 1] + (row[i - 1].width + item.width) / 2 + GAP : 0);
    let [mean, weight, count] = [wishes[i][0] - offsets[i], wishes[i][1], 1];
    while (pools.length && pools[pools.length - 1][0] > mean) {
      const [before, heavy, many] = pools.pop();
      mean = (before * heavy + mean * weight) / (heavy + weight);
      weight += heavy;
      count += many;
    }
    pools.push([mean, weight, count]);
  });
  let i = 0;
  for (const [mean, , count] of pools) for (let k = 0; k < count; k++, i++) row[i].x = mean + offsets[i];
}
