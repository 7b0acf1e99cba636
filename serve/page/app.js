// The form of the page: sends the question to one or more models, and shows their answers.

import { curl, sdk } from "/page/calls.js";
import { ServiceError, servedModels, storeKey, storedKey } from "/page/client.js";
import { $, el } from "/page/elements.js";
import { ModelAnswer } from "/page/model_answer.js";

const EXAMPLES = [
  ["Jars and trays", "Lily has 6 jars of 8 nuts and 6 trays of 6 nuts. How many nuts does Lily have?"],
  ["Cakes", "Lily has 8 cakes. Eva has 5 more cakes than Lily. Eva buys 5 more trays of 5 cakes. Eva sells 4 cakes. How many cakes does Eva have now?"],
  ["Equal piles", "Max has 6 books. Tom has 3 times as many books as Max. They put all their books together. They put the books into 2 equal piles. How many books are in each pile?"],
  ["Coins", "Max has 4 trays of 3 coins. Max buys 5 more boxes of 4 coins. Max sells 6 coins. How many coins does Max have now?"],
  ["Apples", "Leo has 16 apples. Max has 12 more apples than Leo. They put all their apples together. They buy 4 more bags of 6 apples. How many apples do they have now?"],
];
const ALL = "*"; // the option to compare with all other models

let language = "curl";
function showCall() {
  const body = requestBody($("model").value);
  $("code").textContent = language === "curl" ? curl(body) : sdk(body);
  for (const name of ["curl", "sdk"]) {
    $(`tab-${name}`).setAttribute("aria-selected", String(name === language));
    $(`tab-${name}`).tabIndex = name === language ? 0 : -1;
  }
  $("code").setAttribute("aria-labelledby", `tab-${language}`);
}

let sharedCpus = false; // as the service says
let current = null; // the AbortController of the answers in progress

function requestBody(model) {
  return { question: $("question").value.trim(), model, k: Number($("k").value), temperature: Number($("temperature").value), early_stop: $("early").checked };
}

function showProblem(message) {
  $("problem").hidden = !message;
  $("problem").textContent = message;
}

async function submit() {
  if (!$("question").value.trim()) {
    showProblem("Write a word problem first: the question is empty.");
    $("question").focus();
    return;
  }
  if (!$("model").value) await loadModels(); // it shows why there are none, such as a wrong key
  if (!$("model").value) return;
  stop();
  const controller = (current = new AbortController());
  showProblem("");
  const all = [...$("model").options].map((option) => option.value);
  const others = $("other").value === ALL ? all.filter((name) => name !== $("model").value) : [$("other").value];
  const chosen = [$("model").value, ...others].filter(Boolean);
  const answers = chosen.map((model) => new ModelAnswer(requestBody(model)));
  $("results").className = answers.length > 2 ? "two more" : answers.length > 1 ? "two" : "";
  $("results").replaceChildren(...answers.map((answer) => answer.root));
  $("stop").hidden = false;
  $("call").hidden = false;
  showCall();
  if ($("results").getBoundingClientRect().top > innerHeight * 0.75) $("results").scrollIntoView({ behavior: "smooth" });
  const ends = await readAll(answers, controller.signal);
  if (current === controller) { current = null; $("stop").hidden = true; }
  const failed = ends.find((end) => end.status === "rejected")?.reason;
  if (failed instanceof ServiceError && failed.status === 401) requestKey(failed.message);
}

/** Reads the answers, one after another where the engines share CPUs: at the same time they take longer in all. */
async function readAll(answers, signal) {
  if (!sharedCpus) return Promise.allSettled(answers.map((answer) => answer.read(signal)));
  const ends = [];
  for (const answer of answers) ends.push(...(await Promise.allSettled([answer.read(signal)])));
  return ends;
}

function stop() {
  current?.abort();
  current = null;
  $("stop").hidden = true;
}

function requestKey(message) {
  document.querySelector("nav").hidden = true; // a link cannot carry the key
  $("key-box").hidden = false;
  showProblem(message);
  $("key").focus();
}

async function loadModels() {
  try {
    const { data: served, shared_cpus } = await servedModels();
    sharedCpus = shared_cpus;
    $("model").replaceChildren(...served.map(({ id }) => new Option(id, id)));
    $("other").replaceChildren(new Option("no other", ""), ...served.map(({ id }) => new Option(id, id)));
    if (served.length > 2) $("other").append(new Option("all of them", ALL));
    $("other").disabled = served.length < 2;
    showProblem("");
  } catch (error) {
    if (error.status === 401) requestKey(storedKey() ? error.message : "This service needs an API key.");
    else showProblem(`The models cannot be listed: ${error.message}`);
  }
}

function start() {
  for (const [name, question] of EXAMPLES) {
    const button = el("button", "example", name);
    button.type = "button";
    button.title = question;
    button.addEventListener("click", () => { $("question").value = question; $("question").focus(); showCall(); });
    $("examples").append(button);
  }
  $("question").value = EXAMPLES[0][1];
  for (const name of ["k", "temperature"]) {
    $(name).addEventListener("input", () => { $(`${name}-shown`).textContent = $(name).value; });
  }
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("ask").addEventListener("input", showCall);
  $("stop").addEventListener("click", stop);
  $("key").addEventListener("change", () => { storeKey($("key").value.trim()); loadModels(); });
  for (const name of ["curl", "sdk"]) {
    $(`tab-${name}`).addEventListener("click", () => { language = name; showCall(); });
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      language = name === "curl" ? "sdk" : "curl";
      showCall();
      $(`tab-${language}`).focus();
    });
  }
  $("copy").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText($("code").textContent); $("copy").textContent = "Copied"; }
    catch { $("copy").textContent = "Copying failed: select the text"; }
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && current) stop();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
  });
  if (storedKey()) { $("key-box").hidden = false; $("key").value = storedKey(); }
  loadModels();
}

start();
