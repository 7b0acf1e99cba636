// The text of a reasoning path: each equation is marked as right, wrong or not decided.

import { el } from "/page/elements.js";

/** Shows a path's text with marked equations. Equations that the text does not contain as <<...>> follow it. */
export function showText(body, text, equations) {
  const pieces = text.split(/<<[^>]*>>/);
  const inline = pieces.length === equations.length + 1 && equations.length > 0;
  body.replaceChildren();
  if (!inline) {
    body.append(el("p", "", ...withAnswerLines(text)));
    if (equations.length) body.append(el("p", "", ...equations.flatMap((equation) => [mark(equation), " "])));
    return;
  }
  pieces.forEach((piece, index) => {
    const rest = index > 0 ? withoutStart(piece, equations[index - 1].equation) : piece;
    body.append(...withAnswerLines(index < equations.length ? withoutEnd(rest, equations[index].equation) : rest));
    if (index < equations.length) body.append(mark(equations[index]));
  });
}

/** The text with its `#### 8` lines as elements of their own. */
function withAnswerLines(text) {
  return text.split(/^(####[^\n]*)$/m).map((part) => (part.startsWith("####") ? el("strong", "final-answer", part.slice(4).trim()) : part));
}

/** `gives 2*4 = <<2*4=8>>8 pens` repeats the equation: text next to a mark that is equal to a side of it is left out. */
function withoutEnd(text, equation) {
  const left = equation.slice(0, equation.indexOf("=") + 1);
  let end = text.length, missing = left.length;
  while (missing > 0 && end > 0 && (text[end - 1] === " " || text[end - 1] === left[missing - 1])) {
    end -= 1;
    if (text[end] !== " ") missing -= 1;
  }
  return missing === 0 && left.length > 1 && !/[\w.]$/.test(text.slice(0, end)) ? text.slice(0, end) : text;
}

function withoutStart(text, equation) {
  const right = equation.slice(equation.lastIndexOf("=") + 1);
  return right && text.startsWith(right) && !/^[.,]?\d/.test(text.slice(right.length)) ? text.slice(right.length) : text;
}

function mark({ equation, holds }) {
  const [name, sign, verdict] = holds ? ["right", "✓", "right"] : holds === false ? ["wrong", "✗", "wrong"] : ["open", "?", "not decided"];
  const symbol = el("span", "", `\u00a0${sign}`);
  symbol.setAttribute("aria-hidden", "true");
  return el("span", `equation ${name}`, equation, symbol, el("span", "visually-hidden", ` (${verdict})`));
}
