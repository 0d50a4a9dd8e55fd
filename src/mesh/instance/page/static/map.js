// The instances, each with a rectangle for each of its copies: area is memory, colour is how much it is asked.

import { byId, element } from "./dom.js";
import { treemap } from "./treemap.js";
import * as words from "./words.js";

/** A copy is drawn as large as this part of its instance at least, so that it can be seen and hit. */
const LEAST_SHARE = 1 / 600;
/** Models have this part of their instance at least, so that those of one that is nearly empty can be told apart. */
const LEAST_USED = 0.35;
/** This many requests a minute are hot, or more where a model is asked more. */
const HOT_RPM = 60;
/** Below 1, so that models that are asked little differ from those that nobody asks, beside one that is asked all the time. */
const HEAT_POWER = 0.4;

/** Stands for the copies that are not drawn one by one; no model is called so. */
const OTHERS = Symbol("others");

const cards = new Map();
let latest = null;

new ResizeObserver(() => latest && drawMap(latest)).observe(byId("cards"));

export function drawMap(overview) {
  latest = overview;
  const grid = byId("cards");
  const instances = overview.instances;
  grid.className = instances.length > 24 ? "crowd" : instances.length > 6 ? "many" : "";
  const hottest = Math.max(HOT_RPM, ...instances.flatMap((one) => one.copies.map((copy) => copy.rpm)));
  byId("hottest").textContent = `${words.number(hottest)} requests/min`;
  const there = new Set(instances.map((one) => one.id));
  for (const [id, card] of cards) {
    if (there.has(id)) continue;
    card.root.remove();
    cards.delete(id);
  }
  instances.forEach((one, place) => {
    let card = cards.get(one.id);
    if (!card) cards.set(one.id, (card = new Card()));
    if (grid.children[place] !== card.root) grid.insertBefore(card.root, grid.children[place] ?? null);
  });
  // All sizes are read before anything changes, or each would have the page laid out again.
  const sizes = instances.map((one) => {
    const { clientWidth, clientHeight } = cards.get(one.id).plot;
    return [clientWidth, clientHeight];
  });
  instances.forEach((one, place) => cards.get(one.id).draw(one, overview, hottest, ...sizes[place]));
}

class Card {
  constructor() {
    this.heading = element("h3");
    this.line = element("p");
    this.plot = element("div", { className: "plot", role: "group" });
    this.root = element("article", { className: "card" }, this.heading, this.line, this.plot);
    this.tiles = new Map();
    this.plot.addEventListener("keydown", (event) => this.move(event));
    this.plot.addEventListener("focusin", (event) => this.mark(event.target));
  }

  draw(one, overview, hottest, width, height) {
    this.root.classList.toggle("lost", !one.reachable);
    const look = JSON.stringify([one.id, overview.leader === one.id, one.leaving, one.reachable]);
    if (this.look !== look) {
      this.look = look;
      this.heading.replaceChildren(one.id, ...tags(one, overview));
      this.plot.setAttribute("aria-label", `Models of ${one.id}; arrow keys move between them`);
    }
    this.line.textContent = line(one);
    this.root.title = [one.zone && `zone ${one.zone}`, one.labels.length && `labels ${one.labels.join(", ")}`, `up ${words.duration(overview.time_ms - one.started_ms)}`].filter(Boolean).join("; ");
    this.drawTiles(one, overview, hottest, width, height);
  }

  drawTiles(one, overview, hottest, width, height) {
    const least = one.capacity * LEAST_SHARE || 1;
    const items = one.copies.map((copy) => ({ copy, area: Math.max(copy.size, least) }));
    if (one.others) items.push({ copy: null, area: Math.max(one.others_size, least) });
    items.sort((a, b) => b.area - a.area || (a.copy?.model < b.copy?.model ? -1 : 1));
    const taken = items.reduce((sum, item) => sum + item.area, 0);
    const share = one.capacity ? Math.min(1, Math.max(taken / one.capacity, one.used / one.capacity, LEAST_USED)) : 1;
    const places = treemap(items.map((item) => item.area), width * share, height);
    const seen = new Set();
    items.forEach(({ copy }, index) => {
      const key = copy ? copy.model : OTHERS;
      seen.add(key);
      let tile = this.tiles.get(key);
      if (!tile) {
        tile = new Tile(copy);
        this.tiles.set(key, tile);
        this.plot.append(tile.root);
      }
      tile.draw(copy, one, overview, hottest, places[index], width, height);
    });
    for (const [key, tile] of this.tiles) {
      if (seen.has(key)) continue;
      tile.root.remove();
      this.tiles.delete(key);
    }
    this.drawEmpty(one, items.length === 0);
    const buttons = this.buttons();
    if (buttons.length && !buttons.some((button) => button.tabIndex === 0)) buttons[0].tabIndex = 0;
  }

  drawEmpty(one, isEmpty) {
    this.empty?.remove();
    this.empty = null;
    if (!isEmpty) return;
    const why = !one.reachable ? "does not answer" : one.capacity ? "no models" : "routes only";
    this.empty = element("div", { className: "empty" }, why);
    this.plot.append(this.empty);
  }

  buttons() {
    return [...this.tiles.values()].map((tile) => tile.root).filter((root) => root.tagName === "BUTTON");
  }

  /** One tile of an instance is on the way of the Tab key; arrows go on from there. */
  mark(tile) {
    for (const button of this.buttons()) button.tabIndex = button === tile ? 0 : -1;
  }

  move(event) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (!x && !y) return;
    event.preventDefault();
    const centre = (button) => [button.offsetLeft + button.offsetWidth / 2, button.offsetTop + button.offsetHeight / 2];
    const [fromX, fromY] = centre(event.target);
    let best = null;
    let least = Infinity;
    for (const button of this.buttons()) {
      const [toX, toY] = centre(button);
      const along = (toX - fromX) * x + (toY - fromY) * y;
      const aside = Math.abs((toX - fromX) * y) + Math.abs((toY - fromY) * x);
      if (along < 1 || along + 2 * aside >= least) continue;
      best = button;
      least = along + 2 * aside;
    }
    best?.focus();
  }
}

class Tile {
  constructor(copy) {
    this.style = {};
    this.name = element("b");
    this.figures = element("span");
    this.root = copy
      ? element("button", { type: "button", tabIndex: -1, "data-model": copy.model }, this.name, this.figures)
      : element("div", {}, this.name, this.figures);
  }

  draw(copy, one, overview, hottest, place, width, height) {
    this.set("left", percent(place.x / width));
    this.set("top", percent(place.y / height));
    this.set("width", percent(place.width / width));
    this.set("height", percent(place.height / height));
    const look = place.width < 34 || place.height < 17 ? "bare" : place.height < 33 ? "short" : "";
    if (copy) this.drawCopy(copy, overview, hottest, look);
    else this.drawOthers(one, look);
  }

  drawOthers(one, look) {
    this.write(
      `tile rest ${look}`,
      `${words.number(one.others)} more`,
      words.size(one.others_size),
      `${words.number(one.others)} more with ${words.size(one.others_size)}; find one by its name`,
    );
  }

  drawCopy(copy, overview, hottest, look) {
    this.set("--heat", ((copy.rpm / hottest) ** HEAT_POWER).toFixed(2));
    const coming = words.COMING.has(copy.state);
    const kind = coming ? "loading" : copy.state === "unloading" ? copy.state : "";
    const done = words.progressText(copy);
    const served = `${words.size(copy.size)}${copy.rpm ? ` · ${words.number(copy.rpm)}/min` : ""}`;
    const parts = [
      `${copy.model}: ${words.state(copy.state)}`,
      done,
      copy.size ? words.size(copy.size) : "",
      `${words.count(copy.rpm, "request")}/min`,
      copy.in_flight ? `${copy.in_flight} in flight` : "",
      `last used ${words.ago(copy.used_ms, overview.time_ms)}`,
    ];
    this.write(`tile ${kind} ${look}`, copy.model, coming ? done || words.state(copy.state) : served, parts.filter(Boolean).join(", "));
  }

  // What is as it was is not written again: thousands of tiles are drawn, and few change.

  set(property, value) {
    if (this.style[property] === value) return;
    this.style[property] = value;
    this.root.style.setProperty(property, value);
  }

  write(className, name, figures, title) {
    if (this.root.className !== className) this.root.className = className;
    if (this.name.textContent !== name) this.name.textContent = name;
    if (this.figures.textContent !== figures) this.figures.textContent = figures;
    if (this.root.title === title) return;
    this.root.title = title;
    this.root.setAttribute("aria-label", title);
  }
}

const percent = (share) => `${(100 * share).toFixed(3)}%`;

function tags(one, overview) {
  const found = [];
  if (overview.leader === one.id) found.push(["leader", ""]);
  if (one.leaving) found.push(["leaving", "warn"]);
  if (!one.reachable) found.push(["unreachable", "bad"]);
  return found.map(([text, kind]) => element("span", { className: `tag ${kind}` }, text));
}

function line(one) {
  const parts = one.capacity ? [`${words.size(one.used)} of ${words.size(one.capacity)}`, words.count(one.models, "model")] : ["no model server"];
  if (one.loads) parts.push(`${one.loads} loading`);
  parts.push(`${words.number(one.rpm)}/min`);
  return parts.join(" · ");
}
