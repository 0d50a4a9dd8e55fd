// Elements, made of text only: whatever a model is called, it is never read as markup.

/** Makes an element. Properties are set as such, those with a hyphen and `role` as attributes; children are elements or text. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export const byId = (id) => document.getElementById(id);

/**
 * Makes a list's children those of `items`, keeping the element of an item whose key and look are what they were:
 * nothing that has the focus, or is being selected, goes away under the reader.
 */
export function refill(parent, items, key, look, make) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const now = items.map((item) => {
    const known = before.get(key(item));
    const text = look(item);
    if (known && known.dataset.look === text) return known;
    const made = make(item);
    made.dataset.key = key(item);
    made.dataset.look = text;
    if (known && known.contains(document.activeElement)) {
      known.replaceWith(made);
      made.querySelector("button")?.focus({ preventScroll: true });
    }
    return made;
  });
  now.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
  while (parent.children.length > now.length) parent.lastElementChild.remove();
}

/** A button that shows a model's details. */
export const modelButton = (model) => element("button", { type: "button", className: "model", "data-model": model }, model);
