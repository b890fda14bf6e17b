"use strict";
/* Every text of the page, in each language under the same names. A run that reads columns has its own words where a
   name ends in `.columns`. {step} and {steps} stand for "row" and "rows", or "column" and "columns". */

const WORDS = {
  en: {
    language: "English",
    step: "row",
    steps: "rows",
    "step.columns": "column",
    "steps.columns": "columns",

    title: "An LSTM reads your digit",
    lead:
      "Draw a digit. A trained network reads it {step} by {step}, never going back, and keeps what it has seen in a " +
      "memory of {hidden} numbers. Watch it make up its mind, look inside, then break it.",
    switchLanguage: "Language",
    theme: "Colours",
    "theme.auto": "System colours",
    "theme.light": "Light",
    "theme.dark": "Dark",

    "whole.title": "1. The whole: 28 {steps}, one answer",
    "draw.title": "You draw",
    "draw.label": "Drawing area",
    "draw.hint":
      "Mouse, finger or pen. With the keyboard: arrow keys move the pen (with Shift further), Space puts it down or " +
      "lifts it, Backspace undoes, Delete clears.",
    "draw.empty": "Draw a digit here",
    "draw.cursor": "pen at {x}, {y}; {down}",
    "draw.down": "down",
    "draw.up": "up",
    undo: "Undo",
    clear: "Clear",
    pen: "Stroke width",
    "pen.value": "{value} of 28 pixels",
    copy: "Copy link",
    "copy.done": "Link copied",
    "copy.hand": "The address of this page is now the link",
    examples: "Or take an image of the test set",
    "examples.easy": "Usual ones",
    "examples.hard": "The ones it finds hardest",
    "examples.name": "Test image {index}, a {label}",
    "got.title": "The network gets",
    "got.caption":
      "28 × 28 grey levels: the digit is fitted into 20 × 20 pixels and moved so that its centre of mass is in the " +
      "middle, as the makers of MNIST did. The pen is as thick as the drawing is large.",
    "got.label": "The image that the network gets. {count} of 28 {steps} are read.",
    "answer.title": "It answers",
    "answer.nothing": "Before the first {step} it can only guess.",
    "answer.after": "after {count} of 28 {steps}",
    "answer.empty": "nothing drawn yet",
    "answer.spoken": "After {count} of 28 {steps}: {answer}, probability {probability}",
    "answer.truth": "In the test set this is a {label}.",
    bars: "Probability of each digit after {count} of 28 {steps}",
    "curves.title": "How it makes up its mind",
    "curves.caption":
      "The ten probabilities after each {step}. The network is asked after every {step} here; in training only the " +
      "answer after the last one counted.",
    "curves.decided": "{answer} leads from {step} {count} on",
    "curves.label":
      "Curves of the ten probabilities over 28 {steps}. The last answer is {answer} with {probability}. {decided}",

    player: "Reading",
    play: "Play",
    pause: "Pause",
    first: "To the start",
    back: "One {step} back",
    forward: "One {step} on",
    last: "To the end",
    scrub: "{Step} of the reading",
    "scrub.value": "{count} of 28 {steps} read",
    "scrub.short": "{step} {count}",
    speed: "Speed",
    "speed.value": "{value} {steps} a second",

    "inside.title": "2. The layer: {hidden} units, four gates, one memory",
    "inside.text":
      "Each unit keeps one number c, its memory. At every {step} three gates between 0 and 1 decide what happens to " +
      "it: how much of the old is kept (forget, f), how much of a new candidate g is written (input, i), and how much " +
      "is shown to the other units and to the answer (output, o). Each strip has one line per unit and one column per " +
      "{step} read. Point at a cell to see its numbers in section 3; click to stay there.",
    "strip.i": "input gate i",
    "strip.f": "forget gate f",
    "strip.g": "candidate g",
    "strip.o": "output gate o",
    "strip.c": "memory c",
    "strip.h": "output h",
    strips: "Strips of all units over the {steps}",
    readout: "Unit {unit}, {step} {line}:",
    "strips.hint": "Arrow keys choose the unit and the {step}; Home and End take the first and the last {step}.",
    "scale.gate": "closed 0 to open 1",
    "scale.signed": "−1 to 1",
    "scale.memory": "−{most} to {most} and beyond",
    unit: "Unit",
    "at.step": "{Step}",
    layer: "Layer",
    "layer.name": "Layer {layer}",
    "layer.forward": "Layer {layer}, from the start",
    "layer.backward": "Layer {layer}, from the end",
    sort: "Order of the units",
    "sort.number": "by number",
    "sort.answer": "by what they add to the answer",
    "sort.cell": "by memory at the end",
    "sort.now": "by memory at this {step}",
    "sort.forget": "by forget gate, on average",
    "sort.change": "by the {step} of their largest change",

    "formula.title": "3. One formula, with its numbers",
    "formula.text":
      "Unit {unit} at {step} {line}. The weights W and b are what training found; x is what is read, h what all units " +
      "showed one {step} before, c what this unit remembered.",
    "formula.held": "held at {value}",
    "formula.cleared": "The memory was cleared before this {step}.",
    "formula.input.pixels": "x is {step} {line} of the image: {ink} of 28 pixels have ink.",
    "formula.input.layer": "x is the output of the layer below.",
    "formula.terms": "The sum behind gate {gate}, input by input",
    "formula.terms.caption":
      "Above: what is read. Below: its weights (pale) and each value times its weight (strong). The strong bars add up " +
      "to {sum}, the first number behind {gate}.",
    "formula.picture":
      "Unit {unit}: memory {before}, times forget gate {f}, plus input gate {i} times candidate {g}, is memory {c}; " +
      "output gate {o} shows {h}.",
    "picture.kept": "kept",
    "picture.written": "written",
    "picture.shown": "shown",
    "picture.before": "before",
    "picture.after": "after",

    "why.title": "4. Why: which pixels decide",
    "why.text":
      "The gradient of the log-probability by each pixel, computed here, back through all 28 {steps}. Where it is " +
      "orange, more ink would make the digit more likely; where it is blue, less likely. The bars say how much each " +
      "{step} matters.",
    "why.target": "Why",
    "why.answer": "the answer ({answer})",
    "why.digit": "digit {answer}",
    "why.label":
      "Gradient of the log-probability of {answer} by the pixels. It is largest in {step} {line}.",

    "break.title": "5. Break it",
    "break.text":
      "Change how it reads or remembers; the answer follows at once, and so do all pictures above. Weights stay as " +
      "they are.",
    "break.gates": "Hold a gate",
    "break.free": "free",
    "break.closed": "closed (0)",
    "break.open": "open (1)",
    "break.zero": "at 0",
    "break.scope": "Units",
    "break.all": "all",
    "break.one": "only unit {unit}",
    "break.clear": "Clear the memory before {step}",
    "break.never": "never",
    "break.at": "{line}",
    "break.order": "Read the {steps}",
    "break.order.usual": "from the top",
    "break.order.reversed": "from the bottom",
    "break.order.usual.columns": "from the left",
    "break.order.reversed.columns": "from the right",
    "break.order.shuffled": "shuffled",
    "break.again": "Shuffle again",
    "break.mend": "Mend everything",
    "break.whole": "intact",
    "break.broken": "broken",
    "break.nothing": "Nothing is broken. Hold the forget gate closed, for one.",
    "break.same": "Still {answer}.",
    "break.changed": "{before} became {after}.",
    "break.bars": "Probability of each digit, intact and broken",
    "break.seen": "The image as it is read now",
    "break.banner": "The network is broken: {list}.",
    "break.list.held": "gate {gate} held at {value}",
    "break.list.reversed": "read from the bottom",
    "break.list.reversed.columns": "read from the right",
    "break.list.shuffled": "{steps} shuffled",
    "break.list.clear": "memory cleared before {step} {line}",

    "about.title": "What this is",
    "about.text":
      "An LSTM (long short-term memory; Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber " +
      "and Cummins 2000), trained on the handwritten digits of MNIST and exported from the run <b>{name}</b>: " +
      "{parameters} weights, {shape}. {accuracy} All of it is in this one file; nothing is sent anywhere. The page " +
      "computes the network itself, in 32-bit numbers that agree with those of JAX to five digits.",
    "about.shape": "{layers} × {hidden} units",
    "about.shape.both": "{layers} × {hidden} units in both directions",
    "about.accuracy": "It reads {accuracy} of {count} test images right.",
    "about.both":
      "This network reads in both directions at once, with separate units: the answer after n {steps} has seen n " +
      "{steps} from either end.",
    "about.stack":
      "Where layers lie on top of each other in both directions, an upper one starts when the one below has read " +
      "everything.",
    "about.made": "Made by <code>python -m lstm_jax page</code>.",
  },
  ko: {
    language: "한국어",
    step: "행",
    steps: "행",
    "step.columns": "열",
    "steps.columns": "열",

    title: "LSTM이 손글씨 숫자를 읽는 과정",
    lead:
      "숫자를 하나 그려 보세요. 학습된 신경망이 그림을 한 {step}씩 차례로 읽습니다. 지나간 {step}은 다시 보지 않고, " +
      "본 것은 값 {hidden}개로 된 기억에만 남깁니다. 답이 정해지는 과정을 지켜보고, 안을 들여다보고, 일부러 망가뜨려 보세요.",
    switchLanguage: "언어",
    theme: "색상",
    "theme.auto": "시스템 색상",
    "theme.light": "밝게",
    "theme.dark": "어둡게",

    "whole.title": "1. 전체: {step} 28개를 읽고 답은 하나",
    "draw.title": "그리기",
    "draw.label": "그리기 영역",
    "draw.hint":
      "마우스, 손가락, 펜으로 그립니다. 키보드로는 방향키로 펜을 옮기고(Shift를 누르면 더 멀리), 스페이스로 펜을 " +
      "내리거나 들고, Backspace로 되돌리고, Delete로 지웁니다.",
    "draw.empty": "여기에 숫자를 그리세요",
    "draw.cursor": "펜 위치 {x}, {y}, {down}",
    "draw.down": "내린 상태",
    "draw.up": "든 상태",
    undo: "되돌리기",
    clear: "지우기",
    pen: "획 굵기",
    "pen.value": "28픽셀 중 {value}픽셀",
    copy: "링크 복사",
    "copy.done": "링크를 복사했습니다",
    "copy.hand": "주소창의 주소가 이 상태의 링크입니다",
    examples: "또는 테스트 이미지에서 고르기",
    "examples.easy": "평범한 숫자",
    "examples.hard": "가장 어려워하는 숫자",
    "examples.name": "테스트 이미지 {index}번, 숫자 {label}",
    "got.title": "신경망의 입력",
    "got.caption":
      "28 × 28 회색조 이미지입니다. MNIST를 만든 방법대로 숫자를 20 × 20픽셀에 맞춘 다음, 무게 중심(center of mass)이 " +
      "가운데에 오도록 옮깁니다. 펜 굵기는 그림 크기에 비례합니다.",
    "got.label": "신경망에 들어가는 이미지. {step} 28개 중 {count}개를 읽었습니다.",
    "answer.title": "신경망의 답",
    "answer.nothing": "첫 {step}을 읽기 전에는 찍을 수밖에 없습니다.",
    "answer.after": "{step} 28개 중 {count}개를 읽은 뒤",
    "answer.empty": "아직 그린 것이 없습니다",
    "answer.spoken": "{step} 28개 중 {count}개를 읽은 뒤의 답: {answer}, 확률 {probability}",
    "answer.truth": "테스트 세트의 정답은 {label}입니다.",
    bars: "{step} 28개 중 {count}개를 읽은 뒤 각 숫자의 확률",
    "curves.title": "답이 정해지는 과정",
    "curves.caption":
      "{step}을 하나 읽을 때마다 구한 열 개의 확률입니다. 여기서는 {step}마다 답을 물어보지만, 학습할 때는 마지막 " +
      "{step}까지 읽은 뒤의 답만 썼습니다.",
    "curves.decided": "{count}번째 {step}부터 {answer}",
    "curves.label":
      "{step} 28개를 읽는 동안 열 개의 확률이 변하는 곡선. 마지막 답은 {answer}, 확률 {probability}. {decided}",

    player: "읽기",
    play: "재생",
    pause: "일시 정지",
    first: "처음으로",
    back: "한 {step} 뒤로",
    forward: "한 {step} 앞으로",
    last: "끝으로",
    scrub: "읽은 {step}의 수",
    "scrub.value": "{step} 28개 중 {count}개 읽음",
    "scrub.short": "{count}{step}",
    speed: "속도",
    "speed.value": "1초에 {step} {value}개",

    "inside.title": "2. 층 하나: 유닛 {hidden}개, 유닛마다 게이트 셋과 기억 하나",
    "inside.text":
      "유닛(unit)은 저마다 값 하나를 기억합니다. 이 값이 셀 상태(cell state) c입니다. {step}을 하나 읽을 때마다 0과 1 " +
      "사이의 게이트(gate) 세 개가 이 값을 어떻게 할지 정합니다. 망각 게이트(forget gate) f는 이전 값을 얼마나 남길지, " +
      "입력 게이트(input gate) i는 새 후보(candidate) g를 얼마나 쓸지, 출력 게이트(output gate) o는 다른 유닛과 답에 " +
      "얼마나 내보일지를 정합니다. 아래 그림에서 가로줄은 유닛, 세로줄은 읽은 {step}입니다. 칸에 마우스를 올리면 그 칸의 값이 " +
      "아래 3번 항목의 식에 나타나고, 누르면 그 칸에 고정됩니다.",
    "strip.i": "입력 게이트 i",
    "strip.f": "망각 게이트 f",
    "strip.g": "후보 g",
    "strip.o": "출력 게이트 o",
    "strip.c": "셀 상태 c",
    "strip.h": "출력 h",
    strips: "모든 유닛의 값을 {step} 순서로 그린 그림",
    readout: "유닛 {unit}, {line}번째 {step}:",
    "strips.hint": "방향키로 유닛과 {step}을 고르고, Home과 End로 첫 {step}과 마지막 {step}으로 갑니다.",
    "scale.gate": "0 닫힘, 1 열림",
    "scale.signed": "−1부터 1까지",
    "scale.memory": "−{most}부터 {most}까지, 그 밖은 양 끝과 같은 색",
    unit: "유닛",
    "at.step": "{step}",
    layer: "층",
    "layer.name": "{layer}층",
    "layer.forward": "{layer}층, 정방향",
    "layer.backward": "{layer}층, 역방향",
    sort: "유닛 정렬",
    "sort.number": "번호순",
    "sort.answer": "답에 기여한 크기순",
    "sort.cell": "마지막 셀 상태순",
    "sort.now": "지금 {step}의 셀 상태순",
    "sort.forget": "망각 게이트 평균순",
    "sort.change": "가장 크게 바뀐 {step} 순",

    "formula.title": "3. 식과 그 안의 값",
    "formula.text":
      "유닛 {unit}, {line}번째 {step}. 가중치(weight) W와 편향(bias) b는 학습으로 얻은 값입니다. x는 지금 읽는 값, h는 직전 " +
      "{step}에서 모든 유닛이 내보인 값, c는 이 유닛이 기억하던 값입니다.",
    "formula.held": "{value}에 고정",
    "formula.cleared": "이 {step}을 읽기 전에 기억을 지웠습니다.",
    "formula.input.pixels": "x는 이미지의 {line}번째 {step}입니다. 28픽셀 중 {ink}픽셀에 잉크가 있습니다.",
    "formula.input.layer": "x는 아래층의 출력입니다.",
    "formula.terms": "게이트 {gate}에 들어가는 합, 입력별로 보기",
    "formula.terms.caption":
      "위는 읽는 값, 아래는 그 가중치(옅은 막대)와 값 × 가중치(진한 막대)입니다. 진한 막대를 모두 더한 값은 {sum}입니다. 게이트 " +
      "{gate}의 식에 나오는 첫 번째 값입니다.",
    "formula.picture":
      "유닛 {unit}: 이전 셀 상태 {before} × 망각 게이트 {f} + 입력 게이트 {i} × 후보 {g} = 셀 상태 {c}. " +
      "출력 게이트 {o}, 출력 {h}.",
    "picture.kept": "남김",
    "picture.written": "씀",
    "picture.shown": "내보냄",
    "picture.before": "이전",
    "picture.after": "이후",

    "why.title": "4. 이유: 어느 픽셀이 답을 결정했나",
    "why.text":
      "로그 확률을 각 픽셀 값으로 미분한 기울기(gradient)입니다. {step} 28개를 거슬러 올라가며 이 페이지에서 계산합니다. " +
      "주황색은 잉크를 더하면 그 숫자의 확률이 커지는 곳, 파란색은 작아지는 곳입니다. 옆의 막대는 {step}마다 답에 미치는 영향의 크기입니다.",
    "why.target": "대상",
    "why.answer": "지금의 답 ({answer})",
    "why.digit": "숫자 {answer}",
    "why.label": "숫자 {answer}의 로그 확률을 픽셀 값으로 미분한 기울기. {line}번째 {step}에서 가장 큽니다.",

    "break.title": "5. 망가뜨리기",
    "break.text":
      "읽는 방법이나 기억하는 방법을 바꿔 보세요. 답과 위의 모든 그림이 바로 따라 바뀝니다. 가중치는 그대로입니다.",
    "break.gates": "게이트 고정",
    "break.free": "그대로",
    "break.closed": "닫기 (0)",
    "break.open": "열기 (1)",
    "break.zero": "0에 고정",
    "break.scope": "범위",
    "break.all": "모든 유닛",
    "break.one": "유닛 {unit}만",
    "break.clear": "이 {step}을 읽기 전에 기억 지우기",
    "break.never": "지우지 않음",
    "break.at": "{line}번째 {step}",
    "break.order": "읽는 순서",
    "break.order.usual": "위에서부터",
    "break.order.reversed": "아래에서부터",
    "break.order.usual.columns": "왼쪽부터",
    "break.order.reversed.columns": "오른쪽부터",
    "break.order.shuffled": "뒤섞기",
    "break.again": "다시 섞기",
    "break.mend": "모두 되돌리기",
    "break.whole": "정상",
    "break.broken": "망가진 상태",
    "break.nothing": "아직 망가진 곳이 없습니다. 예를 들어 망각 게이트를 닫아 보세요.",
    "break.same": "답은 여전히 {answer}입니다.",
    "break.changed": "답이 바뀌었습니다: {before} → {after}",
    "break.bars": "각 숫자의 확률, 정상일 때와 망가졌을 때",
    "break.seen": "지금 읽는 순서대로 본 이미지",
    "break.banner": "신경망을 망가뜨린 상태: {list}.",
    "break.list.held": "게이트 {gate}를 {value}에 고정",
    "break.list.reversed": "아래에서부터 읽음",
    "break.list.reversed.columns": "오른쪽부터 읽음",
    "break.list.shuffled": "{step} 순서를 뒤섞음",
    "break.list.clear": "{line}번째 {step}을 읽기 전에 기억을 지움",

    "about.title": "이 페이지에 대하여",
    "about.text":
      "MNIST 손글씨 숫자로 학습한 LSTM(long short-term memory; Hochreiter와 Schmidhuber 1997, 망각 게이트는 Gers, " +
      "Schmidhuber, Cummins 2000)입니다. 학습 실행(run)의 이름은 <b>{name}</b>, 가중치는 {parameters}개, 구조는 " +
      "{shape}입니다. {accuracy} 모든 것이 이 파일 하나에 들어 있고, 아무것도 외부로 보내지 않습니다. 신경망은 이 페이지가 " +
      "32비트 부동소수점으로 직접 계산하며, JAX의 결과와 다섯 자리까지 같습니다.",
    "about.shape": "{layers}층 × 유닛 {hidden}개",
    "about.shape.both": "양방향(bidirectional) {layers}층 × 유닛 {hidden}개",
    "about.accuracy": "테스트 이미지 {count}장 가운데 {accuracy}를 맞힙니다.",
    "about.both":
      "이 신경망은 서로 다른 유닛으로 양쪽에서 동시에 읽습니다. {step} n개를 읽은 뒤의 답은 양 끝에서 각각 {step} n개씩 본 답입니다.",
    "about.stack": "양방향 층을 여러 개 쌓았으면, 위층은 아래층이 전부 읽고 난 뒤에 시작합니다.",
    "about.made": "<code>python -m lstm_jax page</code>로 만들었습니다.",
  },
};

/* The language of the page, and what {step}, {hidden} and so on stand for everywhere. */
const speech = { language: "en", task: "rows", always: {} };

/* Return a text, with what stands in braces filled in. */
function say(name, values = {}) {
  const table = WORDS[speech.language];
  const look = (key) => (speech.task === "columns" && table[`${key}.columns`]) || table[key];
  const step = look("step");
  const all = {
    step,
    steps: look("steps"),
    Step: step[0].toUpperCase() + step.slice(1),
    ...speech.always,
    ...values,
  };
  const text = look(name);
  if (text === undefined) throw new Error(`no text ${name}`);
  return text.replace(/\{(\w+)\}/g, (_, key) => {
    if (all[key] === undefined) throw new Error(`${name}: no value for ${key}`);
    return all[key];
  });
}

/* A share as a percentage, in the way of the language; the space does not break. */
function percent(share, digits = share >= 0.0005 && share < 0.9995 ? 1 : 0) {
  return `${(100 * share).toFixed(digits)}${speech.language === "ko" ? "" : "\u00a0"}%`;
}

/* A number for an equation: three decimals, with a real minus sign. */
function decimal(value, digits = 3) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}
