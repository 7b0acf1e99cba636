"use strict";
(() => {
  document.documentElement.classList.add("js");

  // The tooltip shows the description of the chart mark under the pointer or finger.
  const tip = document.getElementById("tip");
  const showTip = (event) => {
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
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, showTip, { passive: true });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Filters of the examples: words, a reason for rejection, how often the problem was solved. Shows PAGE at a time.
  const form = document.getElementById("filters");
  if (!form) return;
  const PAGE = 20;
  const problems = [...document.querySelectorAll("details.problem")];
  const texts = problems.map((problem) => problem.textContent.toLowerCase());
  const more = document.getElementById("more");
  let most = PAGE;
  const show = () => {
    const words = form.elements.words.value.toLowerCase().trim();
    const reason = form.elements.reason.value;
    const solved = form.elements.solved.value;
    let matching = 0;
    problems.forEach((problem, at) => {
      const matches = (!words || texts[at].includes(words))
        && (!reason || problem.dataset.reasons.split(" ").includes(reason))
        && (!solved || problem.dataset.solved === solved);
      if (matches) matching += 1;
      problem.hidden = !matches || matching > most;
    });
    const shown = Math.min(matching, most);
    document.getElementById("shown").textContent = `${shown} of ${matching} matching examples shown`;
    more.hidden = matching <= most;
  };
  form.addEventListener("input", () => { most = PAGE; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { most += PAGE; show(); });
  show();
})();
