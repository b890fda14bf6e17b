"use strict";
/* The state as the part of the address after #, and back. What has its usual value is left out. Whatever a link says
   is checked: it may come from anywhere. */

const USUAL_PEN = 2.5;
const USUAL_EXAMPLE = 3; // what a visitor sees first
const USUAL_STEP = 14; // there is ink in the middle of every digit

function usualState() {
  return {
    strokes: [],
    example: null,
    pen: USUAL_PEN,
    row: SIDE,
    step: USUAL_STEP,
    layer: 0,
    direction: 0,
    unit: 0,
    sort: "number",
    gate: "f",
    why: null,
    held: {},
    scope: "all",
    clearAt: null,
    order: "usual",
    seed: 1,
  };
}

const SORTS = ["number", "answer", "cell", "now", "forget", "change"];
const ORDERS = ["usual", "reversed", "shuffled"];

function linkOf(state, language) {
  const usual = usualState();
  const parts = new URLSearchParams();
  if (state.strokes.length) parts.set("d", packed(state.strokes));
  if (state.example !== null) parts.set("e", state.example);
  for (const [short, name] of PLAIN) if (state[name] !== usual[name]) parts.set(short, state[name]);
  const held = Object.entries(state.held).map(([gate, value]) => `${gate}${value}`);
  if (held.length) parts.set("b", held.join(""));
  parts.set("lang", language);
  return `#${parts}`;
}

const PLAIN = [
  ["p", "pen"],
  ["r", "row"],
  ["t", "step"],
  ["l", "layer"],
  ["x", "direction"],
  ["u", "unit"],
  ["s", "sort"],
  ["g", "gate"],
  ["y", "why"],
  ["a", "scope"],
  ["c", "clearAt"],
  ["o", "order"],
  ["n", "seed"],
];

/* `limits` says how many examples, layers, directions, units and classes there are. */
function stateOfLink(hash, limits) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const state = usualState();
  const whole = (short, low, high) => {
    const value = Number(parts.get(short) ?? NaN);
    return Number.isInteger(value) && value >= low && value <= high ? value : undefined;
  };
  const one = (short, names) => (names.includes(parts.get(short)) ? parts.get(short) : undefined);
  const pen = Number(parts.get("p") ?? NaN);
  const found = {
    strokes: parts.has("d") ? unpacked(parts.get("d")) : undefined,
    example: whole("e", 0, limits.examples - 1),
    pen: pen >= 1.2 && pen <= 5 ? pen : undefined,
    row: whole("r", 0, SIDE),
    step: whole("t", 1, SIDE),
    layer: whole("l", 0, limits.layers - 1),
    direction: whole("x", 0, limits.directions - 1),
    unit: whole("u", 0, limits.hidden - 1),
    sort: one("s", SORTS),
    gate: one("g", [...GATES]),
    why: whole("y", 0, limits.classes - 1),
    scope: one("a", ["all", "one"]),
    clearAt: whole("c", 2, SIDE),
    order: one("o", ORDERS),
    seed: whole("n", 0, 2 ** 32 - 1),
  };
  for (const [name, value] of Object.entries(found)) if (value !== undefined) state[name] = value;
  for (const [, gate, value] of (parts.get("b") ?? "").matchAll(/([ifo])([01])|g0/g)) {
    state.held[gate ?? "g"] = Number(value ?? 0);
  }
  return state;
}

/* Strokes as numbers (count of points; first point; steps from point to point) of 7 bits a byte, in base64url. */
function packed(strokes) {
  const bytes = [];
  const put = (number) => {
    for (; number > 127; number >>= 7) bytes.push((number & 127) | 128);
    bytes.push(number);
  };
  const putSigned = (number) => put(number < 0 ? -2 * number - 1 : 2 * number);
  for (const stroke of strokes) {
    put(stroke.length);
    stroke.forEach((point, k) => point.forEach((value, axis) => putSigned(value - (k ? stroke[k - 1][axis] : 0))));
  }
  const text = btoa(String.fromCharCode(...bytes));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/* Return the strokes, or undefined if the text is none. */
function unpacked(text) {
  let bytes;
  try {
    bytes = Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  } catch {
    return undefined;
  }
  let at = 0;
  const take = () => {
    let [number, shift] = [0, 0];
    for (; at < bytes.length && shift < 28; shift += 7) {
      const byte = bytes[at++];
      number |= (byte & 127) << shift;
      if (byte < 128) return number;
    }
    return NaN;
  };
  const takeSigned = () => {
    const number = take();
    return number % 2 ? -(number + 1) / 2 : number / 2;
  };
  const strokes = [];
  while (at < bytes.length) {
    const count = take();
    if (!(count >= 1 && count <= bytes.length)) return undefined;
    const stroke = [];
    for (let k = 0; k < count; k++) {
      const [x, y] = k ? stroke[k - 1] : [0, 0];
      const point = [x + takeSigned(), y + takeSigned()];
      if (!point.every((value) => value >= 0 && value <= PAD)) return undefined;
      stroke.push(point);
    }
    strokes.push(stroke);
  }
  return strokes;
}
