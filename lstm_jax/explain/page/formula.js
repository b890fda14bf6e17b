"use strict";
/* One unit at one step: the cell as a picture, and its equations with their numbers. */

/* All numbers of a unit at a step, counted from 1. */
function numbersAt(cell, run, step, unit, broken) {
  const { hidden } = cell;
  const at = (step - 1) * hidden + unit;
  const fresh = step === 1 || step === broken.clearAt;
  const sums = Object.fromEntries(
    [...GATES].map((gate, k) => {
      const z = 4 * (step - 1) * hidden + k * hidden + unit;
      const parts = [run.fromInput[z], run.fromState[z], cell.bias[k * hidden + unit]];
      return [gate, { parts, held: heldAt(broken, gate, unit), value: run[gate][at] }];
    }),
  );
  const before = fresh ? 0 : run.c[at - hidden];
  return { sums, before, c: run.c[at], h: run.h[at], cleared: step === broken.clearAt };
}

const signed = (value) => (value < 0 ? `(${decimal(value)})` : decimal(value));

/* The sum that makes the new memory, in numbers. */
function memorySum({ sums, before }) {
  const [i, f, g] = [..."ifg"].map((gate) => sums[gate].value);
  return `${decimal(f)} × ${signed(before)} + ${decimal(i)} × ${signed(g)}`;
}

/* The equation of the memory in one line, as HTML. */
function memoryOf(numbers) {
  return `<var>c</var> = <var>f</var> <var>c</var><sub>${say("picture.before")}</sub> + <var>i</var> <var>g</var> = ${memorySum(numbers)} = <b>${decimal(numbers.c)}</b>`;
}

/* The equations as HTML: each in symbols, then in numbers. */
function equationsOf(numbers) {
  const { sums, c, h, cleared } = numbers;
  const name = (letter, index) => `<var>${letter}</var><sub>${index}</sub>`;
  const sum = (parts) =>
    parts.map((part, k) => (k === 0 ? decimal(part) : `${part < 0 ? "−" : "+"} ${decimal(Math.abs(part))}`)).join(" ");
  const line = (left, symbols, numbers, result) =>
    `<div class="equation"><p>${left} = ${symbols}</p><p class="numbers">= ${numbers}</p><b>${decimal(result)}</b></div>`;
  const gates = [...GATES].map((gate) => {
    const { parts, held, value } = sums[gate];
    const squash = gate === "g" ? "tanh" : "σ";
    const symbols = `${squash}(${name("W", `x${gate}`)} <var>x</var> + ${name("W", `h${gate}`)} <var>h</var> + ${name("b", gate)})`;
    const numbers = held === undefined ? `${squash}(${sum(parts)})` : `<i>${say("formula.held", { value: held })}</i>`;
    return line(`<var>${gate}</var>`, symbols, numbers, value);
  });
  return [
    ...gates,
    line(
      "<var>c</var>",
      `<var>f</var> <var>c</var><sub>${say("picture.before")}</sub> + <var>i</var> <var>g</var>`,
      memorySum(numbers),
      c,
    ),
    line("<var>h</var>", "<var>o</var> tanh(<var>c</var>)", `${decimal(sums.o.value)} × tanh(${decimal(c)})`, h),
    cleared ? `<p class="caption">${say("formula.cleared")}</p>` : "",
  ].join("");
}

/* The cell as SVG: the memory flows from left to right, as thick as it is large. */
function cellPicture({ sums, before, c, h }) {
  const [i, f, g, o] = [...GATES].map((gate) => sums[gate].value);
  const thick = (value) => 2 + 16 * Math.min(1, Math.abs(value) / 2);
  const sign = (value) => (value < 0 ? "cold" : "warm");
  const flow = (x0, y0, x1, y1, value) =>
    `<line class="flow ${sign(value)}" x1="${x0}" y1="${y0}" x2="${x1}" y2="${y1}" stroke-width="${thick(value).toFixed(2)}"/>`;
  const wire = (x0, y0, x1, y1) => `<line class="wire" x1="${x0}" y1="${y0}" x2="${x1}" y2="${y1}"/>`;
  const node = (x, y, text) => `<circle class="node" cx="${x}" cy="${y}" r="15"/><text class="sign" x="${x}" y="${y + 7}">${text}</text>`;
  const label = (x, y, text, kind = "") => `<text class="${kind}" x="${x}" y="${y}" text-anchor="middle">${text}</text>`;
  const box = (x, gate) => {
    const { value, held } = sums[gate];
    const [size, y] = [54, 216];
    const share = Math.min(1, Math.abs(value));
    const fill = gate === "g" ? sign(value) : "gate";
    return (
      `<rect class="box ${held === undefined ? "" : "held"}" x="${x - size / 2}" y="${y}" width="${size}" height="${size}" rx="6"/>` +
      `<rect class="fill ${fill}" x="${x - size / 2 + 3}" y="${y + 3 + (1 - share) * (size - 6)}" width="${size - 6}" height="${share * (size - 6)}" rx="3"/>` +
      `<text class="letter" x="${x}" y="${y + 36}">${gate}</text>` +
      label(x, y + size + 22, decimal(value, 2), "value")
    );
  };
  const [line, left, right, meet] = [70, 140, 270, 455];
  return [
    flow(14, line, left, line, before),
    flow(left, line, right, line, f * before),
    flow(right, line, 546, line, c),
    wire(left, 216, left, line),
    wire(228, 216, right, 158),
    wire(312, 216, right, 158),
    flow(right, 158, right, line, i * g),
    flow(meet, line, meet, 170, Math.tanh(c)),
    wire(395, 216, meet, 170),
    flow(meet, 170, meet, 300, h),
    node(left, line, "×"),
    node(right, line, "+"),
    node(right, 158, "×"),
    node(meet, 170, "×"),
    `<rect class="node" x="${meet - 31}" y="100" width="62" height="30" rx="15"/>`,
    label(meet, 121, "tanh", "small"),
    box(left, "f"),
    box(228, "i"),
    box(312, "g"),
    box(395, "o"),
    label(58, 44, `c ${say("picture.before")}`, "small"),
    label(58, 104, decimal(before, 2), "value"),
    label((left + right) / 2, 44, say("picture.kept"), "small"),
    label((left + right) / 2, 104, decimal(f * before, 2), "value"),
    `<text class="small" x="${right + 20}" y="122">${say("picture.written")}</text>`,
    `<text class="value" x="${right + 20}" y="146">${decimal(i * g, 2)}</text>`,
    label(375, 44, `c ${say("picture.after")}`, "small"),
    label(375, 104, decimal(c, 2), "value"),
    `<text class="small" x="${meet + 18}" y="240">h ${say("picture.shown")}</text>`,
    `<text class="value" x="${meet + 18}" y="266">${decimal(h, 2)}</text>`,
  ].join("");
}

/* The sum behind a gate, input by input: what is read, the weights (pale), and their products. */
function termsPicture(cell, sequence, gate, unit) {
  const { hidden, width } = cell;
  const column = GATES.indexOf(gate) * hidden + unit;
  const weights = Array.from({ length: width }, (_, a) => cell.ofInput[a * 4 * hidden + column]);
  const most = Math.max(1e-9, ...weights.map(Math.abs));
  const [size, top, middle, reach] = [1000 / width, 34, 110, 66];
  const { ink, signed } = scales();
  const bar = (a, value, kind) => {
    const length = (reach * Math.abs(value)) / most;
    const y = value < 0 ? middle : middle - length;
    return `<rect class="${kind} ${value < 0 ? "cold" : "warm"}" x="${a * size + 2}" y="${y}" width="${size - 4}" height="${length}"/>`;
  };
  return weights
    .map((weight, a) => {
      const read = sequence[a];
      const shade = css(read < 0 ? signed(read) : ink(read));
      return (
        `<rect class="read" x="${a * size + 1}" y="4" width="${size - 2}" height="${top - 8}" style="fill:${shade}"/>` +
        bar(a, weight, "weight") +
        bar(a, weight * read, "product")
      );
    })
    .join("")
    .concat(`<line class="grid" x1="0" x2="1000" y1="${middle}" y2="${middle}"/>`);
}
