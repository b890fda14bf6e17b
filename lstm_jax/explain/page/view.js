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
  const decided =
    found.decided === null
      ? say("curves.undecided")
      : say("curves.decided", { answer: found.answer, count: found.decided });
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

// Words and colours -------------------------------------------------------------------------------------------------

function showWords() {
  Object.assign(speech, { language, task: network.task, always: { hidden } });
  document.documentElement.lang = language;
  document.title = say("title");
  // Our own texts, which may hold marks of emphasis.
  document.querySelectorAll("[data-words]").forEach((place) => (place.innerHTML = say(place.dataset.words)));
  document.querySelectorAll("[data-label]").forEach((place) => place.setAttribute("aria-label", say(place.dataset.label)));
  byId("language").value = language;
  document.querySelectorAll(".example").forEach((button, k) => {
    button.setAttribute("aria-label", say("examples.name", examples[k]));
    button.title = say("examples.name", examples[k]);
  });
  const { layers: depth, bidirectional } = data.network;
  const shape = say(bidirectional ? "about.shape.both" : "about.shape", { layers: depth });
  const accuracy = say("about.accuracy", { accuracy: percent(data.accuracy, 2), count: data.testImages.toLocaleString("en") });
  const notes = [bidirectional ? say("about.both") : "", bidirectional && depth > 1 ? say("about.stack") : ""];
  const name = element("span", {}, data.name).innerHTML;
  const parameters = data.parameters.toLocaleString("en");
  byId("about").innerHTML = [
    say("about.text", { name, parameters, shape, accuracy }), ...notes, say("about.made"),
  ].join(" ");
  fillSelects();
  showPlaying();
}

function fillSelects() {
  const options = (id, list) =>
    byId(id).replaceChildren(...list.map(([value, text]) => element("option", { value }, text)));
  const count = (length, from = 0) => Array.from({ length }, (_, k) => [k + from, String(k + from)]);
  options("unit", count(hidden));
  options("at-step", count(steps, 1));
  const all = network.layers.flatMap((cells, l) => cells.map((cell, d) => [cell.direction, l, d]));
  const layerName = (direction) => (limits.directions === 1 ? "layer.name" : `layer.${direction}`);
  options("layer", all.map(([direction, l, d]) => [`${l}.${d}`, say(layerName(direction), { layer: l + 1 })]));
  byId("layer-label").hidden = all.length === 1;
  options("sort", SORTS.map((name) => [name, say(`sort.${name}`)]));
  options("why", [["answer", ""], ...count(classes).map(([k]) => [k, say("why.digit", { answer: k })])]);
  options("scope", [["all", say("break.all")], ["one", ""]]);
  for (const gate of GATES) {
    const held = gate === "g" ? [["0", say("break.zero")]] : [["0", say("break.closed")], ["1", say("break.open")]];
    makeChoice(byId(`held-of-${gate}`), `held-${gate}`, [["free", say("break.free")], ...held], (value) => {
      const { [gate]: _, ...others } = state.held;
      state.held = value === "free" ? others : { ...others, [gate]: Number(value) };
      changed(READING);
    });
    byId(`held-of-${gate}`).setAttribute("aria-label", say(`strip.${gate}`));
    byId(`held-name-${gate}`).textContent = say(`strip.${gate}`);
  }
  makeChoice(byId("order"), "order", ORDERS.map((name) => [name, say(`break.order.${name}`)]), (value) => {
    state.order = value;
    changed(READING);
  });
  makeChoice(byId("terms-gates"), "gate", [...GATES].map((gate) => [gate, gate]), (value) => {
    state.gate = value;
    changed(UNITS);
  });
  document.querySelectorAll("#strips figcaption span:first-child").forEach((words, k) => (words.textContent = say(`strip.${STRIPS[k]}`)));
  document.querySelectorAll("#strips canvas").forEach((canvas, k) => canvas.setAttribute("aria-label", say(`strip.${STRIPS[k]}`)));
}

/* A row of buttons of which one is chosen: radio buttons. */
function makeChoice(group, name, options, choose) {
  group.replaceChildren(
    ...options.map(([value, text]) => {
      const radio = element("input", { type: "radio", name, value });
      radio.addEventListener("change", () => choose(value));
      return element("label", {}, radio, element("span", {}, text));
    }),
  );
}

function pick(name, value) {
  document.querySelectorAll(`input[name="${name}"]`).forEach((radio) => (radio.checked = radio.value === value));
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const printing = matchMedia("print");

function showTheme() {
  const chosen = byId("theme").value;
  const isDark = !printing.matches && (chosen === "auto" ? dark.matches : chosen === "dark");
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  drawExamples();
  if (found.reading) {
    depthToShow = IMAGE;
    show(); // at once: printing does not wait
  }
}

function drawExamples() {
  document.querySelectorAll(".example canvas").forEach((canvas, k) => {
    const { pen, width } = ready(canvas);
    const { ink } = scales();
    place(pen, cells(SIDE, SIDE, (x, y) => ink(examples[k].image[y * SIDE + x] / 255)), 0, 0, width, width);
  });
}

// Reading -----------------------------------------------------------------------------------------------------------

function goTo(row) {
  state.row = Math.min(steps, Math.max(0, row));
  changed(ROW);
}

function setPlaying(on) {
  if (on && state.row === steps) goTo(0);
  if (on && !play.on) requestAnimationFrame(tick);
  Object.assign(play, { on, since: performance.now(), part: 0 });
  showPlaying();
}

function tick(now) {
  if (!play.on) return;
  play.part += (Math.max(0, now - play.since) * play.speed) / 1000;
  play.since = now;
  const whole = Math.floor(play.part);
  if (whole > 0) {
    play.part -= whole;
    goTo(state.row + whole);
  }
  if (state.row === steps) setPlaying(false);
  else requestAnimationFrame(tick);
}

function showPlaying() {
  byId("play").setAttribute("aria-label", say(play.on ? "pause" : "play"));
  byId("play").querySelector("path").setAttribute("d", play.on ? "M5 3h4v14H5zM11 3h4v14h-4z" : "M5 3l12 7-12 7z");
  byId("speed").value = play.speed;
  byId("speed").setAttribute("aria-valuetext", say("speed.value", { value: play.speed }));
}

// The link, and what is spoken --------------------------------------------------------------------------------------

let saving = null;

function saveSoon() {
  clearTimeout(saving);
  // Browsers allow only so many changes of the address in a while.
  saving = setTimeout(save, play.on ? 1000 : 300);
}

function save() {
  clearTimeout(saving);
  history.replaceState(null, "", linkOf(state, language));
}

let speaking = null;

function speakSoon() {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    if (play.on || found.image === null) return;
    const answer = answerOf(found.reading, state.row, classes);
    const probability = percent(probabilitiesAt(found.reading, state.row)[answer]);
    byId("spoken").textContent = say("answer.spoken", { count: state.row, answer, probability });
  }, 700);
}

function readLink() {
  const asked = new URLSearchParams(location.hash.slice(1)).get("lang");
  const preferred = navigator.languages?.find((each) => WORDS[each.slice(0, 2)]) ?? "en";
  language = WORDS[asked] ? asked : preferred.slice(0, 2);
  state = stateOfLink(location.hash, limits);
  if (state.strokes.length) state.example = null;
}

// What the visitor does ---------------------------------------------------------------------------------------------

function remember() {
  past = [...past.slice(-99), { strokes: state.strokes, example: state.example }];
}

const drawPad = makePad(byId("pad"), {
  begin(point) {
    setPlaying(false);
    remember();
    penIsDown = true;
    state.strokes = [...state.strokes, [point]];
    state.example = null;
    state.row = steps;
    changed(IMAGE);
  },
  extend(points) {
    if (points.length && state.strokes.length) state.strokes.at(-1).push(...points);
    changed(IMAGE);
  },
  end() {
    penIsDown = false;
    // What a link keeps of a stroke is what the network gets.
    state.strokes = [...state.strokes.slice(0, -1), ...state.strokes.slice(-1).map(simplified)];
    changed(IMAGE);
  },
  undo,
  clear,
  say({ x, y, down }) {
    byId("spoken").textContent = say("draw.cursor", { x, y, down: say(down ? "draw.down" : "draw.up") });
  },
});

function undo() {
  if (past.length === 0) return;
  Object.assign(state, past.at(-1));
  past = past.slice(0, -1);
  changed(IMAGE);
}

function clear() {
  if (state.strokes.length === 0 && state.example === null) return;
  remember();
  Object.assign(state, { strokes: [], example: null });
  setPlaying(false);
  changed(IMAGE);
}

function takeExample(k) {
  remember();
  Object.assign(state, { strokes: [], example: k });
  changed(IMAGE);
  if (calm.matches) goTo(steps);
  else {
    goTo(0);
    setPlaying(true);
  }
}

function mend() {
  Object.assign(state, { held: {}, clearAt: null, order: "usual" });
  changed(READING);
}

async function copyLink() {
  save();
  let copied = true;
  try {
    await navigator.clipboard.writeText(location.href);
  } catch {
    copied = false; // not allowed here; the address line has it
  }
  byId("spoken").textContent = say(copied ? "copy.done" : "copy.hand");
  byId("copy").textContent = say(copied ? "copy.done" : "copy.hand");
  setTimeout(() => (byId("copy").textContent = say("copy")), 2500);
}

function makeParts() {
  byId("language").append(...Object.keys(WORDS).map((code) => element("option", { value: code, lang: code }, WORDS[code].language)));
  examples.forEach(({ hard }, k) => {
    const button = element("button", { type: "button", class: "example" }, element("canvas", { "aria-hidden": "true" }));
    button.addEventListener("click", () => takeExample(k));
    byId(hard ? "examples-hard" : "examples-easy").append(button);
  });
  makeBars(byId("bars"), classes, ["only"]);
  makeBars(byId("compared"), classes, ["whole-bar", "broken-bar"]);
  const tall = Math.min(460, Math.max(192, 5 * hidden));
  byId("strips").append(
    ...STRIPS.map((name) => {
      const scale = element("span", { class: `scale ${"ifo".includes(name) ? "of-gate" : "of-sign"}`, "aria-hidden": "true" });
      return element(
        "figure",
        {},
        element("figcaption", {}, element("span", {}), element("span", { class: "value" })),
        element("canvas", { role: "img", style: `height: ${tall}px` }),
        element("p", { class: "scale-line" }, scale, element("span", { class: "scale-words" })),
      );
    }),
  );
  byId("held").append(
    ...[...GATES].flatMap((gate) => [
      element("span", { id: `held-name-${gate}` }),
      element("div", { id: `held-of-${gate}`, class: "choice", role: "radiogroup" }),
    ]),
  );
  if (columns) byId("gradient").parentElement.classList.replace("wide", "tall");
}

function listen() {
  const on = (id, name, act) => byId(id).addEventListener(name, act);
  on("undo", "click", undo);
  on("clear", "click", clear);
  on("copy", "click", copyLink);
  on("pen", "input", (event) => {
    state.pen = Number(event.target.value);
    changed(IMAGE);
  });
  on("first", "click", () => goTo(0));
  on("back", "click", () => goTo(state.row - 1));
  on("forward", "click", () => goTo(state.row + 1));
  on("last", "click", () => goTo(steps));
  on("play", "click", () => setPlaying(!play.on));
  on("scrub", "input", (event) => {
    setPlaying(false);
    goTo(Number(event.target.value));
  });
  on("speed", "input", (event) => {
    play.speed = Number(event.target.value);
    showPlaying();
  });
  const scrubCurves = (event) => {
    if (event.type === "pointermove" && event.buttons === 0) return;
    const box = byId("curves").getBoundingClientRect();
    setPlaying(false);
    goTo(curveStepAt((event.clientX - box.left) / box.width));
  };
  on("curves", "pointerdown", scrubCurves);
  on("curves", "pointermove", scrubCurves);

  on("layer", "change", (event) => {
    [state.layer, state.direction] = event.target.value.split(".").map(Number);
    changed(UNITS);
  });
  on("sort", "change", (event) => {
    state.sort = event.target.value;
    changed(UNITS);
  });
  const chooseUnit = (unit) => {
    state.unit = unit;
    changed(state.scope === "one" ? READING : ROW);
    byId("scope").options[1].textContent = say("break.one", { unit });
  };
  on("unit", "change", (event) => chooseUnit(Number(event.target.value)));
  const chooseStep = (step) => {
    state.step = Math.min(steps, Math.max(1, step));
    goTo(state.step);
  };
  on("at-step", "change", (event) => chooseStep(Number(event.target.value)));

  const pointedAt = (event) => {
    if (event.target.tagName !== "CANVAS") return null;
    const box = event.target.getBoundingClientRect();
    const cell = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    return {
      step: 1 + cell((event.clientX - box.left) / box.width, steps),
      unit: found.units[cell((event.clientY - box.top) / box.height, hidden)],
    };
  };
  const point = (at) => {
    if (at?.unit === hover?.unit && at?.step === hover?.step) return;
    hover = at;
    showUnit();
  };
  on("strips", "pointermove", (event) => event.pointerType !== "touch" && found.units && point(pointedAt(event)));
  on("strips", "pointerleave", () => found.units && point(null));
  on("strips", "click", (event) => {
    const at = pointedAt(event);
    if (!at) return;
    setPlaying(false);
    chooseUnit(at.unit);
    chooseStep(at.step);
  });
  on("strips", "keydown", (event) => {
    hover = null;
    const { step, line } = shown();
    const moves = {
      ArrowUp: () => chooseUnit(found.units[Math.max(0, line - 1)]),
      ArrowDown: () => chooseUnit(found.units[Math.min(hidden - 1, line + 1)]),
      ArrowLeft: () => chooseStep(step - 1),
      ArrowRight: () => chooseStep(step + 1),
      Home: () => chooseStep(1),
      End: () => chooseStep(steps),
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    setPlaying(false);
    moves[event.key]();
  });

  on("why", "change", (event) => {
    state.why = event.target.value === "answer" ? null : Number(event.target.value);
    changed(READING);
  });
  on("scope", "change", (event) => {
    state.scope = event.target.value;
    changed(READING);
  });
  on("clear-at", "input", (event) => {
    const at = Number(event.target.value);
    state.clearAt = at === 1 ? null : at;
    changed(READING);
  });
  on("again", "click", () => {
    state.seed += 1;
    changed(READING);
  });
  document.querySelectorAll("[data-action=mend]").forEach((button) => button.addEventListener("click", mend));

  on("language", "change", (event) => {
    language = event.target.value;
    showWords();
    changed(IMAGE);
  });
  on("theme", "change", showTheme);
  dark.addEventListener("change", showTheme);
  printing.addEventListener("change", showTheme);
  window.addEventListener("resize", () => {
    drawExamples();
    changed(IMAGE);
  });
  window.addEventListener("hashchange", () => {
    readLink();
    showWords();
    changed(IMAGE);
  });
}

makeParts();
const first = location.hash.length < 2;
readLink();
showWords();
listen();
showTheme();
if (first) state.example = Math.min(USUAL_EXAMPLE, examples.length - 1);
depthToShow = IMAGE;
show();
if (first) {
  // A unit that matters here: the one that adds most to the answer.
  [state.unit] = sortedUnits(network, found.run, { ...state, sort: "answer" }, found.answer);
  changed(ROW);
}
if (first && !calm.matches) {
  goTo(0);
  setPlaying(true);
}
