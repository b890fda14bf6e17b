"use strict";
/* The network, in float32: layers of LSTM over the rows of an image, and a dense layer on the last output.

     z_t = W_x x_t + W_h h_{t-1} + b          z = (z_i, z_f, z_g, z_o)
     c_t = sigmoid(z_f) * c_{t-1} + sigmoid(z_i) * tanh(z_g)
     h_t = sigmoid(z_o) * tanh(c_t)

   A cell is one layer in one direction. Its run holds what happened at each of its steps, in the order in which
   it took them: the cell that reads from the end takes the last position of the sequence at its first step.
   Sums are taken in float64, what is kept is float32. */

const GATES = "ifgo";

/* What is broken: nothing. `held`: a gate held at a value. `unit`: the only unit whose gates are held, or null for
   all. `clearAt`: the number, from 1, of the step before which c and h are set to 0. `order`: the rows in the order
   of reading, or null. */
const INTACT = Object.freeze({ held: Object.freeze({}), unit: null, clearAt: null, order: null });

/* Cut the weights, a Float32Array in the order in which page.py packs them, into cells and the dense layer. */
function unpackNetwork(about, weights) {
  let used = 0;
  const take = (count) => weights.subarray(used, (used += count));
  const { task, steps, inputs, hidden, classes } = about;
  const directions = about.bidirectional ? ["forward", "backward"] : ["forward"];
  const layers = [];
  for (let layer = 0; layer < about.layers; layer++) {
    const width = layer === 0 ? inputs : hidden * directions.length;
    layers.push(
      directions.map((direction) => ({
        direction,
        width,
        hidden,
        ofInput: take(width * 4 * hidden), // W_x, [width, 4 hidden]
        ofState: take(hidden * 4 * hidden), // W_h, [hidden, 4 hidden]
        bias: take(4 * hidden),
      })),
    );
  }
  const features = hidden * directions.length;
  const head = { features, kernel: take(features * classes), bias: take(classes) };
  if (used !== weights.length) throw new Error(`got ${weights.length} weights, expected ${used}`);
  return { task, steps, inputs, hidden, classes, layers, head };
}

/* Read an image, 784 values from 0 to 1. `logits` and `probabilities` have steps + 1 rows: after so many steps. */
function readImage(network, pixels, broken = INTACT) {
  let sequence = sequenceOf(network, pixels, broken.order);
  const layers = network.layers.map((cells) => {
    const runs = cells.map((cell) => runCell(cell, network.steps, sequence, broken));
    sequence = outputsOf(runs, network);
    return runs;
  });
  const logits = logitsOf(network, layers.at(-1));
  return { layers, logits, probabilities: softmaxOfRows(logits, network.classes) };
}

const sigmoid = (z) => 1 / (1 + Math.exp(-z));

/* The place in the image of input `index` of the step that reads row (or column) `line`. */
function pixelAt(network, line, index) {
  return network.task === "columns" ? index * network.inputs + line : line * network.inputs + index;
}

function sequenceOf(network, pixels, order) {
  const { steps, inputs } = network;
  const sequence = new Float32Array(steps * inputs);
  for (let position = 0; position < steps; position++) {
    const line = order ? order[position] : position;
    for (let k = 0; k < inputs; k++) {
      sequence[position * inputs + k] = pixels[pixelAt(network, line, k)];
    }
  }
  return sequence;
}

function runCell(cell, steps, sequence, broken) {
  const { hidden, width } = cell;
  const names = ["i", "f", "g", "o", "c", "h"];
  const run = { fromInput: new Float32Array(steps * 4 * hidden), fromState: new Float32Array(steps * 4 * hidden) };
  for (const name of names) run[name] = new Float32Array(steps * hidden);
  run.positions = Array.from({ length: steps }, (_, s) => (cell.direction === "backward" ? steps - 1 - s : s));
  const sum = new Float64Array(4 * hidden);
  for (let s = 0; s < steps; s++) {
    const at = s * hidden;
    const fresh = s === 0 || s + 1 === broken.clearAt;
    multiply(sum, sequence, run.positions[s] * width, width, cell.ofInput);
    run.fromInput.set(sum, 4 * at);
    if (fresh) sum.fill(0);
    else multiply(sum, run.h, at - hidden, hidden, cell.ofState);
    run.fromState.set(sum, 4 * at);
    for (let j = 0; j < hidden; j++) {
      const z = (gate) => {
        const k = gate * hidden + j;
        return run.fromInput[4 * at + k] + run.fromState[4 * at + k] + cell.bias[k];
      };
      run.i[at + j] = heldAt(broken, "i", j) ?? sigmoid(z(0));
      run.f[at + j] = heldAt(broken, "f", j) ?? sigmoid(z(1));
      run.g[at + j] = heldAt(broken, "g", j) ?? Math.tanh(z(2));
      run.o[at + j] = heldAt(broken, "o", j) ?? sigmoid(z(3));
      const before = fresh ? 0 : run.c[at - hidden + j];
      run.c[at + j] = run.f[at + j] * before + run.i[at + j] * run.g[at + j];
      run.h[at + j] = run.o[at + j] * Math.tanh(run.c[at + j]);
    }
  }
  return run;
}

function heldAt(broken, gate, unit) {
  return broken.unit === null || broken.unit === unit ? broken.held[gate] : undefined;
}

/* sum = values[from .. from + count] times a matrix [count, sum.length]. */
function multiply(sum, values, from, count, matrix) {
  sum.fill(0);
  for (let a = 0; a < count; a++) {
    const value = values[from + a];
    if (value === 0) continue; // most pixels
    const row = a * sum.length;
    for (let k = 0; k < sum.length; k++) sum[k] += value * matrix[row + k];
  }
}

/* What the layer above reads: at each position, the outputs of all directions side by side. */
function outputsOf(runs, { steps, hidden }) {
  const width = runs.length * hidden;
  const outputs = new Float32Array(steps * width);
  runs.forEach((run, direction) =>
    run.positions.forEach((position, s) =>
      outputs.set(run.h.subarray(s * hidden, (s + 1) * hidden), position * width + direction * hidden),
    ),
  );
  return outputs;
}

function logitsOf(network, runs) {
  const { steps, hidden, classes, head } = network;
  const logits = new Float32Array((steps + 1) * classes);
  const features = new Float32Array(head.features);
  const sum = new Float64Array(classes);
  for (let s = 0; s <= steps; s++) {
    if (s > 0) runs.forEach((run, d) => features.set(run.h.subarray((s - 1) * hidden, s * hidden), d * hidden));
    multiply(sum, features, 0, head.features, head.kernel);
    for (let k = 0; k < classes; k++) logits[s * classes + k] = sum[k] + head.bias[k];
  }
  return logits;
}

function softmaxOfRows(logits, classes) {
  const probabilities = new Float32Array(logits.length);
  for (let from = 0; from < logits.length; from += classes) {
    const row = logits.subarray(from, from + classes);
    const most = Math.max(...row);
    const exponentials = Array.from(row, (logit) => Math.exp(logit - most));
    const total = exponentials.reduce((a, b) => a + b);
    exponentials.forEach((value, k) => (probabilities[from + k] = value / total));
  }
  return probabilities;
}

/* The gradient of the log-probability of a class, after the last step, by each of the 784 pixels. */
function gradientByPixels(network, reading, target, broken = INTACT) {
  const { steps, hidden, classes, head, inputs } = network;
  const byLogit = Array.from({ length: classes }, (_, k) => {
    return (k === target ? 1 : 0) - reading.probabilities[steps * classes + k];
  });
  // The gradient by the outputs of each direction of the layer at hand, at each of its steps.
  let byOutputs = reading.layers.at(-1).map((_, direction) => {
    const gradient = new Float64Array(steps * hidden);
    for (let j = 0; j < hidden; j++) {
      const row = (direction * hidden + j) * classes;
      for (let k = 0; k < classes; k++) gradient[(steps - 1) * hidden + j] += head.kernel[row + k] * byLogit[k];
    }
    return gradient;
  });
  let bySequence;
  for (let layer = network.layers.length - 1; layer >= 0; layer--) {
    const cells = network.layers[layer];
    const runs = reading.layers[layer];
    bySequence = new Float64Array(steps * cells[0].width);
    cells.forEach((cell, d) => backThroughTime(cell, runs[d], byOutputs[d], broken, bySequence));
    if (layer === 0) break;
    byOutputs = reading.layers[layer - 1].map((run, direction) => {
      const gradient = new Float64Array(steps * hidden);
      run.positions.forEach((position, s) => {
        const from = position * cells[0].width + direction * hidden;
        gradient.set(bySequence.subarray(from, from + hidden), s * hidden);
      });
      return gradient;
    });
  }
  const byPixels = new Float32Array(steps * inputs);
  for (let position = 0; position < steps; position++) {
    const line = broken.order ? broken.order[position] : position;
    for (let k = 0; k < inputs; k++) {
      byPixels[pixelAt(network, line, k)] = bySequence[position * inputs + k];
    }
  }
  return byPixels;
}

/* Add a cell's share to the gradient by the sequence that it reads. */
function backThroughTime(cell, run, byOutputs, broken, bySequence) {
  const { hidden, width } = cell;
  const steps = run.positions.length;
  let byState = new Float64Array(hidden);
  const byMemory = new Float64Array(hidden);
  const byZ = new Float64Array(4 * hidden);
  for (let s = steps - 1; s >= 0; s--) {
    const at = s * hidden;
    const fresh = s === 0 || s + 1 === broken.clearAt;
    for (let j = 0; j < hidden; j++) {
      const [i, f, g, o] = [run.i[at + j], run.f[at + j], run.g[at + j], run.o[at + j]];
      const seen = Math.tanh(run.c[at + j]);
      const byH = byOutputs[at + j] + byState[j];
      const byC = byMemory[j] + byH * o * (1 - seen * seen);
      const before = fresh ? 0 : run.c[at - hidden + j];
      const free = (gate) => (heldAt(broken, gate, j) === undefined ? 1 : 0);
      byZ[j] = free("i") * byC * g * i * (1 - i);
      byZ[hidden + j] = free("f") * byC * before * f * (1 - f);
      byZ[2 * hidden + j] = free("g") * byC * i * (1 - g * g);
      byZ[3 * hidden + j] = free("o") * byH * seen * o * (1 - o);
      byMemory[j] = fresh ? 0 : byC * f;
    }
    const from = run.positions[s] * width;
    for (let a = 0; a < width; a++) bySequence[from + a] += dot(cell.ofInput, a, byZ);
    byState = Float64Array.from({ length: hidden }, (_, a) => (fresh ? 0 : dot(cell.ofState, a, byZ)));
  }
}

function dot(matrix, row, vector) {
  const from = row * vector.length;
  let sum = 0;
  for (let k = 0; k < vector.length; k++) sum += matrix[from + k] * vector[k];
  return sum;
}

/* The class with the highest probability after so many steps. */
function answerOf(reading, step, classes) {
  const row = reading.probabilities.subarray(step * classes, (step + 1) * classes);
  return row.indexOf(Math.max(...row));
}

/* The number of steps, 1 or more, since which the last answer has been the most probable (`decided_at` in
   lstm_jax/explain/reading.py, which counts from 0). */
function decisionOf(reading, steps, classes) {
  const answer = answerOf(reading, steps, classes);
  let decided = steps;
  while (decided > 1 && answerOf(reading, decided - 1, classes) === answer) decided--;
  return decided;
}

/* A fixed random order for a seed (mulberry32, then Fisher and Yates). */
function shuffled(count, seed) {
  let a = seed >>> 0;
  const random = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const order = Array.from({ length: count }, (_, k) => k);
  for (let k = count - 1; k > 0; k--) {
    const other = Math.floor(random() * (k + 1));
    [order[k], order[other]] = [order[other], order[k]];
  }
  return order;
}
