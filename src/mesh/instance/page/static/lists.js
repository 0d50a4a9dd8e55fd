// The mesh in figures, loads in flight, failed loads, and what was decided.

import { byId, element, modelButton, refill } from "./dom.js";
import * as words from "./words.js";

/** Loads that are listed. */
const MOST_LOADS = 25;

const KINDS = {
  placement: "",
  load: "good",
  eviction: "warn",
  refusal: "bad",
  unload: "",
  failure: "bad",
  scale_up: "good",
  scale_down: "warn",
};

const CHOICES = {
  everything: null,
  "what fails": new Set(["failure", "refusal", "observation"]),
  "what comes": new Set(["placement", "load", "scale_up", "move", "preload", "switch"]),
  "what goes": new Set(["eviction", "unload", "scale_down"]),
};

const kinds = byId("kinds");
kinds.append(...Object.keys(CHOICES).map((text) => element("option", { value: text }, text)));

export function drawFacts(overview) {
  const sum = (member) => overview.instances.reduce((total, one) => total + one[member], 0);
  const lost = overview.instances.filter((one) => !one.reachable).length;
  const facts = [
    ["instances", words.number(overview.instances.length), lost ? `, ${lost} unreachable` : "", lost > 0],
    ["models", words.number(overview.models), " registered", false],
    ["with a copy", words.number(overview.models_loaded), ` of ${words.count(sum("models"), "copy")}`, false],
    ["memory", words.size(sum("used")), ` of ${words.size(sum("capacity"))}`, false],
    ["requests/min", words.number(sum("rpm")), "", false],
    ["loads in flight", words.number(sum("loads")), "", false],
    ["models that fail", words.number(overview.models_failed), "", overview.models_failed > 0],
  ];
  refill(
    byId("facts"),
    facts,
    ([name]) => name,
    (fact) => fact.join("|"),
    ([name, value, more, bad]) =>
      element("div", { className: bad ? "bad" : "" }, element("dt", {}, name), element("dd", {}, value, more && element("small", {}, more))),
  );
}

export function drawLoads(overview) {
  const loads = overview.instances
    .flatMap((one) => one.copies.filter((copy) => words.COMING.has(copy.state)).map((copy) => ({ ...copy, instance: one.id })))
    .sort((a, b) => a.since_ms - b.since_ms);
  byId("loads-count").textContent = loads.length ? words.number(loads.length) : "";
  const rows = loads.slice(0, MOST_LOADS);
  if (!rows.length) rows.push(null);
  if (loads.length > rows.length) rows.push({ more: loads.length - rows.length });
  refill(
    byId("loads"),
    rows,
    (load) => (load?.model ? `${load.instance}\n${load.model}` : load ? "more" : "none"),
    (load) => JSON.stringify(load?.model ? [load.state, load.pulled, load.to_pull, words.ago(load.since_ms, overview.time_ms)] : load),
    (load) => {
      if (!load) return element("li", { className: "none" }, "None.");
      if (load.more) return element("li", { className: "none" }, `and ${words.number(load.more)} more`);
      const share = words.progress(load);
      const text = [words.state(load.state), `for ${words.duration(overview.time_ms - load.since_ms)}`, words.progressText(load)];
      return element(
        "li",
        {},
        modelButton(load.model),
        " on ",
        load.instance,
        element("br"),
        element("small", {}, text.filter(Boolean).join(", ")),
        share === null ? null : element("progress", { max: 1, value: share, "aria-label": `pulled of ${load.model}` }),
      );
    },
  );
}

export function drawFailures(overview) {
  byId("failures-count").textContent = overview.models_failed ? `of ${words.count(overview.models_failed, "model")}` : "";
  const rows = overview.failures.length ? overview.failures : [null];
  refill(
    byId("failures"),
    rows,
    (failure) => (failure ? `${failure.model}\n${failure.instance}\n${failure.time_ms}` : "none"),
    (failure) => (failure ? words.ago(failure.time_ms, overview.time_ms) : ""),
    (failure) =>
      failure
        ? element(
            "li",
            {},
            modelButton(failure.model),
            " on ",
            failure.instance,
            element("small", {}, ` ${words.ago(failure.time_ms, overview.time_ms)}`),
            element("div", { className: "message" }, failure.message),
          )
        : element("li", { className: "none" }, "None."),
  );
}

export function drawDecisions(overview) {
  const wanted = CHOICES[kinds.value];
  const shown = overview.decisions.filter((one) => !wanted || wanted.has(one.kind));
  refill(
    byId("decisions"),
    shown.length ? shown : [null],
    (one) => (one ? [one.time_ms, one.instance, one.kind, one.model, one.summary].join("\n") : "none"),
    (one) => (one ? words.ago(one.time_ms, overview.time_ms) : ""),
    (one) => (one ? decisionItem(one, overview.time_ms, true) : element("li", { className: "none" }, "None yet.")),
  );
}

kinds.addEventListener("change", () => kinds.dispatchEvent(new CustomEvent("redraw", { bubbles: true })));

/** One decision: when, what kind, by whom, about which model, why. */
export function decisionItem(one, now, withModel) {
  const about = one.related?.filter((model) => !one.summary.includes(model)) ?? [];
  return element(
    "li",
    {},
    element("span", { className: `kind ${KINDS[one.kind] ?? ""}` }, one.kind.replace("_", " ")),
    " ",
    withModel ? modelButton(one.model) : null,
    element("small", {}, ` ${words.ago(one.time_ms, now)}, by ${one.instance}`),
    element("div", {}, one.summary, about.length ? element("small", {}, ` (${one.kind === "eviction" ? "for" : "evicted"} ${about.join(", ")})`) : null),
    one.trace ? element("small", {}, `trace ${one.trace}`) : null,
  );
}
