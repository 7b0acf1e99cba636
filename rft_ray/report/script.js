"use strict";
(() => {
  document.documentElement.classList.add("js");

  // A mark of a chart says what it shows: under the pointer, or under a finger.
  const tip = document.getElementById("tip");
  const tell = (event) => {
    const mark = event.target instanceof Element ? event.target.closest(".plot .role-mark [aria-label]") : null;
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.getAttribute("aria-label");
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 12, document.documentElement.clientWidth - box.width - 6);
    const above = event.clientY - box.height - 12;
    tip.style.left = `${Math.max(6, left)}px`;
    tip.style.top = `${above < 6 ? event.clientY + 16 : above}px`;
  };
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, tell, { passive: true });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Examples: a text to look for, a reason that must occur, how often the problem was solved; a page at a time.
  const form = document.getElementById("filters");
  if (!form) return;
  const PAGE = 20;
  const problems = [...document.querySelectorAll("details.problem")];
  const texts = problems.map((one) => one.textContent.toLowerCase());
  const more = document.getElementById("more");
  let most = PAGE;
  const show = () => {
    const words = form.elements.words.value.toLowerCase().trim();
    const reason = form.elements.reason.value;
    const solved = form.elements.solved.value;
    let fitting = 0;
    problems.forEach((one, at) => {
      const fits = (!words || texts[at].includes(words))
        && (!reason || one.dataset.reasons.split(" ").includes(reason))
        && (!solved || one.dataset.solved === solved);
      if (fits) fitting += 1;
      one.hidden = !fits || fitting > most;
    });
    const shown = Math.min(fitting, most);
    document.getElementById("shown").textContent = `${shown} of ${fitting} fitting examples shown`;
    more.hidden = fitting <= most;
  };
  form.addEventListener("input", () => { most = PAGE; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { most += PAGE; show(); });
  show();
})();
