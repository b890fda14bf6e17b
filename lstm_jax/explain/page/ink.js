"use strict";
/* From strokes to what the network gets: the steps of `normalise_digit` in lstm_jax/data/images.py, number for
   number. The MNIST authors fitted each digit into 20 x 20 pixels and placed it in 28 x 28 by its centre of mass. */

const PAD = 280; // the side of the drawing area, in its own units
const SIDE = 28;
const BOX = 20;
const CENTRE = 14;
const INK_LEVEL = 0.2;
const STRAY_INK = 0.002;

/* The pen's width, in units of the drawing area, that is `pen` pixels wide once a drawing of this extent, measured
   along the middle of its strokes, is fitted into the box. */
function penWidth(pen, extent) {
  return (pen * extent) / (BOX - pen);
}

const USUAL_EXTENT = 200; // of a digit in the drawing area
const LEAST_EXTENT = 20; // what is smaller is a dot, not a digit

function extentOf(strokes) {
  const points = strokes.flat();
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const length = (values) => Math.max(...values) - Math.min(...values);
  return Math.max(LEAST_EXTENT, length(xs), length(ys));
}

/* The ink in each unit of the drawing area, 0 to 1 in 255 steps, as a picture file would hold it. The pen is as thick
   as the drawing is large: a small 7 and a large 7 come to the network alike. Browsers smooth edges each in their
   own way, so the strokes are painted here. */
function inkOfStrokes(strokes, pen) {
  const ink = new Float64Array(PAD * PAD);
  if (strokes.length === 0) return ink;
  const radius = penWidth(pen, extentOf(strokes)) / 2;
  for (const stroke of strokes) {
    stroke.forEach((end, k) => paintSegment(ink, stroke[Math.max(0, k - 1)], end, radius));
  }
  return ink.map((value) => Math.round(255 * value) / 255);
}

function paintSegment(ink, [x0, y0], [x1, y1], radius) {
  const reach = radius + 1;
  const low = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - reach));
  const high = (a, b) => Math.min(PAD - 1, Math.ceil(Math.max(a, b) + reach));
  const [dx, dy] = [x1 - x0, y1 - y0];
  const squared = dx * dx + dy * dy;
  for (let y = low(y0, y1); y <= high(y0, y1); y++) {
    for (let x = low(x0, x1); x <= high(x0, x1); x++) {
      const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
      const along = squared === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / squared));
      const distance = Math.hypot(px - along * dx, py - along * dy);
      const covered = Math.min(1, Math.max(0, radius + 0.5 - distance));
      if (covered > ink[y * PAD + x]) ink[y * PAD + x] = covered;
    }
  }
}

/* Fit the ink into 20 x 20 pixels and centre it by its mass in 28 x 28: grey levels 0 to 255, or null without ink. */
function normaliseDigit(ink, height, width) {
  const box = fitted(ink, height, width);
  if (box === null) return null;
  const [rows, columns] = [new Float64Array(BOX), new Float64Array(BOX)];
  let most = 0;
  box.forEach((value, k) => {
    rows[Math.floor(k / BOX)] += value;
    columns[k % BOX] += value;
    most = Math.max(most, value);
  });
  const [top, left] = [rows, columns].map((mass) => {
    const total = mass.reduce((a, b) => a + b);
    const centre = mass.reduce((sum, value, position) => sum + position * value, 0) / total;
    // A box that would leave the image stops at its edge.
    return Math.min(SIDE - BOX, Math.max(0, roundToEven(CENTRE - centre)));
  });
  const image = new Uint8Array(SIDE * SIDE);
  for (let y = 0; y < BOX; y++) {
    for (let x = 0; x < BOX; x++) {
      // In float32, as NumPy has it. Averaging makes thin strokes paler; here the brightest pixel is 255 again.
      const value = Math.fround(Math.fround(255 * box[y * BOX + x]) / most);
      image[(top + y) * SIDE + left + x] = roundToEven(value);
    }
  }
  return image;
}

function roundToEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/* Cut out the square around the digit and scale it to 20 x 20 by averaging. */
function fitted(ink, height, width) {
  const [rows, columns] = [new Float64Array(height), new Float64Array(width)];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = ink[y * width + x];
      if (value > INK_LEVEL) {
        rows[y] += value;
        columns[x] += value;
      }
    }
  }
  if (!rows.some((mass) => mass > 0)) return null;
  const [[top, bottom], [left, right]] = [extentOfMass(rows), extentOfMass(columns)];
  const side = Math.max(bottom - top, right - left);
  const [y0, x0] = [
    top - Math.floor((side - (bottom - top)) / 2),
    left - Math.floor((side - (right - left)) / 2),
  ];
  const square = new Float32Array(side * side); // it may reach beyond the picture, where there is no ink
  for (let y = Math.max(0, y0); y < Math.min(height, y0 + side); y++) {
    for (let x = Math.max(0, x0); x < Math.min(width, x0 + side); x++) {
      square[(y - y0) * side + x - x0] = ink[y * width + x];
    }
  }
  return averaged(square, side);
}

/* The first position of the digit and the one after its last, without STRAY_INK at the ends. */
function extentOfMass(mass) {
  const total = mass.reduce((a, b) => a + b);
  let sum = 0;
  const share = mass.map((value) => (sum += value) / total);
  return [share.findIndex((s) => s > STRAY_INK), share.findIndex((s) => s >= 1 - STRAY_INK) + 1];
}

/* Scale a square to 20 x 20 as Pillow's box filter does: across, then down, each pass kept in float32. */
function averaged(square, side) {
  if (side === BOX) return square;
  const scale = side / BOX;
  const support = 0.5 * Math.max(1, scale);
  const weights = Array.from({ length: BOX }, (_, k) => {
    const centre = (k + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(side, Math.trunc(centre + support + 0.5));
    const inside = Array.from({ length: end - first }, (_, x) => {
      const distance = (x + first - centre + 0.5) / Math.max(1, scale);
      return distance > -0.5 && distance <= 0.5 ? 1 : 0;
    });
    const total = inside.reduce((a, b) => a + b, 0);
    return { first, shares: inside.map((value) => (total ? value / total : 0)) };
  });
  const across = new Float32Array(side * BOX);
  for (let y = 0; y < side; y++) {
    weights.forEach(({ first, shares }, k) => {
      across[y * BOX + k] = shares.reduce((sum, share, x) => sum + square[y * side + first + x] * share, 0);
    });
  }
  const box = new Float32Array(BOX * BOX);
  weights.forEach(({ first, shares }, k) => {
    for (let x = 0; x < BOX; x++) {
      box[k * BOX + x] = shares.reduce((sum, share, y) => sum + across[(first + y) * BOX + x] * share, 0);
    }
  });
  return box;
}
