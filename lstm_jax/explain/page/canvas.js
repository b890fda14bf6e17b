"use strict";
/* What all pictures share: colours from page.css, canvases as sharp as the screen, small makers of elements. */

const byId = (id) => document.getElementById(id);

/* Make an element: its attributes, and children that are elements or text. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/* A colour of page.css, as [red, green, blue] from 0 to 255. */
function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function mixed(from, to, share) {
  return from.map((value, k) => Math.round(value + share * (to[k] - value)));
}

const css = (rgb, alpha = 1) => `rgba(${rgb.join(", ")}, ${alpha})`;

/* Colour scales: of gates from 0 to 1, of ink from 0 to 1, and of signed values from -1 to 1. */
function scales() {
  const [paper, ink, gate, cold, warm] = ["paper", "ink", "gate", "cold", "warm"].map(colour);
  const clip = (share) => Math.min(1, Math.max(0, share));
  return {
    gate: (value) => mixed(paper, gate, clip(value)),
    ink: (value) => mixed(paper, ink, clip(value)),
    signed: (value) => mixed(paper, value < 0 ? cold : warm, clip(Math.abs(value))),
  };
}

/* Fit a canvas to its place and the screen's pixels; return what to draw with, in CSS pixels, and its size. */
function ready(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const sharpness = Math.min(3, window.devicePixelRatio || 1);
  const size = [Math.max(1, Math.round(width * sharpness)), Math.max(1, Math.round(height * sharpness))];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const pen = canvas.getContext("2d");
  pen.setTransform(size[0] / Math.max(1, width), 0, 0, size[1] / Math.max(1, height), 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

/* A picture of columns x rows cells, whose colours `of` gives, to be scaled without smoothing. */
function cells(columns, rows, of) {
  const picture = document.createElement("canvas");
  [picture.width, picture.height] = [columns, rows];
  const pen = picture.getContext("2d");
  const image = pen.createImageData(columns, rows);
  for (let k = 0; k < columns * rows; k++) {
    const [red, green, blue] = of(k % columns, Math.floor(k / columns));
    image.data.set([red, green, blue, 255], 4 * k);
  }
  pen.putImageData(image, 0, 0);
  return picture;
}

function place(pen, picture, x, y, width, height) {
  pen.imageSmoothingEnabled = false;
  pen.drawImage(picture, x, y, width, height);
}
