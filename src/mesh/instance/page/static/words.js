// Figures as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function size(bytes) {
  let unit = 0;
  while (bytes >= 999.5 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${bytes < 9.95 && unit > 0 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
}

export function duration(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

export function ago(then, now) {
  if (!then) return "never";
  return now - then < 1000 ? "now" : `${duration(now - then)} ago`;
}

export const number = (value) => value.toLocaleString("en");

export const count = (value, noun) => `${number(value)} ${value === 1 ? noun : noun.endsWith("y") ? `${noun.slice(0, -1)}ies` : `${noun}s`}`;

/** States in which a copy is on its way in. */
export const COMING = new Set(["queued", "waiting", "loading"]);

const STATES = { waiting: "waiting for memory", sizing: "loaded, size being measured" };

export const state = (name) => STATES[name] ?? name;

/** How far the model's data is here, from 0 to 1; null where it is not known. */
export const progress = (copy) => (copy.to_pull ? Math.min(1, copy.pulled / copy.to_pull) : null);

export function progressText(copy) {
  if (copy.to_pull) return `${Math.floor((100 * copy.pulled) / copy.to_pull)}% of ${size(copy.to_pull)} pulled`;
  return copy.pulled ? `${size(copy.pulled)} pulled` : "";
}
