// The page: asks, and shows the paths, the votes and the answer as they come.
// What a model wrote is hostile: it only ever becomes textContent.

import { Refused, keep, key, lineage, models, solve } from "/page/solve.js";

const EXAMPLES = [
  ["Jars and trays", "Lily has 6 jars of 8 nuts and 6 trays of 6 nuts. How many nuts does Lily have?"],
  ["Cakes", "Lily has 8 cakes. Eva has 5 more cakes than Lily. Eva buys 5 more trays of 5 cakes. Eva sells 4 cakes. How many cakes does Eva have now?"],
  ["Equal piles", "Max has 6 books. Tom has 3 times as many books as Max. They put all their books together. They put the books into 2 equal piles. How many books are in each pile?"],
  ["Coins", "Max has 4 trays of 3 coins. Max buys 5 more boxes of 4 coins. Max sells 6 coins. How many coins does Max have now?"],
  ["Apples", "Leo has 16 apples. Max has 12 more apples than Leo. They put all their apples together. They buy 4 more bags of 6 apples. How many apples do they have now?"],
];
const ALL = "*"; // in place of one model to compare with
const SILENT = { undecided: "several answers", no_answer: "no answer", truncated: "cut off" };
const $ = (id) => document.getElementById(id);

/** An element with a class and text or children. */
function el(tag, name = "", ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...inside.map((one) => (one instanceof Node ? one : document.createTextNode(String(one)))));
  return made;
}

const percent = (share) => `${Math.round(100 * share)} %`;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// ---- One model's answer ----

class Run {
  constructor(body) {
    this.body = body;
    this.cards = new Map();
    this.folds = new Map();
    this.answer = el("p", "answer", "?");
    this.sure = el("p", "sure", "waiting for the first path");
    this.live = el("p", "heard");
    this.live.setAttribute("role", "status");
    this.live.setAttribute("aria-live", "polite");
    this.spoken = 0;
    this.progress = document.createElement("progress");
    this.progress.max = body.k;
    this.progress.value = 0;
    this.progress.setAttribute("aria-label", "Paths finished");
    this.votes = el("ol", "votes");
    this.votes.setAttribute("aria-label", "Votes");
    this.bars = new Map();
    this.silent = el("p", "silent");
    this.note = el("p", "note");
    this.paths = el("ol", "paths");
    this.paths.setAttribute("aria-label", "Reasoning paths");
    this.origin = el("details", "origin", el("summary", "", "Where this model comes from"));
    this.origin.addEventListener("toggle", () => this.showOrigin(), { once: true });
    this.root = el("article", "run", el("h2", "", body.model), this.live, el("div", "verdict",
      el("div", "said", this.answer, this.sure, this.progress), el("div", "tally", this.votes, this.silent)),
      this.note, el("h3", "", "Paths"), this.paths, this.origin);
    this.root.setAttribute("aria-label", body.model);
    this.root.setAttribute("aria-busy", "true");
  }

  async follow(signal) {
    try {
      for await (const [event, data] of solve(this.body, signal)) this[`on_${event}`]?.(data);
      if (!this.ended) this.fail("the connection ended before the result came");
    } catch (error) {
      if (error.name !== "AbortError") { this.fail(error.message); throw error; }
      this.finish();
      this.note.textContent = "Stopped by you: the samples that were running are cancelled.";
    }
  }

  on_text({ texts }) {
    for (const [index, text] of Object.entries(texts)) {
      const card = this.card(Number(index));
      card.body.append(text);
    }
  }

  on_path(path) {
    const card = this.card(path.index);
    card.done = true;
    const key = path.distinct ?? `silent ${path.index}`;
    const first = this.folds.get(key);
    if (first) {
      first.count += 1;
      first.times.textContent = `× ${first.count}`;
      first.times.title = `${first.count} samples took this path`;
      card.root.remove();
      return;
    }
    this.folds.set(key, card);
    card.count = 1;
    card.root.className = `path ${path.silent ? "mute" : path.sound ? "sound" : "unsound"}`;
    card.name.textContent = path.distinct ? `Path ${path.distinct}` : "No vote";
    card.state.textContent = path.silent ? SILENT[path.silent] : `votes ${path.answer}`;
    card.root.dataset.answer = path.answer ?? "";
    write(card.body, path.text, path.equations);
  }

  on_vote(vote) {
    this.progress.value = vote.came;
    const leader = vote.votes[0];
    this.answer.textContent = leader ? leader.answer : "?";
    this.sure.textContent = leader
      ? `${leader.count} of ${plural(vote.came, "path")} so far · ${percent(vote.confidence)}`
      : `${plural(vote.came, "path")}, no vote yet`;
    this.showVotes(vote);
    if (leader) this.say(`${leader.answer} leads with ${this.sure.textContent}`, 3000);
  }

  /** To a screen reader: not every vote of sixty, but every few seconds, and the end. */
  say(text, after = 0) {
    if (performance.now() - this.spoken < after) return;
    this.spoken = performance.now();
    this.live.textContent = `${this.body.model}: ${text}`;
  }

  on_result(result) {
    this.ended = true;
    this.finish();
    this.root.classList.add("final");
    this.answer.textContent = result.answer ?? "no answer";
    const { low, high } = result.interval;
    this.say(result.answer === null ? "no answer" : `the answer is ${result.answer}, with ${percent(result.confidence)} of the paths`);
    this.sure.replaceChildren(el("strong", "", percent(result.confidence)), " of the paths",
      el("span", "range", ` (95 % interval ${Math.round(100 * low)}–${Math.round(100 * high)} %)`));
    const spared = result.saved.paths
      ? ` · certain after ${result.came} of ${result.k}: ${plural(result.saved.paths, "sample")} and about ${plural(result.saved.tokens, "token")} spared`
      : "";
    this.note.textContent = `${plural(result.distinct_paths, "distinct path")} to the answer · ${plural(result.tokens, "token")} in ${result.seconds.toFixed(1)} s${spared}`;
    for (const card of this.folds.values()) {
      card.root.classList.toggle("winner", result.answer !== null && card.root.dataset.answer === result.answer);
    }
    const rank = (card) => (card.root.classList.contains("winner") ? -1000 : 0) + (card.root.classList.contains("mute") ? 1000 : 0) - card.count;
    const ranked = [...this.folds.values()].sort((a, b) => rank(a) - rank(b)).map((card) => card.root);
    const [mute, voting] = [true, false].map((quiet) => ranked.filter((root) => root.classList.contains("mute") === quiet));
    this.paths.append(...voting);
    if (mute.length && voting.length) {
      const list = el("ol", "paths", ...mute);
      this.paths.after(el("details", "unheard", el("summary", "", `${plural(mute.length, "path")} without a vote`), list));
    }
  }

  on_error({ error }) {
    this.ended = true;
    this.fail(error.message);
  }

  /** Bars keep their element from vote to vote, so that they grow. */
  showVotes(vote) {
    const most = Math.max(1, vote.votes[0]?.count ?? 1);
    for (const { answer, count } of vote.votes.slice(0, 8)) {
      if (!this.bars.has(answer)) {
        const bar = el("span", "bar"), times = el("span", "count");
        this.bars.set(answer, { root: el("li", "", el("span", "label", answer), el("span", "track", bar), times), bar, times });
      }
      const { root, bar, times } = this.bars.get(answer);
      root.classList.toggle("lead", answer === vote.votes[0].answer);
      bar.style.width = `${(100 * count) / most}%`;
      times.textContent = count;
      this.votes.append(root);
    }
    const rest = vote.votes.slice(8).reduce((sum, one) => sum + one.count, 0);
    const silent = Object.keys(SILENT).filter((kind) => vote[kind]).map((kind) => `${vote[kind]} ${SILENT[kind]}`);
    this.silent.textContent = [rest && `${rest} for other answers`, silent.length && `not voting: ${silent.join(", ")}`].filter(Boolean).join(" · ");
  }

  card(index) {
    if (!this.cards.has(index)) {
      const card = { name: el("span", "name", `Sample ${index + 1}`), state: el("span", "state", "writing"), times: el("span", "times"), body: el("div", "text") };
      card.root = el("li", "path writing", el("div", "head", card.name, card.times, card.state), card.body);
      this.cards.set(index, card);
      this.paths.append(card.root);
    }
    return this.cards.get(index);
  }

  /** No more comes: what is unfinished goes. */
  finish() {
    this.root.setAttribute("aria-busy", "false");
    this.progress.hidden = true;
    for (const card of this.cards.values()) if (!card.done) card.root.remove();
  }

  fail(message) {
    this.finish();
    this.answer.textContent = "—";
    this.sure.textContent = message;
    this.say(message);
    this.root.classList.add("failed");
  }

  async showOrigin() {
    const list = el("dl");
    try {
      for (const [name, value] of facts(await lineage(this.body.model))) list.append(el("dt", "", name), el("dd", "", value));
    } catch (error) {
      list.append(el("dt", "", "not known"), el("dd", "", error.message));
    }
    this.origin.append(list);
  }
}

/** A path's text, with every equation as a mark. Where no <<...>> stands in it, the equations follow it. */
function write(body, text, equations) {
  const pieces = text.split(/<<[^>]*>>/);
  const inline = pieces.length === equations.length + 1 && equations.length > 0;
  body.replaceChildren();
  if (!inline) {
    body.append(el("p", "", ...told(text)));
    if (equations.length) body.append(el("p", "", ...equations.flatMap((one) => [mark(one), " "])));
    return;
  }
  pieces.forEach((piece, at) => {
    const before = at > 0 ? withoutStart(piece, equations[at - 1].equation) : piece;
    body.append(...told(at < equations.length ? withoutEnd(before, equations[at].equation) : before));
    if (at < equations.length) body.append(mark(equations[at]));
  });
}

/** Text with its `#### 8` lines set apart. */
function told(text) {
  return text.split(/^(####[^\n]*)$/m).map((part) => (part.startsWith("####") ? el("strong", "last", part.slice(4).trim()) : part));
}

/** `gives 2*4 = <<2*4=8>>8 pens` says all twice: what stands before and after a mark just as in it is left out. */
function withoutEnd(text, equation) {
  const left = equation.slice(0, equation.indexOf("=") + 1);
  let at = text.length, missing = left.length;
  while (missing > 0 && at > 0 && (text[at - 1] === " " || text[at - 1] === left[missing - 1])) {
    at -= 1;
    if (text[at] !== " ") missing -= 1;
  }
  return missing === 0 && left.length > 1 && !/[\w.]$/.test(text.slice(0, at)) ? text.slice(0, at) : text;
}

function withoutStart(text, equation) {
  const right = equation.slice(equation.lastIndexOf("=") + 1);
  return right && text.startsWith(right) && !/^[.,]?\d/.test(text.slice(right.length)) ? text.slice(right.length) : text;
}

function mark({ equation, holds }) {
  const [name, sign, said] = holds ? ["right", "✓", "right"] : holds === false ? ["wrong", "✗", "wrong"] : ["open", "?", "not decided"];
  const seen = el("span", "", `\u00a0${sign}`);
  seen.setAttribute("aria-hidden", "true");
  return el("span", `equation ${name}`, equation, seen, el("span", "heard", ` (${said})`));
}

function facts(card) {
  const found = [["Run", card.run], ["Stage", card.stage], ["Base model", card.base]];
  if (card.fingerprint) found.push(["Fingerprint", card.fingerprint]);
  if (card.corpus?.fingerprint) found.push(["Corpus", `${card.corpus.fingerprint} (${card.corpus.gold} gold, ${card.corpus.paths} paths)`]);
  for (const one of card.corpus?.samplers ?? []) found.push([`from ${one.model}`, `${one.paths} paths, ${percent(one.share)}`]);
  for (const [name, value] of Object.entries(card.evaluation ?? {})) {
    found.push([value.k ? name.replace("@k", `@${value.k}`) : name, `${(100 * value.value).toFixed(1)} % [${(100 * value.low).toFixed(1)}, ${(100 * value.high).toFixed(1)}] of ${value.n} problems`]);
  }
  for (const [name, value] of Object.entries(card.settings ?? {})) found.push([name.replaceAll("_", " "), value]);
  return found;
}

// ---- The same call elsewhere ----

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(body) {
  const header = key() ? ` \\\n  -H "Authorization: Bearer $RFT_API_KEY"` : "";
  return `curl -N ${location.origin}/solve${header} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(JSON.stringify({ ...body, stream: true }))}`;
}

function sdk(body) {
  const keyed = key() ? 'os.environ["RFT_API_KEY"]' : '"none"';
  return `${key() ? "import os\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=${keyed})
answer = client.chat.completions.create(
    model=${JSON.stringify(body.model)},
    messages=[{"role": "user", "content": ${JSON.stringify(body.question)}}],
    n=${body.k},
    temperature=${body.temperature},
)
for choice in answer.choices:
    print(choice.message.content)`;
}

let language = "curl";
function showCall() {
  const body = asked($("model").value);
  $("code").textContent = language === "curl" ? curl(body) : sdk(body);
  for (const name of ["curl", "sdk"]) {
    $(`tab-${name}`).setAttribute("aria-selected", String(name === language));
    $(`tab-${name}`).tabIndex = name === language ? 0 : -1;
  }
  $("code").setAttribute("aria-labelledby", `tab-${language}`);
}

// ---- Asking ----

let current = null;

function asked(model) {
  return { question: $("question").value.trim(), model, k: Number($("k").value), temperature: Number($("temperature").value), early_stop: $("early").checked };
}

function complain(message) {
  $("problem").hidden = !message;
  $("problem").textContent = message;
}

async function ask() {
  if (!$("question").value.trim()) { $("question").focus(); return; }
  stop();
  const mine = (current = new AbortController());
  complain("");
  const all = [...$("model").options].map((one) => one.value);
  const others = $("other").value === ALL ? all.filter((one) => one !== $("model").value) : [$("other").value];
  const chosen = [$("model").value, ...others].filter(Boolean);
  const runs = chosen.map((model) => new Run(asked(model)));
  $("results").className = runs.length > 2 ? "two more" : runs.length > 1 ? "two" : "";
  $("results").replaceChildren(...runs.map((run) => run.root));
  $("stop").hidden = false;
  $("call").hidden = false;
  showCall();
  if ($("results").getBoundingClientRect().top > innerHeight * 0.75) $("results").scrollIntoView({ behavior: "smooth" });
  const ends = await Promise.allSettled(runs.map((run) => run.follow(mine.signal)));
  if (current === mine) { current = null; $("stop").hidden = true; }
  const failed = ends.find((end) => end.status === "rejected")?.reason;
  if (failed instanceof Refused && failed.status === 401) wantKey(failed.message);
}

function stop() {
  current?.abort();
  current = null;
  $("stop").hidden = true;
}

function wantKey(message) {
  document.querySelector("nav").hidden = true; // a link cannot carry the key
  $("key-box").hidden = false;
  complain(message);
  $("key").focus();
}

async function loadModels() {
  try {
    const served = await models();
    $("model").replaceChildren(...served.map((one) => new Option(one.id, one.id)));
    $("other").replaceChildren(new Option("no other", ""), ...served.map((one) => new Option(one.id, one.id)));
    if (served.length > 2) $("other").append(new Option("all of them", ALL));
    $("other").disabled = served.length < 2;
    complain("");
  } catch (error) {
    if (error.status === 401) wantKey(key() ? error.message : "This service asks for an API key.");
    else complain(`The models cannot be listed: ${error.message}`);
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
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("ask").addEventListener("input", showCall);
  $("stop").addEventListener("click", stop);
  $("key").addEventListener("change", () => { keep($("key").value.trim()); loadModels(); });
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
    catch { $("copy").textContent = "Select it by hand"; }
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && current) stop();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
  });
  if (key()) { $("key-box").hidden = false; $("key").value = key(); }
  loadModels();
}

start();
