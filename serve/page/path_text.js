// The text of a reasoning path: each equation is marked as right, wrong or not decided.

import { el } from "/page/elements.js";

/** Shows a path's text with marked equations: those with <<...>> in canonical form, others as they are written. */
export function showText(body, text, equations) {
  const characters = Array.from(text); // positions count characters, not UTF-16 units
  const between = (start, end) => characters.slice(start, end).join("");
  let end = 0, last = "";
  body.replaceChildren();
  for (const equation of equations) {
    const written = between(equation.start, equation.end), noted = written.includes("<<");
    const before = withoutStart(between(end, equation.start), last);
    body.append(...withAnswerLines(noted ? withoutEnd(before, equation.equation) : before));
    body.append(mark(equation, noted ? equation.equation : written));
    [end, last] = [equation.end, written.endsWith(">>") ? equation.equation : ""];
  }
  body.append(...withAnswerLines(withoutStart(between(end), last)));
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

function mark({ holds, rule }, shown) {
  const [name, sign, verdict] = holds ? ["right", "✓", "right"] : holds === false ? ["wrong", "✗", "wrong"] : ["open", "?", "not decided"];
  const symbol = el("span", "", `\u00a0${sign}`);
  symbol.setAttribute("aria-hidden", "true");
  const marked = el("span", `equation ${name}`, shown, symbol, el("span", "visually-hidden", ` (${verdict})`));
  marked.title = rule;
  return marked;
}
