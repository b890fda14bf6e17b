"use strict";
/* The drawing area. It says what was drawn: `begin(point)`, `extend(points)`, `end()`, `undo()`, `clear()`.
   Points are in units of the drawing area, 0 to PAD. */

const KEY_STEP = 10;

function makePad(canvas, { begin, extend, end, undo, clear, say: tell }) {
  let pointer = null; // the id of the one that draws; other fingers are ignored
  let cursor = null; // where the keyboard's pen is: { x, y, down }

  const inside = (value) => Math.min(PAD, Math.max(0, value));
  const pointOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      inside((PAD * (event.clientX - box.left)) / box.width),
      inside((PAD * (event.clientY - box.top)) / box.height),
    ];
  };
  const lift = () => {
    if (cursor?.down) {
      cursor.down = false;
      end();
    }
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    lift();
    cursor = null;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    begin(pointOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const all = event.getCoalescedEvents?.() ?? [];
    extend((all.length ? all : [event]).map(pointOf));
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      end();
    });
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press is a dot

  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const command = event.ctrlKey || event.metaKey;
    if (event.altKey || (command && event.key !== "z")) return;
    if (event.key in moves) {
      cursor ??= { x: PAD / 2, y: PAD / 2, down: false };
      const length = event.shiftKey ? 3 * KEY_STEP : KEY_STEP;
      cursor.x = inside(cursor.x + length * moves[event.key][0]);
      cursor.y = inside(cursor.y + length * moves[event.key][1]);
      extend(cursor.down ? [[cursor.x, cursor.y]] : []);
    } else if (event.key === " " || event.key === "Enter") {
      cursor ??= { x: PAD / 2, y: PAD / 2, down: false };
      if (cursor.down) lift();
      else {
        cursor.down = true;
        begin([cursor.x, cursor.y]);
      }
    } else if (event.key === "Backspace" || (command && event.key === "z")) {
      lift();
      undo();
    } else if (event.key === "Delete") {
      lift();
      clear();
    } else return;
    event.preventDefault();
    if (cursor) tell(cursor);
  });
  canvas.addEventListener("blur", () => {
    lift();
    cursor = null;
    extend([]);
  });

  /* Show the strokes, or the example, and the keyboard's pen. */
  return function draw(strokes, pen, example) {
    const { pen: brush, width } = ready(canvas);
    const unit = width / PAD;
    const { ink } = scales();
    if (example) place(brush, cells(SIDE, SIDE, (x, y) => ink(example[y * SIDE + x] / 255)), 0, 0, width, width);
    brush.strokeStyle = css(colour("ink"));
    brush.lineWidth = penWidth(pen, USUAL_EXTENT) * unit;
    brush.lineCap = brush.lineJoin = "round";
    for (const stroke of strokes) {
      brush.beginPath();
      brush.moveTo(stroke[0][0] * unit, stroke[0][1] * unit);
      for (const [x, y] of stroke) brush.lineTo(x * unit, y * unit);
      brush.stroke();
    }
    if (cursor) {
      brush.strokeStyle = css(colour("warm"));
      brush.lineWidth = cursor.down ? 4 : 2;
      brush.beginPath();
      brush.arc(cursor.x * unit, cursor.y * unit, 7, 0, 2 * Math.PI);
      brush.stroke();
    }
  };
}

/* A stroke with whole coordinates and without the points that a straight line passes within a unit. */
function simplified(stroke) {
  const whole = stroke.map((point) => point.map(Math.round));
  const keep = new Set([0, whole.length - 1]);
  const look = (first, last) => {
    let [farthest, at] = [0.8, null];
    for (let k = first + 1; k < last; k++) {
      const distance = fromSegment(whole[k], whole[first], whole[last]);
      if (distance > farthest) [farthest, at] = [distance, k];
    }
    if (at === null) return;
    keep.add(at);
    look(first, at);
    look(at, last);
  };
  look(0, whole.length - 1);
  return whole.filter((_, k) => keep.has(k));
}

function fromSegment([x, y], [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const squared = dx * dx + dy * dy;
  const along = squared ? Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / squared)) : 0;
  return Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
}
