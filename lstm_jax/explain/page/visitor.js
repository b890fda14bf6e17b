"use strict";
/* What the visitor does, and what answers: words and colours, the player, the link, the controls. The last lines start
   the page. */

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
  if (penIsDown || past.length === 0) return;
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
// A link that says nothing but the language is a first visit, too.
const first = [...new URLSearchParams(location.hash.slice(1)).keys()].every((key) => key === "lang");
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
