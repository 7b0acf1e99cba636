// One model's answer: its paths, votes and result as they arrive.

import { modelDetails, solve } from "/page/client.js";
import { el, percent, plural } from "/page/elements.js";
import { showText } from "/page/path_text.js";

const NO_VOTE = { undecided: "several answers", no_answer: "no answer", truncated: "cut off" };

/** One model's answer to a question, from its first event to its last. */
export class ModelAnswer {
  constructor(body) {
    this.body = body;
    this.cards = new Map();
    this.distinctPaths = new Map();
    this.answer = el("p", "answer", "?");
    this.confidence = el("p", "confidence", "waiting for the model before it");
    this.announcement = el("p", "visually-hidden");
    this.announcement.setAttribute("role", "status");
    this.announcement.setAttribute("aria-live", "polite");
    this.announcedAt = 0;
    this.progress = document.createElement("progress");
    this.progress.max = body.k;
    this.progress.value = 0;
    this.progress.setAttribute("aria-label", "Paths finished");
    this.votes = el("ol", "votes");
    this.votes.setAttribute("aria-label", "Votes");
    this.bars = new Map();
    this.notVoting = el("p", "not-voting");
    this.note = el("p", "note");
    this.paths = el("ol", "paths");
    this.paths.setAttribute("aria-label", "Reasoning paths");
    this.details = el("details", "details", el("summary", "", "About this model"));
    this.details.addEventListener("toggle", () => this.showDetails(), { once: true });
    this.root = el("article", "run", el("h2", "", body.model), this.announcement, el("div", "verdict",
      el("div", "summary", this.answer, this.confidence, this.progress), el("div", "counts", this.votes, this.notVoting)),
      this.note, el("h3", "", "Paths"), this.paths, this.details);
    this.root.setAttribute("aria-label", body.model);
    this.root.setAttribute("aria-busy", "true");
  }

  /** Sends the question and shows the events. Throws what the service answers instead of them. */
  async read(signal) {
    this.confidence.textContent = "waiting for the first path";
    try {
      for await (const [event, data] of solve(this.body, signal)) this[`on_${event}`]?.(data);
      if (!this.ended) this.fail("the connection ended before the result arrived");
    } catch (error) {
      if (error.name !== "AbortError") { this.fail(error.message); throw error; }
      this.finish();
      this.note.textContent = "Stopped by you: the unfinished samples are cancelled.";
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
    const key = path.distinct ?? `no vote ${path.index}`;
    const first = this.distinctPaths.get(key);
    if (first) {
      first.count += 1;
      first.times.textContent = `× ${first.count}`;
      first.times.title = `${first.count} samples are this path`;
      card.root.remove();
      return;
    }
    this.distinctPaths.set(key, card);
    card.count = 1;
    card.root.className = `path ${path.silent ? "no-vote" : path.sound ? "sound" : "unsound"}`;
    card.name.textContent = path.distinct ? `Path ${path.distinct}` : "No vote";
    card.state.textContent = path.silent ? NO_VOTE[path.silent] : `votes ${path.answer}`;
    card.root.dataset.answer = path.answer ?? "";
    showText(card.body, path.text, path.equations);
  }

  on_vote(vote) {
    this.progress.value = vote.came;
    const leader = vote.votes[0];
    this.answer.textContent = leader ? leader.answer : "?";
    this.confidence.textContent = leader
      ? `${leader.count} of ${plural(vote.came, "path")} so far · ${percent(vote.confidence)}`
      : `${plural(vote.came, "path")}, no vote yet`;
    this.showVotes(vote);
    if (leader) this.announce(`${leader.answer} leads with ${this.confidence.textContent}`, 3000);
  }

  /** Announces a text to screen readers, unless another one was announced within `pauseMs`. */
  announce(text, pauseMs = 0) {
    if (performance.now() - this.announcedAt < pauseMs) return;
    this.announcedAt = performance.now();
    this.announcement.textContent = `${this.body.model}: ${text}`;
  }

  on_result(result) {
    this.ended = true;
    this.finish();
    this.root.classList.add("final");
    this.answer.textContent = result.answer ?? "no answer";
    const { low, high } = result.interval;
    this.announce(result.answer === null ? "no answer" : `the answer is ${result.answer}, with ${percent(result.confidence)} of the paths`);
    this.confidence.replaceChildren(el("strong", "", percent(result.confidence)), " of the paths",
      el("span", "range", ` (95 % interval ${Math.round(100 * low)}–${Math.round(100 * high)} %)`));
    const saved = result.saved.paths
      ? ` · certain after ${result.came} of ${result.k}: ${plural(result.saved.paths, "sample")} and about ${plural(result.saved.tokens, "token")} saved`
      : "";
    this.note.textContent = `${plural(result.distinct_paths, "distinct path")} to the answer · ${plural(result.tokens, "token")} in ${result.seconds.toFixed(1)} s${saved}`;
    for (const card of this.distinctPaths.values()) {
      card.root.classList.toggle("winner", result.answer !== null && card.root.dataset.answer === result.answer);
    }
    const order = (card) => (card.root.classList.contains("winner") ? -1000 : 0) + (card.root.classList.contains("no-vote") ? 1000 : 0) - card.count;
    const sorted = [...this.distinctPaths.values()].sort((a, b) => order(a) - order(b)).map((card) => card.root);
    const withoutVote = sorted.filter((root) => root.classList.contains("no-vote"));
    const voting = sorted.filter((root) => !root.classList.contains("no-vote"));
    this.paths.append(...voting);
    if (withoutVote.length && voting.length) {
      const list = el("ol", "paths", ...withoutVote);
      this.paths.after(el("details", "without-vote", el("summary", "", `${plural(withoutVote.length, "path")} without a vote`), list));
    }
  }

  on_error({ error }) {
    this.ended = true;
    this.fail(error.message);
  }

  /** Shows the votes. A bar keeps its element from event to event, so that its growth is animated. */
  showVotes(vote) {
    const most = Math.max(1, vote.votes[0]?.count ?? 1), shown = vote.votes.slice(0, 8);
    for (const { answer, count } of shown) {
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
    for (const [answer, { root }] of this.bars) if (!shown.some((own) => own.answer === answer)) root.remove();
    const rest = vote.votes.slice(8).reduce((sum, { count }) => sum + count, 0);
    const withoutVote = Object.keys(NO_VOTE).filter((kind) => vote[kind]).map((kind) => `${vote[kind]} ${NO_VOTE[kind]}`);
    this.notVoting.textContent = [rest && `${rest} for other answers`, withoutVote.length && `not voting: ${withoutVote.join(", ")}`].filter(Boolean).join(" · ");
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

  /** Ends the progress display and removes the unfinished paths. */
  finish() {
    this.root.setAttribute("aria-busy", "false");
    this.progress.hidden = true;
    for (const card of this.cards.values()) if (!card.done) card.root.remove();
  }

  fail(message) {
    this.finish();
    this.answer.textContent = "—";
    this.confidence.textContent = message;
    this.announce(message);
    this.root.classList.add("failed");
  }

  async showDetails() {
    const list = el("dl");
    try {
      for (const [name, value] of detailRows(await modelDetails(this.body.model))) list.append(el("dt", "", name), el("dd", "", value));
    } catch (error) {
      list.append(el("dt", "", "Not available"), el("dd", "", error.message));
    }
    this.details.append(list);
  }
}

/** [name, value] rows of a model's details. */
function detailRows(card) {
  const rows = [["Run", card.run], ["Stage", card.stage], ["Base model", card.base]];
  if (card.fingerprint) rows.push(["Fingerprint", card.fingerprint]);
  if (card.corpus?.fingerprint) rows.push(["Corpus", `${card.corpus.fingerprint} (${card.corpus.gold} gold, ${card.corpus.paths} paths)`]);
  for (const { model, paths, share } of card.corpus?.samplers ?? []) rows.push([`from ${model}`, `${paths} paths, ${percent(share)}`]);
  for (const [name, value] of Object.entries(card.evaluation ?? {})) {
    rows.push([value.k ? name.replace("@k", `@${value.k}`) : name, `${(100 * value.value).toFixed(1)} % [${(100 * value.low).toFixed(1)}, ${(100 * value.high).toFixed(1)}] of ${value.n} problems`]);
  }
  for (const [name, value] of Object.entries(card.settings ?? {})) rows.push([name.replaceAll("_", " "), value]);
  return rows;
}
