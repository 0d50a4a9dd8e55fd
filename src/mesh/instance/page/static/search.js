// Finds models by a part of their names, also those that the map has no room for.

import { byId, element } from "./dom.js";

/** Nobody is asked while the reader still types. */
const PAUSE_MS = 250;

const input = byId("search");
const list = byId("found");
let timer = null;
let asked = 0;
let chosen = -1;

input.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(search, PAUSE_MS);
});
input.addEventListener("focus", () => input.value && search());
input.addEventListener("blur", () => show([]));
input.addEventListener("keydown", (event) => {
  const options = [...list.querySelectorAll('[role="option"]')];
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (options.length) choose(options, (chosen + (event.key === "ArrowDown" ? 1 : -1) + options.length) % options.length);
  } else if (event.key === "Enter" && options.length) {
    open(options[Math.max(0, chosen)].dataset.model);
  } else if (event.key === "Escape") {
    input.blur();
  }
});
list.addEventListener("mousedown", (event) => {
  event.preventDefault(); // The list goes when the field loses the focus.
  const option = event.target.closest('[role="option"]');
  if (option) open(option.dataset.model);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select")) return;
  event.preventDefault();
  input.focus();
  input.select();
});

function open(model) {
  input.blur();
  location.hash = `model=${encodeURIComponent(model)}`;
}

async function search() {
  const text = input.value.trim();
  const mine = (asked += 1);
  if (!text) return show([]);
  let children;
  try {
    const answer = await fetch(`api/models?contains=${encodeURIComponent(text)}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const found = await answer.json();
    children = found.models.map((one, place) =>
      element(
        "li",
        { role: "option", id: `found-${place}`, "aria-selected": "false", "data-model": one.model },
        element("span", {}, one.model),
        element("small", {}, one.type),
        element("small", {}, one.on.length ? `${one.state} on ${one.on.slice(0, 3).join(", ")}${one.on.length > 3 ? "…" : ""}` : one.state),
      ),
    );
    if (!children.length) children = [element("li", { className: "note" }, "No model has this in its name.")];
    if (found.more) children.push(element("li", { className: "note" }, "There are more: type more of the name."));
  } catch {
    children = [element("li", { className: "note" }, "Nobody answers; try again.")];
  }
  if (mine === asked && document.activeElement === input) show(children);
}

function show(children) {
  if (!children.length) asked += 1;
  chosen = -1;
  list.replaceChildren(...children);
  list.hidden = !children.length;
  input.setAttribute("aria-expanded", String(children.length > 0));
  input.removeAttribute("aria-activedescendant");
}

function choose(options, place) {
  chosen = place;
  options.forEach((option, index) => option.setAttribute("aria-selected", String(index === place)));
  input.setAttribute("aria-activedescendant", options[place].id);
  options[place].scrollIntoView({ block: "nearest" });
}
