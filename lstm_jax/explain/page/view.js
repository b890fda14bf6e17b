"use strict";
/* The page: its state, what follows from it, and what shows it. A change of the state says how deep it goes:

     IMAGE     something was drawn        -> the image that the network gets
     READING   the network or the order   -> the readings, intact and broken, and the gradient
     UNITS     which layer, which order   -> the strips
     ROW       the row, the unit          -> what moves with it

   and everything from there on follows. */

const [IMAGE, READING, UNITS, ROW] = [0, 1, 2, 3];

const data = JSON.parse(byId("data").textContent);
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const network = unpackNetwork(data.network, new Float32Array(bytesOf(data.weights).buffer));
const examples = data.examples.map((example) => ({ ...example, image: bytesOf(example.image) }));
const { steps, hidden, classes } = network;
const columns = network.task === "columns";
const limits = {
  examples: examples.length,
  layers: network.layers.length,
  directions: network.layers[0].length,
  hidden,
  classes,
};
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let state = usualState();
let past = []; // what undo goes back to
let penIsDown = false; // then only what is drawn and the answer follow, so that the pen never waits
let hover = null; // the unit and the step that are pointed at
let language = "en";
const found = {}; // what follows from the state: image, broken, intact, reading, gradient, units, strips
const play = { on: false, speed: 7, since: 0, part: 0 };
let curveStepAt = () => 0;

// What follows from the state ---------------------------------------------------------------------------------------

function brokenOf({ held, scope, unit, clearAt, order, seed }) {
  const orders = {
    usual: () => null,
    reversed: () => Array.from({ length: steps }, (_, k) => steps - 1 - k),
    shuffled: () => shuffled(steps, seed),
  };
  return { held, unit: scope === "one" ? unit : null, clearAt, order: orders[order]() };
}

function isBroken({ held, clearAt, order }) {
  return Object.keys(held).length > 0 || clearAt !== null || order !== "usual";
}

function follow(depth) {
  if (depth <= IMAGE) {
    found.image =
      state.example !== null
        ? examples[state.example].image
        : normaliseDigit(inkOfStrokes(state.strokes, state.pen), PAD, PAD);
    found.pixels = Float32Array.from(found.image ?? new Uint8Array(SIDE * SIDE), (level) => level / 255);
    found.intact = readImage(network, found.pixels);
  }
  if (depth <= READING) {
    found.broken = brokenOf(state);
    found.reading = isBroken(state) ? readImage(network, found.pixels, found.broken) : found.intact;
    found.answer = answerOf(found.reading, steps, classes);
    found.decided = decisionOf(found.reading, steps, classes);
  }
  if (penIsDown) return;
  if (depth <= READING) {
    found.target = state.why ?? found.answer;
    found.gradient = found.image
      ? gradientByPixels(network, found.reading, found.target, found.broken)
      : new Float32Array(SIDE * SIDE);
  }
  if (depth <= UNITS || state.sort === "now") {
    found.run = found.reading.layers[state.layer][state.direction];
    found.units = sortedUnits(network, found.run, state, found.answer);
    found.strips = STRIPS.map((name) => stripOf(name, found.run, steps, hidden, found.units));
  }
}

/* What is shown in the strips and the formula: what is pointed at; else the chosen unit, at the row being read or,
   when all is read, at the chosen one. */
function shown() {
  const step = state.row > 0 && state.row < steps ? state.row : state.step;
  const { unit, step: at } = hover ?? { unit: state.unit, step };
  return { unit, step: at, line: found.units.indexOf(unit) };
}

/* The probabilities after so many steps; of no drawing, none. */
function probabilitiesAt(reading, row) {
  if (found.image === null) return Array(classes).fill(0);
  return Array.from(reading.probabilities.subarray(row * classes, (row + 1) * classes));
}

/* The number, from 1, of the line of the image that a step of the shown direction reads. */
function lineAt(step) {
  const position = found.run.positions[step - 1];
  return (found.broken.order ? found.broken.order[position] : position) + 1;
}

// Showing -----------------------------------------------------------------------------------------------------------

let depthToShow = null;

function changed(depth) {
  if (depthToShow === null) requestAnimationFrame(show);
  depthToShow = Math.min(depthToShow ?? depth, depth);
  saveSoon();
}

function show() {
  if (depthToShow === null) return;
  const depth = depthToShow;
  depthToShow = null;
  follow(depth);
  if (depth <= IMAGE) showDrawing();
  showReading();
  if (penIsDown) return;
  if (depth <= READING) {
    showWhy();
    showBreak();
    byId("banner").hidden = !isBroken(state);
  }
  if (depth <= UNITS) showChoices();
  showUnit();
  speakSoon();
}

function showDrawing() {
  drawPad(state.strokes, state.pen, state.example === null ? null : examples[state.example].image);
  byId("pad-empty").hidden = state.strokes.length > 0 || state.example !== null;
  byId("pen").value = state.pen;
  byId("pen").setAttribute("aria-valuetext", say("pen.value", { value: state.pen }));
  byId("undo").disabled = past.length === 0;
  byId("clear").disabled = state.strokes.length === 0 && state.example === null;
  document.querySelectorAll(".example").forEach((button, k) => button.setAttribute("aria-pressed", k === state.example));
  byId("truth").textContent =
    state.example === null ? "" : say("answer.truth", { label: examples[state.example].label });
}

function showReading() {
  const { row } = state;
  const empty = found.image === null;
  const positions = found.reading.layers.at(-1).map((run) => run.positions);
  drawInput(byId("input"), found.image, linesRead(positions, found.broken.order, row), columns);
  byId("input").setAttribute("aria-label", say("got.label", { count: row }));
  const shares = probabilitiesAt(found.reading, row);
  const answer = answerOf(found.reading, row, classes);
  showBars(byId("bars"), [shares]);
  byId("bars").setAttribute("aria-label", say("bars", { count: row }));
  const words = empty ? say("answer.empty") : row === 0 ? say("answer.nothing") : "";
  byId("answer-digit").textContent = words ? "–" : answer;
  byId("answer-words").innerHTML = words || `<strong>${percent(shares[answer])}</strong> ${say("answer.after", { count: row })}`;
  byId("now-digit").textContent = words ? "–" : answer;
  byId("now-words").textContent = words ? "" : percent(shares[answer]);
  byId("now-row").textContent = say("scrub.short", { count: row });
  const { clientWidth, clientHeight } = byId("curves");
  const decision = empty ? null : found.decided;
  const curves = curvesPicture(found.reading, network, row, decision, clientWidth, clientHeight);
  curveStepAt = curves.stepAt;
  byId("curves").setAttribute("viewBox", `0 0 ${clientWidth} ${clientHeight}`);
  byId("curves").innerHTML = empty ? "" : curves.drawn;
  const decided = say("curves.decided", { answer: found.answer, count: found.decided });
  byId("moment").textContent = empty ? "" : decided;
  byId("curves").setAttribute(
    "aria-label",
    say("curves.label", {
      answer: found.answer,
      probability: percent(found.reading.probabilities[steps * classes + found.answer]),
      decided,
    }),
  );
  byId("scrub").value = row;
  byId("scrub").setAttribute("aria-valuetext", say("scrub.value", { count: row }));
}

function showUnit() {
  const at = shown();
  document.querySelectorAll("#strips canvas").forEach((canvas, k) => drawStrip(canvas, found.strips[k], state.row, at));
  const cell = network.layers[state.layer][state.direction];
  const numbers = numbersAt(cell, found.run, at.step, at.unit, found.broken);
  const line = lineAt(at.step);
  const values = { ...Object.fromEntries([...GATES].map((gate) => [gate, numbers.sums[gate].value])), ...numbers };
  document.querySelectorAll("#strips .value").forEach((place, k) => (place.textContent = decimal(values[STRIPS[k]], 2)));
  byId("readout").innerHTML = `${say("readout", { unit: at.unit, line: at.step })} ${memoryOf(numbers)}`;
  byId("unit").value = state.unit;
  byId("at-step").value = at.step;
  byId("formula-text").textContent = say("formula.text", { unit: at.unit, line: at.step });
  const read = inputAt(cell, at.step);
  const ink = read.filter((value) => value > 0).length;
  byId("formula-input").textContent =
    state.layer === 0 ? say("formula.input.pixels", { line, ink }) : say("formula.input.layer");
  byId("equations").innerHTML = equationsOf(numbers);
  byId("cell").innerHTML = cellPicture(numbers);
  const rounded = (value) => decimal(value, 2);
  byId("cell").setAttribute(
    "aria-label",
    say("formula.picture", {
      unit: at.unit,
      before: rounded(numbers.before),
      c: rounded(numbers.c),
      h: rounded(numbers.h),
      ...Object.fromEntries([...GATES].map((gate) => [gate, rounded(numbers.sums[gate].value)])),
    }),
  );
  byId("terms-title").textContent = say("formula.terms", { gate: state.gate });
  byId("terms-picture").innerHTML = termsPicture(cell, read, state.gate, at.unit);
  const sum = decimal(numbers.sums[state.gate].parts[0]);
  byId("terms-words").textContent = say("formula.terms.caption", { gate: state.gate, sum });
}

/* What the shown cell reads at a step. */
function inputAt(cell, step) {
  const sequence =
    state.layer === 0
      ? sequenceOf(network, found.pixels, found.broken.order)
      : outputsOf(found.reading.layers[state.layer - 1], network);
  const from = found.run.positions[step - 1] * cell.width;
  return sequence.subarray(from, from + cell.width);
}

function showWhy() {
  const select = byId("why");
  select.options[0].textContent = say("why.answer", { answer: found.answer });
  select.value = state.why ?? "answer";
  drawGradient(byId("gradient"), found.image, found.gradient, columns);
  const lengths = lineLengths(found.gradient, columns);
  const line = lengths.indexOf(Math.max(...lengths)) + 1;
  byId("gradient").setAttribute("aria-label", say("why.label", { answer: found.target, line }));
}

function showBreak() {
  const before = answerOf(found.intact, steps, classes);
  const both = [found.intact, found.reading].map((reading) => probabilitiesAt(reading, steps));
  showBars(byId("compared"), both);
  byId("compared").setAttribute("aria-label", say("break.bars"));
  const told = !isBroken(state) ? "break.nothing" : before === found.answer ? "break.same" : "break.changed";
  const verdict = found.image === null ? "answer.empty" : told;
  byId("verdict").textContent = say(verdict, { before, after: found.answer, answer: found.answer });
  const order = found.broken.order ?? Array.from({ length: steps }, (_, k) => k);
  const seen = found.image && Uint8Array.from(found.image, (_, k) => {
    const [y, x] = [Math.floor(k / SIDE), k % SIDE];
    return found.image[columns ? y * SIDE + order[x] : order[y] * SIDE + x];
  });
  drawInput(byId("seen"), seen, { read: new Set(order), last: new Set() }, columns);
  for (const gate of GATES) pick(`held-${gate}`, String(state.held[gate] ?? "free"));
  pick("order", state.order);
  byId("again").disabled = state.order !== "shuffled";
  byId("scope").value = state.scope;
  byId("scope").options[1].textContent = say("break.one", { unit: state.unit });
  byId("clear-at").value = state.clearAt ?? 1;
  const clearAt = state.clearAt === null ? say("break.never") : say("break.at", { line: state.clearAt });
  byId("clear-at-words").textContent = clearAt;
  byId("clear-at").setAttribute("aria-valuetext", clearAt);
  const list = [
    ...Object.entries(state.held).map(([gate, value]) => say("break.list.held", { gate, value })),
    ...(state.clearAt === null ? [] : [say("break.list.clear", { line: state.clearAt })]),
    ...(state.order === "usual" ? [] : [say(`break.list.${state.order}`)]),
  ];
  byId("banner-text").textContent = say("break.banner", { list: list.join(", ") });
  document.querySelectorAll("[data-action=mend]").forEach((button) => (button.disabled = !isBroken(state)));
}

function showChoices() {
  byId("layer").value = `${state.layer}.${state.direction}`;
  byId("sort").value = state.sort;
  pick("gate", state.gate);
  document.querySelectorAll("#strips .scale-words").forEach((words, k) => {
    const kind = { c: "memory", g: "signed", h: "signed" }[STRIPS[k]] ?? "gate";
    words.textContent = say(`scale.${kind}`, { most: found.strips[k].most.toFixed(1) });
  });
}
