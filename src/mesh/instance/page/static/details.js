// One model: its copies, what is asked for it, where it failed, and what was decided about it and why.

import { byId, element } from "./dom.js";
import { decisionItem } from "./lists.js";
import * as words from "./words.js";

const panel = byId("details");
let shown = null;
let opener = null;
let drawn = "";

export const modelShown = () => shown;

/** Opens the panel with a model; `null` closes it. The caller asks `refreshDetails` for its content. */
export function showDetails(model) {
  if (model === shown) return;
  if (shown === null) opener = document.activeElement;
  shown = model;
  drawn = "";
  if (model === null) {
    if (panel.open) panel.close();
    opener?.focus?.({ preventScroll: true });
    return;
  }
  draw([element("p", {}, "asking…")]);
  if (!panel.open) panel.show();
  panel.scrollTop = 0;
  byId("details-title").focus();
}

/** Asks for the model that is shown and draws it. */
export async function refreshDetails() {
  const model = shown;
  if (model === null) return;
  let content;
  try {
    const answer = await fetch(`api/model?id=${encodeURIComponent(model)}`, { cache: "no-cache" });
    const text = await answer.text();
    if (model !== shown || text === drawn) return;
    drawn = text;
    content = answer.ok ? describe(JSON.parse(text)) : [element("p", {}, answer.status === 404 ? "It is not registered." : `It cannot be told now (${answer.status}).`)];
  } catch {
    return; // The page tells that nobody answers; what is shown stays.
  }
  draw(content);
}

function draw(content) {
  const open = new Set([...panel.querySelectorAll("details[open]")].map((one) => one.dataset.key));
  const within = panel.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  const close = element("button", { type: "button", className: "close", "data-focus": "close" }, "Close");
  close.addEventListener("click", () => (location.hash = ""));
  panel.replaceChildren(
    element("div", { className: "title" }, element("h2", { id: "details-title", tabIndex: -1, "data-focus": "title" }, shown), close),
    ...content,
  );
  for (const one of panel.querySelectorAll("details")) one.open = open.has(one.dataset.key);
  if (within) panel.querySelector(`[data-focus="${CSS.escape(within)}"]`)?.focus({ preventScroll: true });
}

function describe(model) {
  const now = Date.now();
  return [
    pairs([
      ["state", words.state(model.state)],
      ["type", model.type],
      ["path", model.path],
      ["memory to be expected", model.size ? `${words.size(model.size)} (${model.size_source})` : ""],
      ["last used", words.ago(model.used_ms, now)],
      ["vmodels that refer to it", model.references ? words.number(model.references) : ""],
      ["policy", policy(model.policy)],
    ]),
    element("h3", {}, "Copies"),
    copies(model, now),
    ...(model.failures.length
      ? [
          element("h3", {}, "Failures"),
          element(
            "ul",
            {},
            model.failures.map((one) =>
              element("li", {}, `on ${one.instance}`, element("small", {}, ` ${words.ago(one.time_ms, now)}`), element("div", { className: "message" }, one.message)),
            ),
          ),
        ]
      : []),
    element("h3", {}, "Why it is where it is"),
    model.decisions.length
      ? element("ol", {}, model.decisions.map((one, place) => explained(one, now, place)))
      : element("p", {}, "The mesh remembers no decision about it."),
  ];
}

function pairs(rows) {
  return element("dl", { className: "pairs" }, rows.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function copies(model, now) {
  if (!model.copies.length) return element("p", {}, model.failures.length ? "None is loaded." : "None is loaded; the first request loads one.");
  return table(
    ["instance", "state", "memory", "in flight", "req/min", "for", "last used"],
    model.copies.map((copy) => [
      copy.instance,
      [words.state(copy.state), words.progressText(copy)].filter(Boolean).join(", "),
      copy.size ? words.size(copy.size) : "-",
      words.number(copy.in_flight),
      words.number(copy.rpm),
      words.duration(now - copy.since_ms),
      words.ago(copy.used_ms, now),
    ]),
    new Set([2, 3, 4]),
  );
}

function explained(one, now, place) {
  const item = decisionItem(one, now, false);
  if (!one.candidates) return item;
  const rows = one.candidates.map((candidate) => [
    candidate.refused ? "-" : words.number(candidate.rank),
    element("span", { className: candidate.instance === one.chosen ? "chosen" : "" }, candidate.instance),
    candidate.refused ? element("span", { className: "refused" }, `refused: ${candidate.refused}`) : candidate.why,
  ]);
  const all = element(
    "details",
    { "data-key": `${one.time_ms} ${one.kind} ${place}` },
    element("summary", {}, words.count(one.candidates.length + one.more_candidates, "candidate")),
    table(["rank", "instance", "why"], rows, new Set([0])),
    one.more_candidates ? element("small", {}, `and ${words.number(one.more_candidates)} more`) : null,
  );
  item.append(all);
  return item;
}

function table(names, rows, numeric) {
  const cell = (name, value, place) => element(name, { className: numeric.has(place) ? "number" : "" }, value);
  const head = element("tr", {}, names.map((name, place) => cell("th", name, place)));
  const body = rows.map((row) => element("tr", {}, row.map((value, place) => cell("td", value, place))));
  return element("div", { className: "wide" }, element("table", {}, element("thead", {}, head), element("tbody", {}, body)));
}

function policy(told) {
  const parts = [];
  if (told.min_copies) parts.push(`at least ${words.count(told.min_copies, "copy")}`);
  if (told.max_copies) parts.push(`at most ${words.count(told.max_copies, "copy")}`);
  if (told.pinned) parts.push("pinned");
  if (told.priority) parts.push(`priority ${told.priority}`);
  if (told.idle_ttl_ms) parts.push(`unloaded when idle for ${words.duration(told.idle_ttl_ms)}`);
  if (told.declared_size_bytes) parts.push(`${words.size(told.declared_size_bytes)} a copy`);
  return parts.join(", ");
}
