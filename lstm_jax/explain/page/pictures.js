"use strict";
/* Pictures of a reading: the image with the row being read, the bars, the curves, the strips, the gradient. */

/* Which lines of the image have been read after `row` steps, and which were read last, by any direction. */
function linesRead(positions, order, row) {
  const line = (position) => (order ? order[position] : position);
  const read = new Set(positions.flatMap((of) => of.slice(0, row).map(line)));
  const last = new Set(row > 0 ? positions.map((of) => line(of[row - 1])) : []);
  return { read, last };
}

/* The image; lines that are not read yet are pale, the last read are framed. */
function drawInput(canvas, image, { read, last }, columns) {
  const { pen, width } = ready(canvas);
  const { ink } = scales();
  const paper = colour("paper");
  const lineOf = (x, y) => (columns ? x : y);
  const shade = (x, y) => {
    const rgb = ink(image ? image[y * SIDE + x] / 255 : 0);
    return read.has(lineOf(x, y)) ? rgb : mixed(paper, rgb, 0.22);
  };
  place(pen, cells(SIDE, SIDE, shade), 0, 0, width, width);
  const unit = width / SIDE;
  pen.strokeStyle = css(colour("line"), 0.55);
  pen.lineWidth = 0.5;
  pen.beginPath();
  for (let k = 1; k < SIDE; k++) {
    if (columns) pen.moveTo(k * unit, 0), pen.lineTo(k * unit, width);
    else pen.moveTo(0, k * unit), pen.lineTo(width, k * unit);
  }
  pen.stroke();
  pen.strokeStyle = css(colour("warm"));
  pen.lineWidth = 2.5;
  for (const line of last) {
    const box = [1.25, Math.min(Math.max(1.25, line * unit - 1), width - unit - 3.25), width - 2.5, unit + 2];
    if (columns) pen.strokeRect(box[1], box[0], box[3], box[2]);
    else pen.strokeRect(...box);
  }
}

/* Ten lines of a list, made once; each has a digit, a bar and a number. */
function makeBars(list, classes, parts) {
  list.replaceChildren(
    ...Array.from({ length: classes }, (_, k) =>
      element(
        "li",
        {},
        element("span", { class: "digit" }, String(k)),
        element("span", { class: "tracks" }, ...parts.map((part) => element("span", { class: `bar ${part}` }))),
        element("span", { class: "number" }),
      ),
    ),
  );
}

/* `shares`: one array of probabilities for each bar of a line. The numbers are those of the last array. */
function showBars(list, shares) {
  const numbers = shares.at(-1);
  const most = Math.max(...numbers);
  [...list.children].forEach((line, k) => {
    line.classList.toggle("most", most > 0 && numbers[k] === most);
    line.querySelectorAll(".bar").forEach((bar, part) => (bar.style.width = `${100 * shares[part][k]}%`));
    line.querySelector(".number").textContent = percent(numbers[k]);
  });
}

const CURVES = { left: 52, right: 34, top: 28, bottom: 34 };

/* The probabilities after each step as curves. Those that matter have a colour and a name at their highest point. */
function curvesPicture(reading, network, row, decided, width, height) {
  const { steps, classes } = network;
  const { left, right, top, bottom } = CURVES;
  const x = (step) => left + (step / steps) * (width - left - right);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  const share = (step, k) => reading.probabilities[step * classes + k];
  const most = Array.from({ length: classes }, (_, k) => {
    const all = Array.from({ length: steps + 1 }, (_, s) => share(s, k));
    return all.indexOf(Math.max(...all));
  });
  const final = answerOf(reading, steps, classes);
  const ranked = Array.from({ length: classes }, (_, k) => k).sort((a, b) => share(most[b], b) - share(most[a], a));
  // As many as there are kinds of lines that can be told apart.
  const others = ranked.filter((k) => share(most[k], k) > 0.18 && k !== final).slice(0, 3);
  const named = [...others, final];
  const kind = (k) => (k === final ? "final" : others.includes(k) ? `other other-${others.indexOf(k)}` : "rest");
  const line = (k) =>
    Array.from({ length: steps + 1 }, (_, s) => `${s ? "L" : "M"}${x(s).toFixed(1)} ${y(share(s, k)).toFixed(1)}`).join("");
  const ticks = [0, 0.5, 1].map(
    (v) =>
      `<line class="grid" x1="${left}" x2="${width - right}" y1="${y(v)}" y2="${y(v)}"/>` +
      `<text x="${left - 8}" y="${y(v) + 5}" text-anchor="end">${percent(v, 0)}</text>`,
  );
  const below = Array.from({ length: steps / 4 + 1 }, (_, k) => 4 * k).map(
    (s) => `<text x="${x(s)}" y="${height - 10}" text-anchor="middle">${s}</text>`,
  );
  const curves = [...ranked].reverse().map((k) => `<path class="curve ${kind(k)}" d="${line(k)}"/>`);
  // The last answer is named at its end, the others where they are highest.
  const labels = named.map((k) => {
    const at = k === final ? steps : most[k];
    const [dx, dy] = k === final ? [16, 7] : [0, -8];
    return `<text class="name ${kind(k)}" text-anchor="middle" x="${x(at) + dx}" y="${Math.max(20, y(share(at, k)) + dy)}">${k}</text>`;
  });
  const moment =
    decided > 0 ? `<circle class="moment" cx="${x(decided)}" cy="${y(share(decided, final))}" r="6"/>` : "";
  return {
    stepAt: (share) => Math.round(Math.min(1, Math.max(0, (share * width - left) / (width - left - right))) * steps),
    drawn:
      ticks.join("") + below.join("") + curves.join("") +
      `<line class="marker" x1="${x(row)}" x2="${x(row)}" y1="${top - 8}" y2="${height - bottom + 6}"/>` +
      `<circle class="marker-dot" cx="${x(row)}" cy="${top - 8}" r="4"/>` + labels.join("") + moment,
  };
}

/* The units in the order of the strips. */
function sortedUnits(network, run, { sort, row, direction, layer }, answer) {
  const { steps, hidden, classes, head } = network;
  const end = (steps - 1) * hidden;
  const now = (Math.max(1, row) - 1) * hidden;
  const change = (j, s) => Math.abs(run.c[s * hidden + j] - (s ? run.c[(s - 1) * hidden + j] : 0));
  const isLast = layer === network.layers.length - 1;
  const keys = {
    number: (j) => j,
    answer: (j) => (isLast ? -run.h[end + j] * head.kernel[(direction * hidden + j) * classes + answer] : j),
    cell: (j) => -run.c[end + j],
    now: (j) => -run.c[now + j],
    forget: (j) => -Array.from({ length: steps }, (_, s) => run.f[s * hidden + j]).reduce((a, b) => a + b),
    change: (j) => {
      const all = Array.from({ length: steps }, (_, s) => change(j, s));
      return all.indexOf(Math.max(...all)) + j / (hidden + 1);
    },
  };
  const key = Array.from({ length: hidden }, (_, j) => keys[sort](j));
  return Array.from({ length: hidden }, (_, j) => j).sort((a, b) => key[a] - key[b]);
}

const STRIPS = ["i", "f", "g", "o", "c", "h"];

/* The strip of one value: what `drawStrip` shows, made once per reading. */
function stripOf(name, run, steps, hidden, units) {
  const { gate, signed } = scales();
  const values = run[name];
  // Few memories are large: colours end where one in thirty lies beyond.
  const sizes = name === "c" ? values.map(Math.abs).sort() : [];
  const most = name === "c" ? Math.max(1, sizes[Math.floor((sizes.length * 29) / 30)]) : 1;
  const of = (s, at) => {
    const value = values[s * hidden + units[at]];
    return "ifo".includes(name) ? gate(value) : signed(value / most);
  };
  return { picture: cells(steps, hidden, of), most };
}

function drawStrip(canvas, { picture }, row, shown) {
  const { pen, width, height } = ready(canvas);
  const [steps, hidden] = [picture.width, picture.height];
  place(pen, picture, 0, 0, width, height);
  pen.fillStyle = css(colour("paper"), 0.72); // what is not read yet
  pen.fillRect((row * width) / steps, 0, width, height);
  const [cellWidth, cellHeight] = [width / steps, height / hidden];
  pen.strokeStyle = css(colour("text"), 0.9);
  pen.lineWidth = 1;
  const [x, y] = [(shown.step - 1) * cellWidth, shown.line * cellHeight];
  pen.strokeRect(0.5, y - 0.5, width - 1, cellHeight + 1);
  pen.lineWidth = 2;
  pen.strokeRect(x - 1, y - 2, cellWidth + 2, cellHeight + 4);
}

/* The gradient over the digit's outline, and beside it (below it, for columns) how much each line matters. */
function drawGradient(canvas, image, gradient, columns) {
  const { pen, width, height } = ready(canvas);
  const { signed } = scales();
  const side = Math.min(width, height);
  const unit = side / SIDE;
  const most = Math.max(1e-12, ...gradient.map(Math.abs));
  // The root of the share, so that what is weak can still be seen.
  const of = (x, y) => {
    const share = gradient[y * SIDE + x] / most;
    return signed(Math.sign(share) * Math.sqrt(Math.abs(share)));
  };
  place(pen, cells(SIDE, SIDE, of), 0, 0, side, side);
  outline(pen, (x, y) => image !== null && image[y * SIDE + x] > 100, unit);
  const lengths = lineLengths(gradient, columns);
  const longest = Math.max(1e-12, ...lengths);
  const room = Math.max(width, height) - side - 12;
  pen.fillStyle = css(colour("quiet"));
  lengths.forEach((length, k) => {
    const [along, across, from] = [Math.max(1, (room * length) / longest), Math.max(1, unit - 2), k * unit + 1];
    if (columns) pen.fillRect(from, side + 10, across, along);
    else pen.fillRect(side + 10, from, along, across);
  });
}

function outline(pen, inked, unit) {
  const at = (x, y) => x >= 0 && y >= 0 && x < SIDE && y < SIDE && inked(x, y);
  pen.strokeStyle = css(colour("text"), 0.85);
  pen.lineWidth = 1.2;
  pen.beginPath();
  for (let y = 0; y <= SIDE; y++) {
    for (let x = 0; x <= SIDE; x++) {
      if (at(x, y) !== at(x - 1, y)) pen.moveTo(x * unit, y * unit), pen.lineTo(x * unit, (y + 1) * unit);
      if (at(x, y) !== at(x, y - 1)) pen.moveTo(x * unit, y * unit), pen.lineTo((x + 1) * unit, y * unit);
    }
  }
  pen.stroke();
}

/* The length of the gradient by each line of the image. */
function lineLengths(gradient, columns) {
  return Array.from({ length: SIDE }, (_, line) =>
    Math.hypot(...Array.from({ length: SIDE }, (_, k) => gradient[columns ? k * SIDE + line : line * SIDE + k])),
  );
}
