// The creation of elements. Text becomes textContent only, because a model's output is hostile.

/** An element with a class and text or children. */
export function el(tag, name = "", ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return element;
}

export const $ = (id) => document.getElementById(id);
export const percent = (share) => `${Math.round(100 * share)} %`;
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
