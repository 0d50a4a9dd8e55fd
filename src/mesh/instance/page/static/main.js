// Asks the instance how the mesh looks, as often as it says, and shows it; only while somebody can see it.

import { modelShown, refreshDetails, showDetails } from "./details.js";
import { byId } from "./dom.js";
import { drawDecisions, drawFacts, drawFailures, drawLoads } from "./lists.js";
import { drawMap } from "./map.js";
import "./search.js";
import * as words from "./words.js";

/** Not asked more often than this, milliseconds. */
const LEAST_PAUSE_MS = 1000;
/** Where nobody answers within this, the page says so, milliseconds. */
const TIMEOUT_MS = 10_000;

let overview = null;
let answeredAt = null;
let timer = null;
let asking = false;

async function look() {
  clearTimeout(timer);
  if (document.hidden || asking) return;
  asking = true;
  try {
    overview = await ask();
    draw();
    await refreshDetails();
  } catch (error) {
    if (!(error instanceof NoAnswer)) throw error;
    tellSilence();
  } finally {
    asking = false;
    timer = setTimeout(look, Math.max(LEAST_PAUSE_MS, overview?.refresh_ms ?? 0));
  }
}

class NoAnswer extends Error {}

async function ask() {
  try {
    const answer = await fetch("api/overview", { cache: "no-cache", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new NoAnswer();
    const told = await answer.json();
    answeredAt = performance.now();
    return told;
  } catch {
    throw new NoAnswer();
  }
}

function draw() {
  document.body.classList.remove("stale");
  document.title = `mesh ${overview.service}`;
  byId("service").textContent = overview.service;
  tell(`live, told by ${overview.self}`);
  drawFacts(overview);
  drawMap(overview);
  drawLoads(overview);
  drawFailures(overview);
  drawDecisions(overview);
}

function tellSilence() {
  document.body.classList.add("stale");
  tell(answeredAt === null ? "no answer yet" : `no answer for ${words.duration(performance.now() - answeredAt)}: this is how it was`);
}

function tell(text) {
  // A screen reader would say again what is written again.
  if (byId("pulse").textContent !== text) byId("pulse").textContent = text;
}

function route() {
  const model = new URLSearchParams(location.hash.slice(1)).get("model");
  showDetails(model);
  refreshDetails();
}

document.addEventListener("click", (event) => {
  const model = event.target.closest?.("button[data-model]")?.dataset.model;
  if (model !== undefined) location.hash = `model=${encodeURIComponent(model)}`;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && modelShown() !== null) location.hash = "";
});
document.addEventListener("visibilitychange", look);
document.addEventListener("redraw", () => overview && drawDecisions(overview));
window.addEventListener("hashchange", route);

route();
look();
