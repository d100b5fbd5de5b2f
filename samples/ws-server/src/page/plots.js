// Small plots of the last two minutes, drawn as SVG. A plot has one line or two, the second one dashed.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240, HEIGHT = 100, SECONDS = 120;

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// The next number of the form 1, 2 or 5 times a power of ten, for the top of a plot.
export function decimal(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? 10 * power;
}

// The next power of two.
export const binary = (value) => 2 ** Math.ceil(Math.log2(Math.max(value, 1)));

export class Plot {
  #lines;
  #format;
  #title;
  #roundUp;
  #svg;
  #curves;
  #area;
  #values;
  #most;

  // `lines` are [label, function of a sample] pairs.
  constructor(parent, title, lines, format, roundUp = decimal) {
    this.#roundUp = roundUp;
    this.#title = title;
    this.#lines = lines;
    this.#format = format;
    const heading = document.createElement("strong");
    heading.textContent = title;
    this.#values = lines.map((_, index) => {
      const value = document.createElement("span");
      value.className = index === 0 ? "key" : "key two";
      return value;
    });
    const caption = document.createElement("figcaption");
    caption.append(heading, ...this.#values);
    this.#area = element("path", { class: "area" });
    this.#curves = lines.map((_, index) => element("path", { class: index === 0 ? "curve" : "curve two" }));
    const grid = [0, 0.5, 1].map((at) => element("line", { class: "grid", x1: 0, x2: WIDTH, y1: at * HEIGHT, y2: at * HEIGHT }));
    this.#svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      ...grid, this.#area, ...this.#curves);
    const scale = document.createElement("div");
    scale.className = "scale";
    scale.setAttribute("aria-hidden", "true");
    const since = document.createElement("span");
    since.textContent = "2 min ago";
    this.#most = document.createElement("span");
    const now = document.createElement("span");
    now.textContent = "now";
    scale.append(since, this.#most, now);
    const figure = document.createElement("figure");
    figure.append(caption, this.#svg, scale);
    parent.append(figure);
  }

  draw(samples) {
    const series = this.#lines.map(([, read]) => samples.map(read));
    const most = this.#roundUp(Math.max(1, ...series.flat()));
    const newest = samples.at(-1)?.time ?? 0;
    const x = (sample) => WIDTH * (1 - (newest - sample.time) / (SECONDS * 1000));
    const path = (values) => values.map((value, index) =>
      `${index === 0 ? "M" : "L"}${x(samples[index]).toFixed(1)} ${(HEIGHT * (1 - value / most)).toFixed(1)}`).join("");
    this.#curves.forEach((curve, index) => curve.setAttribute("d", path(series[index])));
    const closed = samples.length > 1 ? `${path(series[0])}L${WIDTH} ${HEIGHT}L${x(samples[0]).toFixed(1)} ${HEIGHT}Z` : "";
    this.#area.setAttribute("d", closed);
    const last = this.#lines.map(([label], index) => `${label} ${this.#format(series[index].at(-1) ?? 0)}`);
    this.#values.forEach((value, index) => value.textContent = last[index]);
    this.#most.textContent = `top line ${this.#format(most)}`;
    this.#svg.setAttribute("aria-label", `${this.#title} over the last two minutes; now ${last.join(", ")}`);
  }
}
