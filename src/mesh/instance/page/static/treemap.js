// Rectangles whose areas are as given, as square as can be (Bruls, Huizing and van Wijk: Squarified Treemaps).

/**
 * Places rectangles side by side.
 * @param {number[]} areas in descending order, none of them 0; they fill the space, whatever their sum
 * @returns {{x: number, y: number, width: number, height: number}[]} in the order of the areas
 */
export function treemap(areas, width, height) {
  const total = areas.reduce((sum, area) => sum + area, 0);
  const scale = total ? (width * height) / total : 0;
  const placed = [];
  let x = 0;
  let y = 0;
  let from = 0;
  while (from < areas.length) {
    const side = Math.min(width - x, height - y);
    let to = from + 1;
    let sum = areas[from] * scale;
    let worst = ratio(sum, areas[from] * scale, areas[from] * scale, side);
    while (to < areas.length) {
      const wider = sum + areas[to] * scale;
      const then = ratio(wider, areas[from] * scale, areas[to] * scale, side);
      if (then > worst) break;
      worst = then;
      sum = wider;
      to += 1;
    }
    const thick = side > 0 ? sum / side : 0;
    const upright = width - x >= height - y;
    let along = upright ? y : x;
    for (; from < to; from += 1) {
      const long = thick > 0 ? (areas[from] * scale) / thick : 0;
      placed.push(upright ? { x, y: along, width: thick, height: long } : { x: along, y, width: long, height: thick });
      along += long;
    }
    if (upright) x += thick;
    else y += thick;
  }
  return placed;
}

const ratio = (sum, largest, smallest, side) => Math.max((side * side * largest) / (sum * sum), (sum * sum) / (side * side * smallest));
